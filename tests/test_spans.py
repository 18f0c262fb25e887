import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from collections import Counter

import msgspec
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sadstream import (
    iter_samples,
    manifest,
    scan_index,
    scan_logs,
    scan_shards,
    score,
    segment,
    shards,
    spans,
    write_shards,
)
from sadstream import logs as reading
from sadstream.errors import ConfigError, FormatError, InputError, ManifestError, ShardError
from sadstream.frames import row_trajectory, trajectory_row
from sadstream.manifest import load_manifest, verify
from sadstream.progress import silent
from sadstream.score import SCORES
from sadstream.shards import SPANS_SCHEMA, iter_trajectories, read_member
from sadstream.spans import INDEX_SCHEMA, SegmentConfig, check_where, holdout_split, segment_logs
from sadstream_schemas import Trajectory
from tests.strategies import texts, trajectories, transcripts

# Each example writes files, and waits for the disk.
FEW = settings(max_examples=settings().max_examples // 6)


def run(number, question=None):
    question = question or f"Who is number {number}?"
    return f"Question: {question}\nThought: look\nAction: search[{number}]\nObservation: {'page ' * 20}\n"


def write_logs(folder, n=12, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": run(i), "success": i % 3 == 0, **fields}) + "\n" for i in range(n)]
    (folder / "a.jsonl").write_text("".join(lines[: n // 2]))
    (folder / "b.jsonl").write_text("".join(lines[n // 2 :]))
    (folder / "notes").write_text("no log\n")
    return folder


def cut(logs, out, progress=silent, **options):
    logs = [logs] if not isinstance(logs, list) else logs
    return segment_logs(SegmentConfig(logs=tuple(map(str, logs)), out=str(out), **options), progress)


def content(folder):
    """Name to checksum of all files in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def stamps(folder):
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()}


def rejects(folder):
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text("utf-8").split("\n") if line]


# ---- round trips


@FEW
@given(trajectories())
def test_a_record_comes_back_from_a_row_of_a_frame(trajectory):
    frame = pl.DataFrame([trajectory_row(trajectory)], schema=SPANS_SCHEMA)
    again = row_trajectory(frame.row(0, named=True))
    assert again == trajectory
    assert msgspec.json.decode(msgspec.json.encode(again), type=Trajectory) == trajectory


@FEW
@given(st.lists(trajectories(), min_size=1, max_size=3))
def test_a_frame_comes_back_from_the_shards(tmp_path_factory, records):
    out = tmp_path_factory.mktemp("shards") / "out"
    frame = pl.DataFrame([trajectory_row(record) for record in records], schema=SPANS_SCHEMA)
    totals = write_shards(frame.lazy(), out, shard_size=3_000)
    field = pl.element().struct.field
    is_agents = field("kind").is_in(["reason", "act"]) & (field("stop") > field("start"))
    agents = pl.col("spans").list.eval(is_agents).list.any()
    kept = frame.filter(agents)
    assert totals["n_trajectories"] == kept.height
    back = scan_shards(out).collect()
    assert_frame_equal(back.drop("id"), kept.drop("id"))
    assert back["id"].n_unique() == back.height


def test_shards_of_a_frame_are_read_lazily_column_by_column(tmp_path):
    frame = segment(pl.LazyFrame({"text": [run(i) for i in range(10)]}))
    write_shards(frame, tmp_path / "out", shard_size=2_000)
    back = scan_shards(tmp_path / "out")
    assert_frame_equal(back.select("text", "spans").collect(), frame.select("text", "spans").collect())
    assert back.filter(pl.col("text").str.contains("number 7")).select("id").collect().item() == "frame#0.7"
    assert back.head(3).collect().height == 3
    assert_frame_equal(back.collect(engine="streaming"), back.collect(engine="in-memory"))


def test_ids_of_a_frame_are_made_unique(tmp_path):
    frame = pl.LazyFrame({"id": ["x", "x", "y"], "text": [run(0), run(1), run(2)]})
    write_shards(segment(frame), tmp_path / "out")
    assert scan_shards(tmp_path / "out").collect()["id"].to_list() == ["x", "x~2", "y"]
    assert len({key for key, _ in iter_samples(tmp_path / "out")}) == 3


def test_a_frame_is_written_to_a_new_folder_only(tmp_path):
    frame = segment(pl.LazyFrame({"text": [run(0)]}))
    write_shards(frame, tmp_path / "out")
    with pytest.raises((ConfigError, ManifestError)):
        write_shards(frame, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ManifestError, match="did not write"):
        write_shards(frame, tmp_path / "mine")


def test_composed_by_hand_the_stage_gives_the_same_spans(tmp_path):
    logs = write_logs(tmp_path / "logs")
    cut(logs, tmp_path / "out")
    by_hand = scan_logs(str(logs)).filter(pl.col("refused").is_null()).pipe(segment).pipe(score).collect()
    assert_frame_equal(scan_shards(tmp_path / "out").collect(), by_hand.select(list(SPANS_SCHEMA)))
    index = scan_index(tmp_path / "out").collect()
    assert_frame_equal(index.select("n_steps", "complexity"), by_hand.select("n_steps", "complexity"))


# ---- what lies in the folder


def test_the_folder_is_what_the_contract_says(tmp_path):
    out = tmp_path / "out"
    totals = cut(write_logs(tmp_path / "logs"), out, shard_size=4_000)
    manifest = load_manifest(out)
    assert totals["n_shards"] == len(manifest.shards) > 2
    named = {name for s in manifest.shards for name in (s.name, s.name.replace(".tar", ".parquet"))}
    assert {p.name for p in out.iterdir()} == {"manifest.json", "rejects.jsonl", *named}
    assert manifest.complete
    assert [file.path for file in manifest.inputs] == ["a.jsonl", "b.jsonl", "notes"]
    assert verify(out, manifest, lambda name: None) == []
    assert rejects(out)[0]["reason"] == "unrecognised"
    assert totals["n_passed_over"] == {"unrecognised": 1}
    assert sum(totals["n_spans"].values()) == 4 * 12
    assert totals["n_bytes_in"] == sum(p.stat().st_size for p in (tmp_path / "logs").glob("*.jsonl"))


def test_a_sample_is_read_by_the_offset_of_its_index(tmp_path):
    cut(write_logs(tmp_path / "logs"), tmp_path / "out", shard_size=4_000)
    index = scan_index(tmp_path / "out").collect()
    assert index.columns == ["shard", "key", "offset", "n_bytes", "checksum", *INDEX_SCHEMA]
    for row in index.iter_rows(named=True):
        data = (tmp_path / "out" / row["shard"]).read_bytes()[row["offset"] :][: row["n_bytes"]]
        key, member = read_member(data, "here")
        assert key == row["key"]
        assert msgspec.json.decode(member, type=Trajectory).id == row["id"]
    assert index["key"].n_unique() == index.height
    assert not index["key"].str.contains(r"[./]").any()


def test_tars_hold_no_time_and_no_owner_and_plain_tools_read_them(tmp_path):
    cut(write_logs(tmp_path / "logs"), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        texts_read = [json.load(tar.extractfile(m))["text"] for m in members]
    assert texts_read == [run(i) for i in range(12)]


def test_stock_webdataset_iterates_the_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    cut(write_logs(tmp_path / "logs"), tmp_path / "out", shard_size=4_000)
    shards = sorted(str(p) for p in (tmp_path / "out").glob("*.tar"))
    read = [
        (sample["__key__"], json.loads(sample["json"]))
        for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    ]
    assert read == [(key, json.loads(data)) for key, data in iter_samples(tmp_path / "out")]
    assert len(read) == 12


def test_damage_is_noticed_and_named(tmp_path):
    out = tmp_path / "out"
    cut(write_logs(tmp_path / "logs"), out, shard_size=4_000)
    shard = out / "shard-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:600] + b"X" + whole[601:])
    with pytest.raises(ShardError, match=r"shard-000001.tar: its content is not what was written"):
        list(iter_samples(out))
    with pytest.raises(ShardError, match="shard-000001"):
        scan_shards(out).collect()
    assert verify(out, load_manifest(out), lambda name: None) == [
        "shard-000001.tar: its content is not what was written"
    ]
    shard.unlink()
    with pytest.raises(ShardError, match="No such file"):
        list(iter_trajectories(out))
    (out / "shard-000002.parquet").unlink()
    with pytest.raises(ShardError, match=r"shard-000002.parquet: missing"):
        scan_index(out)


# ---- again, interrupted, elsewhere


def test_a_second_run_writes_nothing_and_says_the_same(tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    first = cut(logs, out)
    before = stamps(out)
    second = cut(logs, out)
    assert stamps(out) == before
    assert second.pop("already_done")
    assert second == {key: value for key, value in first.items() if key != "seconds"}


def test_logs_that_were_only_touched_are_still_the_same(tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    cut(logs, out)
    os.utime(logs / "a.jsonl")
    assert cut(logs, out)["already_done"]


def test_the_same_logs_give_the_same_bytes_wherever_they_lie(tmp_path, monkeypatch):
    logs = write_logs(tmp_path / "logs")
    cut(logs, tmp_path / "out", shard_size=4_000)
    elsewhere = tmp_path / "some" / "where else"
    shutil.copytree(logs, elsewhere)
    monkeypatch.chdir(elsewhere.parent)
    cut("where else", "out", shard_size=4_000)
    assert content(elsewhere.parent / "out") == content(tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


@pytest.fixture
def small_blocks(monkeypatch):
    """Shards are committed while a small log is still being read."""
    monkeypatch.setattr(reading, "_BLOCK_ROWS", 2)


class Stopped(BaseException):
    """Stands for a kill: nothing in the code may catch it."""


def test_stopped_at_any_write_and_run_again_it_gives_the_same_bytes(tmp_path, monkeypatch):
    logs = write_logs(tmp_path / "logs", n=8)
    cut(logs, tmp_path / "whole", shard_size=4_000)
    expected = content(tmp_path / "whole")
    sync, calls = os.fsync, Counter()

    def stopping(handle):
        calls["n"] += 1
        if calls["n"] == calls["stop"]:
            raise Stopped
        sync(handle)

    monkeypatch.setattr(os, "fsync", stopping)
    out = tmp_path / "out"
    for stop in range(1, 1000):
        calls.update(n=-calls["n"], stop=stop - calls["stop"])
        try:
            cut(logs, out, shard_size=4_000)
        except Stopped:
            calls.update(n=-calls["n"], stop=-calls["stop"])
            cut(logs, out, shard_size=4_000)
            assert content(out) == expected, f"stopped at write {stop}"
            shutil.rmtree(out)
        else:
            break
    assert stop > 2 * len(expected)
    assert content(out) == expected


def test_stopped_again_and_again_it_still_ends_with_the_same_bytes(tmp_path, monkeypatch):
    logs = write_logs(tmp_path / "logs", n=8)
    cut(logs, tmp_path / "whole", shard_size=4_000)
    sync, calls = os.fsync, Counter()

    def stopping(handle):
        calls["n"] += 1
        if calls["n"] % 7 == 0:
            raise Stopped
        sync(handle)

    monkeypatch.setattr(os, "fsync", stopping)
    for _attempt in range(20):
        try:
            cut(logs, tmp_path / "out", shard_size=4_000)
        except Stopped:
            continue
        break
    assert calls["n"] > 14
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("torn", [b'{"name":"shard-0', b'{"name":"shard-000000.tar","n_samples":1,'])
def test_a_torn_line_in_the_journal_costs_its_shard_and_nothing_else(tmp_path, small_blocks, torn):
    logs = write_logs(tmp_path / "logs", n=8)
    cut(logs, tmp_path / "whole", shard_size=4_000)

    def stop_after(n_shards):
        def progress(done, total, unit, note=""):
            journal = tmp_path / "out" / "journal.jsonl"
            if journal.exists() and journal.read_bytes().count(b'"n_bytes"') >= n_shards:
                raise Stopped

        return progress

    with pytest.raises(Stopped):
        cut(logs, tmp_path / "out", stop_after(1), shard_size=1_000)
    (tmp_path / "out" / "journal.jsonl").write_bytes(torn)
    with pytest.raises(Stopped):
        cut(logs, tmp_path / "out", stop_after(2), shard_size=1_000)
    cut(logs, tmp_path / "out", shard_size=1_000)
    cut(logs, tmp_path / "undisturbed", shard_size=1_000)
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


KILLED = """
import os, signal, sys
from sadstream import logs as reading
from sadstream.spans import SegmentConfig, segment_logs
reading._BLOCK_ROWS = 2
logs, out = sys.argv[1:]
def progress(done, total, unit, note=""):
    if os.path.exists(os.path.join(out, "shard-000001.tar")):
        os.kill(os.getpid(), signal.SIGKILL)
segment_logs(SegmentConfig(logs=(logs,), out=out, shard_size=4_000), progress)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_process_is_continued_to_the_same_bytes(tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, "-c", KILLED, str(logs), str(out)], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (out / "journal.jsonl").exists()
    with pytest.raises(ManifestError, match="unfinished"):
        scan_index(out)
    (out / "shard-000099.tar").write_bytes(b"half of")
    committed = (out / "shard-000000.tar").stat().st_mtime_ns
    cut(logs, out, shard_size=4_000)
    assert (out / "shard-000000.tar").stat().st_mtime_ns == committed
    cut(logs, tmp_path / "whole", shard_size=4_000)
    assert content(out) == content(tmp_path / "whole")


# ---- an output folder that is not to be written to


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("dear")
    with pytest.raises(ManifestError, match="did not write"):
        cut(logs, out)
    assert content(out).keys() == {"thesis.tex"}
    with pytest.raises(ManifestError, match="a file, not a folder"):
        cut(logs, out / "thesis.tex")
    (tmp_path / "other").mkdir()
    manifest = msgspec.structs.replace(manifest_of(logs, tmp_path), stage="train")
    (tmp_path / "other" / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ManifestError, match="holds the output of `sadstream train`"):
        cut(logs, tmp_path / "other")


def manifest_of(logs, tmp_path):
    cut(logs, tmp_path / "made")
    return load_manifest(tmp_path / "made")


def test_logs_inside_the_output_folder_are_refused(tmp_path):
    logs = write_logs(tmp_path / "logs")
    with pytest.raises(InputError, match="--out holds logs"):
        cut(logs, logs)
    with pytest.raises(InputError, match="--out holds logs"):
        cut(logs / "a.jsonl", logs)
    assert set(content(logs)) == {"a.jsonl", "b.jsonl", "notes"}


def test_other_options_are_named(tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    cut(logs, out)
    before = stamps(out)
    with pytest.raises(ManifestError, match=r"other options: dedupe was False and is now True; holdout was 0.05"):
        cut(logs, out, dedupe=True, holdout=0.5)
    assert stamps(out) == before


def test_changed_inputs_are_named(tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    cut(logs, out)
    text = (logs / "b.jsonl").read_text()
    (logs / "b.jsonl").write_text(text.replace("search", "lookup"))
    with pytest.raises(ManifestError, match=r"made from other inputs: b.jsonl has changed"):
        cut(logs, out)
    (logs / "b.jsonl").write_text(text)
    (logs / "a.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"made from other inputs: a.jsonl is gone"):
        cut(logs, out)


def test_after_a_malformed_log_the_same_folder_serves_other_options_or_mended_logs(tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    whole = (logs / "b.jsonl").read_text()
    (logs / "b.jsonl").write_text(whole + "{\n")
    for _ in range(2):
        with pytest.raises(FormatError, match=r"b.jsonl:7"):
            cut(logs, out)
    assert cut(logs, out, on_error="skip")["n_passed_over"] == {"unrecognised": 1, "malformed": 1}
    with pytest.raises(FormatError):
        cut(logs, tmp_path / "mended")
    (logs / "b.jsonl").write_text(whole)
    assert cut(logs, tmp_path / "mended")["n_trajectories"] == 12


def test_finished_shards_of_other_options_are_never_taken_over(tmp_path, small_blocks):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    (logs / "b.jsonl").write_text('{"text": \n' + (logs / "b.jsonl").read_text())
    with pytest.raises(FormatError):
        cut(logs, out, shard_size=1_000)
    assert (out / "shard-000001.tar").exists()
    with pytest.raises(ManifestError, match="other options: on_error was 'stop' and is now 'skip'"):
        cut(logs, out, shard_size=1_000, on_error="skip")


# ---- options


def test_a_filter_keeps_the_rows_for_which_it_is_true(tmp_path):
    logs = write_logs(tmp_path / "logs")
    totals = cut(logs, tmp_path / "out", where="success AND n_steps < 20")
    assert (totals["n_trajectories"], totals["n_filtered"]) == (4, 8)
    assert scan_index(tmp_path / "out").collect()["success"].all()
    # Null is not true.
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "a.jsonl").write_text(json.dumps({"text": run(0)}) + "\n")
    totals = cut(tmp_path / "unknown", tmp_path / "none", where="success")
    assert (totals["n_trajectories"], totals["n_filtered"], totals["n_shards"]) == (0, 1, 0)
    assert scan_shards(tmp_path / "none").collect().height == 0
    with pytest.raises(ShardError, match="holds no sample"):
        scan_index(tmp_path / "none")


@pytest.mark.parametrize("where", ["n_step < 3", "success AND", "n_steps", "1; DROP TABLE x", "SELECT", "'a"])
def test_a_filter_that_is_none_is_refused_before_anything_is_written(tmp_path, where):
    with pytest.raises(ConfigError, match="--where"):
        cut(write_logs(tmp_path / "logs"), tmp_path / "out", where=where)
    assert not (tmp_path / "out").exists()


def test_a_filter_may_name_any_score_and_a_near_miss_is_named(tmp_path):
    logs = write_logs(tmp_path / "logs")
    where = "NOT is_truncated AND n_steps_loop = 0 AND n_steps_rejected + n_calls = 0"
    assert cut(logs, tmp_path / "out", where=where)["n_trajectories"] == 12
    assert cut(logs, tmp_path / "none", where=f"NOT ({where})")["n_filtered"] == 12
    for name in SCORES:
        check_where(f"{name} IS NOT NULL")
    for where, meant in (("n_stps < 3", "n_steps"), ("NOT truncated", "is_truncated"), ("SUCESS", "success")):
        with pytest.raises(ConfigError, match="no column") as error:
            check_where(where)
        assert f"did you mean {meant}" in error.value.hint and "columns: id, " in error.value.hint
    with pytest.raises(ConfigError, match="no column 'xyzzy'") as error:
        check_where("xyzzy = 1")
    assert error.value.hint.startswith("columns: ")


@pytest.mark.parametrize("options", [{"holdout": 1.0}, {"holdout": -0.1}, {"shard_size": 0}, {"format": "nonsense"}])
def test_options_out_of_range_are_refused_before_anything_is_written(tmp_path, options):
    with pytest.raises(ConfigError):
        cut(write_logs(tmp_path / "logs"), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@given(texts(), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_task_stays_held_out_when_the_share_grows_and_its_spacing_changes(task, one, other):
    low, high = sorted((one, other))
    assert holdout_split(task, 0) == "train"
    if holdout_split(task, low) == "holdout":
        assert holdout_split(f"  {task.replace(' ', '   ')} ", high) == "holdout"


def test_the_same_question_stands_on_one_side_and_the_share_is_kept(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("one", "two"):
        lines = [json.dumps({"text": run(name, f"Question {i} of {name if i < 9 else 'many'}?")}) for i in range(400)]
        (logs / f"{name}.jsonl").write_text(
            "\n".join(lines).replace("of many", "OF  Many" if name == "two" else "of many")
        )
    totals = cut(logs, tmp_path / "out", holdout=0.2)
    index = scan_index(tmp_path / "out").collect()
    sides = index.with_columns(pl.col("task").str.to_lowercase().str.replace_all(r"\s+", " ")).group_by("task")
    assert sides.agg(pl.col("split").n_unique())["split"].max() == 1
    assert totals["n_holdout"] == (index["split"] == "holdout").sum()
    assert 0.1 < totals["n_holdout"] / 800 < 0.3


def test_repeats_are_left_out_when_asked_and_listed(tmp_path):
    logs = write_logs(tmp_path / "logs")
    shutil.copy(logs / "a.jsonl", logs / "c.jsonl")
    assert cut(logs, tmp_path / "all")["n_trajectories"] == 18
    totals = cut(logs, tmp_path / "out", dedupe=True)
    assert (totals["n_trajectories"], totals["n_duplicates"]) == (12, 6)
    assert {r["file"] for r in rejects(tmp_path / "out") if r["reason"] == "duplicate"} == {"c.jsonl"}


def test_the_same_text_cut_otherwise_is_no_repeat(tmp_path):
    message = {"role": "assistant", "content": "Thought: a\nAction: b\n"}
    chat = [{"role": "user", "content": "Thought: q\n"}, message]
    lines = [json.dumps(chat), json.dumps({"text": "Thought: q\n" + message["content"]})]
    (tmp_path / "log").write_text("\n".join(lines))
    totals = cut(tmp_path / "log", tmp_path / "out", dedupe=True)
    assert (totals["n_trajectories"], totals["n_duplicates"]) == (2, 0)


def test_the_exact_repeats_of_a_reflexion_log_are_found(tmp_path, shared_data):
    name = "raw/hotpotqa/reflexion_react_base_5_trials.txt"
    expected = json.loads((shared_data / "counts.json").read_text())[name]
    totals = cut(shared_data / name, tmp_path / "out", dedupe=True)
    assert totals["n_duplicates"] == expected["exact_repeats_of_an_earlier_episode"] == 372
    assert totals["n_trajectories"] == expected["trajectories"] - 372


# ---- ids


NATIVE = st.sampled_from(["x", "x~2", "x~3", "y", "log.jsonl#0", "log.jsonl#1", "log.jsonl#2", "log.jsonl#2~2", None])


@FEW
@given(st.lists(NATIVE, min_size=1, max_size=8))
@example(["x~2", "x", "x"])
@example(["x", "x", "x~2"])
@example(["log.jsonl#1", None])
def test_ids_are_unique_whatever_a_log_calls_its_runs(tmp_path_factory, native):
    folder = tmp_path_factory.mktemp("ids")
    lines = [
        json.dumps({"text": run(i)} if name is None else {"text": run(i), "id": name}) for i, name in enumerate(native)
    ]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    cut(folder / "log.jsonl", folder / "out")
    index = scan_index(folder / "out").collect()
    assert index["id"].n_unique() == index["key"].n_unique() == len(native)
    for name, made in zip(native, index["id"], strict=True):
        assert name is None or made.startswith(name)


def test_the_same_file_name_in_two_folders_gives_two_ids(tmp_path):
    for folder in ("one", "two"):
        write_logs(tmp_path / folder)
    totals = cut([tmp_path / "one" / "a.jsonl", tmp_path / "two" / "a.jsonl"], tmp_path / "out")
    assert scan_index(tmp_path / "out").collect()["id"].n_unique() == totals["n_trajectories"] == 12


# ---- what is no run


def test_what_is_no_run_is_listed_with_its_spans_and_the_rest_goes_on(tmp_path):
    lines = [{"text": run(0)}, {"text": "Question: and then?"}, {"text": "Observation: alone\n"}, {"text": ""}]
    (tmp_path / "log").write_text("\n".join(map(json.dumps, lines)))
    totals = cut(tmp_path / "log", tmp_path / "out")
    assert (totals["n_trajectories"], totals["n_rejected"]) == (1, 3)
    assert totals["n_rejected_spans"] == {"context": 1, "reason": 0, "act": 0, "observation": 1}
    assert [(r["file"], r["record"], r["reason"]) for r in rejects(tmp_path / "out")] == [
        ("log", "1", "not-a-run"),
        ("log", "2", "not-a-run"),
        ("log", "3", "not-a-run"),
    ]


def test_no_trajectory_at_all_is_an_error(tmp_path):
    (tmp_path / "log").write_text(json.dumps({"text": "Question: and then?"}))
    with pytest.raises(InputError, match="in none an agent acts or thinks"):
        cut(tmp_path / "log", tmp_path / "out")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "notes").write_text("no log\n")
    with pytest.raises(InputError, match=r"no trajectory in it \(1 unrecognised\)"):
        cut(tmp_path / "logs", tmp_path / "other")


# ---- engines, streams, size


def test_standard_input_and_a_url_give_the_spans_that_the_file_gives(tmp_path, monkeypatch):
    import fsspec

    logs = write_logs(tmp_path / "logs")
    data = (logs / "a.jsonl").read_bytes()
    cut(logs / "a.jsonl", tmp_path / "file")
    fsspec.filesystem("memory").pipe("/bucket/a.jsonl", data)
    cut("memory://bucket/a.jsonl", tmp_path / "url")
    texts_of = [scan_shards(tmp_path / name).collect().drop("source", "id") for name in ("file", "url")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    cut("-", tmp_path / "stdin")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert cut("-", tmp_path / "stdin")["already_done"]
    texts_of.append(scan_shards(tmp_path / "stdin").collect().drop("source", "id"))
    assert_frame_equal(texts_of[0], texts_of[1])
    assert_frame_equal(texts_of[0], texts_of[2])


def test_progress_is_told_in_bytes_and_never_beyond_the_total(tmp_path):
    told = []
    logs = write_logs(tmp_path / "logs")
    totals = cut(logs, tmp_path / "out", lambda done, total, unit, note="": told.append((done, total, unit)))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] == totals["n_bytes_in"]
    assert all(done <= total and unit == "bytes" for done, total, unit in told)


@FEW
@given(st.lists(transcripts(), min_size=1, max_size=3), st.integers(1, 5_000))
def test_the_size_of_shards_changes_no_sample(tmp_path_factory, runs, shard_size):
    folder = tmp_path_factory.mktemp("sizes")
    lines = [run(0), *(r.text for r in runs)]
    (folder / "log").write_text("\n".join(json.dumps({"text": text}) for text in lines))
    for name, size in (("one", 10**9), ("many", shard_size)):
        cut(folder / "log", folder / name, shard_size=size)
    assert list(iter_samples(folder / "one")) == list(iter_samples(folder / "many"))
    assert_frame_equal(
        scan_index(folder / "one").drop("shard", "offset").collect(),
        scan_index(folder / "many").drop("shard", "offset").collect(),
    )


def test_memory_does_not_grow_with_the_number_of_trajectories(tmp_path):
    def peak(n):
        path = tmp_path / f"{n}.jsonl"
        with path.open("w") as file:
            for number in range(n):
                file.write(json.dumps({"text": run(number) + "word " * 3_000}) + "\n")
        tracemalloc.start()
        cut(path, tmp_path / f"out-{n}", shard_size=1_000_000)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(1_200) < 1.4 * peak(600)


# ---- growing


def test_added_files_alone_are_read_into_further_shards(tmp_path):
    logs, out = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    (logs / "b.jsonl").write_text('{"text": "Thought: b\\n", "id": "x"}\n{"text": "words"}\n')
    config = SegmentConfig(logs=(str(logs),), out=str(out), dedupe=True)
    first = segment_logs(config, silent)
    kept = (out / "shard-000000.tar").read_bytes()
    # Before and after in order; one text and one id that were there already.
    (logs / "a.jsonl").write_text('{"text": "Thought: a\\n", "id": "x"}\n{"text": "Thought: b\\n", "id": "y"}\n')
    (logs / "c.jsonl").write_text('{"text": "words"}\n')
    read: list[str] = []
    grown = segment_logs(config, lambda done, total, unit, note="": read.append(note))
    assert (out / "shard-000000.tar").read_bytes() == kept
    assert (first["n_trajectories"], grown["n_trajectories"]) == (1, 2)
    assert (grown["n_rejected"], grown["n_duplicates"], grown["n_shards"]) == (2, 1, 2)
    assert grown["n_bytes_in"] == sum(p.stat().st_size for p in logs.iterdir())
    index = scan_index(out).collect()
    assert index["id"].to_list() == ["x", "x~2"]
    assert index["file"].to_list() == ["b.jsonl", "a.jsonl"]
    assert len((out / "rejects.jsonl").read_bytes().splitlines()) == 3
    assert segment_logs(config, silent)["already_done"]


@pytest.mark.parametrize("change", ["removed", "changed"])
def test_inputs_that_were_read_and_are_otherwise_now_are_refused(tmp_path, change):
    logs, out = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    for name in "ab":
        (logs / f"{name}.jsonl").write_text(f'{{"text": "Thought: {name}\\n"}}\n')
    config = SegmentConfig(logs=(str(logs),), out=str(out))
    segment_logs(config, silent)
    (logs / "c.jsonl").write_text('{"text": "Thought: c\\n"}\n')
    if change == "removed":
        (logs / "a.jsonl").unlink()
    else:
        (logs / "a.jsonl").write_text('{"text": "Thought: other\\n"}\n')
    with pytest.raises(ManifestError, match="made from other inputs"):
        segment_logs(config, silent)


def test_a_growing_folder_that_was_interrupted_grows_to_the_same_bytes(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.jsonl").write_text('{"text": "Thought: a\\n"}\n' * 3)
    for name in ("undisturbed", "disturbed"):
        segment_logs(SegmentConfig(logs=(str(logs),), out=str(tmp_path / name), shard_size=1), silent)
    (logs / "b.jsonl").write_text('{"text": "Thought: b\\n"}\n' * 3 + '{"text": "no run"}\n')
    undisturbed = SegmentConfig(logs=(str(logs),), out=str(tmp_path / "undisturbed"), shard_size=1)
    segment_logs(undisturbed, silent)
    disturbed = SegmentConfig(logs=(str(logs),), out=str(tmp_path / "disturbed"), shard_size=1)
    n_written = 0
    real = manifest.write_atomically

    for stop_at in range(1, 12):
        n_written = 0

        def stopping(path, data):
            nonlocal n_written
            n_written += 1
            if n_written == stop_at:  # noqa: B023 - used within the turn of the loop
                raise Stopped
            return real(path, data)

        with pytest.MonkeyPatch.context() as patch:
            for module in (manifest, shards, spans):
                patch.setattr(module, "write_atomically", stopping)
            with contextlib.suppress(Stopped):
                segment_logs(disturbed, silent)
    segment_logs(disturbed, silent)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("undisturbed", "disturbed")]
    assert contents[0] == contents[1]


def test_a_file_that_finds_no_room_is_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest.os, "fsync", full)
    (tmp_path / "page.html").write_bytes(b"before")
    with pytest.raises(ManifestError, match=r"page\.html: cannot write: No space left"):
        manifest.write_atomically(tmp_path / "page.html", b"after")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"page.html": b"before"}
