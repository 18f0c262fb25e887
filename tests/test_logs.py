import gzip
import io
import json
import math
import os
from pathlib import Path

import fsspec
import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream import containers
from sadstream.errors import ConfigError, FormatError, InputError, SadstreamError
from sadstream.frames import LOG_SCHEMA
from sadstream.logs import scan_logs
from sadstream.paths import find_logs
from sadstream.segment import segment
from sadstream.streams import Stream, ignore
from tests.strategies import texts

RUN = "Question: Who?\nThought: look\nAction: search[x]\nObservation: Ann\n"
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Thought: a\nAction: b"}]


def record(number=0, **fields):
    return {"text": f"{number} {RUN}", **fields}


def lines(n=3):
    return "".join(json.dumps(record(i)) + "\n" for i in range(n))


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zst(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def texts_of(frame):
    return frame.filter(pl.col("refused").is_null())["text"].to_list()


def refused_of(frame):
    refused = frame.filter(pl.col("refused").is_not_null())
    return list(zip(refused["refused"], refused["detail"], strict=True))


RECORDS = [record(i) for i in range(3)]
TEXTS = [r["text"] for r in RECORDS]


# ---- containers


@pytest.mark.parametrize(
    "content",
    [
        lines(),
        lines().removesuffix("\n"),
        "\ufeff" + lines(),
        lines().replace("\n", "\r\n"),
        "\n \n" + lines().replace("\n", "\n\n"),
        json.dumps(RECORDS),
        "\ufeff" + json.dumps(RECORDS, indent=2).replace("\n", "\r\n"),
        json.dumps({f"k{i}": r for i, r in enumerate(RECORDS)}),
        json.dumps({f"k{i}": r for i, r in enumerate(RECORDS)}, indent="\t"),
        "\n".join(json.dumps(r, indent=1) for r in RECORDS),
        "".join(json.dumps(r, indent=1) for r in RECORDS),
        "".join(json.dumps(r) for r in RECORDS),
        json.dumps(RECORDS[:2]) + "\n" + json.dumps(RECORDS[2]),
        json.dumps(RECORDS[:2], indent=1) + "\n" + json.dumps(RECORDS[2], indent=1),
        json.dumps(RECORDS[0]) + "\n" + json.dumps({"0": RECORDS[1], "1": RECORDS[2]}),
    ],
)
@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, zst, lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])]
)
def test_every_container_gives_its_records_in_order_with_ids_of_their_own(tmp_path, content, pack):
    path = write(tmp_path / "log", pack(content.encode()))
    frame = scan_logs(str(path)).collect()
    assert frame.schema == LOG_SCHEMA
    assert texts_of(frame) == TEXTS
    assert frame["refused"].null_count() == 3
    assert frame["id"].n_unique() == 3


def test_records_are_named_by_number_or_key(tmp_path):
    def keys(content):
        return scan_logs(str(write(tmp_path / "log", content))).collect()["source"].struct.field("record").to_list()

    assert keys(lines()) == ["0", "1", "2"]
    assert keys(json.dumps(RECORDS)) == ["0", "1", "2"]
    assert keys(json.dumps({"b": record(), "a": record()})) == ["b", "a"]
    assert keys(json.dumps(RECORDS[:2]) + "\n" + json.dumps(RECORDS[2])) == ["0.0", "0.1", "1"]


@given(st.lists(texts(), min_size=1, max_size=3), st.booleans(), st.sampled_from([None, 1]))
def test_any_text_comes_through_json_as_it_was(tmp_path_factory, bodies, ascii_only, indent):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text("\n".join(json.dumps({"text": t}, ensure_ascii=ascii_only, indent=indent) for t in bodies), "utf-8")
    assert texts_of(scan_logs(str(path)).collect()) == bodies


@given(texts(max_size=12))
def test_any_text_comes_through_plain_text_as_it_was(tmp_path_factory, body):
    body = "Thought: a\n" + body.replace("\n", "\n ")  # a banner would be no part of it
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(body.encode())
    assert "".join(texts_of(scan_logs(str(path)).collect())) == body


