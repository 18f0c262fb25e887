import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sadstream
from sadstream.errors import ConfigError, FormatError
from sadstream_cli import cli

DOCS = (Path(__file__).parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")
PATHS = os.pathsep.join(str(Path(__file__).parent.parent / name) for name in ("", "schemas", "cli"))
RUN = {
    "goal": "list it",
    "won": True,
    "events": [{"thinks": "ls does", "runs": "ls -l 'a b'", "sees": "a b\n"}, {"thinks": "Done."}],
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    for name, snippet in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCS, re.S):
        (tmp_path / name).write_text(snippet)
    (tmp_path / "runs.jsonl").write_text(json.dumps(RUN) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documented_format_reads_its_log_through_the_command_line(own):
    assert cli.run(["segment", "runs.jsonl", "--format", "my_logs:read_run", "--out", "spans"]) == 0
    (row,) = sadstream.scan_shards("spans").collect().to_dicts()
    kinds = [span["kind"] for span in row["spans"]]
    assert kinds == ["context", "reason", "act", "observation", "reason"]
    act = row["spans"][2]
    assert row["text"][act["arguments_start"] : act["arguments_stop"]] == "ls -l 'a b'"
    assert (act["name"], act["call_id"], act["step"]) == ("shell", "1", row["spans"][3]["step"])
    assert row["outcome"]["success"] is True


def test_the_documented_proof_of_a_format_holds_and_notices_a_fault(own):
    profile = "settings.register_profile('few', max_examples=15, derandomize=True, database=None)"
    (own / "conftest.py").write_text(f"from hypothesis import settings\n{profile}\nsettings.load_profile('few')\n")

    def run_tests():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_logs.py"]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PATHS})

    done = run_tests()
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    path = own / "my_logs.py"
    path.write_text(path.read_text().replace('event["runs"], message', 'event["runs"].strip(), message'))
    done = run_tests()
    assert done.returncode == 1 and "test_runs_are_cut_as_they_must_be" in done.stdout, done.stdout


def test_a_function_reads_arrays_keyed_objects_and_whole_texts(own):
    def one(record):
        task = record if isinstance(record, str) else record["goal"]
        yield sadstream.Draft(task=task, pieces=[sadstream.pieces.say("ok", message=0)])

    (own / "array.json").write_text(json.dumps([RUN, RUN]))
    (own / "notes.txt").write_text("just words\nin lines\n")
    frame = sadstream.scan_logs([str(own / "array.json"), str(own / "notes.txt")], format=one).collect()
    assert frame["task"].to_list() == ["list it", "list it", "just words\nin lines\n"]
    assert frame["id"].n_unique() == 3


def test_what_the_function_raises_is_named_with_file_and_line(own):
    def broken(record):
        raise KeyError("no such field")

    with pytest.raises(FormatError, match=r"runs.jsonl:1: .*broken: KeyError: 'no such field'"):
        sadstream.scan_logs("runs.jsonl", format=broken).collect()


@pytest.mark.parametrize("name", ["no_such_module:read", "my_logs:no_such_function", "json:__doc__", "nonsense"])
def test_a_format_that_is_none_is_refused(own, name):
    with pytest.raises(ConfigError):
        sadstream.scan_logs("runs.jsonl", format=name)


def test_a_near_miss_is_named(own):
    with pytest.raises(ConfigError) as error:
        sadstream.scan_logs("runs.jsonl", format="react_chat")
    assert "react-chat" in error.value.hint
