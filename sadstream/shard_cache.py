"""A local folder that holds what was last read from afar, up to so many bytes."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from sadstream.errors import ShardError
from sadstream.manifest import writing

_TEMPORARY = ".tmp-"
# A download that did not end in a day has been left behind by a process that died.
_STALE_SECONDS = 86_400
# Seconds before a download that broke is tried again.
_PAUSES = (0.2, 2.0)


class _BrokenDownloadError(ShardError):
    """It may go well the next time."""


class ShardCache:
    """Files by their checksum: those used least lately go first. Several processes may share a folder.

    Args:
        folder: is made if need be; nothing else should lie in it.
        max_bytes: kept at most. A file that is larger alone is refused.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._folder = folder

    def open(self, name: str, sha256: str, fetch: Callable[[], IO[bytes]]) -> int:
        """A file descriptor of the file with that checksum, fetched if it is not here.

        Args:
            name: how errors call it. fetch: opens it where it comes from.
        Raises:
            ShardError: it is not to be had, not what the checksum says, or larger than the folder may be.
        """
        path = self._folder / sha256
        while True:
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDONLY)
                # Its time of use. Another process may just have removed it; what is open stays readable.
                with contextlib.suppress(OSError):
                    os.utime(path)
                return handle
            self._fetch(path, name, fetch)

    def _fetch(self, path: Path, name: str, fetch: Callable[[], IO[bytes]]) -> None:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{threading.get_ident()}-{path.name}")
        try:
            for pause in _PAUSES:
                try:
                    n_bytes = self._download(temporary, path.name, name, fetch)
                    break
                except _BrokenDownloadError:
                    time.sleep(pause)
            else:
                n_bytes = self._download(temporary, path.name, name, fetch)
            self._make_room(n_bytes)
            with writing(path):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _download(self, temporary: Path, sha256: str, name: str, fetch: Callable[[], IO[bytes]]) -> int:
        """Write a file here. Returns its bytes.

        Raises:
            _BrokenDownloadError: it stopped, or is not what the checksum says. ShardError: not there, or too large.
        """
        digest = hashlib.sha256()
        n_bytes = 0
        with writing(temporary), temporary.open("wb") as copy:
            try:
                with fetch() as source:
                    while chunk := source.read(1 << 20):
                        n_bytes += len(chunk)
                        if n_bytes > self.max_bytes:
                            raise ShardError(
                                f"{name}: larger than the cache may be ({self.max_bytes} bytes)",
                                hint="allow the cache more bytes",
                            )
                        digest.update(chunk)
                        copy.write(chunk)
            except ShardError:
                raise
            except Exception as error:  # fsspec's filesystems raise whatever their backends do
                hint = "check the URL and your access to it, and that the folder was copied whole"
                if isinstance(error, FileNotFoundError):
                    raise ShardError(f"{name}: not there", hint=hint) from error
                first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise _BrokenDownloadError(f"{name}: {first_line}", hint=hint) from error
        if digest.hexdigest() != sha256:
            raise _BrokenDownloadError(
                f"{name}: its content is not what was written (checksum)",
                hint="make the folder again, or copy it again",
            )
        return n_bytes

    def _make_room(self, n_bytes: int) -> None:
        kept = []
        for file in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                if not file.name.startswith(_TEMPORARY):
                    kept.append((status.st_mtime_ns, status.st_size, file))
                elif time.time() - status.st_mtime > _STALE_SECONDS:
                    file.unlink()
        total = sum(size for _, size, _ in kept) + n_bytes
        for _, size, file in sorted(kept, key=lambda entry: entry[0]):
            if total <= self.max_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size
