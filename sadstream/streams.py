"""Binary streams out of files, standard input and URLs: unpacked, counted, with a look at their beginning."""

import contextlib
import gzip
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from sadstream.paths import is_local


class Stream(io.BufferedIOBase):
    """A binary stream whose beginning can be looked at, and which counts what passes."""

    def __init__(self, raw: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._raw = raw
        self._head = b""
        self._on_bytes = on_bytes
        self.packed = False
        self._damage: Exception | None = None

    def peek(self, n_bytes: int) -> bytes:
        """The beginning, at least `n_bytes` if there are so many. Damage in it shows once the reader gets there."""
        while len(self._head) < n_bytes and self._damage is None:
            try:
                more = self._raw.read(min(1 << 16, n_bytes - len(self._head)))
            except Exception as error:  # each unpacker has its own
                self._damage = error
                break
            if not more:
                break
            self._head += more
        if not self._head and self._damage is not None:
            raise self._damage
        return self._head

    def lines(self) -> Iterator[bytes]:
        """Lines with their breaks; only "\\n" ends one."""
        begun: list[bytes] = []  # joined once: a line may be the whole of a large file
        for chunk in self.chunks():
            first, *others = chunk.split(b"\n")
            begun.append(first)
            for line in others:
                yield b"".join(begun) + b"\n"
                begun = [line]
        if last := b"".join(begun):
            yield last

    def chunks(self) -> Iterator[bytes]:
        chunk, self._head = self._head or self._raw.read(1 << 20), b""
        while chunk:
            self._on_bytes(len(chunk))
            yield chunk
            if self._damage is not None:
                raise self._damage
            chunk = self._raw.read(1 << 20)

    def read_all(self) -> bytes:
        return b"".join(self.chunks())


@contextlib.contextmanager
def open_stream(path: str, on_bytes: Callable[[int], None]) -> Iterator[Stream]:
    """A file (`-`: standard input; or an fsspec URL) as a stream, unpacked where its content says gzip or zstd.

    Args:
        on_bytes: told how many unpacked bytes were read, as they are.
    Raises:
        OSError, EOFError, zlib.error, pyarrow's errors: from here or from any read, where the file is damaged.
    """
    with contextlib.ExitStack() as stack:
        if path == "-":
            if sys.stdin is None:
                raise OSError("standard input is closed")
            raw: Any = sys.stdin.buffer
        elif is_local(path):
            raw = stack.enter_context(Path(path).open("rb"))
        else:
            import fsspec

            raw = stack.enter_context(fsspec.open(path, "rb"))
        magic = Stream(raw, ignore)
        start = magic.peek(4)
        if start[:2] == b"\x1f\x8b":
            raw = stack.enter_context(gzip.open(_Readable(magic)))
        elif start == b"\x28\xb5\x2f\xfd":
            raw = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(_Readable(magic), mode="r"), "zstd"))
        else:
            raw = _Readable(magic)
        stream = Stream(raw, on_bytes)
        stream.packed = not isinstance(raw, _Readable)
        yield stream


class _Readable(io.RawIOBase):
    """Gives back what was peeked, then the stream: what the unpackers want to read from."""

    def __init__(self, stream: Stream) -> None:
        self._chunks = stream.chunks()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        n_bytes = min(len(buffer), len(self._rest))
        buffer[:n_bytes] = self._rest[:n_bytes]
        self._rest = self._rest[n_bytes:]
        return n_bytes


def ignore(n_bytes: int) -> None:
    """An `on_bytes` that nobody listens to."""
