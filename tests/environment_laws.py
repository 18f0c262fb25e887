"""What every environment must hold to, to be put to any of them: `check_laws(make, split, choices)`."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest

from sadstream.environments import Reply, Style
from sadstream.errors import TaskError

# No environment takes these; each must be answered.
NONSENSE = ("", " ", "no such thing 7", "x" * 10_000, "\x00\x1b[31m\r\n\t", "go\nto\n\ndesk", "\U0010ffff", "[[[", "]")


def check_laws(
    make: Callable[[], Any],
    split: str,
    choices: Sequence[int],
    *,
    actions: Callable[[Any, int], str] | None = None,
    nonsense: Sequence[str] = NONSENSE,
) -> None:
    """One episode of an environment under all laws.

    Args:
        make: gives the environment anew.
        choices: any numbers; the first picks the task, the others an action each.
        actions: for an environment whose actions cannot be listed: an action for a number.
        nonsense: texts that are never a valid action.
    """
    environment = make()
    check_description(environment)
    task_ids = check_tasks(environment, make(), split)
    task_id = task_ids[choices[0] % len(task_ids)]
    opening = environment.reset(task_id)
    assert isinstance(opening, str) and opening.strip()
    assert isinstance(environment.task_type(task_id), str)
    # Of what was played before, in this or another process, nothing is left.
    fresh = make()
    assert fresh.reset(task_id) == opening
    assert pickle.loads(pickle.dumps(environment)).reset(task_id) == opening

    played: list[tuple[str, Reply]] = []
    for choice in choices[1:]:
        action = _action(environment, choice, actions)
        if action is None:
            break
        _check_that_nonsense_changes_nothing(environment, fresh, nonsense[choice % len(nonsense)])
        bystander = copy.copy(environment)
        stored = pickle.dumps(environment)
        reply = environment.step(action)
        _check_reply(reply)
        if actions is None:
            assert reply.valid, f"{action!r} is admissible, and was not taken"
        # Neither a shallow copy nor a pickle felt that step; both go the same way.
        assert _action(bystander, choice, actions) == action
        assert bystander.step(action) == reply
        assert pickle.loads(stored).step(action) == reply
        assert fresh.step(action) == reply
        played.append((action, reply))
        if reply.done:
            _check_that_done_is_final(environment, reply, [action, *nonsense])
            break

    # From the start again, on an environment that was left somewhere: the same text.
    assert environment.reset(task_id) == opening
    for action, reply in played:
        assert environment.step(action) == reply


def check_description(environment: Any) -> None:
    """Attributes are what the protocol says."""
    assert isinstance(environment.name, str) and environment.name
    assert environment.style in get_args(Style)
    assert isinstance(environment.max_steps, int) and environment.max_steps > 0
    assert isinstance(environment.thoughts_count, bool)
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in environment.examples.items())


def check_tasks(environment: Any, other: Any, split: str) -> list[str]:
    """A split's ids are unique and in a fixed order; no other split or task is known. Returns the ids."""
    task_ids = list(environment.task_ids(split))
    assert task_ids and len(set(task_ids)) == len(task_ids)
    assert list(environment.task_ids(split)) == task_ids == list(other.task_ids(split))
    with pytest.raises(TaskError) as refused:
        environment.task_ids("no-such-split")
    assert split in f"{refused.value} {refused.value.hint}"
    with pytest.raises(TaskError, match="no-such-task"):
        environment.reset("no-such-task")
    return task_ids


def _action(environment: Any, choice: int, actions: Callable[[Any, int], str] | None) -> str | None:
    listed = environment.admissible()
    if listed is None:
        assert actions is not None, "this environment lists no actions: give `actions`"
        return actions(environment, choice)
    assert list(environment.admissible()) == list(listed)
    assert len(set(listed)) == len(listed)
    return listed[choice % len(listed)] if listed else None


def _check_reply(reply: Any) -> None:
    assert isinstance(reply, Reply)
    assert isinstance(reply.observation, str)
    assert 0 <= reply.reward <= 1
    assert isinstance(reply.done, bool) and isinstance(reply.valid, bool)


def _check_that_nonsense_changes_nothing(environment: Any, undisturbed: Any, text: str) -> None:
    reply = environment.step(text)
    _check_reply(reply)
    assert not reply.valid, f"{text[:40]!r} was taken"
    assert not reply.done
    assert environment.admissible() == undisturbed.admissible()


def _check_that_done_is_final(environment: Any, last: Reply, texts: Sequence[str]) -> None:
    for text in texts:
        reply = environment.step(text)
        _check_reply(reply)
        assert reply.done and not reply.valid
        assert reply.reward == last.reward
    assert not environment.admissible()
