"""Trajectories through a tokenizer's own chat template, with every character of the agent's traced to its span.

A model writes an agent's message after the prompt that the template makes of the messages before it. So each message
of the agent is rendered as the last one, after exactly that prompt, and messages share a rendering only where the later
one begins with the earlier. A template that rewrites what stands before (Qwen3 drops thinking of earlier turns) then
gives several renderings, each with loss on its own messages, and no token is learnt after a prompt that inference never
shows. Where its parts stand is found by `sadstream.chat_parts`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sadstream.chat_parts import Cut, as_dict, plain, teach
from sadstream.chat_shape import shapes
from sadstream.chat_template import Template
from sadstream.errors import RenderError
from sadstream.messages import Field, Message
from sadstream_schemas import Trajectory


class Rendering(NamedTuple):
    """A prompt and what the agent says after it.

    Attributes:
        text: as the template gives it, special tokens as text.
        cuts: in order, covering `text`; only `reason` and `act` are learnt, and an agent's message that another
            rendering of the trajectory teaches is `context` here.
    """

    text: str
    cuts: tuple[Cut, ...]


def render_chat(trajectory: Trajectory, template: Template) -> list[Rendering]:
    """A trajectory in the words of a chat template.

    Returns:
        One or more; together they teach every part of the agent's exactly once. None where the agent says nothing.
    Raises:
        RenderError: names the template and the part that it drops or refuses.
    """
    failure: RenderError | None = None
    for messages, tools in shapes(trajectory, template):
        try:
            return list(_renderings(messages, tools, template))
        except RenderError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _renderings(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]], template: Template
) -> Iterator[Rendering]:
    said = {char for message in messages for part in message.parts for char in part.text}
    history: list[dict[str, Any]] = []
    openings: dict[tuple[Field, Field], str] = {}
    cuts: list[Cut] = []
    text, reply = "", Cut("context", 0, 0, None)
    for message in messages:
        if message.role == "assistant" and any(part.kind in ("reason", "act") for part in message.parts):
            taught = teach(message, history, tools, template, openings, said)
            if cuts and not taught.prompt.startswith(text):
                yield Rendering(text, tuple(cuts))
                cuts, text, reply = [], "", Cut("context", 0, 0, None)
            if len(taught.prompt) > len(text):
                cuts.append(reply._replace(start=len(text), stop=len(taught.prompt)))
            cuts += taught.cuts
            text = taught.text[: cuts[-1].stop]
            reply = Cut("context", 0, 0, None)
        for part in message.parts:
            if part.kind == "observation" and reply.kind == "context":
                reply = Cut("observation", 0, 0, part.step)
        history.append(as_dict(message, plain))
    if cuts:
        yield Rendering(text, tuple(cuts))