def test_a_text_of_windows_line_breaks_is_not_normalised(tmp_path):
    path = write(tmp_path / "log", "\ufeff" + RUN.replace("\n", "\r\n"))
    assert texts_of(scan_logs(str(path)).collect()) == [RUN.replace("\n", "\r\n")]


def test_a_text_that_begins_with_a_time_in_brackets_is_text(tmp_path):
    text = "[12:00] begin\n" + RUN.removeprefix("Question: Who?\n")
    assert texts_of(scan_logs(str(write(tmp_path / "log", text))).collect()) == [text]


def test_one_file_may_mix_formats(tmp_path):
    mixed = f"{json.dumps(record())}\n{json.dumps(CHAT)}\n{json.dumps({'instruction': 'i', 'output': RUN})}\n"
    frame = scan_logs(str(write(tmp_path / "log", mixed))).collect()
    assert frame["source"].struct.field("format").to_list() == ["transcript", "react-chat", "alpaca"]


def test_a_format_that_is_named_is_the_only_one_tried(tmp_path):
    path = str(write(tmp_path / "log", lines()))
    assert scan_logs(path, format="transcript").collect().height == 3
    with pytest.raises(FormatError, match="not a log that sadstream knows"):
        scan_logs(path, format="react-chat").collect()
    with pytest.raises(ConfigError, match="unknown format 'reackt'"):
        scan_logs(path, format="reackt")


def test_only_what_is_asked_for_is_read(tmp_path):
    path = str(write(tmp_path / "log", lines(5)))
    assert scan_logs(path).select("id").head(2).collect()["id"].to_list() == ["log#0", "log#1"]
    assert scan_logs(path).filter(pl.col("id") == "log#3").select("text").collect().height == 1


def test_a_record_larger_than_a_block_of_reading_is_whole(tmp_path):
    text = RUN + "x" * 3_000_000
    path = write(tmp_path / "log", json.dumps({"text": text}) + "\n" + json.dumps(record()))
    assert texts_of(scan_logs(str(path)).collect()) == [text, record()["text"]]


# ---- arguments


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "deep/er/c.jsonl", ".hidden/d.jsonl", ".e.jsonl"):
        write(tmp_path / "logs" / name, lines(1))
    return tmp_path / "logs"


def names(*arguments):
    return [file.name for file in find_logs([str(a) for a in arguments]) if not file.problem]


def test_a_folder_is_walked_in_order_without_hidden_files(folder):
    assert names(folder) == ["a.jsonl", "b.jsonl", "deep/er/c.jsonl"]


