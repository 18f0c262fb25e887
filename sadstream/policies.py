"""Models as players: a model reads the episode as its transcript has it, and what it writes becomes a decision.

Imports no torch. What writes is a `Writer`: `sadstream.local_writer` (a checkpoint here) or `sadstream.served_writer`.
"""

import copy
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from sadstream.environments.protocol import Agent, Decision, Environment, Style
from sadstream.episodes import THOUGHT_REPLY, Turn, said
from sadstream.errors import ConfigError
from sadstream.transcripts import opening, text_of, written

PromptStyle = Literal["zero-shot", "few-shot"]

# The label that is given where only one can follow; elsewhere the model chooses between thought and action itself.
LEADS: dict[Style, str] = {"prompt": ">", "webshop": "Action:", "labels": "", "numbered": ""}
_OBSERVATION = re.compile(r"^Observation(?: \d+)?:", re.MULTILINE)
_THOUGHT = re.compile(r"^[ \t]*Thought(?: \d+)?:", re.MULTILINE)
_ACTION = re.compile(r"^[ \t]*Action(?: \d+)?:", re.MULTILINE)
_seats = itertools.count()


class Prompt(NamedTuple):
    """What a model reads before it says something.

    Attributes:
        seat: which episode asks; a writer keeps by it what it has computed.
        style: of the transcript.
        head: few-shot examples, if any, and the opening. turns: what was said and answered since, a text a turn.
        lead: the label that stands before the answer.
        n_dropped: turns, from the oldest, that had to be left out before.
        seed: two numbers, of the episode and of the turn; for sampling.
        choices: actions of which one is to be written; None for free words.
    """

    seat: int
    style: Style
    head: str
    turns: tuple[str, ...]
    lead: str
    n_dropped: int
    seed: tuple[int, int]
    choices: tuple[str, ...] | None = None

    def text(self, n_dropped: int) -> str:
        """All of it, without the oldest `n_dropped` turns."""
        return self.head + "".join(self.turns[n_dropped:]) + self.lead


class Answer(NamedTuple):
    """What a model wrote.

    Attributes:
        text: up to where a decision ends, without lead.
        n_read: tokens that it computed to read the prompt. n_written: tokens that it wrote.
        n_dropped: turns, from the oldest, that were left out of the prompt.
        cut_off: whether it was stopped by the limit of tokens and not by its own words.
        failed: whether the server gave no answer that can be read, so that `text` is empty.
    """

    text: str
    n_read: int
    n_written: int
    n_dropped: int
    cut_off: bool
    failed: bool = False


