"""Writing episodes down: a text in the environment's style, and the spans that cut it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sadstream.environments.protocol import Style
from sadstream.episodes import Episode, Turn
from sadstream.formats.outcomes import task_in
from sadstream_schemas import TRAJECTORY_VERSION, Author, Kind, Outcome, Source, Span, Trajectory

_BLANKS = " \t\r\n"
_AUTHORS: dict[Kind, Author] = {"context": "user", "reason": "agent", "act": "agent", "observation": "environment"}
_ANSWER = re.compile(r"(?i)finish\[(.*)\]")


class Part(NamedTuple):
    """A piece of a transcript that will be one span.

    Attributes:
        label: what opens it; "" where nothing does. rest: what follows, up to the next part.
        rejected: whether it is an action that the environment did not take.
    """

    kind: Kind
    label: str
    rest: str
    rejected: bool = False


def opening(style: Style, observation: str) -> Part:
    """What stands before the agent's first word."""
    if style == "webshop":
        return Part("context", "", f"Action: reset\nObservation: {observation}\n\n")
    return Part("context", "", _ended(observation))


def written(style: Style, turn: Turn, number: int) -> Iterator[Part]:
    """A turn as parts, in order.

    Args:
        number: of the turn, from 1.
    """
    if style == "prompt":
        yield from _as_prompt(turn)
        return
    numbered = f" {number}:" if style == "numbered" else ":"
    if turn.thought is not None:
        is_pseudo_action = style == "webshop"
        label = "Action:" if is_pseudo_action else f"Thought{numbered}"
        yield Part("reason", label, f" think[{turn.thought}]\n" if is_pseudo_action else f" {turn.thought}\n")
    if turn.action is not None:
        yield Part("act", f"Action{numbered}", f" {turn.action}\n", rejected=not turn.valid)
    if turn.observation is not None:
        rest = f" {turn.observation}\n\n" if style == "webshop" else _ended(f" {turn.observation}")
        yield Part("observation", f"Observation{numbered}", rest)


def _as_prompt(turn: Turn) -> Iterator[Part]:
    if turn.thought is not None:
        yield Part("reason", "> think:", f" {turn.thought}\n")
    if turn.action is not None:
        yield Part("act", "> ", f"{turn.action}\n", rejected=not turn.valid)
    # Nothing marks where an observation begins but its first line with text, so no blank line stands before that.
    first = re.search(rf"[^{_BLANKS}]", turn.observation or "")
    if turn.observation is not None and first:
        line_start = turn.observation.rfind("\n", 0, first.start()) + 1
        yield Part("observation", "", _ended(turn.observation[line_start:]))


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def parts_of(episode: Episode) -> list[Part]:
    """An episode as parts; their labels and rests joined are its text."""
    parts = [opening(episode.style, episode.opening)]
    for number, turn in enumerate(episode.turns, 1):
        parts += written(episode.style, turn, number)
    return [part for part in parts if part.label or part.rest]


def text_of(parts: Sequence[Part]) -> str:
    """The text that parts join to.

    >>> turn = Turn("I look.", "search[x]", "found", True)
    >>> print(text_of(list(written("numbered", turn, 1))), end="")
    Thought 1: I look.
    Action 1: search[x]
    Observation 1: found
    """
    return "".join(part.label + part.rest for part in parts)


def spans_of(parts: Sequence[Part]) -> list[Span]:
    """A span a part; bodies are without label, outer blanks and final line break."""
    spans = []
    start, step, before = 0, -1, "context"
    for part in parts:
        kind = part.kind
        opens = before in ("context", "observation") or (kind == "reason" and before == "act")
        if kind in ("reason", "act") and opens:
            step += 1
        before = kind
        body_start = body_stop = start + len(part.label)
        stop = body_start + len(part.rest)
        if body := part.rest.strip(_BLANKS):
            body_start += part.rest.index(body)
            body_stop = body_start + len(body)
        spans.append(
            Span(
                kind=kind,
                start=start,
                stop=stop,
                body_start=body_start,
                body_stop=body_stop,
                author=_AUTHORS[kind],
                step=step if kind != "context" else None,
                flags=["rejected"] if part.rejected else [],
            )
        )
        start = stop
    return spans


def answer_of(episode: Episode) -> str | None:
    """What a finished episode's last action answered, as `finish[...]`; None where it is no such action."""
    if episode.ending != "finished" or not episode.turns:
        return None
    found = _ANSWER.fullmatch(episode.turns[-1].action or "")
    return found[1] if found else None


def trajectory_of(episode: Episode, *, id: str, source: Source, facts: dict[str, Any]) -> Trajectory:
    """The record of an episode.

    Its spans are the truth: cutting its text again gives the same ones unless an observation holds a line that looks
    like a label of the style, or an action reads as the style's own bookkeeping (`reset`).

    Args:
        facts: what else is to be known of it, under `extra`; JSON values.
    """
    parts = parts_of(episode)
    return Trajectory(
        format_version=TRAJECTORY_VERSION,
        id=id,
        source=source,
        task_id=episode.task_id,
        task=task_in(episode.opening) or episode.opening.strip(_BLANKS),
        outcome=Outcome(
            success=episode.success, reward=episode.reward, ending=episode.ending, answer=answer_of(episode)
        ),
        text=text_of(parts),
        spans=spans_of(parts),
        extra={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in facts.items()},
    )
