import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadstream import scan_index
from sadstream.collect import CollectConfig, collect
from sadstream.episode_log import EPISODES, EpisodeLine, read_lines
from sadstream.errors import ConfigError, InputError, ManifestError, SadstreamError, TaskError
from sadstream.inspect import inspect_artefact, verify_artefact
from sadstream.intervals import wilson
from sadstream.manifest import load_manifest
from sadstream.paths import TRAJECTORIES, find_logs
from sadstream.playing import Planned, drawn, episode_seed
from sadstream.progress import silent
from sadstream.spans import SegmentConfig, segment_logs
from sadstream_cli import cli
from sadstream_schemas import Trajectory, decode_json

OPTIONS = {"env": "tests.worlds:Echo", "agent": "tests.worlds:Winner", "keep": "all"}


def gather(out, progress=silent, **options):
    return collect(CollectConfig(out=str(out), **{**OPTIONS, **options}), progress)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def records(folder):
    lines = (folder / TRAJECTORIES).read_bytes().split(b"\n")
    assert lines.pop() == b""
    return [decode_json(line, Trajectory) for line in lines]


# ---- what is written


def test_every_episode_has_a_line_and_each_kept_one_a_trajectory(tmp_path):
    summary = gather(tmp_path / "out", episodes_per_task=3)
    lines, kept = read_lines(tmp_path / "out"), records(tmp_path / "out")
    assert len(lines) == len(kept) == summary["n_episodes"] == summary["n_kept"] == 18
    for number, (line, record) in enumerate(zip(lines, kept, strict=True)):
        assert (line.task_id, line.number) == (f"word-{number // 3}", number % 3)
        assert (record.task_id, record.outcome.reward) == (line.task_id, line.reward)
        assert (record.outcome.success, record.outcome.ending) == (line.success, line.ending)
        assert record.source.record == str(number)
        facts = {name: json.loads(bytes(raw)) for name, raw in record.extra.items()}
        assert facts == {
            "environment": "echo-labels",
            "agent": "winner",
            "privileged": False,
            "task_type": line.task_type,
            "seed": 0,
            "episode": line.number,
            "n_turns": line.n_turns,
            "n_invalid": line.n_invalid,
        }
    assert len({record.id for record in kept}) == 18
    assert {line.success for line in lines} == {True, False}
    assert len({line.seed for line in lines}) == 18


def test_won_ones_are_kept_unless_all_are_asked_for(tmp_path):
    summary = gather(tmp_path / "won", keep="won", episodes_per_task=3)
    gather(tmp_path / "all", episodes_per_task=3)
    won = records(tmp_path / "won")
    assert 0 < summary["n_kept"] == len(won) < summary["n_episodes"]
    assert [r.text for r in won] == [r.text for r in records(tmp_path / "all") if r.outcome.success]
    assert [line.kept for line in read_lines(tmp_path / "won")] == [
        line.success for line in read_lines(tmp_path / "won")
    ]


def test_the_summary_is_what_the_lines_come_to(tmp_path):
    summary = gather(tmp_path / "out", episodes_per_task=3, max_steps=5)
    lines = read_lines(tmp_path / "out")
    n, n_won = len(lines), sum(line.success for line in lines)
    assert summary["success_rate"] == [round(x, 4) for x in (n_won / n, *wilson(n_won, n))]
    assert summary["mean_reward"] == round(sum(line.reward for line in lines) / n, 4)
    assert summary["mean_turns"] == round(sum(line.n_turns for line in lines) / n, 2)
    assert summary["endings"] == {"finished": n_won, "halted": n - n_won}
    n_invalid, n_actions = sum(line.n_invalid for line in lines), sum(line.n_actions for line in lines)
    assert 0 < summary["invalid_action_share"] == round(n_invalid / n_actions, 4) < 1
    assert {name: m["n_episodes"] for name, m in summary["by_type"].items()} == {"even": 9, "odd": 9}
    assert (summary["max_steps"], summary["thoughts_count"], summary["n_tasks"]) == (5, True, 6)
    assert max(line.n_turns for line in lines) == 5
    table = inspect_artefact(tmp_path / "out")[1]
    assert table.title == "winner in echo-labels, split train"
    assert [row["episodes"] for row in table.rows] == [9, 9, 18]
    assert verify_artefact(tmp_path / "out", silent) == []


