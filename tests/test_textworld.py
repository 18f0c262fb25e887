import gzip
import importlib.util
import json
import sys
from functools import cache

import pytest

from sadstream.environments.chosen import load_agent, load_environment
from sadstream.environments.textworld_engine import TextWorld, clean_text, read_games
from sadstream.episodes import play
from sadstream.errors import ConfigError, TaskError
from tests.environment_laws import check_laws

HERE = importlib.util.find_spec("textworld") is not None
with_engine = pytest.mark.skipif(not HERE, reason="textworld is not installed: pip install 'sadstream[textworld]'")
ROW = {"game": "simple-1", "objective": "win", "walkthrough": ["look"], "max_score": 1, "world": {}}


@pytest.fixture(scope="module")
def games(shared_data):
    return shared_data / "env" / "textworld" / "textworld_games.jsonl.gz"


@cache
def loaded(path):
    return load_environment("textworld", {"data": str(path)})


@with_engine
@pytest.mark.parametrize("generator", ["coin_collector", "treasure_hunter", "simple", "cooking", "custom"])
def test_a_walkthrough_wins_with_every_command_taken_and_again_the_same(games, generator):
    world, agent = loaded(games), load_agent("expert", "textworld", {})
    task = world.task_ids(generator)[0]
    assert task in world.task_ids("all") and world.task_type(task) == generator
    episode = play(world, agent, task, seed=0, max_steps=50)
    assert episode.success and all(turn.valid for turn in episode.turns)
    assert play(world, agent, task, seed=0, max_steps=50) == episode
    for text in (episode.opening, *(turn.observation or "" for turn in episode.turns)):
        assert text and "$$" not in text and "\n>" not in text and "RESTART" not in text
    assert " ".join(world.game(task).objective.split()) in " ".join(episode.opening.split())


@with_engine
def test_it_keeps_the_laws(games):
    check_laws(lambda: TextWorld(games), "all", [24, 5, 11, 2])
    check_laws(lambda: TextWorld(games), "treasure_hunter", [0, 1, 3])


@with_engine
def test_what_is_not_admissible_is_answered_and_never_reaches_the_engine(games):
    world = loaded(games)
    task = world.task_ids("cooking")[0]
    world.reset(task)
    ways = world.admissible()
    for action in ("dance wildly", "quit", "undo", "restart", "n", "look\nquit"):
        assert world.step(action) == ("Nothing happens.", 0.0, False, False)
    assert world.admissible() == ways
    rewards = [world.step(command).reward for command in world.game(task).walkthrough]
    assert rewards == sorted(rewards) and rewards[-1] == 1.0 and 0 < rewards[-2] < 1
    assert world.step("look") == ("Nothing happens.", 1.0, True, False)


def test_without_the_package_its_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(TaskError) as raised:
        load_environment("textworld", {"data": "games.jsonl"})
    assert raised.value.hint == "pip install 'sadstream[textworld]'"


def test_without_data_the_option_is_named():
    with pytest.raises(ConfigError) as raised:
        load_environment("textworld", {})
    assert "--data PATH" in raised.value.hint


@pytest.mark.parametrize(
    "second", ["{", "{}", json.dumps(ROW), json.dumps({**ROW, "game": "b", "max_score": 0}), "\udcff"]
)
def test_a_damaged_line_is_named(tmp_path, second):
    path = tmp_path / "games.jsonl"
    path.write_bytes(f"{json.dumps(ROW)}\n{second}\n".encode(errors="surrogateescape"))
    with pytest.raises(TaskError, match=r"games\.jsonl, line 2: "):
        read_games(path)


def test_a_missing_empty_or_cut_file_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"none\.jsonl: no such file"):
        read_games(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(TaskError, match=r"empty\.jsonl, line 1"):
        read_games(tmp_path / "empty.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode() * 9)[:-12])
    with pytest.raises(TaskError, match=r"cut\.jsonl\.gz, after line 0"):
        read_games(tmp_path / "cut.jsonl.gz")


def test_text_is_cut_from_its_last_prompt_and_loses_the_banner():
    banner = "\n\n   ____  ____\n  |    \\|  $$ >$$\n   \\$$$$ \\$$\n\n"
    told = "Find the coin.\n\n-= Study =-\nA > sign."
    assert clean_text(f"{banner}{told}\n\n\n\n>      -= Study =-0/2") == told
    assert clean_text("no prompt") == "no prompt"
