"""Samples of a finished folder of shards, here or at a URL, read by offset and checked before they are given out.

Shards are mapped into memory: they must not be cut off while they are read.
"""

import hashlib
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from sadstream.errors import ManifestError, ShardError
from sadstream.manifest import MANIFEST, Stage, index_name, read_manifest
from sadstream.paths import cache_folder, is_local
from sadstream.shard_cache import ShardCache
from sadstream.shards import PLACE, WORD, checksum_of_words
from sadstream_schemas import Manifest, decode_json

CACHE_BYTES = 8 << 30
_OPEN_SHARDS = 256
_HEADER = 512
# Shard, and of the sample's row in the index: offset, bytes, checksum, key.
Place = tuple[int, int, int, int, str]
# A shard's bytes, also as words.
Mapped = tuple[memoryview, NDArray[np.uint64]]
_AGAIN = "make the folder again, or copy it whole"


def _web_options() -> dict[str, Any]:
    """Read from begin to end in one request, as every web server can, and however long that takes."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return {"block_size": 0, "client_kwargs": {"timeout": timeout}}


def places_of(rows: Mapping[str, NDArray[Any]]) -> list[Place]:
    """Where samples stand, as `read_many` wants it, from rows of an index as `rows` gives them."""
    columns = (rows[name].tolist() for name in ("shard", "offset", "n_bytes", "checksum", "key"))
    return list(zip(*columns, strict=True))


class SampleFolder:
    """A finished folder of span or teacher shards.

    Args:
        folder: a path, or an fsspec URL such as `s3://bucket/teacher`, whose shards are then copied whole into `cache`.
        stage: that made it.
        cache: of a URL's files; by default a folder of the user's cache. cache_bytes: that it may take.

    Attributes:
        manifest: the folder's.
    """

    def __init__(
        self, folder: str | Path, stage: Stage = "cache-teacher", *, cache: Path | None = None, cache_bytes: int = 0
    ) -> None:
        self._where = str(folder).rstrip("/")
        self._cache: ShardCache | None = None
        if is_local(self._where):
            self.manifest = read_manifest(Path(folder), stage)
        else:
            self._cache = ShardCache(cache or cache_folder() / "shards", cache_bytes or CACHE_BYTES)
            self.manifest = self._remote_manifest(stage)
        self._open: OrderedDict[int, Mapped] = OrderedDict()
        self._compared: set[int] = set()

    def __len__(self) -> int:
        """How many shards there are."""
        return len(self.manifest.shards)

    @property
    def cache_bytes(self) -> int | None:
        """What the local copies of a URL's shards may take; None where the folder is here."""
        return self._cache.max_bytes if self._cache else None

    def _remote_manifest(self, stage: Stage) -> Manifest:
        url = f"{self._where}/{MANIFEST}"
        try:
            with self._fetch(MANIFEST)() as file:
                manifest = decode_json(file.read(), Manifest)
        except Exception as error:  # fsspec's filesystems raise whatever their backends do
            raise ManifestError(f"{url}: {error}", hint="check the URL and your access to it") from error
        if manifest.stage != stage or not manifest.complete:
            what = "unfinished" if manifest.stage == stage else f"made by `sadstream {manifest.stage}`"
            raise ManifestError(f"{url}: {what}", hint=f"a finished folder of `sadstream {stage}` is wanted")
        return manifest

    def _fetch(self, name: str) -> Callable[[], IO[bytes]]:
        def fetch() -> IO[bytes]:
            import fsspec

            options = _web_options() if self._where.startswith(("http://", "https://")) else {}
            file: IO[bytes] = fsspec.open(f"{self._where}/{name}", "rb", **options).open()
            return file

        return fetch

    def rows(self, shard: int, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Columns of a shard's index, in the order of its samples, after its checksum was compared.

        Args:
            columns: beside `shard` (its number), `key`, `offset`, `n_bytes` and `checksum` (-1 in older folders).
        Raises:
            ShardError: missing, not what was written, or without such a column.
        """
        entry = self.manifest.shards[shard]
        name = index_name(entry.name)
        with os.fdopen(self._open_file(name, entry.index_sha256), "rb") as file:
            data = file.read()
        if self._cache is None and hashlib.sha256(data).hexdigest() != entry.index_sha256:
            raise ShardError(f"{self._where}/{name}: its content is not what was written (checksum)", hint=_AGAIN)
        index = parquet.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        present = set(index.schema_arrow.names)
        absent = [column for column in columns if column not in present]
        if absent:
            raise ShardError(
                f"{self._where}/{name}: no column {absent[0]!r}", hint=f"there are: {', '.join(sorted(present))}"
            )
        wanted = list(dict.fromkeys([*(column for column in PLACE if column in present), *columns]))
        # One thread: in a loader's forked worker there are no others.
        table = index.read(wanted, use_threads=False)
        rows = {column: table[column].to_numpy() for column in wanted}
        rows.setdefault("checksum", np.full(len(table), -1))
        return {**rows, "shard": np.full(len(table), shard)}

    def read(self, shard: int, offset: int, n_bytes: int, checksum: int, key: str) -> memoryview:
        """A sample's bytes, once they are known to be those that were written.

        Args:
            shard: its number. Others: of the sample's row in the index.
        Raises:
            ShardError: the shard is missing, cut off, another folder's, or the sample is damaged.
        """
        return self.read_many([(shard, offset, n_bytes, checksum, key)])[0][1]

    def read_many(self, places: Iterable[Place]) -> list[tuple[str, memoryview]]:
        """Keys and bytes of samples; the arguments of `read` for each."""
        samples = []
        for shard, offset, n_bytes, checksum, key in places:
            opened = self._open.get(shard) or self._open_shard(shard, is_checked=checksum >= 0)
            whole, words = opened
            stop = offset + n_bytes
            # The checksum covers the header, and with it the name.
            if checksum < 0 or checksum_of_words(words[offset >> 3 : stop >> 3]) != checksum:
                self._look_at(whole[offset:stop], shard, offset, n_bytes, checksum, key)
            begin = offset + _HEADER
            # Of the header that tar asks for, only the size matters here: 11 octal digits.
            samples.append((key, whole[begin : begin + int(bytes(whole[offset + 124 : offset + 135]), 8)]))
        return samples

    def _look_at(self, data: memoryview, shard: int, offset: int, n_bytes: int, checksum: int, key: str) -> None:
        """Say what is wrong with a sample, if anything is."""
        header = bytes(data[:_HEADER])
        if not header.startswith(f"{key}.".encode()):
            self._name_what_stands_there(header, shard, offset, key)
        is_cut = len(data) != n_bytes
        if is_cut or checksum >= 0:
            what = "cut off" if is_cut else "not what was written (checksum)"
            raise ShardError(
                f"{self._place(shard, offset)}: sample {key} is {what}",
                hint="`sadstream inspect --verify` names damaged files",
            )

    def _open_shard(self, shard: int, *, is_checked: bool) -> Mapped:
        """Map a shard, and let go of the one that was opened first if there are many.

        Args:
            is_checked: each sample has a checksum of its own. Else the whole shard's is compared, here.
        """
        entry = self.manifest.shards[shard]
        where = f"{self._where}/{entry.name}"
        handle = self._open_file(entry.name, entry.sha256)
        try:
            n_bytes = os.fstat(handle).st_size
            if n_bytes != entry.n_bytes:
                raise ShardError(f"{where}: {n_bytes} bytes, and {entry.n_bytes} were written", hint=_AGAIN)
            # Not read(): that would copy each sample and hand the interpreter to other threads each time.
            whole = memoryview(mmap.mmap(handle, 0, prot=mmap.PROT_READ))
        finally:
            os.close(handle)
        if self._cache is None and not is_checked and shard not in self._compared:
            if hashlib.sha256(whole).hexdigest() != entry.sha256:
                raise ShardError(f"{where}: its content is not what was written (checksum)", hint=_AGAIN)
            self._compared.add(shard)
        if len(self._open) >= _OPEN_SHARDS:
            self._open.popitem(last=False)
        opened = self._open[shard] = whole, np.frombuffer(whole, WORD, n_bytes // WORD.itemsize)
        return opened

    def _open_file(self, name: str, sha256: str) -> int:
        if self._cache is not None:
            return self._cache.open(f"{self._where}/{name}", sha256, self._fetch(name))
        try:
            return os.open(f"{self._where}/{name}", os.O_RDONLY)
        except OSError as error:
            raise ShardError(f"{self._where}/{name}: {error.strerror}", hint=_AGAIN) from error

    def _name_what_stands_there(self, data: bytes, shard: int, offset: int, key: str) -> None:
        where = self._place(shard, offset)
        if data[257:262] != b"ustar":
            raise ShardError(f"{where}: no sample stands there", hint=_AGAIN)
        found = data[:100].split(b".", 1)[0].decode("ascii", "backslashreplace")
        raise ShardError(
            f"{where}: sample {found} stands where the index has {key}",
            hint=f"tar and index are of different runs: {_AGAIN}",
        )

    def _place(self, shard: int, offset: int) -> str:
        return f"{self._where}/{self.manifest.shards[shard].name} at byte {offset}"

    def close_all_but(self, shards: set[int]) -> None:
        """Let go of shards that are not needed any more; samples given out stay as they are."""
        for shard in [shard for shard in self._open if shard not in shards]:
            del self._open[shard]

    def close(self) -> None:
        """Let go of all shards."""
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        # A copy for another process opens shards of its own.
        return {**self.__dict__, "_open": OrderedDict()}