def test_measures_of_the_environment_s_own_are_averaged(tmp_path, monkeypatch):
    from tests import worlds

    monkeypatch.setattr(worlds.Echo, "metrics", lambda self: {"f1": 0.25}, raising=False)
    assert gather(tmp_path / "out")["metrics"] == {"f1": 0.25}
    assert inspect_artefact(tmp_path / "out")[1].rows[0]["f1"] == 0.25


def test_the_same_options_give_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        gather(tmp_path / name, episodes_per_task=2, seed=seed)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert content(tmp_path / "one")[TRAJECTORIES] != content(tmp_path / "other")[TRAJECTORIES]
    for data in content(tmp_path / "one").values():
        assert str(tmp_path).encode() not in data


def test_an_episode_s_seed_hangs_on_which_it_is_and_not_on_its_place():
    seeds = {episode_seed(s, Planned(t, n)) for s in range(3) for t in ("a", "b", "1") for n in range(3)}
    assert len(seeds) == 27
    assert episode_seed(0, Planned("a", 1)) == episode_seed(0, Planned("a", 1)) < 2**64


def test_tasks_limit_and_split_say_what_is_played(tmp_path):
    named = tmp_path / "tasks.txt"
    named.write_text("word-5\n\n  word-2 \r\nword-4\n")
    gather(tmp_path / "out", tasks=str(named))
    assert [line.task_id for line in read_lines(tmp_path / "out")] == ["word-5", "word-2", "word-4"]
    assert [file.path for file in load_manifest(tmp_path / "out").inputs] == ["tasks.txt"]
    gather(tmp_path / "few", limit=3, options={"style": "prompt", "n_tasks": "40"})
    few = [line.task_id for line in read_lines(tmp_path / "few")]
    assert few == drawn([f"word-{number}" for number in range(40)], 3, 0) != ["word-0", "word-1", "word-2"]
    named.write_text("word-5\n")
    with pytest.raises(ManifestError, match=r"made from other inputs: tasks\.txt has changed"):
        gather(tmp_path / "out", tasks=str(named))


@given(st.sets(st.integers(0, 99), max_size=30), st.integers(0, 40), st.integers(0, 2**31))
def test_tasks_are_drawn_one_by_one_whatever_else_there_is(numbers, limit, seed):
    tasks = [f"word-{number}" for number in sorted(numbers)]
    few = drawn(tasks, limit, seed)
    assert len(few) == (min(limit, len(tasks)) if limit else len(tasks))
    assert few == [task for task in tasks if task in few]
    if limit:
        assert set(few) <= set(drawn(tasks, limit + 1, seed))
        assert set(few) & set(tasks[1:]) <= set(drawn(tasks[1:], limit, seed))


# ---- what segment makes of it


@pytest.mark.parametrize("style", ["labels", "numbered", "prompt", "webshop"])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_segment_reads_it_unchanged(tmp_path, style, named):
    out = tmp_path / "out"
    summary = gather(out, options={"style": style}, episodes_per_task=2)
    logs = out if named == "folder" else out / TRAJECTORIES
    cut = segment_logs(SegmentConfig(logs=(str(logs),), out=str(tmp_path / "spans"), on_error="stop"), silent)
    assert (cut["n_trajectories"], cut["formats"]) == (12, {"trajectory": 12})
    assert cut["n_passed_over"] == {} and cut["n_rejected"] == 0
    index = scan_index(tmp_path / "spans").collect()
    kept = records(out)
    assert index["id"].to_list() == [record.id for record in kept]
    assert index["success"].to_list() == [record.outcome.success for record in kept]
    assert 0 < index["success"].sum() == round(summary["success_rate"][0] * 12) < 12
    assert index["ending"].to_list() == [record.outcome.ending for record in kept]
    assert index["n_spans_act"].to_list() == [sum(s.kind == "act" for s in record.spans) for record in kept]


