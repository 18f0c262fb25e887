"""Playing episodes: an agent and an environment take turns, one episode alone or many side by side.

Pure: no file, no clock; the same environment, agent, task and seed give the same episode, alone or beside others.
"""

import contextlib
import copy
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sadstream.environments.protocol import Agent, Decision, Environment, Reply, Style
from sadstream.errors import SadstreamError, TaskError

Ending = Literal["finished", "halted"]

# Public logs answer a thought so in these styles: there it is a turn of its own, also where an action comes with it.
THOUGHT_REPLY: dict[Style, str] = {"prompt": "OK.", "webshop": "OK."}

# An action that these styles, as those who wrote such logs, take for a thought.
_PSEUDO_ACTION: dict[Style, re.Pattern[str]] = {
    "prompt": re.compile(r"(?:[Tt]hink|ActionPath): *(.*)"),
    "webshop": re.compile(r"think\[ *(.*?)\]?"),
    "labels": re.compile(r"think\[ *(.*?)\]?"),
}
_NO_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Turn(NamedTuple):
    """What the agent said once, and what came of it.

    Attributes:
        thought: one line; None where there is none.
        action: one line, as the environment was given it; None where the agent only thought.
        observation: what answered the action, or the thought where the style has such answers; None if nothing did.
        valid: whether the environment took the action; True where there is none.
    """

    thought: str | None
    action: str | None
    observation: str | None
    valid: bool


class Episode(NamedTuple):
    """One play of a task.

    Attributes:
        style: of the environment.
        opening: what the agent read first.
        reward: in [0, 1]; of an episode that was cut off, what it had come to.
        ending: `finished` by the environment, or `halted` by the limit of steps.
        metrics: further measures, where the environment has a method `metrics` that gives them.
        costs: what it took, where the agent has a method `costs` that says so.
        notes: what else is to be known of it, where the agent has a method `notes(n_turns)` that says so; JSON
            values.
    """

    task_id: str
    task_type: str
    seed: int
    style: Style
    opening: str
    turns: tuple[Turn, ...]
    reward: float
    ending: Ending
    metrics: dict[str, float]
    costs: dict[str, float] = {}  # noqa: RUF012
    notes: dict[str, Any] = {}  # noqa: RUF012

    @property
    def success(self) -> bool:
        """Whether it ended with the full reward."""
        return self.ending == "finished" and self.reward >= 1.0


class Task(NamedTuple):
    """A task to play, and the seed to play it with."""

    task_id: str
    seed: int


def one_line(text: str) -> str:
    """What an agent said, as the one line that every style has room for.

    Control characters, line breaks of all kinds and lone surrogates become one blank a run; outer blanks go.

    >>> one_line(" go to\\n\\tdesk 1\\x00")
    'go to desk 1'
    """
    return _NO_LINE.sub(" ", text).strip(" ")


class Play:
    """An episode under way.

    Turns are limited: at most `max_steps` that use one up, and where thoughts don't, at most as many again that only
    think. So an agent that never acts ends too.

    Attributes:
        observation: what answered the last action; at first the opening.
        turns: what was said so far.
        over: whether no further decision is taken.
    """

    def __init__(self, environment: Environment, agent: Agent, task: Task, *, max_steps: int) -> None:
        """Reset an environment to a task and let an agent begin; shallow copies of both, so others go on untouched.

        Raises:
            TaskError: no such task, or the user's own code failed.
        """
        self._environment = copy.copy(environment)
        self._agent = copy.copy(agent)
        self._task = task
        self._max_steps = max_steps
        self._counted = self._uncounted = 0
        self._reward = 0.0
        self._done = False
        self.turns: list[Turn] = []
        with self._naming_the_place(self._environment):
            self.observation = self._opening = _readable(self._environment.reset(task.task_id))
        with self._naming_the_place(self._agent):
            self._agent.begin(self._environment, task.task_id, self._opening, seed=task.seed)

    @property
    def agent(self) -> Agent:
        """The copy of the agent that plays it."""
        return self._agent

    @property
    def over(self) -> bool:
        """Whether the environment ended it, or a limit did."""
        return self._done or self._counted >= self._max_steps or self._uncounted >= self._max_steps

    def decide(self) -> Decision:
        """What its agent says now.

        Raises:
            SadstreamError: as the agent raised it, with task and turn before.
        """
        with self._naming_the_place(self._agent):
            return self._agent.decide(self.observation)

    def take(self, decision: Decision) -> None:
        """Go on by one decision: nothing of it is lost but what comes after the last turn.

        A decision that holds neither thought nor action is an empty action.

        Raises:
            TaskError: no decision, or the environment failed, or answered what is no reply.
        """
        style = self._environment.style
        with self._naming_the_place(self._agent):
            thought, action = said(style, decision)
        if thought is not None and style in THOUGHT_REPLY:
            self._think(thought, THOUGHT_REPLY[style])
            thought = None
            if action is None or self.over:
                return
        if action is None:
            self._think(thought or "", None)
            return
        with self._naming_the_place(self._environment):
            reply = _checked(self._environment.step(action))
        self.turns.append(Turn(thought, action, reply.observation, reply.valid))
        self._counted += 1
        self.observation, self._reward, self._done = reply.observation, reply.reward, reply.done

    def _think(self, thought: str, answer: str | None) -> None:
        self.turns.append(Turn(thought, None, answer, True))
        if self._environment.thoughts_count:
            self._counted += 1
        else:
            self._uncounted += 1

    def episode(self) -> Episode:
        """What was played."""
        with self._naming_the_place(self._environment):
            task_type = self._environment.task_type(self._task.task_id)
            measure = getattr(self._environment, "metrics", None)
            metrics = {name: float(value) for name, value in measure().items()} if measure is not None else {}
        with self._naming_the_place(self._agent):
            count, note = getattr(self._agent, "costs", None), getattr(self._agent, "notes", None)
            costs = {name: float(value) for name, value in count().items()} if count is not None else {}
            notes = dict(note(len(self.turns))) if note is not None else {}
        return Episode(
            task_id=self._task.task_id,
            task_type=task_type,
            seed=self._task.seed,
            style=self._environment.style,
            opening=self._opening,
            turns=tuple(self.turns),
            reward=self._reward,
            ending="finished" if self._done else "halted",
            metrics=metrics,
            costs=costs,
            notes=notes,
        )

    @contextlib.contextmanager
    def _naming_the_place(self, who: Any) -> Iterator[None]:
        place = f"task {self._task.task_id}, turn {len(self.turns) + 1}"
        try:
            yield
        except SadstreamError as error:
            raise type(error)(f"{place}: {error}", hint=error.hint) from error
        except Exception as error:
            if type(who).__module__.startswith("sadstream."):
                raise  # a bug of ours keeps its traceback
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise TaskError(
                f"{place}: {type(who).__name__}: {type(error).__name__}: {error}",
                hint=f"raised at {Path(frame.filename).name}:{frame.lineno}",
            ) from error


