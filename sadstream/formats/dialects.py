"""How text-born logs mark their spans: which lines open one, and of which kind.

Patterns are written in what Python's and Rust's regular expressions share: `(?m)^` knows "\\n" only, digits are ASCII.
"""

import functools
import re

# Recognised in this order; the first that matches a line of the text is its dialect.
DIALECTS: dict[str, str] = {
    "react-numbered": r"(?m)^(?:Thought|Action|Observation|ActionPath) [0-9]+:",
    "webshop": r"(?m)^Action: (?:reset[ \t]*\r?$|think\[)",
    "react": r"(?m)^(?:Thought|Action|Observation|Final Answer):",
    "prompt": r"(?m)^> ",
}

# A line that opens a span, per dialect. The match is the span's label.
LABELS: dict[str, str] = {
    "react-numbered": r"^(?:Thought|Action|Observation|ActionPath) [0-9]+:",
    "webshop": r"^(?:Action|Observation):",
    "react": r"^(?:Thought|ActionPath|Action|Observation|Final Answer):",
    "prompt": r"^> ?(?:(?:[Tt]hink|ActionPath):)?",
    # Readers cut these themselves; the label is only told from the body.
    "tags": (
        r"^<(?:think|thinking|tool_call|search|answer|information|tool_response|function=[^<>\n]*)>"
        r"|^(?:Thought|Think|Action|Act|Observation):"
    ),
}

# Few-shot examples end at the last line that reads so; labels before it belong to the prompt.
EXAMPLES_END = "(END OF EXAMPLES)"

_COMPILED = {name: re.compile(pattern) for name, pattern in DIALECTS.items()}


# Recognising a record and reading it ask about the same text, one after the other.
@functools.lru_cache(maxsize=16)
def dialect_of(text: str) -> str | None:
    """The dialect whose labels stand at line starts of a text; None where there is none.

    >>> dialect_of("Question: who?\\nThought 1: look.\\n")
    'react-numbered'
    >>> dialect_of("I had a Thought: none.") is None
    True
    """
    return next((name for name, pattern in _COMPILED.items() if pattern.search(text)), None)