def test_met_in_a_folder_walk_or_a_glob_only_the_trajectories_are_read(tmp_path):
    for name in ("a", "b"):
        gather(tmp_path / "runs" / name, seed=ord(name))
    (tmp_path / "runs" / "manifest.json").write_text("[" * 100_000)
    (tmp_path / "runs" / "log.txt").write_text("Thought: a\nAction: b\n")
    walked = find_logs([str(tmp_path / "runs")])
    assert [file.name for file in walked] == ["log.txt", "manifest.json", f"a/{TRAJECTORIES}", f"b/{TRAJECTORIES}"]
    globbed = find_logs([str(tmp_path / "runs" / "*" / "*.json*")])
    assert [file.name for file in globbed] == [f"a/{TRAJECTORIES}", f"b/{TRAJECTORIES}"]
    cut = segment_logs(SegmentConfig(logs=(str(tmp_path / "runs" / "*" / "*"),), out=str(tmp_path / "spans")), silent)
    assert cut["n_trajectories"] == 12 and cut["n_passed_over"] == {}


def test_an_unfinished_folder_is_not_segmented(tmp_path):
    gather(tmp_path / "out")
    manifest = msgspec.structs.replace(load_manifest(tmp_path / "out"), complete=False)
    (tmp_path / "out" / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(InputError, match="unfinished"):
        find_logs([str(tmp_path / "out")])
    (tmp_path / "log.txt").write_text("Thought: a\nAction: b\n")
    for met in (tmp_path, tmp_path / "**"):
        problems = {file.name: file.problem for file in find_logs([str(met)])}
        assert problems == {"log.txt": "", f"out/{TRAJECTORIES}": "of a `sadstream collect` that has not finished"}
    (named,) = find_logs([str(tmp_path / "out" / TRAJECTORIES)])
    assert not named.problem


# ---- stopped and continued


def stamps(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def test_a_finished_folder_is_left_alone_and_other_options_are_named(tmp_path):
    out = tmp_path / "out"
    summary = gather(out)
    before = stamps(out)
    again = gather(out)
    assert again.pop("already_done")
    assert again == {name: value for name, value in summary.items() if name != "seconds"}
    assert stamps(out) == before
    with pytest.raises(ManifestError, match="seed was 0 and is now 1"):
        gather(out, seed=1)
    with pytest.raises(ManifestError, match=r"options was \{\} and is now \{'n_tasks': '3'\}"):
        gather(out, options={"n_tasks": "3"})
    assert stamps(out) == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("collect") / "whole"
    gather(out, keep="won", episodes_per_task=2)
    return out


def interrupted(whole, out, n_trajectories, n_episodes):
    """The folder as a kill leaves it: so many bytes of each file are there, and no end."""
    shutil.copytree(whole, out)
    manifest = msgspec.structs.replace(load_manifest(whole), complete=False, files={}, totals={})
    (out / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    os.truncate(out / TRAJECTORIES, n_trajectories)
    os.truncate(out / EPISODES, n_episodes)


@settings(max_examples=30)
@given(st.data())
def test_stopped_at_any_byte_and_run_again_it_gives_the_same_bytes(whole, tmp_path_factory, data):
    lines = (whole / EPISODES).read_bytes().splitlines(keepends=True)
    n_whole = data.draw(st.integers(0, len(lines) - 1))
    n_before = msgspec.json.decode(lines[n_whole - 1], type=EpisodeLine).n_bytes if n_whole else 0
    n_after = msgspec.json.decode(lines[n_whole], type=EpisodeLine).n_bytes
    # A trajectory is written before its line: the line is begun when the trajectory is whole.
    n_torn = data.draw(st.integers(0, len(lines[n_whole]) - 1))
    n_trajectories = n_after if n_torn else data.draw(st.integers(n_before, n_after))
    out = tmp_path_factory.mktemp("collect") / "out"
    interrupted(whole, out, n_trajectories, sum(map(len, lines[:n_whole])) + n_torn)
    played = []
    gather(out, lambda done, total, unit, note="": played.append(done), keep="won", episodes_per_task=2)
    assert played == list(range(n_whole, len(lines) + 1))
    assert content(out) == content(whole)


def test_lines_that_outlive_their_trajectories_in_a_power_cut_are_played_again(whole, tmp_path):
    interrupted(whole, tmp_path / "out", 10, (whole / EPISODES).stat().st_size)
    gather(tmp_path / "out", keep="won", episodes_per_task=2)
    assert content(tmp_path / "out") == content(whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path):
    arguments = [sys.executable, "-m", "sadstream", "collect", "--env", "tests.worlds:Echo"]
    arguments += ["--agent", "tests.worlds:Winner", "--agent-option", "sleep=0.02", "--keep", "all"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def command(out):
        return subprocess.Popen([*arguments, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL)

    out, seen = tmp_path / "out", []
    for n_lines in (1, 4):
        process = command(out)
        deadline = time.monotonic() + 60
        while not (out / EPISODES).exists() or (out / EPISODES).read_bytes().count(b"\n") < n_lines:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        seen.append((out / EPISODES).read_bytes())
        # What has ended is on the disk while others are still being played.
        assert seen[-1].count(b"\n") < 6
        assert not load_manifest(out).complete
    assert command(out).wait() == 0
    assert command(tmp_path / "whole").wait() == 0
    assert content(out) == content(tmp_path / "whole")
    for before in seen:
        assert content(out)[EPISODES].startswith(before[: before.rfind(b"\n") + 1])


def test_before_anything_was_played_other_options_may_take_over(tmp_path):
    with pytest.raises(TaskError, match="lost"):
        gather(tmp_path / "out", agent="tests.worlds:Breaker")
    gather(tmp_path / "out")
    gather(tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_was_played_before_an_error_is_kept(tmp_path, monkeypatch):
    from tests import worlds

    begin = worlds.Winner.begin

    def failing(self, environment, task_id, observation, *, seed):
        if task_id == "word-3":
            raise RuntimeError("out of luck")
        begin(self, environment, task_id, observation, seed=seed)

    with monkeypatch.context() as patch:
        patch.setattr(worlds.Winner, "begin", failing)
        with pytest.raises(TaskError, match="task word-3, turn 1: Winner: RuntimeError: out of luck"):
            gather(tmp_path / "out")
    assert len(records(tmp_path / "out")) == 3
    gather(tmp_path / "out")
    gather(tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_damaged_line_is_named(whole, tmp_path):
    interrupted(whole, tmp_path / "out", (whole / TRAJECTORIES).stat().st_size, (whole / EPISODES).stat().st_size)
    damaged = (whole / EPISODES).read_bytes().replace(b'"reward":', b'"reword":', 1)
    (tmp_path / "out" / EPISODES).write_bytes(damaged)
    with pytest.raises(ManifestError, match=f"{EPISODES}:1: "):
        gather(tmp_path / "out", keep="won", episodes_per_task=2)


def test_a_folder_continued_with_another_set_of_tasks_is_refused(whole, tmp_path, monkeypatch):
    from tests import worlds

    interrupted(whole, tmp_path / "out", 0, 0)
    monkeypatch.setattr(worlds.Echo, "max_steps", 4)
    with pytest.raises(ManifestError, match=r"begun with .*max_steps 9.* here it is .*max_steps 4"):
        gather(tmp_path / "out", keep="won", episodes_per_task=2)


# ---- what cannot be played


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"split": "dev"}, TaskError, "no split 'dev'"),
        ({"limit": -1}, ConfigError, "--limit -1"),
        ({"episodes_per_task": 0}, ConfigError, "--episodes-per-task 0"),
        ({"max_steps": -1}, ConfigError, "--max-steps -1"),
        ({"seed": -1}, ConfigError, "--seed -1"),
        ({"keep": "lost"}, ConfigError, "--keep lost"),
        ({"shuffle": 2}, ConfigError, "it has no option 'shuffle'"),
        ({"data": "x"}, ConfigError, "it has no option 'data'"),
        ({"data": "x", "options": {"data": "y"}}, ConfigError, "--data and --option data=...: one of them"),
        ({"options": {"n_tasks": "0"}}, TaskError, "no task to play"),
        ({"agent_options": {"sleep": "long"}}, ConfigError, "option sleep=long"),
        ({"agent": "expert"}, ConfigError, "comes with none"),
    ],
)
def test_wrong_options_are_named_and_write_nothing_that_lasts(tmp_path, options, error, named):
    with pytest.raises(error, match=named) as raised:
        gather(tmp_path / "out", **options)
    assert raised.value.hint
    gather(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"word-1\nword-11\n", "tasks.txt: split train of echo-labels has no task 'word-11'"),
        (b"word-1\n\nword-1\n", "tasks.txt:3: word-1 stands on line 1 already"),
        (b"\n \n", "tasks.txt: no task id in it"),
        (b"word-1\n\xff\n", "tasks.txt: not UTF-8"),
        (None, "tasks.txt: No such file"),
    ],
)
def test_a_tasks_file_that_will_not_do_is_named(tmp_path, text, named):
    path = tmp_path / "tasks.txt"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(SadstreamError, match=named) as raised:
        gather(tmp_path / "out", tasks=str(path))
    assert raised.value.hint


def test_an_agent_that_shouts_or_never_acts_is_counted_and_segment_takes_it(tmp_path):
    for agent, share in (("Shouter", 1.0), ("Thinker", 0.0)):
        summary = gather(tmp_path / agent, agent=f"tests.worlds:{agent}", options={"style": "prompt"})
        assert (summary["endings"], summary["success_rate"][0]) == ({"halted": 6}, 0.0)
        assert summary["invalid_action_share"] == share
        cut = segment_logs(SegmentConfig(logs=(str(tmp_path / agent),), out=str(tmp_path / f"{agent}-spans")), silent)
        assert cut["n_trajectories"] == 6


# ---- the command


def test_the_command_prints_json_and_then_says_that_all_is_done(tmp_path, capsys):
    arguments = [
        "collect",
        "--env",
        "tests.worlds:Echo",
        "--agent",
        "tests.worlds:Winner",
        "--out",
        str(tmp_path / "o"),
    ]
    arguments += ["--option", "style=prompt", "--option", "n_tasks=3", "--agent-option", "sleep=0"]
    assert cli.run([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["env"], summary["agent"], summary["privileged"]) == ("echo-prompt", "winner", False)
    assert summary["n_episodes"] == 3 and len(summary["success_rate"]) == 3
    assert cli.run(arguments) == 0
    printed = capsys.readouterr().out
    assert "finished already" in printed and "winner in echo-prompt, split train" in printed
    assert cli.run(["inspect", str(tmp_path / "o")]) == 0
    assert "winner in echo-prompt" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--option", "n_tasks"], ["--option", "=3"], ["--option", "a=1", "--option", "a=2"]])
def test_an_option_that_is_no_key_and_value_is_wrong_usage(tmp_path, wrong, capsys):
    arguments = ["collect", "--env", "x", "--agent", "random", "--out", str(tmp_path / "o"), *wrong]
    assert cli.run(arguments) == 2
    assert "option" in capsys.readouterr().err


def test_other_stages_name_the_command_that_takes_the_folder(tmp_path, capsys):
    gather(tmp_path / "out")
    out = str(tmp_path / "out")
    assert cli.run(["cache-teacher", out, "--teacher", "x", "--out", str(tmp_path / "t")]) == 1
    assert f"sadstream segment {out}" in capsys.readouterr().err


def test_the_example_of_an_own_environment_runs_as_its_docstring_says(tmp_path, monkeypatch):
    import examples.own_environment as example

    (line,) = [line.strip() for line in example.__doc__.splitlines() if line.strip().startswith("sadstream ")]
    assert cli.run([*line.split()[1:-1], str(tmp_path / "played")]) == 0
    lines = read_lines(tmp_path / "played")
    assert len(lines) > 20 and all(line.success and not line.n_invalid for line in lines)
    digest = hashlib.sha256((tmp_path / "played" / TRAJECTORIES).read_bytes()).hexdigest()
    assert load_manifest(tmp_path / "played").files[TRAJECTORIES] == digest
    random = gather(tmp_path / "random", env="examples.own_environment:Jugs", agent="random")
    assert random["success_rate"][2] < 0.9
