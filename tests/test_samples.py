import copy
import hashlib
import io
import os
import pickle
import shlex
import shutil
import struct
import zlib
from pathlib import Path

import fsspec
import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sadstream import iter_samples, scan_index
from sadstream.errors import ConfigError, ManifestError, ShardError
from sadstream.manifest import load_manifest, sha256_of
from sadstream.order import Order
from sadstream.sample_stream import SampleStream
from sadstream.samples import SampleFolder
from sadstream.shard_cache import ShardCache
from sadstream.shards import checksum_of


@pytest.fixture
def folder(tiny_shards, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(tiny_shards, tmp_path / "copy"))


def read_all(folder: SampleFolder) -> dict[str, bytes]:
    return {
        place[-1]: bytes(folder.read(shard, *place))
        for shard in range(len(folder))
        for place in sorted(places(folder, shard), key=lambda place: place[-1])
    }


def places(folder: SampleFolder, shard: int) -> list[tuple[int, int, int, str]]:
    """Offset, bytes, checksum and key of a shard's samples."""
    rows = folder.rows(shard, [])
    return list(zip(*(rows[name].tolist() for name in ("offset", "n_bytes", "checksum", "key")), strict=True))


def without_checksums(folder: Path) -> None:
    """Make a folder as versions before checksums wrote it."""
    manifest = load_manifest(folder)
    shards = []
    for shard in manifest.shards:
        index = folder / shard.name.replace(".tar", ".parquet")
        pl.read_parquet(index).drop("checksum").write_parquet(index)
        shards.append(msgspec.structs.replace(shard, index_sha256=sha256_of(index)))
    manifest = msgspec.structs.replace(manifest, shards=shards)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def test_each_row_of_the_index_gives_its_sample(tiny_shards, folder):
    assert read_all(SampleFolder(tiny_shards)) == dict(iter_samples(tiny_shards))
    without_checksums(folder)
    assert read_all(SampleFolder(folder)) == dict(iter_samples(tiny_shards))


def test_span_shards_are_read_the_same_way(tiny_spans):
    assert read_all(SampleFolder(tiny_spans, "segment")) == dict(iter_samples(tiny_spans))


@given(data=st.data())
def test_any_flipped_byte_of_a_sample_is_named(tiny_shards, tmp_path, data):
    index = scan_index(tiny_shards).collect()
    row = index.row(data.draw(st.integers(0, len(index) - 1)), named=True)
    number = int(row["shard"][6:12])
    place = data.draw(st.integers(0, row["n_bytes"] - 1))
    target = tmp_path / "copy"
    if not target.exists():
        shutil.copytree(tiny_shards, target)
    tar = bytearray((tiny_shards / row["shard"]).read_bytes())
    tar[row["offset"] + place] ^= data.draw(st.integers(1, 255))
    (target / row["shard"]).write_bytes(tar)
    folder = SampleFolder(target)
    with pytest.raises(ShardError, match=f"{row['shard']} at byte {row['offset']}"):
        folder.read(number, row["offset"], row["n_bytes"], row["checksum"], row["key"])
    folder.close()


@given(st.binary(min_size=1024, max_size=1024), st.integers(0, 1023), st.integers(1, 255))
def test_a_checksum_tells_flipped_bytes_and_moved_blocks(data, place, flip):
    changed = bytearray(data)
    changed[place] ^= flip
    assert checksum_of(bytes(changed)) != checksum_of(data)
    if sum(data[:512]) != sum(data[512:]):
        assert checksum_of(data[512:] + data[:512]) != checksum_of(data)


@pytest.mark.parametrize("n_blocks", [1, 2, 70, 4096, 4097, 9000])
def test_a_checksum_is_what_its_definition_says(n_blocks):
    data = np.random.default_rng(n_blocks).integers(0, 256, n_blocks * 512, np.uint8).tobytes()
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    sums = [sum(struct.unpack("<64Q", block)) % 2**64 for block in blocks]
    assert checksum_of(data) == zlib.crc32(struct.pack(f"<{n_blocks}Q", *sums))
    assert checksum_of(memoryview(data)) == checksum_of(data)


def test_an_older_folders_flipped_byte_is_named_before_the_first_sample(folder):
    without_checksums(folder)
    tar = bytearray((folder / "shard-000000.tar").read_bytes())
    tar[-2000] ^= 1
    (folder / "shard-000000.tar").write_bytes(tar)
    samples = SampleFolder(folder)
    place = places(samples, 0)[0]
    with pytest.raises(ShardError, match=r"shard-000000.tar: its content is not what was written"):
        samples.read(0, *place)


