import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sadstream_cli import cli

COMMANDS = [
    "segment",
    "prune-student",
    "cache-teacher",
    "doctor",
    "train",
    "evaluate",
    "collect",
    "inspect",
    "schema",
]
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
LOG = '{"text": "Question: q?\\nThought: a\\nAction: b\\nObservation: c\\n", "task": "q?", "success": true}\n'


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(LOG * 3, encoding="utf-8")
    return str(path)


def failed(capsys, *arguments) -> str:
    """What a command that must fail prints on stderr; nothing may stand on stdout."""
    capsys.readouterr()
    assert cli.run(list(arguments)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def one_error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, text
    assert any(line.startswith("Hint: ") for line in text.splitlines()), text
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(command, capsys):
    assert cli.run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"sadstream {command}" in text.split("Example:")[1]
    assert f"sadstream {command}" in README or f"`{command}" in README


def test_version_is_the_package_s(capsys):
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(r"sadstream [0-9.]+\n", capsys.readouterr().out)


def test_wrong_usage_exits_2(capsys):
    assert cli.run(["segment"]) == 2
    assert cli.run(["no-such-command"]) == 2
    assert "Error" in capsys.readouterr().err


def test_segment_json_is_one_object_and_nothing_else(log, tmp_path, capsys):
    assert cli.run(["segment", log, "--out", str(tmp_path / "spans"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["n_trajectories"] == 3
    assert summary["n_spans"] == {"context": 3, "reason": 3, "act": 3, "observation": 3}
    assert summary["formats"] == {"transcript": 3}


def test_a_finished_stage_says_so_and_does_nothing(log, tmp_path, capsys):
    out = tmp_path / "spans"
    assert cli.run(["segment", log, "--out", str(out)]) == 0
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    capsys.readouterr()
    assert cli.run(["segment", log, "--out", str(out)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["segment", "no/such.jsonl"], "no/such.jsonl: no such file or folder"),
        (["segment", "LOG", "--format", "nonsense"], "unknown format 'nonsense'"),
        (["segment", "LOG", "--where", "n_stepz > 1"], "n_stepz"),
        (["segment", "LOG", "--where", "n_steps +"], "--where"),
        (["segment", "LOG", "--where", "n_steps"], "not true or false"),
        (["segment", "LOG", "--holdout", "1.5"], "holdout 1.5"),
        (["segment", "EMPTY"], "an empty file"),
        (["segment", "FOLDER"], "no files in this folder"),
        (["segment", "MARKDOWN"], "not a log that sadstream knows"),
        (["segment", "BROKEN"], "broken.jsonl:2"),
        (["segment", "DEEP"], "nested too deep"),
        (["segment", "BEYOND"], "beyond.jsonl:1"),
        (["segment", "NOTHING"], "in none an agent acts"),
        (["inspect", "FOLDER"], "not something that sadstream wrote"),
        (["cache-teacher", "FOLDER", "--teacher", "x"], "not a folder that sadstream wrote"),
        (["cache-teacher", "no/where", "--teacher", "x"], "no/where: no such folder"),
        (["train", "no/where", "--student", "x"], "no/where: no such folder"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_one_hint(arguments, named, log, tmp_path, capsys):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.md").write_text("# Notes\nThought is free.\n")
    (tmp_path / "broken.jsonl").write_text(LOG + '{"text": \n' + LOG)
    (tmp_path / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    (tmp_path / "beyond.jsonl").write_text('{"text": "Thought: x", "reward": 1e999}\n')
    (tmp_path / "nothing.jsonl").write_text('{"text": "only words"}\n')
    places = {
        "LOG": log,
        "EMPTY": str(tmp_path / "empty.jsonl"),
        "FOLDER": str(tmp_path / "folder"),
        "MARKDOWN": str(tmp_path / "notes.md"),
        "BROKEN": str(tmp_path / "broken.jsonl"),
        "DEEP": str(tmp_path / "deep.json"),
        "BEYOND": str(tmp_path / "beyond.jsonl"),
        "NOTHING": str(tmp_path / "nothing.jsonl"),
    }
    given = [places.get(argument, argument) for argument in arguments]
    out = [] if arguments[0] == "inspect" else ["--out", str(tmp_path / "out")]
    assert named in one_error(failed(capsys, *given, *out))
    manifest = tmp_path / "out" / "manifest.json"
    assert not manifest.exists() or not json.loads(manifest.read_bytes())["complete"]


def test_a_span_folder_given_to_train_is_named_with_what_takes_it(log, tmp_path, capsys):
    spans = str(tmp_path / "spans")
    assert cli.run(["segment", log, "--out", spans]) == 0
    text = failed(capsys, "train", spans, "--student", "x", "--out", str(tmp_path / "run"))
    assert "made by `sadstream segment`" in one_error(text)
    assert f"sadstream cache-teacher {spans}" in text


def test_an_output_folder_that_holds_something_else_is_left_alone(log, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "did not write" in one_error(failed(capsys, "segment", log, "--out", str(out)))
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]


def test_other_options_on_a_finished_folder_are_named(log, tmp_path, capsys):
    out = str(tmp_path / "spans")
    assert cli.run(["segment", log, "--out", out]) == 0
    assert "holdout was 0.05 and is now 0.5" in failed(capsys, "segment", log, "--out", out, "--holdout", "0.5")


def test_an_unknown_model_is_named(log, tmp_path, capsys):
    spans = str(tmp_path / "spans")
    assert cli.run(["segment", log, "--out", spans]) == 0
    text = failed(capsys, "cache-teacher", spans, "--teacher", "./no-model", "--out", str(tmp_path / "t"))
    assert "./no-model: no such folder" in one_error(text)


def test_inspect_verify_names_a_flipped_byte_and_exits_1(log, tmp_path, capsys):
    out = tmp_path / "spans"
    assert cli.run(["segment", log, "--out", str(out)]) == 0
    assert cli.run(["inspect", str(out), "--verify"]) == 0
    shard = out / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(bytes(data))
    capsys.readouterr()
    assert cli.run(["inspect", str(out), "--verify"]) == 1
    assert "shard-000000.tar: its content is not what was written" in capsys.readouterr().out


def test_inspect_shows_folders_and_single_shards(log, tmp_path, capsys):
    out = tmp_path / "spans"
    assert cli.run(["segment", log, "--out", str(out)]) == 0
    capsys.readouterr()
    assert cli.run(["inspect", str(out)]) == 0
    assert "transcript" in capsys.readouterr().out
    assert cli.run(["inspect", str(out / "shard-000000.tar"), "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert len(next(iter(tables.values()))) == 3


def test_inspect_tells_each_format_s_numbers_and_what_was_left_out(tmp_path, capsys):
    logs = tmp_path / "logs"
    logs.mkdir()
    runs = ["> think: a\n> go\nOK\n", "> go\nOK\n", "> go\nOK\n", "> look\n"]
    records = [{"text": text, "success": won} for text, won in zip(runs, [True, False, None, True], strict=True)]
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    alone = {"text": "Question: q\nObservation: nobody acts\n"}
    (logs / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*records, chat, alone, {"text": "> \n"}]))
    (logs / "notes.txt").write_text("no labels here\n")
    out = tmp_path / "spans"
    assert cli.run(["segment", str(logs), "--out", str(out), "--dedupe", "--holdout", "0"]) == 0
    capsys.readouterr()
    assert cli.run(["inspect", str(out), "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    by_format = {row["format"]: row for row in tables["trajectories by format"]}
    told = by_format["transcript"]
    n_reason, n_act, n_observation = 11, 5 + 5 + 7 + 3, 3 + 3
    assert (told["trajectories"], told["steps"]) == (4, 4)
    assert (told["success"], told["of known"]) == (0.667, 3)
    assert (told["reason chars"], told["act chars"], told["observation chars"]) == (n_reason, n_act, n_observation)
    share = (n_reason + n_act) / (n_reason + n_act + n_observation)
    assert told["supervised"] == round(share, 3)
    assert by_format["openai-chat"]["trajectories"] == 1
    left_out = {(row["format"], row["reason"]): row["n"] for row in tables["left out"]}
    assert left_out == {("transcript", "duplicate"): 1, ("transcript", "not-a-run"): 1, ("", "unrecognised"): 1}


def test_an_interrupt_exits_130_and_says_how_to_go_on(log, tmp_path):
    code = (
        "import sys, sadstream.spans\n"
        "def interrupted(*a, **k): raise KeyboardInterrupt\n"
        "sadstream.spans.segment_logs = interrupted\n"
        "from sadstream_cli import cli\n"
        f"sys.exit(cli.run(['segment', {log!r}, '--out', {str(tmp_path / 'o')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "continues where it stopped" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line_and_nothing_looks_finished(log, tmp_path, capsys, monkeypatch):
    from sadstream import manifest

    out = tmp_path / "spans"

    real_open = Path.open

    def on_a_full_disk(self, mode="r", *rest, **options):
        full = "w" in mode and ".tar" in self.name
        return real_open(Path("/dev/full") if full else self, mode, *rest, **options)

    monkeypatch.setattr(manifest.Path, "open", on_a_full_disk)
    text = failed(capsys, "segment", log, "--out", str(out))
    assert "No space left on device" in one_error(text)
    monkeypatch.undo()
    assert not json.loads((out / "manifest.json").read_bytes())["complete"]
    assert cli.run(["segment", log, "--out", str(out)]) == 0


def test_schema_prints_json_and_refuses_other_names(capsys):
    assert cli.run(["schema", "trajectory"]) == 0
    assert json.loads(capsys.readouterr().out)["$defs"]["Trajectory"]
    assert cli.run(["schema", "nothing"]) == 2
