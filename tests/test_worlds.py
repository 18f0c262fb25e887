"""The worlds that come with sadstream, all put to the same laws and played by the same players."""

from functools import cache, partial
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadstream.environments.chosen import load_agent, load_environment
from sadstream.episodes import Episode, play
from sadstream.segment import segment
from sadstream.transcripts import parts_of, spans_of, text_of
from tests.environment_laws import check_laws

SPLITS = {"alfworld": "valid_unseen", "hotpotqa": "dev", "webshop": "test"}


@cache
def world(name: str) -> Any:
    return load_environment(name, {})


def any_action(environment: Any, choice: int) -> str:
    """A valid action, drawn by a number."""
    listed = environment.admissible()
    return Random(choice).choice(listed) if listed else environment.random_action(Random(choice))


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=6)
@given(choices=st.lists(st.integers(0, 10_000), min_size=4, max_size=12))
def test_every_world_keeps_the_laws(name, choices):
    check_laws(partial(load_environment, name, {}), SPLITS[name], choices, actions=any_action)


@pytest.mark.parametrize("name", SPLITS)
def test_a_random_player_says_only_what_is_valid(name):
    agent = load_agent("random", name, {})
    for number, task_id in enumerate(world(name).task_ids(SPLITS[name])[:8]):
        episode = play(world(name), agent, task_id, seed=number, max_steps=12)
        assert episode.turns and all(turn.valid for turn in episode.turns)
        assert play(world(name), agent, task_id, seed=number, max_steps=12) == episode


@pytest.mark.parametrize("name", SPLITS)
def test_an_expert_beats_a_random_player_and_its_text_is_cut_as_it_was_written(name):
    environment = world(name)
    tasks = environment.task_ids(SPLITS[name])[:10]

    def played(agent: str) -> list[Episode]:
        player = load_agent(agent, name, {})
        return [play(environment, player, t, seed=0, max_steps=environment.max_steps) for t in tasks]

    by_expert = played("expert")
    assert sum(e.success for e in by_expert) > sum(e.success for e in played("random"))
    written = [(text_of(parts_of(e)), [s.kind for s in spans_of(parts_of(e))]) for e in by_expert]
    cut = segment(pl.LazyFrame({"text": [text for text, _ in written]})).collect()["spans"]
    assert [[span["kind"] for span in spans] for spans in cut.to_list()] == [kinds for _, kinds in written]