class Writer(Protocol):
    """A model that writes.

    Attributes:
        name: as reports print it, without a path. facts: what a report must say of it.
        can_choose: whether it can say which of given actions is likeliest.
    """

    name: str
    facts: dict[str, Any]
    can_choose: bool

    def write(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """An answer to each prompt; which others are asked beside it changes none."""
        ...

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text by the model's tokenizer; None where that is not known."""
        ...


def decision_stop(style: Style, text: str) -> int | None:
    r"""Where the first decision in what a model writes ends: the line break after it, or the next label.

    Args:
        text: what was written after the lead.
    Returns:
        None while it may go on.

    >>> decision_stop("prompt", " go to desk 1\nYou arrive"), decision_stop("numbered", "Thought 1: I look.\n")
    (13, None)
    """
    if style in ("prompt", "webshop"):
        stop = text.find("\n")
        return stop if stop >= 0 else None
    stops = [found.start() for found in (_OBSERVATION.search(text),) if found]
    if action := _ACTION.search(text):
        line = re.search(r"\S[^\n]*\n", text[action.end() :])
        if line:
            stops.append(action.end() + line.end() - 1)
    return min(stops, default=None)


def stop_strings(style: Style) -> list[str]:
    """Texts at which a server may stop: none stands inside a decision."""
    return ["\n"] if style in ("prompt", "webshop") else ["\nObservation"]


def read_decision(style: Style, text: str) -> Decision:
    """What a model's words say; words without any label are an action, so that the environment answers them.

    >>> read_decision("labels", "Thought: I look.\\nAction: look")
    Decision(thought='I look.', action='look')
    """
    if style in ("prompt", "webshop"):
        return Decision(None, text.strip())
    thought, action = _THOUGHT.search(text), _ACTION.search(text)
    if thought is None and action is None:
        return Decision(None, text.strip().split("\n")[0])
    if action is None:
        return Decision(text[thought.end() :].strip() if thought else None, None)
    starts = thought.end() if thought is not None and thought.start() < action.start() else 0
    before = text[starts : action.start()].strip()
    return Decision(before or None, text[action.end() :].strip().split("\n")[0])


class Transcript:
    """An episode so far, a text a turn, as `transcripts` writes it when it has ended.

    Attributes:
        style: of the environment. head: examples and opening. turns: a text each, but for an action not answered yet.
        waiting: the turn whose action is not answered yet.
    """

    def __init__(self, environment: Environment, task_id: str, observation: str, prompt: PromptStyle) -> None:
        self.style: Style = environment.style
        examples = ""
        if prompt == "few-shot":
            known = environment.examples
            examples = known.get(environment.task_type(task_id), known.get("", ""))
        self.head = examples + text_of([opening(self.style, observation)])
        self.turns: list[str] = []
        self.n_turns = 0
        self.waiting: Turn | None = None

    def hear(self, observation: str) -> None:
        """Note what answered the last action; what answers nothing new is passed over."""
        if self.waiting is not None:
            self._add(self.waiting._replace(observation=observation))
            self.waiting = None

    def say(self, decision: Decision) -> int:
        """Note a decision, whoever took it. Returns how many turns it makes."""
        before = self.n_turns
        thought, action = said(self.style, decision)
        if thought is not None and self.style in THOUGHT_REPLY:
            self._add(Turn(thought, None, THOUGHT_REPLY[self.style], True))
            thought = None
            if action is None:
                return 1
        if action is None:
            self._add(Turn(thought or "", None, None, True))
            return 1
        self.waiting = Turn(thought, action, None, True)
        return self.n_turns + 1 - before

    def _add(self, turn: Turn) -> None:
        self.n_turns += 1
        self.turns.append(text_of(list(written(self.style, turn, self.n_turns))))


class ModelAgent:
    """A model that plays; shallow copies of it play side by side and are asked together.

    Attributes:
        prompt: as below.
    Args:
        writer: the model. prompt: whether the environment's examples stand before each episode.
        constrain: whether actions are chosen among those that the environment lists, by their probability under the
            model; what it writes as a thought stays free.
    """

    privileged = False

    def __init__(self, writer: Writer, *, prompt: PromptStyle, constrain: bool = False) -> None:
        if constrain and not writer.can_choose:
            raise ConfigError(
                "--constrain: a server cannot say how likely given actions are", hint="use a checkpoint on this machine"
            )
        self._writer = writer
        self.prompt = prompt
        self._constrain = constrain
        self.name = f"{writer.name} ({prompt}{', constrained' if constrain else ''})"

    @property
    def writer(self) -> Writer:
        """The model that writes."""
        return self._writer

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        """Begin an episode.

        Raises:
            ConfigError: actions are to be chosen, and the environment lists none.
        """
        self._environment = environment
        if self._constrain and environment.admissible() is None:
            raise ConfigError(
                f"--constrain: {environment.name} does not list its actions", hint="leave it out, or take alfworld"
            )
        self._transcript = Transcript(environment, task_id, observation, self.prompt)
        self._seat = next(_seats)
        self._seed = seed
        self._n_dropped = 0
        self._counts = {"tokens_read": 0, "tokens_written": 0, "n_cut_off": 0, "n_failed": 0, "n_dropped": 0}

    def hear(self, observation: str) -> None:
        """Note an observation; also where another decides."""
        self._transcript.hear(observation)

    def note(self, decision: Decision) -> int:
        """Note a decision, also another's. Returns how many turns it makes."""
        return self._transcript.say(decision)

    def decide(self, observation: str) -> Decision:
        """What the model says now."""
        return self.decide_together([self], [observation])[0]

    @staticmethod
    def decide_together(players: Sequence["ModelAgent"], observations: Sequence[str]) -> list[Decision]:
        """What the model says in each of several episodes, asked at once."""
        for player, observation in zip(players, observations, strict=True):
            player.hear(observation)
        decisions = propose(players)
        for player, decision in zip(players, decisions, strict=True):
            player.note(decision)
        return decisions

    def ask(self) -> Prompt:
        """What the model reads now."""
        known = self._transcript
        return Prompt(
            seat=self._seat,
            style=known.style,
            head=known.head,
            turns=tuple(known.turns),
            lead=LEADS[known.style],
            n_dropped=self._n_dropped,
            seed=(self._seed, known.n_turns),
        )

    def choose(self, prompt: Prompt, free: Decision) -> Prompt | None:
        """What to ask again so that an action is one of those admissible; None where that changes nothing."""
        admissible = self._environment.admissible() if self._constrain else None
        thought, action = said(prompt.style, free)
        if not admissible or action is None:
            return None
        label = {"numbered": f"Action {self._transcript.n_turns + 1}:", "labels": "Action:"}.get(prompt.style, "")
        before = f"{_label(prompt.style, self._transcript.n_turns + 1)} {thought}\n" if thought and label else ""
        return prompt._replace(lead=f"{prompt.lead}{before}{label}", choices=tuple(f" {a}" for a in admissible))

    def read(self, answer: Answer) -> Decision:
        """The decision in an answer, whose costs are noted."""
        self._n_dropped = answer.n_dropped
        counts = self._counts
        counts["tokens_read"] += answer.n_read
        counts["tokens_written"] += answer.n_written
        counts["n_cut_off"] += answer.cut_off
        counts["n_failed"] += answer.failed
        counts["n_dropped"] = answer.n_dropped
        return read_decision(self._transcript.style, answer.text)

    def costs(self) -> dict[str, float]:
        """What the episode cost: tokens read and written, answers cut off or not given, turns left out."""
        return {name: float(value) for name, value in self._counts.items()}


def _label(style: Style, number: int) -> str:
    return f"Thought {number}:" if style == "numbered" else "Thought:"


def propose(players: Sequence[ModelAgent]) -> list[Decision]:
    """What a model would say in each of several episodes; noted nowhere but in their costs."""
    if not players:
        return []
    prompts = [player.ask() for player in players]
    writer = players[0].writer
    decisions = [player.read(a) for player, a in zip(players, writer.write(prompts), strict=True)]
    again = {
        number: chosen
        for number, (player, prompt, free) in enumerate(zip(players, prompts, decisions, strict=True))
        if (chosen := player.choose(prompt, free)) is not None
    }
    for number, answer in zip(again, writer.write(list(again.values())) if again else [], strict=True):
        thought = said(prompts[number].style, decisions[number])[0]
        players[number].read(answer)
        decisions[number] = Decision(thought, answer.text.strip())
    return decisions


class GuidedAgent:
    """A player some of whose turns are another's: each is the guide's with a given probability.

    Both see the whole episode. A guide that is no model cannot be told what another did: after a turn of the player's
    it begins anew, as if it stood where it stands for the first time.

    Args:
        player: a model. guide: a model or any agent. share: probability of a turn to be the guide's, in [0, 1].
    """

    def __init__(self, player: ModelAgent, guide: Agent, share: float) -> None:
        self._player = player
        self._guide = guide
        self._share = share
        self.name = f"{player.name}, {share:.0%} of turns by {guide.name}"
        self.privileged = guide.privileged

    @property
    def writer(self) -> Writer:
        """The player's model."""
        return self._player.writer

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        """Begin an episode, for both."""
        self._player, self._guide = copy.copy(self._player), copy.copy(self._guide)
        self._arguments = (environment, task_id, observation)
        self._seed = seed
        self._n_decided = 0
        self._guide_went_on = True
        self._turns_by: list[str] = []
        self._player.begin(environment, task_id, observation, seed=seed)
        self._guide.begin(environment, task_id, observation, seed=seed)

    def decide(self, observation: str) -> Decision:
        """What the one whose turn it is says."""
        return self.decide_together([self], [observation])[0]

    @staticmethod
    def decide_together(players: Sequence["GuidedAgent"], observations: Sequence[str]) -> list[Decision]:
        """What is said in each of several episodes; each model is asked once."""
        for each, observation in zip(players, observations, strict=True):
            each._player.hear(observation)
            if isinstance(each._guide, ModelAgent):
                each._guide.hear(observation)
        guided = [each._is_guides() for each in players]
        decisions: list[Decision | None] = [None] * len(players)
        own = [number for number, is_guides in enumerate(guided) if not is_guides]
        asked = [n for n, is_guides in enumerate(guided) if is_guides and isinstance(players[n]._guide, ModelAgent)]
        models = [players[n]._player for n in own], [g for n in asked if isinstance(g := players[n]._guide, ModelAgent)]
        for numbers, who in zip((own, asked), models, strict=True):
            for number, decision in zip(numbers, propose(who), strict=True):
                decisions[number] = decision
        return [
            each._note(decision if decision is not None else each._ask_guide(observation), is_guides)
            for each, decision, observation, is_guides in zip(players, decisions, observations, guided, strict=True)
        ]

    def _is_guides(self) -> bool:
        return bool(np.random.default_rng([self._seed, self._n_decided]).random() < self._share)

    def _ask_guide(self, observation: str) -> Decision:
        if not self._guide_went_on:
            environment, task_id, first = self._arguments
            self._guide.begin(environment, task_id, first, seed=self._seed)
        return self._guide.decide(observation)

    def _note(self, decision: Decision, is_guides: bool) -> Decision:
        self._n_decided += 1
        self._guide_went_on = is_guides
        n_turns = self._player.note(decision)
        if isinstance(self._guide, ModelAgent):
            self._guide.note(decision)
        self._turns_by += ["guide" if is_guides else "player"] * n_turns
        return decision

    def costs(self) -> dict[str, float]:
        """The player's own costs."""
        return self._player.costs()

    def notes(self, n_turns: int) -> dict[str, Any]:
        """Whose each of the episode's turns was."""
        return {"turns_by": self._turns_by[:n_turns]}
