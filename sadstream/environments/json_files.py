"""The data files of environments: JSON or JSON lines, plain or gzip, packaged or the user's."""

import gzip
import json
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from sadstream.errors import TaskError

GZIP_MAGIC = b"\x1f\x8b"


def packaged(*parts: str) -> Path:
    """Where a data file that comes with sadstream lies."""
    return Path(str(files("sadstream.environments"))).joinpath("data", *parts)


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file, unpacked where its content says gzip.

    Raises:
        TaskError: it is not there, or damaged; names it.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: {error}", hint="get the file again: it is missing, cut off or damaged") from error


def read_json(path: Path) -> Any:
    """The one JSON value in a file.

    Raises:
        TaskError: it cannot be read; names the file and the place.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise _damaged(f"{path}", error) from error


def read_rows(path: Path) -> list[tuple[str, Any]]:
    """The values of a JSON array or of JSON lines, each with its place (`file: row 3`, `file:3`).

    Raises:
        TaskError: it cannot be read; names the file and the place.
    """
    text = read_text(path)
    if text.lstrip()[:1] == "[":
        try:
            return [(f"{path}: row {n}", value) for n, value in enumerate(json.loads(text), 1)]
        except ValueError as error:
            raise _damaged(f"{path}", error) from error
    rows = []
    for n, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append((f"{path}:{n}", json.loads(line)))
            except ValueError as error:
                raise _damaged(f"{path}:{n}", error) from error
    return rows


def _damaged(where: str, error: ValueError) -> TaskError:
    return TaskError(f"{where}: not JSON: {error}", hint="get the file again: it is cut off or damaged")
