import json
import shutil
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream.collect import CollectConfig, collect
from sadstream.environments import Decision
from sadstream.episode_log import EPISODES, read_lines
from sadstream.episodes import play
from sadstream.errors import ConfigError, EndpointError, ManifestError
from sadstream.evaluate import PICTURE, RESULTS, EvaluateConfig, evaluate
from sadstream.inspect import inspect_artefact, verify_artefact
from sadstream.intervals import wilson
from sadstream.page_file import write_page
from sadstream.page_source import read_page
from sadstream.paths import TRAJECTORIES
from sadstream.playing import trajectory_by
from sadstream.progress import silent
from sadstream.scores import (
    cot_match,
    count_words,
    loops,
    mean_interval,
    measured,
    paired_differences,
    summary,
    token_f1,
)
from sadstream.spans import SegmentConfig, segment_logs
from sadstream_cli import cli
from sadstream_schemas import Trajectory, decode_json
from tests.servers import send, serving
from tests.tiny import llama_config, make_tokenizer, save_model
from tests.worlds import Echo, Script

WORLD, WINNER = "tests.worlds:Echo", "tests.worlds:Winner"


def judge(out, *models, progress=silent, **options):
    given = {"env": WORLD, "split": "train", **options}
    return evaluate(EvaluateConfig(models=list(models) or [WINNER], out=str(out), **given), progress)


def records(folder):
    lines = (folder / TRAJECTORIES).read_bytes().splitlines()
    return [decode_json(line, Trajectory) for line in lines]


def said_in(record):
    return [record.text[span.body_start : span.body_stop] for span in record.spans if span.kind == "reason"]


def timeless(results):
    """Results without what a clock gave."""
    models = {
        label: {key: value for key, value in measures.items() if "second" not in key and key != "by_type"}
        for label, measures in results["models"].items()
    }
    return {**{k: v for k, v in results.items() if k not in ("seconds", "out", "already_done")}, "models": models}


class Stop(Exception):
    pass


def stopping_at(n_calls):
    left = iter(range(n_calls))

    def progress(done, total, unit, note=""):
        if next(left, None) is None:
            raise Stop

    return progress


# ---- playing


def test_each_episode_is_told_of_and_the_report_agrees_with_them(tmp_path):
    begin = time.monotonic()
    results = judge(tmp_path / "out", WINNER, "random", episodes_per_task=4)
    assert list(results["models"]) == ["tests.worlds-Winner", "random"]
    begun = time.monotonic() - begin
    for label, measures in results["models"].items():
        assert 0 < sum(line.costs["seconds"] for line in read_lines(tmp_path / "out" / label)) < begun
        lines, played = read_lines(tmp_path / "out" / label), records(tmp_path / "out" / label)
        assert len(lines) == len(played) == measures["n_episodes"] == 24
        n_won = sum(line.success for line in lines)
        assert 0 < n_won <= 24
        np.testing.assert_allclose(measures["success_rate"], (n_won / 24, *wilson(n_won, 24)), atol=1e-4)
        assert measures["steps_per_success"] == round(sum(x.n_turns for x in lines if x.success) / n_won, 2)
        n_invalid, n_actions = sum(line.n_invalid for line in lines), sum(line.n_actions for line in lines)
        assert measures["invalid_actions"] == round(n_invalid / n_actions, 4)
        assert sum(part["n_episodes"] for part in measures["by_type"].values()) == 24
        assert set(measures["by_type"]) == {"even", "odd"}
    n_words = sum(count_words(text) for r in records(tmp_path / "out" / "tests.worlds-Winner") for text in said_in(r))
    assert results["models"]["tests.worlds-Winner"]["reason_tokens_per_episode"] == round(n_words / 24, 2) > 0
    assert results["models"]["random"]["reason_tokens_per_step"] == 0
    assert json.loads((tmp_path / "out" / RESULTS).read_bytes()) == {
        k: v for k, v in results.items() if k not in ("seconds", "out")
    }
    assert (tmp_path / "out" / PICTURE).read_bytes()[:4] == b"\x89PNG"
    assert verify_artefact(tmp_path / "out", silent) == []


