"""What the user's arguments mean: files, folders, globs, URLs, standard input."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from sadstream.errors import InputError

# What `sadstream collect` writes: the one file of its folder that holds logs.
TRAJECTORIES = "trajectories.jsonl"


class _Maker(msgspec.Struct):
    """What a manifest says of who made its folder."""

    sadstream_version: str = ""
    stage: str = ""
    complete: bool = False


class LogFile(NamedTuple):
    """A file to read.

    Attributes:
        path: where it is; `-` is standard input.
        name: how records call it, relative to the argument that named it.
        named: the user named this very file, and did not only point at its folder.
        shown: how errors call it, where that is not its path.
        problem: why it is not read: met in a folder and hidden, a broken link, no regular file.
    """

    path: str
    name: str
    named: bool
    shown: str = ""
    problem: str = ""

    def __str__(self) -> str:
        return self.shown or self.path


def find_logs(arguments: Sequence[str]) -> list[LogFile]:
    """The files that arguments mean, in order: files, folders (walked, sorted), globs, fsspec URLs, `-`.

    Raises:
        InputError: a path that does not exist, a glob or folder without files, or a folder that sadstream wrote.
    """
    once: dict[str, LogFile] = {}
    for file in (file for argument in arguments for file in _find(argument)):
        where = os.path.abspath(file.path) if is_local(file.path) else file.path  # noqa: PTH100 - `..` goes too
        before = once.get(where, file)
        once[where] = before._replace(named=before.named or file.named)
    if len({file.name for file in once.values()}) == len(once):
        return list(once.values())
    # The same name under two arguments: name all from the folder that they share, and URLs in full.
    local = [Path(where).parent for where in once if is_local(where)]
    root = os.path.commonpath(local) if local else ""
    return [
        file._replace(name=Path(os.path.relpath(where, root)).as_posix() if is_local(where) else where)
        for where, file in once.items()
    ]


def cache_folder() -> Path:
    """What need not be fetched or made again: `$XDG_CACHE_HOME/sadstream`, by default `~/.cache/sadstream`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sadstream"


def is_local(path: str) -> bool:
    """Whether a path is neither standard input nor a URL."""
    return path != "-" and "://" not in path


def _find(argument: str) -> list[LogFile]:
    if argument == "-":
        return [LogFile("-", "-", True)]
    if "://" in argument:
        return _find_remote(argument)
    path = Path(argument)
    if path.is_dir():
        maker = _maker_of(path)
        if maker is not None and maker.stage == "collect":
            return [_collected(path, maker)]
        if maker is not None:
            raise InputError(
                f"{argument}: a folder that sadstream wrote, not raw logs",
                hint="segment reads raw logs; give their folder",
            )
        found = list(_walk(path))
        if all(file.problem for file in found):
            raise InputError(f"{argument}: no files in this folder", hint="give the folder that holds the logs")
        return found
    if path.exists():
        return [LogFile(argument, _printable(path.name), True)]
    matches = sorted(m for m in glob.glob(argument, recursive=True) if Path(m).is_file())  # noqa: PTH207
    if matches:
        fixed = Path(re.split(r"[*?\[]", argument)[0])
        root = fixed if argument[len(str(fixed)) :].startswith(os.sep) and fixed.is_dir() else fixed.parent
        makers = {folder: _maker_of(folder) for folder in {Path(match).parent for match in matches}}
        return [
            LogFile(match, _printable(Path(os.path.relpath(match, root)).as_posix()), False, problem=_unfinished(maker))
            for match, maker in ((match, makers[Path(match).parent]) for match in matches)
            if not _is_bookkeeping(Path(match).name, maker)
        ]
    raise InputError(f"{argument}: no such file or folder", hint="give files, folders, globs in quotes, URLs, or -")


def _maker_of(folder: Path) -> _Maker | None:
    """Who made a folder; None where it was not sadstream."""
    try:
        content = (folder / "manifest.json").read_bytes()
    except OSError:
        return None
    try:
        maker = msgspec.json.decode(content, type=_Maker)
    except (msgspec.DecodeError, RecursionError):
        return _Maker() if b'"sadstream_version"' in content else None  # ours, and damaged
    return maker if maker.sadstream_version else None


def _collected(folder: Path, maker: _Maker) -> LogFile:
    """The trajectories in a folder that `sadstream collect` wrote.

    Raises:
        InputError: it is not finished.
    """
    if not maker.complete:
        raise InputError(
            f"{folder}: unfinished",
            hint="run the `sadstream collect` that made it again; it continues",
        )
    return LogFile(str(folder / TRAJECTORIES), TRAJECTORIES, True)


def _is_bookkeeping(name: str, maker: _Maker | None) -> bool:
    """Whether a file, by its folder's maker, is what `sadstream collect` keeps beside its trajectories."""
    return maker is not None and maker.stage == "collect" and name != TRAJECTORIES


def _unfinished(maker: _Maker | None) -> str:
    """Why trajectories are not read though their folder was met; "" where they can be."""
    unfinished = maker is not None and maker.stage == "collect" and not maker.complete
    return "of a `sadstream collect` that has not finished" if unfinished else ""


def _walk(root: Path) -> Iterator[LogFile]:
    """All files below a folder, by name; links are followed, once."""
    entered = {root.resolve()}
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        links = [name for name in folders if (here / name).resolve() in entered]
        hidden = [name for name in folders if name.startswith(".")]
        for name in (*links, *hidden):
            yield _met(here / name, root, "a hidden folder" if name in hidden else "a folder that was met already")
        folders[:] = sorted(set(folders) - {*links, *hidden})
        entered.update((here / name).resolve() for name in folders)
        maker = _maker_of(here)
        for name in sorted(name for name in names if not _is_bookkeeping(name, maker)):
            path = here / name
            problem = "a broken link" if path.is_symlink() else "not a regular file"
            problem = _unfinished(maker) if path.is_file() else problem
            yield _met(path, root, "a hidden file" if name.startswith(".") else problem)


def _met(path: Path, root: Path, problem: str) -> LogFile:
    return LogFile(str(path), _printable(path.relative_to(root).as_posix()), False, problem=problem)


def _printable(name: str) -> str:
    """A file's name as text that can be written, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _find_remote(url: str) -> list[LogFile]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        is_folder = filesystem.isdir(path)
        is_glob = any(c in path for c in "*?[")
        found = sorted(filesystem.glob(path) if is_glob else filesystem.find(path))
    except Exception as error:  # fsspec's filesystems raise whatever their backends do
        raise InputError(
            f"{url}: {str(error).split(chr(10))[0]}",
            hint="fsspec opens URLs; s3:// and others need a package of their own",
        ) from error
    if not found:
        raise InputError(f"{url}: nothing there", hint="check the URL and your access to it")
    root = path.rstrip("/") + "/" if is_folder else path.rsplit("/", 1)[0] + "/"
    return [LogFile(filesystem.unstrip_protocol(p), p.removeprefix(root), not is_glob and not is_folder) for p in found]