def test_what_is_met_in_a_folder_and_not_read_is_listed_with_its_reason(tmp_path):
    logs, elsewhere = tmp_path / "logs", tmp_path / "elsewhere"
    for place in (logs, elsewhere, logs / ".git"):
        place.mkdir()
    write(logs / "a.jsonl", lines())
    write(elsewhere / "b.jsonl", lines())
    write(logs / ".hidden.jsonl", lines())
    (logs / "linked").symlink_to(elsewhere)
    (logs / "loop").symlink_to(logs)
    (logs / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(logs / "pipe")
    frame = scan_logs(str(logs)).collect()
    found = {row["source"]["file"]: row["detail"] for row in frame.to_dicts()}
    assert found == {
        "a.jsonl": None,
        "linked/b.jsonl": None,
        ".hidden.jsonl": "a hidden file",
        ".git": "a hidden folder",
        "loop": "a folder that was met already",
        "gone.jsonl": "a broken link",
        "pipe": "not a regular file",
    }
    assert set(frame["refused"]) == {None, "not-read"}


def test_a_bad_byte_costs_only_the_run_that_holds_it(tmp_path):
    runs = [f"Question: q{n}?\nThought 1: a\nAction 1: b\n".encode() for n in range(5)]
    runs[2] = runs[2].replace(b"a\n", b"\xff\n")
    frame = scan_logs(str(write(tmp_path / "log.txt", b"".join(runs))), on_error="skip").collect()
    assert frame["refused"].to_list() == [None, None, "malformed", None, None]
    assert "line 8" in frame["detail"][2]


def test_what_stands_before_damage_in_a_packed_file_is_kept(tmp_path):
    packed = gzip.compress(b"".join(b'{"text": "Thought: %d"}\n' % n for n in range(50_000)))
    frame = scan_logs(str(write(tmp_path / "log.jsonl.gz", packed[: len(packed) // 2])), on_error="skip").collect()
    assert frame.height > 10_000
    assert frame["refused"].drop_nulls().to_list() == ["malformed"]


def test_globs_give_names_below_their_fixed_part(folder, monkeypatch):
    assert names(folder / "*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(f"{folder}/**/*.jsonl") == ["a.jsonl", "b.jsonl", "deep/er/c.jsonl"]
    monkeypatch.chdir(folder)
    assert names("[ab].jsonl") == ["a.jsonl", "b.jsonl"]
    assert names("deep/*/?.jsonl") == ["er/c.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    assert names(write(tmp_path / "log[1].jsonl", lines())) == ["log[1].jsonl"]


def test_the_same_name_under_two_arguments_is_told_apart_by_folder(tmp_path):
    one, two = (write(tmp_path / part / "log.jsonl", lines(1)) for part in ("one", "two"))
    assert names(one, two) == ["one/log.jsonl", "two/log.jsonl"]
    assert scan_logs([str(one), str(two)]).collect()["id"].to_list() == ["one/log.jsonl#0", "two/log.jsonl#0"]


def test_a_file_given_twice_is_read_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names("a.jsonl", "./a.jsonl", "deep/../a.jsonl", folder / "a.jsonl") == ["a.jsonl"]
    assert names(folder, "deep") == ["a.jsonl", "b.jsonl", "deep/er/c.jsonl"]
    assert any(file.named for file in find_logs([".", "a.jsonl"]))


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(lines().encode()))))
    frame = scan_logs("-").collect()
    assert texts_of(frame) == TEXTS
    assert frame["id"][0] == "-#0"


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    for path in ("/logs/x/a.jsonl", "/logs/y/a.jsonl", "/logs/README"):
        filesystem.pipe(path, b"nothing" if path.endswith("README") else lines(1).encode())
    yield filesystem
    filesystem.rm("/logs", recursive=True)


def test_urls_are_read_as_files_folders_and_globs(memory, tmp_path):
    assert texts_of(scan_logs("memory://logs/x/a.jsonl").collect()) == TEXTS[:1]
    assert names("memory://logs") == ["README", "x/a.jsonl", "y/a.jsonl"]
    assert [file.named for file in find_logs(["memory://logs/x/*"])] == [False]
    local = write(tmp_path / "a.jsonl", lines(1))
    frame = scan_logs(["memory://logs/x/a.jsonl", "memory://logs/y/a.jsonl", str(local)]).collect()
    assert frame["id"].n_unique() == 3
    with pytest.raises(InputError, match="nothing there"):
        find_logs(["memory://logs/z"])
    with pytest.raises(InputError, match="nosuch"):
        find_logs(["nosuch://bucket/logs"])


def test_paths_that_lead_to_nothing_are_refused(tmp_path):
    (tmp_path / "empty" / "er").mkdir(parents=True)
    for argument, reason in (
        ("no-such-file", "no such file or folder"),
        ("no-such-*", "no such file or folder"),
        ("emp*", "no such file or folder"),
        ("empty", "no files in this folder"),
    ):
        with pytest.raises(InputError, match=reason):
            find_logs([str(tmp_path / argument)])


def test_a_folder_that_sadstream_wrote_is_refused_and_another_manifest_is_not(tmp_path):
    write(tmp_path / "ours" / "manifest.json", '{"sadstream_version": "0.1.0"}')
    with pytest.raises(InputError, match="a folder that sadstream wrote"):
        find_logs([str(tmp_path / "ours")])
    write(tmp_path / "theirs" / "manifest.json", "{}")
    assert names(tmp_path / "theirs") == ["manifest.json"]


# ---- input that is not as it should be: contract.md, section 3


def flipped(data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[12:40] = b"\xff" * 28
    return bytes(damaged)


GOOD = json.dumps(record())
MALFORMED = {
    "broken line": (f'{GOOD}\n{{"text": \n{GOOD}\n', r"log:2: "),
    "broken last line with its line break": (f'{GOOD}\n{{"text": "cut\n', r"log:2: "),
    "broken first line": (f'{{"text": \n{GOOD}\n', r"log:1: "),
    "broken value on many lines": ('[\n{"text": "a"},\n{"text": }\n]', r"log:3: "),
    "broken second value": (json.dumps(record(), indent=1) + '\n{\n"text": nonsense}', r"log:5: "),
    "not json: nan": (f'{GOOD}\n{{"text": "a", "reward": nan}}\n', r"log:2: "),
    "broken beside NaN": (f'{GOOD}\n{{"text": "a", "reward": NaN\n{GOOD}\n', r"log:2: "),
    "a number beyond any": (f'{GOOD}\n{{"text": "a", "reward": 1e999}}\n', r"log:2: "),
    "bad utf-8 in a line": (GOOD.encode() + b'\n{"text": "caf\xe9 au"}\n', r"log:2: not UTF-8"),
    "bad utf-8 on many lines": (b'[\n{"text": "caf\xe9 au"}\n]', r"log:2: not UTF-8"),
    "bad utf-8 in a second value": (b'{\n"text": "a"}\n{"text":\n"caf\xe9 au"}', r"log:4: not UTF-8"),
    "bad utf-8 in text": (RUN.encode() + b"Thought: caf\xe9 au\n", r"log:5: not UTF-8"),
    "nested deep": (f"{GOOD}\n{'[' * 100_000}{']' * 100_000}\n", r"log:2: JSON nested too deep"),
    "nested deep alone": ("[" * 100_000 + "]" * 100_000, r"log:1: JSON nested too deep"),
    "nested deep object": ('{"a":' * 100_000 + "1" + "}" * 100_000, r"log:1: JSON nested too deep"),
    "nested deep second": ('{\n"text": "a"}\n' + "[" * 100_000 + "]" * 100_000, r"log:3: JSON nested too deep"),
    "text of a wrong type": (f'{GOOD}\n{{"text": 5, "id": "x"}}\n', r"log:2: `text` is int, not a string"),
    "wrong type in an array": (json.dumps([record(), record(), {"text": []}], indent=0), r"log:8: `text` is list"),
    "cells of a wrong type": (
        '{"cells": [1], "nbformat": 4}',
        r"log:1: Expected `object`, got `int` - at `\$.cells\[0",
    ),
    "outputs of a wrong type": ('{"cells": [{"outputs": null}], "nbformat": 4}', r"log:1: Expected `array`"),
    "our record of a wrong type": (
        '{"format_version": 1, "id": "a", "source": {"file": 1}, "text": "", "spans": []}',
        r"log:1: Expected `str`, got `int` - at `\$.source.file`",
    ),
    "our record of a newer version": (
        '{"format_version": 99, "id": "a", "source": {}, "text": "", "spans": []}',
        r"log:1: written by format 99",
    ),
    "our record with a gap": (
        '{"format_version": 1, "id": "a", "source": {"file": "", "record": "", "format": ""}, '
        '"text": "ab", "spans": []}',
        r"log:1: trajectory a: span 0 begins at 2, the text before it ends at 0",
    ),
    "gzip cut off": (gzip.compress(lines(500).encode())[:-30], r"log: cannot be unpacked"),
    "gzip damaged": (flipped(gzip.compress(lines(500).encode())), r"log: cannot be unpacked"),
    "gzip with a wrong checksum": (gzip.compress(lines().encode())[:-8] + b"\0" * 8, r"log: cannot be unpacked"),
    "zst cut off": (zst(lines(500).encode())[:-10], r"log: cannot be unpacked"),
    "zst damaged": (flipped(zst(bytes(range(256)) + lines(500).encode())), r"log: cannot be unpacked"),
    "packed last line cut off": (gzip.compress((GOOD + '\n{"text": "cu').encode()), r"log:2: "),
}


_TEXTS = ["NaN", '"Infinity', "\\ud8", "\ud83d", "\ude00\ud83d", "\ud83d\ude00", '\\"']
_ODD = st.recursive(
    st.floats() | st.none() | st.booleans() | st.text() | st.sampled_from(_TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def standard(value):
    """What of a value JSON can say: no number that is none, no half of a character."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [standard(inner) for inner in value]
    return {standard(k): standard(v) for k, v in value.items()} if isinstance(value, dict) else value


@given(extra=_ODD, indent=st.sampled_from([None, 1]), n_records=st.integers(1, 2))
def test_what_python_and_javascript_write_beyond_json_is_read_as_json_can_say_it(extra, indent, n_records):
    written = json.dumps({**record(), "more": extra}, indent=indent)
    stream = Stream(io.BytesIO("\n".join([written] * n_records).encode()), ignore)
    is_record = lambda value: isinstance(value, dict) and "text" in value  # noqa: E731
    found = list(containers.json_records(stream, is_record, lambda value: False))
    assert [value.problem for value in found] == [""] * n_records
    for value in found:
        assert value.value["more"] == msgspec.json.decode(value.raw)["more"] == standard(extra)


def test_a_reward_that_is_no_number_is_none_and_half_a_character_is_a_replacement(tmp_path):
    log = write(tmp_path / "log.jsonl", '{"text": "Thought: x \\ud83d\\nAction: NaN[]\\n", "reward": NaN}\n')
    row = segment(scan_logs([str(log)])).collect().row(0, named=True)
    assert row["text"] == "Thought: x \ufffd\nAction: NaN[]\n" and row["outcome"]["reward"] is None


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_malformed_stops_with_file_and_line(tmp_path, kind):
    content, message = MALFORMED[kind]
    path = write(tmp_path / "log", content)
    with pytest.raises(FormatError, match=message) as caught:
        scan_logs(str(path)).collect()
    assert "--on-error skip" in caught.value.hint
    assert len(str(caught.value).split("\n")) == 1


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_malformed_is_listed_and_passed_over_when_asked(tmp_path, kind):
    write(tmp_path / "logs" / "log", MALFORMED[kind][0])
    write(tmp_path / "logs" / "whole", lines())
    frame = scan_logs(str(tmp_path / "logs"), on_error="skip").collect()
    assert [reason for reason, _ in refused_of(frame)] == ["malformed"]
    assert texts_of(frame)[-3:] == TEXTS


def test_lines_around_a_malformed_one_are_kept(tmp_path):
    path = write(tmp_path / "log", f"{GOOD}\n{{\n{GOOD}\n[1\n{GOOD}\n")
    frame = scan_logs(str(path), on_error="skip").collect()
    assert frame["refused"].to_list() == [None, "malformed", None, "malformed", None]
    assert [detail.split(":")[0] for _, detail in refused_of(frame)] == ["line 2", "line 4"]


@pytest.mark.parametrize("tail", [b'{"text": "cu', b'{"text": "caf\xc3', b"{", b'{"text": "a"} {'])
def test_an_unterminated_last_line_is_a_warning(tmp_path, tail):
    path = write(tmp_path / "log", f"{GOOD}\n".encode() + tail)
    frame = scan_logs(str(path)).collect()
    assert frame["refused"].to_list() == [None, "cut-off"]
    assert frame["detail"][1].startswith("line 2, the last, is cut off")


def test_an_unterminated_character_at_the_end_of_a_text_is_a_warning(tmp_path):
    path = write(tmp_path / "log", RUN.encode() + b"Thought: caf\xc3")
    frame = scan_logs(str(path)).collect()
    assert texts_of(frame) == [RUN + "Thought: caf"]
    assert frame["refused"].to_list() == [None, "cut-off"]


@given(st.integers(0, 400))
def test_a_log_cut_off_anywhere_is_read_up_to_there(tmp_path_factory, n_bytes):
    whole = lines(4).encode()
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(whole[:n_bytes])
    n_whole = whole[:n_bytes].count(b"\n")
    if n_whole == 0:
        return
    frame = scan_logs(str(path)).collect()
    assert texts_of(frame)[:n_whole] == [f"{i} {RUN}" for i in range(n_whole)]
    assert set(frame["refused"].to_list()) <= {None, "cut-off"}


UNKNOWN = {
    "prose": "Dear diary,\nnothing happened.\n",
    "binary": bytes(range(256)) * 8,
    "json": '{"a": 1}\n{"b": 2}\n',
    "empty array": "[]",
    "empty object": "{}",
    "many unknown records": '{"a": 1}\n' * 300,
    "picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unrecognised_file_is_an_error_if_named_and_listed_if_met(tmp_path, kind):
    path = write(tmp_path / "logs" / "log", UNKNOWN[kind])
    write(tmp_path / "logs" / "whole", lines())
    with pytest.raises(FormatError, match="not a log that sadstream knows") as caught:
        scan_logs(str(path)).collect()
    assert "segment --help" in caught.value.hint
    for met in (tmp_path / "logs", tmp_path / "logs" / "*"):
        frame = scan_logs(str(met)).collect()
        assert [reason for reason, _ in refused_of(frame)] == ["unrecognised"]
        assert texts_of(frame) == TEXTS
    with pytest.raises(FormatError):
        scan_logs([str(tmp_path / "logs"), str(path)]).collect()


def test_an_unrecognised_record_is_told_the_formats_nearest_to_it(tmp_path):
    path = write(tmp_path / "log.json", '{"prompt": [], "completion": [], "reward": 1}')
    with pytest.raises(FormatError, match=r"keys prompt, completion, reward; nearest to it: .*verifiers"):
        scan_logs(str(path)).collect()


def test_a_record_beyond_the_limit_is_refused_by_name_and_the_others_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_RECORD_BYTES", 1_000)
    large = json.dumps({"text": "Thought: " + "x" * 1_000})
    path = write(tmp_path / "log.jsonl", f"{lines()}{large}\n{lines()}")
    with pytest.raises(FormatError, match=rf"log.jsonl:{len(TEXTS) + 1}: a record of 1,0.. bytes"):
        scan_logs(str(path)).collect()
    frame = scan_logs(str(path), on_error="skip").collect()
    assert texts_of(frame) == TEXTS * 2
    text = write(tmp_path / "log.txt", "Thought 1: " + "x" * 2_000)
    with pytest.raises(FormatError, match=r"log.txt: a run of 2,011 characters, and 1,000 is the limit"):
        scan_logs(str(text)).collect()


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0), zst(b"")], ids=["plain", "gzip", "zstd"])
def test_an_empty_file_is_an_error_if_named_and_listed_if_met(tmp_path, content):
    path = write(tmp_path / "logs" / "log", content)
    with pytest.raises(InputError, match="an empty file"):
        scan_logs(str(path)).collect()
    assert refused_of(scan_logs(str(tmp_path / "logs")).collect()) == [("empty", "an empty file")]


def test_a_record_of_an_unknown_kind_among_known_ones_is_listed(tmp_path):
    path = write(tmp_path / "log", f'{{"meta": 1}}\n{GOOD}\n[1, 2]\n"words"\n7\n')
    frame = scan_logs(str(path)).collect()
    assert frame["refused"].to_list() == ["unrecognised", None, "unrecognised", "unrecognised", "unrecognised"]
    assert frame["source"].struct.field("record").to_list() == ["0", "1", "2", "3", "4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = write(tmp_path / "log", lines())
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        scan_logs(str(path)).collect()


@given(st.data())
def test_mutated_files_are_read_or_refused_but_never_crash(tmp_path_factory, data):
    seeds = [
        lines().encode(),
        json.dumps({"k": CHAT}, indent=1).encode(),
        RUN.encode(),
        gzip.compress(lines().encode()),
    ]
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content)
    try:
        scan_logs(str(path), on_error=data.draw(st.sampled_from(["stop", "skip"]))).collect()
    except SadstreamError as error:
        assert str(path) in str(error)
        assert error.hint
