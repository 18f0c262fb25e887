import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "webdataset", "click", "matplotlib"}
COMMANDS = ["segment", "prune-student", "cache-teacher", "train", "collect", "inspect", "schema"]


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys, json; print('\\n' + json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_library_leaves_the_heavy_ones_out():
    assert not HEAVY & modules_after("import sadstream")


def test_reading_cutting_and_writing_need_no_heavy_import(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"text": "Thought: a\\nAction: b\\n"}\n')
    out = str(tmp_path / "out")
    code = (
        "import sadstream; from sadstream.progress import silent\n"
        f"sadstream.segment_logs(sadstream.SegmentConfig(logs=({str(log)!r},), out={out!r}), silent)\n"
        f"assert len(list(sadstream.iter_samples({out!r}))) == 1"
    )
    assert not HEAVY & modules_after(code)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_neither_the_library_nor_what_it_needs(command):
    arguments = [command, "--help"] if command else ["--help"]
    seen = modules_after(f"from sadstream_cli import cli; cli.run({arguments!r})")
    assert not {"torch", "transformers", "webdataset", "polars", "pyarrow", "numpy"} & seen
    assert "click" in seen


def test_the_records_import_msgspec_and_nothing_else():
    seen = modules_after("import sadstream_schemas")
    assert not {"sadstream", "polars", "numpy", "pyarrow", *HEAVY} & seen


def test_a_stage_imports_no_torch_before_there_is_work():
    assert not HEAVY & modules_after(
        "import sadstream.teacher, sadstream.train, sadstream.prune, sadstream.inspect, sadstream.page_file"
    )