def test_a_finished_one_does_nothing_and_other_options_are_refused(tmp_path):
    first = judge(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = judge(tmp_path / "out", seats=3)
    assert again["already_done"] and timeless(again) == timeless(first)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(ManifestError, match="max_steps"):
        judge(tmp_path / "out", max_steps=3)


@pytest.mark.parametrize("n_calls", [2, 5, 9, 13])
def test_a_stopped_one_continues_without_repeating_or_losing_an_episode(tmp_path, n_calls):
    whole = judge(tmp_path / "whole", WINNER, "random")
    with pytest.raises(Stop):
        judge(tmp_path / "out", WINNER, "random", progress=stopping_at(n_calls))
    with (tmp_path / "out" / "tests.worlds-Winner" / EPISODES).open("ab") as file:
        file.write(b'{"task_id": "wo')
    assert timeless(judge(tmp_path / "out", WINNER, "random")) == timeless(whole)
    for label in whole["models"]:
        lines = read_lines(tmp_path / "out" / label)
        assert len({(line.task_id, line.number) for line in lines}) == len(lines) == 6


def test_a_model_here_is_evaluated_by_its_own_tokenizer(tmp_path):
    save_model(llama_config(len(make_tokenizer())), tmp_path / "tiny")
    options = {"max_new_tokens": 8, "max_steps": 3, "device": "cpu"}
    results = judge(tmp_path / "out", str(tmp_path / "tiny"), options={"style": "prompt"}, **options)
    measures = results["models"]["tiny"]
    assert measures["n_episodes"] == 6 and measures["reason_tokens_by"] == "the model's tokenizer"
    assert measures["prompt"] == "few-shot" and measures["dtype"] == "float32" and measures["fingerprint"]
    lines = read_lines(tmp_path / "out" / "tiny")
    written = sum(line.costs["tokens_written"] for line in lines)
    assert measures["tokens_per_step"] == round(written / sum(line.n_turns for line in lines), 2) > 0
    assert sum(line.costs["seconds"] for line in lines) > 0
    one = judge(tmp_path / "one", str(tmp_path / "tiny"), options={"style": "prompt"}, seats=1, **options)
    texts = [{r.task_id: r.text for r in records(tmp_path / name / "tiny")} for name in ("out", "one")]
    assert texts[0] == texts[1] and one["models"]["tiny"]["success_rate"] == measures["success_rate"]


TINY = {"options": {"style": "prompt"}, "max_new_tokens": 6, "max_steps": 2, "device": "cpu"}


def test_other_weights_at_the_same_path_are_not_taken_for_the_finished_ones(tmp_path):
    save_model(llama_config(len(make_tokenizer())), tmp_path / "tiny")
    judge(tmp_path / "out", WINNER, str(tmp_path / "tiny"), **TINY)
    assert judge(tmp_path / "out", WINNER, str(tmp_path / "tiny"), **TINY)["already_done"]
    shutil.copytree(tmp_path / "tiny", tmp_path / "elsewhere" / "tiny")
    assert judge(tmp_path / "out", WINNER, str(tmp_path / "elsewhere" / "tiny"), **TINY)["already_done"]
    save_model(llama_config(len(make_tokenizer())), tmp_path / "tiny", seed=1)
    with pytest.raises(ManifestError, match="player/tiny has changed"):
        judge(tmp_path / "out", WINNER, str(tmp_path / "tiny"), **TINY)
    make_tokenizer(adds_bos=False, n_extra=1).save_pretrained(tmp_path / "elsewhere" / "tiny")
    with pytest.raises(ManifestError, match="player/tiny has changed"):
        judge(tmp_path / "out", WINNER, str(tmp_path / "elsewhere" / "tiny"), **TINY)


def test_a_finished_one_takes_a_further_model_and_a_reference_and_plays_only_what_is_new(tmp_path):
    collect(CollectConfig(env=WORLD, agent=WINNER, out=str(tmp_path / "played"), keep="all"), silent)
    segment_logs(SegmentConfig(logs=[str(tmp_path / "played")], out=str(tmp_path / "spans")), silent)
    judge(tmp_path / "out")
    before = (tmp_path / "out" / "tests.worlds-Winner" / EPISODES).read_bytes()
    grown = judge(tmp_path / "out", WINNER, "random", reference=str(tmp_path / "spans"))
    assert (tmp_path / "out" / "tests.worlds-Winner" / EPISODES).read_bytes() == before  # seconds included
    assert timeless(grown) == timeless(judge(tmp_path / "new", WINNER, "random", reference=str(tmp_path / "spans")))
    assert len(grown["differences"]) == 1 and verify_artefact(tmp_path / "out", silent) == []
    tasks = tmp_path / "tasks.txt"
    tasks.write_text("word-1\n")
    with pytest.raises(ManifestError, match="tasks was False and is now True"):
        judge(tmp_path / "out", WINNER, "random", reference=str(tmp_path / "spans"), tasks=str(tasks))
    with pytest.raises(ManifestError, match="gone"):
        judge(tmp_path / "out", WINNER, reference=str(tmp_path / "spans"))


def test_a_server_that_goes_down_loses_no_episode(tmp_path):
    n_answers = [7]

    def answer(handler, path, payload):
        if path == "/models":
            send(handler, {"data": [{"id": "m"}]})
            return
        n_answers[0] -= 1
        if n_answers[0] < 0:
            send(handler, {"error": {"message": "gone"}}, code=403)
        else:
            send(handler, {"choices": [{"text": " win" if "> hum" in payload["prompt"] else " hum"}]})

    options = {"options": {"style": "prompt"}, "seats": 1}
    with serving(answer) as url:
        with pytest.raises(EndpointError, match="gone"):
            judge(tmp_path / "out", "m", endpoint=url, **options)
        before = (tmp_path / "out" / "m" / TRAJECTORIES).read_bytes()
        assert len(before.splitlines()) == 3
        n_answers[0] = 100
        results = judge(tmp_path / "out", "m", endpoint=url, **options)
    assert (tmp_path / "out" / "m" / TRAJECTORIES).read_bytes().startswith(before)
    assert results["models"]["m"]["success_rate"][0] == 1.0 and n_answers[0] == 100 - 6


def test_the_page_shows_every_episode_of_every_player(tmp_path):
    judge(tmp_path / "out", WINNER, "random", episodes_per_task=2)
    collect(CollectConfig(env=WORLD, agent="random", out=str(tmp_path / "played"), keep="all"), silent)
    for folder, n_episodes in ((tmp_path / "out", 24), (tmp_path / "played", 6)):
        page = read_page(folder, silent, limit=0)
        assert page.n_all == len(page.entries) == n_episodes and page.n_refused == 0
        assert write_page(folder, tmp_path / "page.html", silent)["n_shown"] == n_episodes


def test_an_unfinished_one_has_a_page_too(tmp_path):
    with pytest.raises(Stop):
        judge(tmp_path / "out", WINNER, progress=stopping_at(5))
    assert 0 < read_page(tmp_path / "out", silent, limit=0).n_all < 6


def test_one_that_never_acts_is_counted(tmp_path):
    measures = judge(tmp_path / "out", "tests.worlds:Thinker")["models"]["tests.worlds-Thinker"]
    assert measures["never_acted"] == 6 and measures["endings"] == {"halted": 6}
    assert measures["steps_per_success"] is None and measures["invalid_actions"] == 0


def test_thoughts_that_are_free_leave_more_turns(tmp_path):
    counted = judge(tmp_path / "a", "tests.worlds:Thinker", thoughts="count", max_steps=4)
    free = judge(tmp_path / "b", WINNER, thoughts="free", max_steps=4)
    assert counted["thoughts_count"] and not free["thoughts_count"]
    with pytest.raises(ConfigError, match="thoughts"):
        judge(tmp_path / "c", thoughts="maybe")


@pytest.mark.parametrize(("models", "word"), [((WINNER, WINNER), "twice"), (("exprt",), "exprt")])
def test_models_that_are_none_are_refused(tmp_path, models, word):
    with pytest.raises(ConfigError, match=word):
        judge(tmp_path / "out", *models)


# ---- thoughts against a reference


def test_a_player_matches_its_own_trajectories(tmp_path):
    # The first of each task counts, which is the one that is played again.
    played = CollectConfig(env=WORLD, agent=WINNER, out=str(tmp_path / "played"), keep="all", episodes_per_task=3)
    collect(played, silent)
    segment_logs(SegmentConfig(logs=[str(tmp_path / "played")], out=str(tmp_path / "spans")), silent)
    results = judge(tmp_path / "out", WINNER, "tests.worlds:Thinker", reference=str(tmp_path / "spans"))
    own, other = (measures["cot_match"] for measures in results["models"].values())
    assert own["f1"] == own["exact"] == 1.0
    assert own["n_tasks"] == 6 and own["n_steps"] == own["n_reference_steps"] > 6
    assert other["exact"] == 0.0 and other["n_steps"] > 0
    assert other["n_reference_steps"] == own["n_reference_steps"]
    with pytest.raises(ConfigError, match="no trajectory of a task"):
        judge(tmp_path / "none", reference=str(tmp_path / "spans"), env="alfworld", split="train", limit=1)


@given(a=st.text("ab ,."), b=st.text("ab ,."))
def test_token_f1_is_symmetric_and_1_for_the_same_words(a, b):
    assert token_f1(a, b) == token_f1(b, a) and 0 <= token_f1(a, b) <= 1
    assert token_f1(a, a.upper()) == 1.0


def test_token_f1_counts_words_as_often_as_they_stand():
    assert token_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert token_f1("x", "y") == 0 and token_f1("", "y") == 0 and token_f1("", "") == 1


# ---- models against each other


def test_differences_pair_the_tasks(tmp_path):
    results = judge(tmp_path / "out", WINNER, "tests.worlds:Thinker", "random", episodes_per_task=3)
    pairs = {(row["first"], row["second"]): row for row in results["differences"]}
    assert len(pairs) == 3
    rates = {label: measures["success_rate"][0] for label, measures in results["models"].items()}
    for (first, second), row in pairs.items():
        middle, low, high = row["success"]
        assert middle == pytest.approx(rates[second] - rates[first], abs=1e-3) and low <= middle <= high
        assert row["n_tasks"] == 6


def test_the_bootstrap_finds_the_normal_interval_of_many_values():
    values = list(np.random.default_rng(0).normal(2.0, 1.0, 400))
    middle, low, high = mean_interval(values, seed=1)
    half = 1.96 * np.std(values) / 20
    assert middle == pytest.approx(np.mean(values)) and (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert mean_interval(values, seed=1) == (middle, low, high)


def test_pairing_takes_out_what_is_hard_for_both(tmp_path):
    judge(tmp_path / "out", "tests.worlds:Winner", episodes_per_task=2)
    folder = tmp_path / "out" / "tests.worlds-Winner"
    episodes = [
        measured(record, line, count_words) for record, line in zip(records(folder), read_lines(folder), strict=True)
    ]
    (row,) = paired_differences({"a": episodes, "b": episodes}, seed=0)
    assert row["success"] == row["reward"] == [0, 0, 0]
    assert cot_match(episodes, {})["f1"] is None
    task = episodes[0].line.task_id
    match = cot_match([episodes[0]._replace(thoughts={1: "b a", 2: "c"})], {task: {1: "a b", 2: "C"}})
    assert match == {"f1": 1.0, "exact": 0.5, "n_tasks": 1, "n_steps": 2, "n_reference_steps": 2}
    half = [e._replace(line=msgspec.structs.replace(e.line, reward=0.5, success=False, n_turns=99)) for e in episodes]
    mixed = summary([*episodes, *half], seed=0)
    assert mixed["steps_per_success"] == summary(episodes, seed=0)["steps_per_success"] < 20


def test_a_loop_is_one_action_with_one_answer_three_times(tmp_path):
    judge(tmp_path / "out", "random", "tests.worlds:Shouter", env="tests.worlds:Echo", max_steps=3)
    assert all(loops(record) for record in records(tmp_path / "out" / "tests.worlds-Shouter"))
    judge(tmp_path / "two", "tests.worlds:Shouter", max_steps=2)
    assert not any(loops(record) for record in records(tmp_path / "two" / "tests.worlds-Shouter"))


def test_thoughts_after_an_action_are_no_loop():
    said = [Decision(None, "say"), *[Decision("hm", None)] * 4, Decision(None, "win")]
    world = Echo("prompt")
    episode = play(world, Script(said), "word-0", seed=0, max_steps=9)
    assert episode.success and not loops(trajectory_by(Script(), world, episode, 0, 0, 0))


def test_the_report_does_not_depend_on_which_episode_ends_first(tmp_path):
    def answer(handler, path, payload):
        if path == "/models":
            send(handler, {"data": [{"id": "m"}]})
            return
        task = int(payload["prompt"].split("word-")[1][0])
        late = payload["prompt"].count("> hum") >= 6 - task
        send(handler, {"choices": [{"text": " win" if late and task % 2 else " hum"}]})

    with serving(answer) as url:
        one, many = (
            judge(tmp_path / str(seats), "m", endpoint=url, options={"style": "prompt"}, seats=seats)
            for seats in (1, 6)
        )
    orders = [[line.task_id for line in read_lines(tmp_path / name / "m")] for name in ("1", "6")]
    assert orders[0] == sorted(orders[1]) != orders[1] and timeless(one) == timeless(many)


# ---- collecting with models


def test_a_model_collects_what_it_did_with_a_guide_or_alone(tmp_path):
    save_model(llama_config(len(make_tokenizer())), tmp_path / "tiny")
    options = {"env": WORLD, "agent": str(tmp_path / "tiny"), "keep": "all", "max_new_tokens": 8, "max_steps": 6}
    options |= {"options": {"style": "prompt"}, "device": "cpu"}
    alone = collect(CollectConfig(out=str(tmp_path / "a"), **options), silent)
    guided = collect(CollectConfig(out=str(tmp_path / "b"), guide=WINNER, guide_share=0.5, **options), silent)
    assert alone["n_kept"] == guided["n_kept"] == 6 and "50% of turns by winner" in guided["agent"]
    for record in records(tmp_path / "b"):
        turns_by = json.loads(bytes(record.extra["turns_by"]))
        assert len(turns_by) == json.loads(bytes(record.extra["n_turns"])) and set(turns_by) <= {"guide", "player"}
    summary = segment_logs(SegmentConfig(logs=[str(tmp_path / "b")], out=str(tmp_path / "spans")), silent)
    assert summary["n_trajectories"] == 6


@pytest.mark.parametrize("role", ["agent", "guide"])
def test_a_log_tells_which_weights_played_and_not_where_they_lay(tmp_path, role):
    options = {"env": WORLD, "keep": "all", "options": {"style": "prompt"}, "device": "cpu"}
    options |= {"max_new_tokens": 8, "max_steps": 3, "seats": 2}
    folders = []
    for place in ("here", "there/deeper"):
        path = save_model(llama_config(len(make_tokenizer())), tmp_path / place / "tiny")
        names = {"agent": str(path)} if role == "agent" else {"agent": str(tmp_path / "here/tiny"), "guide": str(path)}
        folders.append(tmp_path / place / "played")
        collect(CollectConfig(out=str(folders[-1]), **names, **options), silent)
    for name in (TRAJECTORIES, EPISODES, "manifest.json"):
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other and b"deeper" not in one
    save_model(llama_config(len(make_tokenizer())), path, seed=1)
    with pytest.raises(ManifestError, match=f"player/{role} has changed"):
        collect(CollectConfig(out=str(folders[-1]), **names, **options), silent)


# ---- the command


def test_the_command_prints_the_contracts_keys(tmp_path, capsys):
    arguments = ["evaluate", WINNER, "random", "--env", WORLD, "--split", "train", "--out", str(tmp_path / "out")]
    assert cli.run([*arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    for measures in results["models"].values():
        for key in ("env", "n_episodes", "success_rate", "reward", "reason_tokens_per_step", "cot_match"):
            assert key in measures
        assert {"steps_per_success", "seconds_per_step"} <= measures.keys() and len(measures["success_rate"]) == 3
    assert cli.run(arguments) == 0
    assert "finished already" in (shown := capsys.readouterr().out) and "second minus first" in shown
    tables = inspect_artefact(tmp_path / "out")
    assert any(row["model"] == "random" for table in tables for row in table.rows if "model" in row)


def test_an_unknown_model_is_one_line_and_a_hint(tmp_path, capsys):
    assert cli.run(["evaluate", str(tmp_path), "--env", "alfworld", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "Error: " in error and "no model in it" in error and "Hint: " in error