def play(environment: Environment, agent: Agent, task_id: str, *, seed: int, max_steps: int) -> Episode:
    """Play one task to its end.

    Args:
        environment, agent: stay as they are; copies play.
        seed: the agent's chance.
        max_steps: turns at most; see `Play`.
    Raises:
        SadstreamError: no such task, or agent or environment failed; names task and turn.
    """
    under_way = Play(environment, agent, Task(task_id, seed), max_steps=max_steps)
    while not under_way.over:
        under_way.take(under_way.decide())
    return under_way.episode()


Together = Callable[[Sequence[Agent], Sequence[str]], Sequence[Decision]]


def play_side_by_side(
    environment: Environment, agent: Agent, tasks: Iterable[Task], *, max_steps: int, n_seats: int
) -> Iterator[tuple[int, Episode]]:
    """Play many tasks in lock-step, `n_seats` at a time; each is the episode that `play` gives.

    A seat that falls free is taken by the next task before the next round. An agent whose class has a static method
    `decide_together(players, observations) -> decisions` is asked once a round for all of them: a model's batch.

    Yields:
        Place of the task in `tasks`, and its episode, as they end.
    Raises:
        SadstreamError: as `play`.
    """
    together: Together | None = getattr(agent, "decide_together", None)
    waiting = enumerate(tasks)
    seats: list[tuple[int, Play]] = []
    while True:
        while len(seats) < n_seats and (following := next(waiting, None)) is not None:
            seats.append((following[0], Play(environment, agent, following[1], max_steps=max_steps)))
        if not seats:
            return
        decisions: Sequence[Decision]
        if together is not None:
            decisions = together([p.agent for _, p in seats], [p.observation for _, p in seats])
        else:
            decisions = [p.decide() for _, p in seats]
        for (_, under_way), decision in zip(seats, decisions, strict=True):
            under_way.take(decision)
        for number, under_way in seats:
            if under_way.over:
                yield number, under_way.episode()
        seats = [(number, under_way) for number, under_way in seats if not under_way.over]


def said(style: Style, decision: Decision) -> tuple[str | None, str | None]:
    """Thought and action as lines; an action that the style takes for a thought is one.

    Raises:
        TaskError: no decision.
    """
    if not (isinstance(decision, tuple) and len(decision) == 2 and all(isinstance(p, str | None) for p in decision)):
        raise TaskError(
            f"decide gave {decision!r:.80}, not a decision", hint="Decision(thought, action), texts or None"
        )
    thought, action = (None if part is None else one_line(part) for part in decision)
    if thought is None and action is None:
        return None, ""
    pseudo = _PSEUDO_ACTION.get(style)
    if action is not None and pseudo is not None and (found := pseudo.fullmatch(action)):
        return " ".join(part for part in (thought, found[1]) if part), None
    return thought, action


def _readable(observation: Any) -> str:
    """An observation as text that can be written.

    Raises:
        TaskError: no text.
    """
    if not isinstance(observation, str):
        raise TaskError(f"an observation is {type(observation).__name__}, not text", hint="give a str")
    return _SURROGATE.sub("\ufffd", observation)


def _checked(reply: Any) -> Reply:
    """A reply as the protocol has it.

    Raises:
        TaskError: it is none, or its reward is no number in [0, 1].
    """
    try:
        observation, reward, done, valid = reply
        reward = float(reward)
    except (TypeError, ValueError) as error:
        raise TaskError(
            f"step gave {type(reply).__name__}, not a reply", hint="Reply(observation, reward, done, valid)"
        ) from error
    if not (math.isfinite(reward) and 0 <= reward <= 1):
        raise TaskError(f"a reward of {reward}", hint="rewards are in [0, 1]")
    return Reply(_readable(observation), reward, bool(done), bool(valid))
