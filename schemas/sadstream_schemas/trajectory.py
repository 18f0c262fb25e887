"""One run of an agent: a text, and the spans that cut it."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct, field

Kind = Literal["context", "reason", "act", "observation"]
Author = Literal["system", "user", "agent", "environment"]
Syntax = Literal["json", "text", "code", "shell"]
Ending = Literal["finished", "halted", "truncated", "aborted", "error", "unknown"]

Offset = Annotated[int, Meta(ge=0)]
Verbatim = Annotated[dict[str, Raw], Meta(description="Fields of the log, by name, exactly as it wrote them.")]


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a trajectory was read."""

    file: Annotated[str, Meta(description="Path relative to the argument that named it; `-` for standard input.")]
    record: Annotated[str, Meta(description="Number of the record in the file, from 0, or its key there.")]
    format: Annotated[str, Meta(description="Name of the format it was read as.")]
    format_version: Annotated[str | None, Meta(description="The format's own version, where the log gives one.")] = None


class Outcome(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the run ended, as far as the log says."""

    success: bool | None = None
    reward: float | None = None
    ending: Ending = "unknown"
    answer: Annotated[str | None, Meta(description="What the agent answered.")] = None
    gold: Annotated[str | None, Meta(description="What would have been right.")] = None


class Span(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A contiguous piece of a trajectory's text, of one kind.

    Offsets are half-open and count Unicode code points of `Trajectory.text`. The spans of a trajectory are in order,
    disjoint, and together cover its text exactly. A span begins with its label (`Thought 3:`, `> `, `<think>`).
    """

    kind: Annotated[
        Kind,
        Meta(description="`reason` and `act` are the agent's and are learnt; `context` and `observation` are not."),
    ]
    start: Offset
    stop: Offset
    body_start: Annotated[int, Meta(ge=0, description="The span without label, outer blanks and final line break.")]
    body_stop: Offset
    author: Author
    step: Annotated[Offset | None, Meta(description="The decision it belongs to, from 0; context has none.")] = None
    message: Annotated[Offset | None, Meta(description="Index of the chat message it came from, from 0.")] = None
    logged_start: Annotated[
        Offset | None,
        Meta(
            description="What the log itself holds of this span stands from here to `logged_stop`; the rest (a label, "
            "a line break) was added when messages were rendered as text. Absent: the log holds all of it.",
        ),
    ] = None
    logged_stop: Offset | None = None
    call_id: Annotated[str | None, Meta(description="Of a tool call, and of the observation that answers it.")] = None
    name: Annotated[str | None, Meta(description="The tool that is called.")] = None
    arguments_start: Annotated[
        Offset | None, Meta(description="The call's arguments, exactly as logged, stand here in the text.")
    ] = None
    arguments_stop: Offset | None = None
    syntax: Annotated[Syntax | None, Meta(description="What the arguments are written in.")] = None
    hidden: Annotated[bool, Meta(description="A thinking block that the user of the agent was not shown.")] = False
    error: Annotated[bool | None, Meta(description="Whether the tool reported an error, where the log says.")] = None
    flags: Annotated[
        list[str],
        Meta(description="Peculiarities: `invented` (an observation the agent wrote itself), `rejected`, `unclosed`."),
    ] = field(default_factory=list)
    opaque: Annotated[
        list[Raw], Meta(description="Unreadable content kept verbatim: signatures, encrypted thoughts, media.")
    ] = field(default_factory=list)
    extra: Verbatim = field(default_factory=dict)


class Trajectory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One run of an agent: a text, and the spans that cut it."""

    format_version: Annotated[int, Meta(ge=1)]
    id: Annotated[str, Meta(min_length=1, description="Native or derived; unique in its folder.")]
    source: Source
    task_id: str | None = None
    task: Annotated[str | None, Meta(description="The first request, verbatim.")] = None
    tools: Annotated[list[Raw], Meta(description="Tool definitions, verbatim.")] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    parent_id: Annotated[str | None, Meta(description="The trajectory that started or precedes this one.")] = None
    text: str
    spans: list[Span]
    extra: Verbatim = field(default_factory=dict)
