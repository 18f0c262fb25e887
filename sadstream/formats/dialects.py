"""How text-born logs mark their spans: which lines open one, and of which kind.

Patterns are written in what Python's and Rust's regular expressions share: `(?m)^` knows "\\n" only, digits are ASCII.
They are made of the words that `sadstream.labels` looks for in bytes, so that both tell the same labels.
"""

import functools

from sadstream.formats.line_pattern import LinePattern

# Words that open a span at a line start: with a number and a colon after them, or with a colon alone.
NUMBERED_WORDS = ("Thought", "Action", "Observation", "ActionPath")
WORDS: dict[str, tuple[str, ...]] = {
    "webshop": ("Action", "Observation"),
    "react": ("Thought", "ActionPath", "Action", "Observation", "Final Answer"),
}
# A text with no other labels than `ActionPath:` is no ReAct run.
_TELLING_WORDS = tuple(word for word in WORDS["react"] if word != "ActionPath")

_NUMBERED = rf"^(?:{'|'.join(NUMBERED_WORDS)}) [0-9]+:"

# Recognised in this order; the first that matches a line of the text is its dialect.
DIALECTS: dict[str, str] = {
    "react-numbered": rf"(?m){_NUMBERED}",
    "webshop": r"(?m)^Action: (?:reset[ \t]*\r?$|think\[)",
    "react": rf"(?m)^(?:{'|'.join(_TELLING_WORDS)}):",
    "prompt": r"(?m)^> ",
}

# A line that opens a span, per dialect. The match is the span's label.
LABELS: dict[str, str] = {
    "react-numbered": _NUMBERED,
    **{name: rf"^(?:{'|'.join(words)}):" for name, words in WORDS.items()},
    "prompt": r"^> ?(?:(?:[Tt]hink|ActionPath):)?",
    # Readers cut these themselves; the label is only told from the body.
    "tags": (
        r"^<(?:think|thinking|tool_call|search|answer|information|tool_response|function=[^<>\n]*)>"
        r"|^(?:Thought|Think|Action|Act|Observation):"
    ),
}

# Few-shot examples end at the last line that reads so; labels before it belong to the prompt.
EXAMPLES_END = "(END OF EXAMPLES)"

_PATTERNS = {name: LinePattern(pattern.removeprefix("(?m)^")) for name, pattern in DIALECTS.items()}


# Recognising a record and reading it ask about the same text, one after the other.
@functools.lru_cache(maxsize=16)
def dialect_of(text: str) -> str | None:
    """The dialect whose labels stand at line starts of a text; None where there is none.

    >>> dialect_of("Question: who?\\nThought 1: look.\\n")
    'react-numbered'
    >>> dialect_of("I had a Thought: none.") is None
    True
    """
    return next((name for name, pattern in _PATTERNS.items() if pattern.search(text)), None)
