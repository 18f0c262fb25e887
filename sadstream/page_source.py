"""What the page shows, from where it lies: span shards, teacher shards, episodes, or raw logs cut on the spot."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from numpy.typing import NDArray

from sadstream.codec import decode_teacher_sample
from sadstream.errors import ConfigError, InputError, ModelError, ShardError
from sadstream.formats.chosen import chosen_formats
from sadstream.frames import row_trajectory
from sadstream.logs import read_logs
from sadstream.manifest import MANIFEST, load_manifest
from sadstream.page import (
    TEACHER_VALUES,
    Page,
    Pieces,
    trajectory_entry,
    value_scales,
    window_entry,
)
from sadstream.paths import TRAJECTORIES, find_logs
from sadstream.progress import Progress, silent
from sadstream.segment import segment
from sadstream.shards import decode_trajectory, iter_members, read_member, scan_index
from sadstream_schemas import Trajectory

T = TypeVar("T")


def read_page(path: Path, progress: Progress, *, limit: int, split: str = "") -> Page:
    """What the page of an artefact or of raw logs shows.

    Args:
        path: a folder of span shards, teacher shards or played episodes, a shard, or raw logs as `segment` takes them.
        limit: trajectories or windows at most, evenly spread over all; 0 is all.
        split: of this split only; "" is all.
    Raises:
        SadstreamError: nothing to show there, or damaged.
    """
    stage = load_manifest(path).stage if (path / MANIFEST).is_file() else ""
    if split and stage not in ("segment", "cache-teacher"):
        raise ConfigError(f"--split {split}: {path} knows no splits", hint="a folder of shards or a run has them")
    title = path.resolve().name if path.exists() else str(path)
    if path.suffix == ".tar" and path.is_file():
        return _tar_page(path, title, limit)
    if not stage:
        return _logs_page([path], title, progress, limit)
    if stage in ("segment", "cache-teacher"):
        index = scan_index(path).filter(split=split).collect() if split else scan_index(path).collect()
        rows = index[spread(index.height, limit)]
        if stage == "cache-teacher":
            return windows_page(path, title, rows, index.height, progress)
        entries = [
            trajectory_entry(decode_trajectory(data, where), split=row["split"])
            for row, data, where in _members(path, rows, progress)
        ]
        return Page(title=title, n_all=index.height, entries=entries)
    if stage in ("collect", "evaluate"):
        played = sorted(path.glob(TRAJECTORIES if stage == "collect" else f"*/{TRAJECTORIES}"))
        return _logs_page(played, title, progress, limit)
    raise InputError(
        f"{path}: made by `sadstream {stage}`, and holds no trajectory to show",
        hint="a folder of span shards or teacher shards, or a run, is shown",
    )


def _logs_page(paths: Sequence[Path], title: str, progress: Progress, limit: int) -> Page:
    n_bytes = n_all = n_refused = 0

    def count(more: int) -> None:
        nonlocal n_bytes
        n_bytes += more
        progress(n_bytes, None, "bytes", "reading")

    def trajectories() -> Iterator[Trajectory]:
        nonlocal n_all, n_refused
        blocks = read_logs(
            find_logs([str(path) for path in paths]), formats=chosen_formats("auto"), on_error="skip", on_bytes=count
        )
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


def _members(path: Path, rows: pl.DataFrame, progress: Progress) -> Iterator[tuple[dict[str, Any], bytes, str]]:
    """Index row, data and place of some samples of a folder, in the order of their rows."""
    for done, row in enumerate(rows.iter_rows(named=True)):
        progress(done, rows.height, "samples", "reading")
        where = f"{path / row['shard']} at byte {row['offset']}"
        try:
            with (path / row["shard"]).open("rb") as file:
                data = os.pread(file.fileno(), row["n_bytes"], row["offset"])
        except OSError as error:
            raise ShardError(f"{where}: {error.strerror}", hint="make the folder again, or copy it whole") from error
        yield row, read_member(data, where)[1], where


def read_windows(
    path: Path, rows: pl.DataFrame, progress: Progress = silent
) -> Iterator[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    """Index row and decoded sample of some windows of teacher shards, in the order of their rows."""
    for row, data, where in _members(path, rows, progress):
        try:
            yield row, decode_teacher_sample(data)
        except ShardError as error:
            raise ShardError(f"{where}: {error}", hint=error.hint) from error


def windows_page(path: Path, title: str, rows: pl.DataFrame, n_all: int, progress: Progress) -> Page:
    """The page of some windows of teacher shards.

    Args:
        rows: of the folder's index. n_all: windows that there are.
    """
    vocabulary = Vocabulary(path / "tokenizer")
    pieces = Pieces(vocabulary.text_of)
    entries = [
        window_entry(row, arrays, vocabulary.texts(arrays["token_ids"].tolist()), pieces)
        for row, arrays in read_windows(path, rows, progress)
    ]
    scales = value_scales(entries, TEACHER_VALUES)
    return Page(title=title, what="windows", n_all=n_all, entries=entries, values=scales, pieces=pieces.texts)


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
