"""`cache-teacher` killed by SIGKILL. `scripts/cache_crash.py` does the same to the command with a real teacher."""

import contextlib
import json
import multiprocessing
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl
import pytest

from sadstream import teacher
from sadstream.manifest import MANIFEST, index_name, load_manifest
from sadstream.teacher import CacheConfig, cache_teacher
from tests.test_teacher import content

SHARD_TOKENS = 600


def ask(spans: Path, model: Path, out: Path, packing: str, parent: Connection) -> None:
    """Ask in small shards; tell how far it is, and go on when told so."""

    def progress(done: int, total: int | None, unit: str, note: str = "") -> None:
        parent.send(done)
        parent.recv()

    teacher._SHARD_TOKENS = SHARD_TOKENS
    cache_teacher(CacheConfig(spans=str(spans), teacher=str(model), out=str(out), top_k=8, packing=packing), progress)


def committed(out: Path) -> list[str]:
    """Shards that a finished folder or an unfinished one's journal names, but for a line that was being written."""
    if not (out / "journal.jsonl").exists():
        return [shard.name for shard in load_manifest(out).shards] if (out / MANIFEST).exists() else []
    return [json.loads(line)["name"] for line in (out / "journal.jsonl").read_text().split("\n")[:-1]]


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with torch and transformers loaded, and no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sadstream.ask", "sadstream.teacher", "transformers.models.llama.modeling_llama"])
    return context


# How many words each run may go on after before it is killed; the last has ended a shard by its next word.
@pytest.mark.parametrize(("packing", "words"), [("off", (0, 2, 7, 4)), ("on", (1, 3))])
def test_killed_at_any_instant_it_loses_one_shard_at_most_and_ends_with_the_same_bytes(
    processes, tiny_spans, tiny_teacher, tmp_path, packing, words
):
    def begin(name: str):
        here, there = processes.Pipe()
        process = processes.Process(
            target=ask, args=(tiny_spans, tiny_teacher, tmp_path / name / "out", packing, there)
        )
        process.start()
        there.close()
        return process, here

    def finish(name: str) -> dict[str, bytes]:
        process, child = begin(name)
        with contextlib.suppress(EOFError):
            while True:
                child.recv()
                child.send(True)
        process.join()
        assert process.exitcode == 0
        return content(tmp_path / name / "out")

    undisturbed = finish("whole")
    whole, killed = tmp_path / "whole" / "out", tmp_path / "killed" / "out"
    tokens = {name: pl.read_parquet(whole / index_name(name))["n_tokens"].sum() for name in committed(whole)}
    assert len(tokens) > 5
    chance, kept = random.Random(0), []
    for run, n_words in enumerate(words, 1):
        process, child = begin("killed")
        done = 0
        for _ in range(n_words):
            done = max(done, child.recv())
            child.send(True)
        if run < len(words):
            time.sleep(chance.uniform(0, 0.02))
        else:
            child.recv()  # however slow the machine is
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        before, kept = kept, committed(killed)
        assert kept[: len(before)] == before and kept == list(tokens)[: len(kept)]
        assert done - sum(tokens[name] for name in kept) <= max(tokens.values())
    assert 0 < len(kept) < len(tokens)
    assert finish("killed") == undisturbed
