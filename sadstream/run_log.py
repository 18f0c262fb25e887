"""What a run writes down as it goes: metrics.jsonl, and TensorBoard's files where they are wanted."""

import os
from pathlib import Path
from typing import Any

import msgspec

from sadstream.errors import ConfigError, ManifestError
from sadstream.manifest import write_atomically, writing

# Numbers that tell of an update as it was, whatever came of it.
Row = dict[str, Any]


class RunLog:
    """Rows of metrics.jsonl: appended, on disk when `append` returns, cut back to where a checkpoint stands.

    Attributes:
        rows: all of them. n_bytes: of the file.
    """

    def __init__(self, path: Path, n_bytes: int, *, tensorboard: Path | None = None, is_written: bool = True) -> None:
        """Open a log, dropping what was logged after the checkpoint: it will be logged again.

        Args:
            n_bytes: what the checkpoint says the file has. tensorboard: folder for TensorBoard's files.
            is_written: or only read, and kept in memory: by a rank that is not the first.
        Raises:
            ManifestError: the file is shorter than that. ConfigError: TensorBoard is not installed.
        """
        logged = path.read_bytes() if path.exists() else b""
        if len(logged) < n_bytes:
            raise ManifestError(
                f"{path}: shorter than the checkpoint says", hint="delete the run's folder and train again"
            )
        if is_written:
            write_atomically(path, logged[:n_bytes])
        self._path, self.n_bytes, self._is_written = path, n_bytes, is_written
        self.rows: list[Row] = [msgspec.json.decode(line) for line in logged[:n_bytes].split(b"\n")[:-1]]
        self._board = (
            _open_board(tensorboard, len(self.rows) and self.rows[-1]["update"]) if tensorboard and is_written else None
        )

    def append(self, row: Row) -> None:
        """Add a row."""
        line = msgspec.json.encode(row) + b"\n"
        if self._is_written:
            with writing(self._path), self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        self.n_bytes += len(line)
        self.rows.append(row)
        if self._board is not None:
            numbers = {f"eval/{name}": value for name, value in row["eval"].items()} if "eval" in row else row
            for name, value in numbers.items():
                if value is not None and name != "update":
                    self._board.add_scalar(name, value, row["update"])

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()


def _open_board(folder: Path, last_update: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"tensorboard = true: {error}", hint="pip install 'sadstream[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=last_update + 1)
