"""Which formats a user wants tried: all, one by name, or a function of the user's own."""

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sadstream.errors import ConfigError, RecordError, SadstreamError
from sadstream.formats import FORMATS, NAMES
from sadstream.formats.kinds import Format, RecordFormat, TextFormat
from sadstream.frames import Draft

# A record's value (a JSON object; the whole text of a file that is not JSON) to drafts.
UserFormat = Callable[[Any], Iterable[Draft]]


def chosen_formats(format: str | UserFormat) -> tuple[Format, ...]:
    """The formats to try, in order.

    Args:
        format: `auto` for all; a name of `NAMES`; `module:function`; or the function itself. A function takes a record
            and gives drafts, made with `sadstream.Draft` and `sadstream.pieces`.
    Raises:
        ConfigError: no such name, module or function.
    """
    if callable(format):
        return _user_formats(getattr(format, "__qualname__", "user"), format)
    if format == "auto":
        return FORMATS
    if ":" in format:
        return _user_formats(format, _imported(format))
    named = tuple(f for f in FORMATS if f.name == format)
    if not named:
        near = difflib.get_close_matches(format, NAMES, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"one of: auto, {', '.join(NAMES)}, or module:function"
        raise ConfigError(f"unknown format {format!r}", hint=hint)
    return named


def nearest_formats(value: Any) -> list[str]:
    """Names of the formats whose description shares most words with a record's keys; at most three, maybe none."""
    words = _keys(value) | {key for child in _children(value) for key in _keys(child)}
    shared = {f.name: len(words & set(re.findall(r"[a-z_]+", f"{f.name} {f.about}".lower()))) for f in FORMATS}
    return sorted((name for name, n in shared.items() if n), key=lambda name: -shared[name])[:3]


def _keys(value: Any) -> set[str]:
    return {str(key).lower() for key in value} if isinstance(value, dict) else set()


def _children(value: Any) -> list[Any]:
    lists = value.values() if isinstance(value, dict) else [value]
    return [child for children in lists if isinstance(children, list) for child in children[:1]]


def _imported(name: str) -> UserFormat:
    module, _, function = name.partition(":")
    # As `python -m` does: a module beside the logs, or wherever the user stands, is found.
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--format {name}: {error}", hint="module:function, importable from here") from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise ConfigError(f"--format {name}: not a function", hint="a function that takes a record and gives drafts")
    format: UserFormat = found
    return format


def _user_formats(name: str, function: UserFormat) -> tuple[Format, ...]:
    def read(value: Any) -> list[Draft]:
        try:
            drafts = list(function(value))
        except SadstreamError:
            raise
        except Exception as error:  # the user's code raises what it will
            raise RecordError(f"{name}: {type(error).__name__}: {error}") from error
        for draft in drafts:
            if not isinstance(draft, Draft):
                raise RecordError(f"{name}: gave {type(draft).__name__}, and sadstream.Draft is wanted")
        return drafts

    def read_text(lines: Iterator[str]) -> Iterator[Draft]:
        for number, draft in enumerate(read("".join(lines))):
            draft.record = draft.record or str(number)
            yield draft

    return (
        RecordFormat(name, "your own", lambda value: isinstance(value, dict), lambda value, raw: read(value)),
        TextFormat(name, "your own", lambda sample: True, read_text),
    )
