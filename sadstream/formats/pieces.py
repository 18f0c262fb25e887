"""Pieces of a message-born trajectory and how each is rendered as text: the one place that knows.

Thought: ...            what the agent thinks
Action: name(arguments) a tool call, arguments exactly as logged
Answer: ...             what the agent says to the user
Observation: ...        what comes back
...                     prompt, task, reminders: as they stand
"""

from collections.abc import Iterable
from typing import Any

Piece = dict[str, Any]

AUTHORS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "agent",
    "gpt": "agent",
    "model": "agent",
    "ai": "agent",
    "agent": "agent",
    "bot": "agent",
    "tool_call": "agent",
    "tool": "environment",
    "tool_response": "environment",
    "function": "environment",
    "ipython": "environment",
    "observation": "environment",
    "environment": "environment",
    "env": "environment",
}


def context(text: str, *, message: int, author: str = "user", **about: Any) -> Piece:
    """A prompt, a task, a reminder: text that the agent reads and that answers nothing it did."""
    return {"kind": "context", "author": author, "message": message, "text": text, "suffix": _break(text), **about}


def thought(text: str, *, message: int, **about: Any) -> Piece:
    """What the agent thinks, readable or not: an encrypted thought has no text and its content in `opaque`."""
    labels = {"prefix": "Thought: ", "suffix": _break(text)} if text else {"prefix": "", "suffix": ""}
    return {"kind": "reason", "author": "agent", "message": message, "text": text, **labels, **about}


def call(name: str, arguments: str, *, message: int, syntax: str = "json", **about: Any) -> Piece:
    """A tool call.

    Args:
        arguments: exactly as logged; never parsed and written again, which would give other tokens.
        syntax: what they are written in: json, text, code, shell.
    """
    before, after = ("[", "]\n") if syntax == "text" else ("(", ")\n")
    return {
        "kind": "act",
        "author": "agent",
        "message": message,
        "prefix": f"Action: {name}{before}",
        "text": arguments,
        "suffix": after,
        "name": name,
        "syntax": syntax,
        "arguments_start": 0,
        "arguments_stop": len(arguments),
        **about,
    }


def say(text: str, *, message: int, **about: Any) -> Piece:
    """What the agent says: to the user, or as its final answer. It leaves the agent, so it is an act."""
    return {
        "kind": "act",
        "author": "agent",
        "message": message,
        "prefix": "Answer: ",
        "text": text,
        "suffix": _break(text),
        **about,
    }


def observation(text: str, *, message: int, author: str = "environment", **about: Any) -> Piece:
    """What a tool, the environment or the user answers to an act."""
    return {
        "kind": "observation",
        "author": author,
        "message": message,
        "prefix": "Observation: ",
        "text": text,
        "suffix": _break(text),
        **about,
    }


def unreadable(kind: str, opaque: list[str], *, message: int, author: str, **about: Any) -> Piece:
    """What renders to nothing and is kept all the same, as JSON: an encrypted thought, media beside text."""
    return {
        "kind": kind,
        "author": author,
        "message": message,
        "prefix": "",
        "text": "",
        "suffix": "",
        "opaque": opaque,
        **about,
    }


def verbatim(kind: str | None, text: str, *, message: int, author: str, last: bool = True, **about: Any) -> Piece:
    """Text that has its own labels or tags, as it stands; only the `last` of a message gets a line break after it."""
    suffix = _break(text) if last else ""
    return {"kind": kind, "author": author, "message": message, "text": text, "suffix": suffix, **about}


def labelled(kind: str, label: str, text: str, *, message: int, author: str, **about: Any) -> Piece:
    """A thought, an action or a reply that the log holds without its label, the action being text as it stands."""
    return {
        "kind": kind,
        "author": author,
        "message": message,
        "prefix": label,
        "text": text,
        "suffix": _break(text),
        **about,
    }


def first_words(pieces: Iterable[Piece]) -> str | None:
    """The first words of a user, which are the request mostly; None where no user says any."""
    return next((p["text"] for p in pieces if p["author"] == "user" and p["text"]), None)


def _break(text: str) -> str:
    return "" if text.endswith("\n") else "\n"