def test_a_missing_foreign_or_cut_off_shard_is_named(tiny_shards, folder):
    samples = SampleFolder(folder)
    one, other = places(samples, 0)[:2]
    tar = folder / "shard-000000.tar"
    whole = tar.read_bytes()

    tar.write_bytes(whole[:-600])
    with pytest.raises(ShardError, match=rf"{tar.name}: {len(whole) - 600} bytes, and {len(whole)} were written"):
        SampleFolder(folder).read(0, *one)
    tar.write_bytes(b"\0" * len(whole))
    with pytest.raises(ShardError, match=rf"{tar.name} at byte {other[0]}: no sample stands there"):
        SampleFolder(folder).read(0, *other)
    foreign = whole.replace(one[-1].encode(), b"another-folders-key!")
    tar.write_bytes(foreign)
    with pytest.raises(ShardError, match=rf"sample another-folders-key! stands where the index has {one[-1]}"):
        SampleFolder(folder).read(0, *one)
    tar.unlink()
    with pytest.raises(ShardError, match=rf"{tar.name}: No such file"):
        SampleFolder(folder).read(0, *one)


def test_an_index_that_is_not_the_manifests_is_named(tiny_shards, folder):
    index = folder / "shard-000000.parquet"
    pl.read_parquet(index).with_columns(pl.col("key").reverse()).write_parquet(index)
    with pytest.raises(ShardError, match=r"shard-000000.parquet: its content is not what was written"):
        SampleFolder(folder).rows(0, [])
    shutil.copy(tiny_shards / index.name, index)
    with pytest.raises(ShardError, match=r"shard-000000.parquet: no column 'colour'"):
        SampleFolder(folder).rows(0, ["n_tokens", "colour"])
    index.unlink()
    with pytest.raises(ShardError, match=r"shard-000000.parquet: No such file"):
        SampleFolder(folder).rows(0, [])


@pytest.fixture(params=["memory", "file"])
def url(request, tiny_shards, tmp_path):
    """The tiny cache at a URL."""
    if request.param == "file":
        yield Path(shutil.copytree(tiny_shards, tmp_path / "remote")).as_uri()
        return
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(tiny_shards), "/teacher", recursive=True)
    yield "memory://teacher"
    filesystem.rm("/teacher", recursive=True)


def test_a_url_gives_what_the_folder_gives_and_keeps_its_copies(url, tiny_shards, tmp_path):
    cache = tmp_path / "cache"
    assert read_all(SampleFolder(url, cache=cache)) == dict(iter_samples(tiny_shards))
    manifest = load_manifest(tiny_shards)
    wanted = {checksum for shard in manifest.shards for checksum in (shard.sha256, shard.index_sha256)}
    assert {file.name for file in cache.iterdir()} == wanted
    times = {file.name: file.stat().st_ino for file in cache.iterdir()}
    read_all(SampleFolder(url, cache=cache))
    assert {file.name: file.stat().st_ino for file in cache.iterdir()} == times, "fetched twice"


def test_a_damaged_remote_shard_is_named_and_not_kept(tiny_shards, tmp_path):
    remote = Path(shutil.copytree(tiny_shards, tmp_path / "remote"))
    tar = bytearray((remote / "shard-000000.tar").read_bytes())
    tar[1000] ^= 1
    (remote / "shard-000000.tar").write_bytes(tar)
    samples = SampleFolder(remote.as_uri(), cache=tmp_path / "cache")
    place = places(samples, 0)[0]
    before = set((tmp_path / "cache").iterdir())
    with pytest.raises(ShardError, match=r"remote/shard-000000.tar: its content is not what was written"):
        samples.read(0, *place)
    assert set((tmp_path / "cache").iterdir()) == before
    (remote / "shard-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"remote/shard-000000.tar: "):
        samples.read(0, *place)


def test_a_url_without_a_finished_folder_is_refused(tiny_spans, tmp_path):
    with pytest.raises(ManifestError, match=r"memory://nowhere/manifest.json"):
        SampleFolder("memory://nowhere", cache=tmp_path)
    with pytest.raises(ManifestError, match="made by `sadstream segment`"):
        SampleFolder(tiny_spans.as_uri(), cache=tmp_path)
    unfinished = Path(shutil.copytree(tiny_spans, tmp_path / "unfinished"))
    manifest = msgspec.structs.replace(load_manifest(tiny_spans), complete=False)
    (unfinished / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ManifestError, match="unfinished"):
        SampleFolder(unfinished.as_uri(), "segment", cache=tmp_path)


def test_a_folder_goes_to_another_process_without_its_open_shards(tiny_shards):
    samples = SampleFolder(tiny_shards)
    everything = read_all(samples)
    again = pickle.loads(pickle.dumps(samples))
    assert read_all(again) == everything
    again.close()
    sharing = copy.copy(samples)
    sharing.close()
    assert samples._open, "closing a copy closed this one"


def test_of_many_shards_those_opened_last_stay_open(tiny_shards, tmp_path):
    manifest = load_manifest(tiny_shards)
    first = manifest.shards[0]
    shards = [msgspec.structs.replace(first, name=f"shard-{number:06d}.tar") for number in range(300)]
    for shard in shards:
        (tmp_path / shard.name).hardlink_to(tiny_shards / first.name)
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, shards=shards)))
    place = places(SampleFolder(tiny_shards), 0)[0]
    samples = SampleFolder(tmp_path)
    for number in (*range(300), 0):
        samples.read(number, *place)
    assert sorted(samples._open) == [0, *range(45, 300)]


