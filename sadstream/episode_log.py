"""What was played, on disk: a trajectory a kept episode, and a small line an episode, appended as it ends."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import msgspec

from sadstream.episodes import Episode
from sadstream.errors import ManifestError
from sadstream.manifest import writing
from sadstream.paths import TRAJECTORIES
from sadstream_schemas import Ending, Trajectory

EPISODES = "episodes.jsonl"
_SYNC_SECONDS = 1.0


class EpisodeLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An episode in one line of `episodes.jsonl`.

    Attributes:
        number: which play of the task, from 0.
        n_turns: what the agent said; n_actions and n_thoughts: of these; n_invalid: actions that were not taken.
        costs: what it took, where the agent says so.
        kept: whether its trajectory was written. n_bytes: size of `trajectories.jsonl` when it ended.
    """

    task_id: str
    number: int
    task_type: str
    seed: int
    reward: float
    success: bool
    ending: Ending
    n_turns: int
    n_actions: int
    n_thoughts: int
    n_invalid: int
    metrics: dict[str, float]
    kept: bool
    n_bytes: int
    costs: dict[str, float] = {}


def line_of(episode: Episode, *, number: int, kept: bool, n_bytes: int) -> EpisodeLine:
    """An episode's line."""
    return EpisodeLine(
        task_id=episode.task_id,
        number=number,
        task_type=episode.task_type,
        seed=episode.seed,
        reward=episode.reward,
        success=episode.success,
        ending=episode.ending,
        n_turns=len(episode.turns),
        n_actions=sum(turn.action is not None for turn in episode.turns),
        n_thoughts=sum(turn.thought is not None for turn in episode.turns),
        n_invalid=sum(not turn.valid for turn in episode.turns),
        metrics=episode.metrics,
        kept=kept,
        n_bytes=n_bytes,
        costs=episode.costs,
    )


class EpisodeLog:
    """The two files while episodes are played.

    A trajectory is written before its line. Stopped at any byte, the log opens again with the episodes whose line is
    whole; what stands beyond them is cut off, and they are played again.

    Attributes:
        lines: of the episodes that ended, in that order.
        n_bytes: size of the trajectories that they kept.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder's log, or begin one.

        Raises:
            ManifestError: it holds what no interrupted run leaves.
        """
        self._folder = folder
        self.lines = _whole_lines(folder / EPISODES, _size(folder / TRAJECTORIES))
        self.n_bytes = self.lines[-1].n_bytes if self.lines else 0
        _cut(folder / EPISODES, sum(len(_encoded(line)) for line in self.lines))
        _cut(folder / TRAJECTORIES, self.n_bytes)
        self._trajectories: IO[bytes] | None = None
        self._episodes: IO[bytes] | None = None
        self._synced = time.monotonic()

    def append(self, episode: Episode, number: int, trajectory: Trajectory | None) -> EpisodeLine:
        """Write an episode down; `trajectory` is None where it is not kept.

        Raises:
            ManifestError: a full disk, or no permission.
        """
        if self._trajectories is None or self._episodes is None:
            # Not before there is something to hold: an empty folder may still be taken over with other options.
            with writing(self._folder):
                self._trajectories = (self._folder / TRAJECTORIES).open("ab")
                self._episodes = (self._folder / EPISODES).open("ab")
        data = b"" if trajectory is None else msgspec.json.encode(trajectory) + b"\n"
        line = line_of(episode, number=number, kept=trajectory is not None, n_bytes=self.n_bytes + len(data))
        for file, content in ((self._trajectories, data), (self._episodes, _encoded(line))):
            with writing(Path(file.name)):
                file.write(content)
                file.flush()
        self.n_bytes = line.n_bytes
        self.lines.append(line)
        # A kill loses nothing that was flushed; only a power cut can, and then a second's worth.
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()
        return line

    def _sync(self) -> None:
        for file in (self._trajectories, self._episodes):
            if file is not None:
                with writing(Path(file.name)):
                    os.fsync(file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Make sure that all is on the disk; both files are there from now on."""
        self._sync()
        for file in (self._trajectories, self._episodes):
            if file is not None:
                file.close()
        for name in (TRAJECTORIES, EPISODES):
            with writing(self._folder / name):
                (self._folder / name).touch()


def read_lines(folder: Path) -> list[EpisodeLine]:
    """The episodes that a folder tells of, in the order in which they ended.

    Raises:
        ManifestError: damaged.
    """
    return _decoded(folder / EPISODES, (folder / EPISODES).read_bytes().split(b"\n")[:-1])


def _whole_lines(path: Path, n_bytes: int) -> list[EpisodeLine]:
    """Lines that were written to their end, and whose trajectories stand in `n_bytes`."""
    if not path.exists():
        return []
    # After a power cut the small file may know of more than reached the disk in the large one.
    return [line for line in _decoded(path, path.read_bytes().split(b"\n")[:-1]) if line.n_bytes <= n_bytes]


def _decoded(path: Path, lines: Iterable[bytes]) -> list[EpisodeLine]:
    decoder = msgspec.json.Decoder(EpisodeLine)
    decoded = []
    for number, line in enumerate(lines, 1):
        try:
            decoded.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise ManifestError(f"{path}:{number}: {error}", hint="delete the folder and run again") from error
    return decoded


def _encoded(line: EpisodeLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, n_bytes: int) -> None:
    if _size(path) > n_bytes:
        with writing(path):
            os.truncate(path, n_bytes)
