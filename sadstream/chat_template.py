"""A tokenizer's chat template, and what it can do: tried out on small chats."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from sadstream.errors import RenderError

Thinking = Literal["field", "inline", "opened"]
# How a prompt ends that begins the thinking itself.
OPENER = re.compile(r"<think>\s*$")
# Templates may print the day: the same log must give the same tokens tomorrow.
_SAME_DAY = (
    "{%- macro strftime_now(format) -%}"
    "{%- if format == '%Y-%m-%d' -%}2024-07-26{%- else -%}26 Jul 2024{%- endif -%}"
    "{%- endmacro %}"
)


class Template(NamedTuple):
    """A tokenizer's chat template and what it can do, as tried on a small chat.

    Attributes:
        name: to say in errors.
        render: messages, tools, whether a turn of the agent is to be begun -> text.
        specials: contents of the tokenizer's special tokens.
        thinking: `field`: it writes `reasoning_content`; `inline`: thinking stands as `<think>` in the words;
            `opened`: the prompt ends in `<think>`, and what is before `</think>` in a message is dropped.
        calls: whether it writes `tool_calls` and takes a tool's messages.
    """

    name: str
    render: Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]], bool], str]
    specials: tuple[str, ...]
    thinking: Thinking
    calls: bool


def read_template(tokenizer: Any, name: str) -> Template:
    """The chat template of a tokenizer (of transformers), tried out.

    Raises:
        RenderError: it has none, or one that does not write what an agent says.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RenderError(f"{name}: its tokenizer has no chat template", hint="--render text needs none")

    def render(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], begin: bool) -> str:
        given = list(tools) or None
        program = tokenizer.get_chat_template(tools=given)
        if "strftime_now" in program:
            program = _SAME_DAY + program
        text = tokenizer.apply_chat_template(
            list(messages), tools=given, chat_template=program, add_generation_prompt=begin, tokenize=False
        )
        return str(text)

    specials = {str(token) for token in tokenizer.all_special_tokens}
    specials |= {str(added) for added in tokenizer.added_tokens_decoder.values() if added.special}
    template = Template(name, render, tuple(sorted(specials)), "field", True)
    ask = {"role": "user", "content": "a question"}
    if "an answer" not in _tried(template, [ask, {"role": "assistant", "content": "an answer"}]):
        raise RenderError(f"{name}: its chat template does not write what the agent says", hint="--render text")
    return template._replace(thinking=_thinking(template, ask), calls=_has_calls(template, ask))


def _tried(template: Template, messages: list[dict[str, Any]], *, begin: bool = False) -> str:
    try:
        return template.render(messages, (), begin)
    except Exception:  # a template is a program: it raises what it likes
        return ""


def _thinking(template: Template, ask: dict[str, Any]) -> Thinking:
    answer = {"role": "assistant", "content": "an answer"}
    if "a thought" in _tried(template, [ask, {**answer, "reasoning_content": "a thought"}]):
        return "field"
    inline = {**answer, "content": "<think>\na thought\n</think>\n\nan answer"}
    opens = OPENER.search(_tried(template, [ask], begin=True))
    return "opened" if opens and "a thought" not in _tried(template, [ask, inline]) else "inline"


def _has_calls(template: Template, ask: dict[str, Any]) -> bool:
    call = {"type": "function", "id": "call00001", "function": {"name": "a_tool", "arguments": {"key": "a value"}}}
    reply = {"role": "tool", "content": "a reply", "tool_call_id": "call00001", "name": "a_tool"}
    text = _tried(template, [ask, {"role": "assistant", "content": "", "tool_calls": [call]}, reply])
    return all(said in text for said in ("a_tool", "a value", "a reply"))