@pytest.mark.parametrize("command", ["pipe:touch {}", "pipe:touch {} ://bucket"])
def test_a_pipe_is_no_folder_and_runs_nothing(tmp_path, command):
    with pytest.raises(ManifestError):
        SampleFolder(command.format(tmp_path / "ran"), cache=tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


def test_plain_webdataset_reads_shards_also_through_a_pipe(tiny_shards):
    webdataset = pytest.importorskip("webdataset")
    tars = sorted(map(str, tiny_shards.glob("*.tar")))
    pipes = [f"pipe:cat {shlex.quote(tar)}" for tar in tars]
    for urls in (tars, pipes):
        data = webdataset.WebDataset(urls, shardshuffle=False)
        assert {sample["__key__"]: sample["msgpack"] for sample in data} == dict(iter_samples(tiny_shards))


def test_a_cache_that_holds_no_block_is_refused_at_once(url, tmp_path):
    with pytest.raises(ConfigError, match=r"a cache of 9000 bytes holds no block of shards"):
        SampleStream(SampleFolder(url, cache=tmp_path, cache_bytes=9000), Order(), list)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(100, 400))
@example([0, 1, 2, 0, 1, 2], 300)
def test_the_cache_keeps_what_was_used_last_within_its_bytes(tmp_path_factory, uses, max_bytes):
    files = [bytes([n]) * 100 for n in range(10)]
    sums = [hashlib.sha256(data).hexdigest() for data in files]
    cache = ShardCache(tmp_path_factory.mktemp("cache"), max_bytes)
    fetched: list[int] = []
    for number in uses:

        def fetch(number=number):
            fetched.append(number)
            return io.BytesIO(files[number])

        handle = cache.open(f"file {number}", sums[number], fetch)
        assert os.pread(handle, 1000, 0) == files[number]
        os.close(handle)
        kept = list(cache._folder.iterdir())
        assert sum(file.stat().st_size for file in kept) <= max_bytes
        assert sums[number] in {file.name for file in kept}
    n_kept = max_bytes // 100
    recent: list[int] = []
    misses = 0
    for number in uses:
        misses += number not in recent[-n_kept:]
        recent = [n for n in recent if n != number] + [number]
    assert len(fetched) == misses


def test_a_file_larger_than_the_cache_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ShardError, match=r"big: larger than the cache may be \(10 bytes\)"):
        ShardCache(tmp_path, 10).open("big", "0" * 64, lambda: io.BytesIO(b"x" * 11))
    assert not list(tmp_path.iterdir())


class Breaking(io.BytesIO):
    """A connection that breaks after so many bytes."""

    def __init__(self, data: bytes, stop: int) -> None:
        super().__init__(data[:stop])

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise ConnectionResetError("reset by peer")
        return data


def test_a_download_that_breaks_is_begun_again_and_given_up_by_name(tmp_path):
    data = bytes(range(256)) * 9
    name = hashlib.sha256(data).hexdigest()
    cut_off, reset = io.BytesIO(data[:-1]), Breaking(data, 300)
    sources = iter([cut_off, reset, io.BytesIO(data)])
    cache = ShardCache(tmp_path / "cache", 10_000)
    handle = cache.open("far/shard.tar", name, lambda: next(sources))
    assert os.read(handle, 10_000) == data
    os.close(handle)
    (tmp_path / "cache" / name).unlink()
    with pytest.raises(ShardError, match=r"far/shard.tar: reset by peer") as error:
        cache.open("far/shard.tar", name, lambda: Breaking(data, 300))
    assert type(error.value.__cause__) is ConnectionResetError
    assert not list((tmp_path / "cache").iterdir())


def test_what_is_not_there_is_asked_for_once(tmp_path):
    asked = []

    def fetch():
        asked.append(1)
        raise FileNotFoundError("no such key")

    with pytest.raises(ShardError, match=r"far/shard.tar: not there"):
        ShardCache(tmp_path, 10_000).open("far/shard.tar", "0" * 64, fetch)
    assert asked == [1]
