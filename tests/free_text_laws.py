"""What holds of every environment that takes free text, whatever actions an agent takes."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from sadstream.environments import Decision, Reply

# Noise of any kind, control characters and very long actions among it.
noise = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="\x00\x07\x1b\r\n\t[]", max_size=12),
    st.sampled_from(("x" * 10_000, f"search[{'x' * 9_992}]", "Search[\x00]", "click[\n]", "", "[", "think[hm]")),
)


def play(environment: Any, task_id: str, actions: Sequence[str]) -> list[Any]:
    """The first observation and every reply."""
    return [environment.reset(task_id), *(environment.step(action) for action in actions)]


def check_laws(environment: Any, task_id: str, actions: Sequence[str]) -> None:
    """Replays and copies say the same; rewards are in [0, 1]; done is final."""
    first = play(environment, task_id, actions)
    assert play(environment, task_id, actions) == first, "replay"
    ended: Reply | None = None
    for reply in first[1:]:
        assert isinstance(reply, Reply)
        assert isinstance(reply.observation, str)
        assert 0 <= reply.reward <= 1
        if ended is not None:
            assert (reply.reward, reply.done, reply.valid) == (ended.reward, True, False), "done is final"
        ended = reply if reply.done and ended is None else ended
    environment.reset(task_id)
    for at, action in enumerate(actions):
        twin = copy.copy(environment)
        assert environment.step(action) == first[at + 1], "a shallow copy changes nothing"
        assert [twin.step(later) for later in actions[at:]] == first[at + 1 :], "a copy plays on by itself"


def check_pickle(environment: Any, task_id: str, actions: Sequence[str]) -> None:
    """A pickle taken in the middle of an episode plays on as the environment itself does."""
    middle = len(actions) // 2
    play(environment, task_id, actions[:middle])
    stored = pickle.dumps(environment)
    rest = [environment.step(action) for action in actions[middle:]]
    loaded = pickle.loads(stored)
    assert [loaded.step(action) for action in actions[middle:]] == rest
    assert loaded.reset(task_id) == environment.reset(task_id)
    assert loaded.name == environment.name


def check_invalid_changes_nothing(environment: Any, task_id: str, before: Sequence[str], after: Sequence[str]) -> None:
    """What was invalid might as well not have been said."""
    replies = play(environment, task_id, before)
    valid = [action for action, reply in zip(before, replies[1:], strict=True) if reply.valid]
    admissible = environment.admissible()
    later = [environment.step(action) for action in after]
    play(environment, task_id, valid)
    assert environment.admissible() == admissible
    assert [environment.step(action) for action in after] == later


def run(environment: Any, agent: Any, task_id: str, *, seed: int = 0) -> tuple[Reply | None, list[Decision], list[str]]:
    """An episode within the environment's turns: the last reply, what was said, what was read."""
    observation = environment.reset(task_id)
    agent.begin(environment, task_id, observation, seed=seed)
    reply, decisions, observations = None, [], [observation]
    for _ in range(environment.max_steps):
        decisions.append(agent.decide(observation))
        action = decisions[-1].action
        if action is None:
            observation = "OK."
        else:
            reply = environment.step(action)
            observation = reply.observation
        observations.append(observation)
        if reply is not None and reply.done:
            break
    return reply, decisions, observations
