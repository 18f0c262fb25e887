"""What a world of tasks and a player of it are, for whoever writes one."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

# How an episode is written down; each is a text dialect that `sadstream segment` reads (docs/formats.md).
#   labels     Thought: ... / Action: ... / Observation: ...
#   numbered   Thought 1: ... / Action 1: ... / Observation 1: ...
#   prompt     > think: ... / > ... / what follows (ALFWorld)
#   webshop    Action: think[...] / Action: ... / Observation: ...
Style = Literal["labels", "numbered", "prompt", "webshop"]


class Reply(NamedTuple):
    """What an environment answers to an action.

    Attributes:
        observation: what the agent reads, without label.
        reward: of the episode so far, in [0, 1].
        done: whether the episode has ended; it stays so, and no further action changes anything.
        valid: whether the action was one that the environment takes; an invalid one changes nothing.
    """

    observation: str
    reward: float
    done: bool
    valid: bool


class Decision(NamedTuple):
    """What an agent says in one turn: a thought, an action, or both.

    Attributes:
        thought: without label; None where it acts without a word.
        action: as the environment takes it; None where it only thinks, which changes nothing outside it.
    """

    thought: str | None
    action: str | None


class Environment(Protocol):
    """A world of text tasks, one episode at a time.

    Episodes side by side are played by shallow copies (`copy.copy`) of one environment, so what an episode changes
    stands in attributes that `reset` makes anew. Everything can be pickled. The same task, seed and actions give the
    same text, wherever and whenever; there is no clock, no network, no torch.

    Attributes:
        name: as reports print it, with whatever option changes what a result means.
        style: how an episode is written down.
        max_steps: turns that an episode takes unless the user says otherwise.
        thoughts_count: whether a turn that only thinks uses one of them up.
        examples: few-shot examples to stand before an episode, by task type ("" for all others); may be empty.
    """

    name: str
    style: Style
    max_steps: int
    thoughts_count: bool
    examples: dict[str, str]

    def task_ids(self, split: str) -> Sequence[str]:
        """Ids of a split's tasks, in a fixed order.

        Raises:
            TaskError: no such split; names those there are.
        """
        ...

    def task_type(self, task_id: str) -> str:
        """What kind of task it is, to report by; "" where there are no kinds."""
        ...

    def reset(self, task_id: str) -> str:
        """Begin a task: what the agent reads first, its task included.

        Raises:
            TaskError: no such task.
        """
        ...

    def step(self, action: str) -> Reply:
        """Take an action; any text at all is answered."""
        ...

    def admissible(self) -> list[str] | None:
        """The actions that are valid now, in a fixed order; None where they cannot be listed."""
        ...


class Agent(Protocol):
    """A player of one episode at a time; shallow copies play side by side.

    Attributes:
        name: as reports print it. privileged: whether it knows what no observation tells, such as the answer.
    """

    name: str
    privileged: bool

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        """Begin an episode: `environment` was just reset to the task and gave `observation`.

        It is there for its `admissible` and, for a privileged agent, for its data; `step` is the runner's.
        """
        ...

    def decide(self, observation: str) -> Decision:
        """What to say now; `observation` answered the last action (the first is `begin`'s)."""
        ...
