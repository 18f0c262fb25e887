"""What the page shows, from where it lies: span shards, teacher shards, or raw logs cut on the spot."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from sadstream.codec import decode_teacher_sample
from sadstream.errors import ConfigError, InputError, ModelError, ShardError
from sadstream.formats.chosen import chosen_formats
from sadstream.frames import row_trajectory
from sadstream.logs import read_logs
from sadstream.manifest import MANIFEST, load_manifest, write_atomically
from sadstream.page import (
    TEACHER_VALUES,
    Entry,
    Page,
    Pieces,
    render_page,
    trajectory_entry,
    value_scales,
    window_entry,
)
from sadstream.paths import find_logs
from sadstream.progress import Progress
from sadstream.segment import segment
from sadstream.shards import decode_trajectory, iter_members, read_member, scan_index
from sadstream_schemas import Trajectory

T = TypeVar("T")


def is_artefact(path: str | Path) -> bool:
    """Whether a path is a folder that sadstream wrote, or a tar; else it is taken for raw logs."""
    path = Path(path)
    return (path / MANIFEST).is_file() or path.suffix == ".tar"


def write_page(path: str | Path, out: str | Path, progress: Progress, *, limit: int = 200) -> dict[str, Any]:
    """Write a self-contained HTML page that shows the trajectories of an artefact or of raw logs.

    Args:
        path: a folder of span shards or teacher shards, a shard, or raw logs as `segment` takes them.
        out: the file, written atomically.
        limit: trajectories (of teacher shards: windows) at most, evenly spread over all; 0 is all.
    Returns:
        `file`, `what`, `n_shown`, `n_all`, `n_refused`, `n_bytes`.
    Raises:
        SadstreamError: nothing to show there, or damaged.
    """
    if limit < 0:
        raise ConfigError(f"--limit {limit}: at least 0", hint="0 is all")
    page = read_page(Path(path), progress, limit=limit)
    if not page.entries:
        raise InputError(f"{path}: no trajectory in it", hint="`sadstream segment` tells why")
    n_bytes = len(data := render_page(page))
    write_atomically(Path(out), data)
    return {
        "file": str(out),
        "what": page.what,
        "n_shown": len(page.entries),
        "n_all": page.n_all,
        "n_refused": page.n_refused,
        "n_bytes": n_bytes,
    }


def read_page(path: Path, progress: Progress, *, limit: int) -> Page:
    """What `write_page` renders; arguments and errors as there."""
    title = path.resolve().name if path.exists() else str(path)
    if path.suffix == ".tar" and path.is_file():
        return _tar_page(path, title, limit)
    if not (path / MANIFEST).is_file():
        return _logs_page(path, title, progress, limit)
    stage = load_manifest(path).stage
    if stage == "segment":
        index = scan_index(path).collect()
        entries = [
            trajectory_entry(decode_trajectory(data, where), split=row["split"])
            for row, data, where in _spread_members(path, index, limit, progress)
        ]
        return Page(title=title, n_all=index.height, entries=entries)
    if stage == "cache-teacher":
        return _teacher_page(path, title, progress, limit)
    raise InputError(
        f"{path}: made by `sadstream {stage}`, and holds no trajectory to show",
        hint="give the folder of span shards or teacher shards that it was made from",
    )


def _logs_page(path: Path, title: str, progress: Progress, limit: int) -> Page:
    n_bytes = n_all = n_refused = 0

    def count(more: int) -> None:
        nonlocal n_bytes
        n_bytes += more
        progress(n_bytes, None, "bytes", "reading")

    def trajectories() -> Iterator[Trajectory]:
        nonlocal n_all, n_refused
        blocks = read_logs(find_logs([str(path)]), formats=chosen_formats("auto"), on_error="skip", on_bytes=count)
        for block in blocks:
            for row in segment(block.lazy()).collect().iter_rows(named=True):
                if row["refused"] is None and any(span["kind"] in ("reason", "act") for span in row["spans"]):
                    n_all += 1
                    yield row_trajectory(row)
                else:
                    n_refused += 1

    entries = [trajectory_entry(trajectory) for trajectory in thinned(trajectories(), limit)]
    return Page(title=title, n_all=n_all, n_refused=n_refused, entries=entries)


def thinned(items: Iterable[T], limit: int) -> list[T]:
    """At most `limit` items, evenly spread over all, in order; all for 0. Holds twice as many at most.

    >>> thinned(range(100), 4)
    [0, 16, 48, 80]
    """
    kept: list[T] = []
    stride = 1
    for number, item in enumerate(items):
        if number % stride:
            continue
        kept.append(item)
        if limit and len(kept) == 2 * limit:
            kept, stride = kept[::2], 2 * stride
    return [kept[number] for number in spread(len(kept), limit)]


def spread(n_all: int, limit: int) -> list[int]:
    """Which `limit` of `n_all` are taken, evenly spread from the first on; all for 0.

    >>> spread(10, 4), spread(3, 4), spread(3, 0)
    ([0, 2, 5, 7], [0, 1, 2], [0, 1, 2])
    """
    n_taken = min(limit, n_all) if limit else n_all
    return [number * n_all // n_taken for number in range(n_taken)]


def _tar_page(path: Path, title: str, limit: int) -> Page:
    members = list(iter_members(path))
    if any(data[:1] != b"{" for _, data in members):
        raise InputError(
            f"{path}: not a shard of trajectories", hint=f"give its folder, where the tokenizer lies: {path.parent}"
        )
    chosen = [members[number] for number in spread(len(members), limit)]
    entries = [trajectory_entry(decode_trajectory(data, f"{path}: sample {key}")) for key, data in chosen]
    return Page(title=title, n_all=len(members), entries=entries)


def _spread_members(
    path: Path, index: pl.DataFrame, limit: int, progress: Progress
) -> Iterator[tuple[dict[str, Any], bytes, str]]:
    """Index row, data and place of samples that are evenly spread over a folder."""
    numbers = spread(index.height, limit)
    for done, row in enumerate(index[numbers].iter_rows(named=True)):
        progress(done, len(numbers), "samples", "reading")
        where = f"{path / row['shard']} at byte {row['offset']}"
        try:
            with (path / row["shard"]).open("rb") as file:
                data = os.pread(file.fileno(), row["n_bytes"], row["offset"])
        except OSError as error:
            raise ShardError(f"{where}: {error.strerror}", hint="make the folder again, or copy it whole") from error
        yield row, read_member(data, where)[1], where


def _teacher_page(path: Path, title: str, progress: Progress, limit: int) -> Page:
    index = scan_index(path).collect()
    vocabulary = Vocabulary(path / "tokenizer")
    pieces = Pieces(vocabulary.text_of)
    entries: list[Entry] = []
    for row, data, where in _spread_members(path, index, limit, progress):
        try:
            arrays = decode_teacher_sample(data)
        except ShardError as error:
            raise ShardError(f"{where}: {error}", hint=error.hint) from error
        entries.append(window_entry(row, arrays, vocabulary.texts(arrays["token_ids"].tolist()), pieces))
    return Page(
        title=title,
        what="windows",
        n_all=index.height,
        entries=entries,
        values=value_scales(entries, TEACHER_VALUES),
        pieces=pieces.texts,
    )


class Vocabulary:
    """Token ids to text.

    Args:
        folder: with `tokenizer.json`.
    Raises:
        ModelError: none there, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        import tokenizers

        file = folder / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # what the library raises has no type of its own
            raise ModelError(f"{file}: {error}", hint="make the folder again, or copy it whole") from error
        self._stream = tokenizers.decoders.DecodeStream

    def text_of(self, token_id: int) -> str:
        """A token by itself; where it is a part of a character, what the vocabulary calls it."""
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        if text and "\ufffd" not in text:
            return str(text)
        return self._tokenizer.id_to_token(token_id) or f"#{token_id}"

    def texts(self, token_ids: list[int]) -> list[str]:
        """The text that each token adds. A character of several tokens stands with its last."""
        stream = self._stream(skip_special_tokens=False)
        texts = [stream.step(self._tokenizer, token_id) or "" for token_id in token_ids]
        whole = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        # A window may end inside a character.
        rest = whole[len("".join(texts)) :]
        return [*texts[:-1], texts[-1] + rest] if rest else texts
