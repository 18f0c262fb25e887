"""A player of ALFWorld that sees only what it reads, and thinks in ReAct's words."""

import random
import re
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from sadstream.environments.alfworld_places import training_places
from sadstream.environments.protocol import Decision
from sadstream.errors import ConfigError, TaskError

# A script says what to do and is sent what was read then.
Script: TypeAlias = Generator[Decision, str, None]
Reading: TypeAlias = Generator[Decision, str, str]

_THING = re.compile(r"\ba ([a-z]+ [0-9]+)")
_VIEW = re.compile(r"(?:On the ([a-z]+ [0-9]+)|The ([a-z]+ [0-9]+) is open\. In it), you see ([^\n]*)\.$")
_NOTHING = "Nothing happens."
_APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
_VERBS = {"clean": "clean", "hot": "heat", "cool": "cool", "heat": "heat"}
_GOALS = (
    r"(?:put|find) (?:a|an|some) (?:(?P<state>clean|hot|cool) )?(?P<thing>[a-z]+) (?:in|on) (?P<where>[a-z]+)",
    r"(?P<state>clean|heat|cool) (?:a|an|some) (?P<thing>[a-z]+) and put it (?:in|on) (?P<where>[a-z]+)",
    r"(?:put|find) (?P<two>two) (?P<thing>[a-z]+) (?:and put them )?(?:in|on) (?P<where>[a-z]+)",
    r"look at (?:a |an |the )?(?P<thing>[a-z]+) under the (?P<lamp>[a-z]+)",
    r"examine (?:a |an |the )?(?P<thing>[a-z]+) with the (?P<lamp>[a-z]+)",
)


class Wanted(NamedTuple):
    """A task as its words say it.

    Attributes:
        thing: kind of thing. two: whether two of them are wanted.
        verb: what is done to it first: clean, heat, cool or "".
        where: kind of receptacle it goes to, or "" where it is looked at under a lamp.
        lamp: kind of lamp, or "".
    """

    thing: str
    two: bool
    verb: str
    where: str
    lamp: str


def read_goal(text: str) -> Wanted:
    """The task that ALFWorld's words state.

    Raises:
        TaskError: words that are none of its templates.
    """
    for pattern in _GOALS:
        match = re.fullmatch(pattern, text.strip().rstrip(".").lower())
        if match:
            said = match.groupdict("")
            verb = _VERBS.get(said.get("state", ""), "")
            return Wanted(said["thing"], "two" in said, verb, said.get("where", ""), said.get("lamp", ""))
    raise TaskError(f"the expert cannot read the goal `{text[:200]}`", hint="it knows ALFWorld's own goal templates")


class ALFWorldExpert:
    """Searches where training rooms most often have a thing, for the fewest turns; takes, treats and puts it.

    Args:
        error_rate: share of actions before which it makes a mistake, from which it recovers with a thought that
            says so: a wrong way, the wrong thing, an act at the wrong place.
    """

    privileged = False

    def __init__(self, error_rate: float = 0.0) -> None:
        if not 0 <= error_rate < 1:
            raise ConfigError(f"error_rate={error_rate}", hint="a share of actions, at least 0 and below 1")
        self.error_rate = error_rate
        self.name = f"alfworld expert (errs before {error_rate:.0%} of actions)" if error_rate else "alfworld expert"
        self._script: Script | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A script under way cannot be pickled; an episode starts with `begin`.
        return {**self.__dict__, "_script": None}

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        """Begin an episode.

        Raises:
            TaskError: its goal is none of ALFWorld's templates.
        """
        goal = re.search(r"Your task is to: ([^\n]*)", observation)
        if goal is None:
            raise TaskError("no `Your task is to:` in the first observation", hint="this expert plays ALFWorld")
        receptacles = _THING.findall(observation[: goal.start()])
        if not receptacles:  # one stands at a receptacle from the start and is told of no other
            ways = environment.admissible() or []
            receptacles = [way.removeprefix("go to ") for way in ways if way.startswith("go to ")]
        player = _Player(receptacles, self.error_rate, random.Random(f"{seed}/{task_id}"))
        self._script = player.play(read_goal(goal[1]))
        self._started = False

    def decide(self, observation: str) -> Decision:
        """The next thought or action."""
        if self._script is None:
            raise TaskError("no episode is under way", hint="begin(...) starts one")
        try:
            if self._started:
                return self._script.send(observation)
            self._started = True
            return next(self._script)
        except StopIteration:
            return Decision(None, "look")


class _Player:
    """One episode: what was seen, and where it stands."""

    def __init__(self, receptacles: Sequence[str], error_rate: float, chance: random.Random) -> None:
        self.receptacles = sorted(receptacles, key=lambda name: (_kind(name), _number(name)))
        self.error_rate = error_rate
        self.chance = chance
        self.at = ""
        self.closed: set[str] = set()
        self.seen: dict[str, list[str]] = {}
        self.held = ""

    def play(self, wanted: Wanted) -> Script:
        thing, station = wanted.thing, _APPLIANCES.get(wanted.verb, "")
        first, second = f"the first {thing}", f"the second {thing}"
        if wanted.two:
            steps = (
                f"{first}, then put it in {wanted.where}, then find and take {second}, then put it in {wanted.where}"
            )
        elif wanted.lamp:
            steps = f"{_a(thing)}, then find and use a {wanted.lamp}"
        else:
            treat = f", then {wanted.verb} it with {station}" if station else ""
            steps = f"{_a(thing)}{treat}, then put it in {wanted.where}"
        yield from self._think(f"To solve the task, I need to find and take {steps}.")
        said = first if wanted.two else _a(thing)
        before = f"First I need to find {said}."
        for _ in range(2 if wanted.two else 1):
            found = yield from self._find(thing, said, before, leave=wanted.where if wanted.two else "")
            if not found:
                return
            yield from self._do(f"take {found} from {self.at}")
            if wanted.lamp:
                yield from self._light(wanted.lamp, f"Now I take {said} ({_number(found)}).")
                return
            took = f"Now I take {said} ({_number(found)})."
            if station:
                yield from self._treat(found, said, wanted.verb, station, took)
                took = f"Now I {wanted.verb} {said} ({_number(found)})."
            target = self._target(wanted.where, thing)
            if not target:
                return
            yield from self._think(f"{took} Next, I need to put it in/on {target}.")
            yield from self._visit(target)
            yield from self._do(f"move {found} to {target}")
            before = f"Now I put {said} in {wanted.where}. Next, I need to find {second}."
            said = second

    def _find(self, thing: str, said: str, before: str, *, leave: str = "") -> Reading:
        """Go where one is, looking for it if none was seen; its name, or "" where there is none.

        Args:
            leave: kind of receptacle where it may stay, if any.
        """
        verb = "use" if thing.endswith("lamp") else "take"
        order = [] if self._known(thing, leave) else self._order(thing)
        if order:
            yield from self._think(
                f"{before} {_a(thing).capitalize()} is more likely to appear in {_ranges(order)}."
                f" I can check one by one, starting with {order[0]}."
            )
            before = f"I know where to find {said}."
        for receptacle in order:
            yield from self._visit(receptacle)
            if self._known(thing, leave):
                break
        known = self._known(thing, leave)
        if known is None:
            yield from self._think(f"I have looked everywhere and there is no {thing} that I could {verb}.")
            return ""
        found, where = known
        if where != self.at:
            yield from self._think(f"{before} I can directly go to {where}.")
            yield from self._visit(where)
        yield from self._think(f"Now I find {said} ({_number(found)}). Next, I need to {verb} it.")
        return found

    def _treat(self, found: str, said: str, verb: str, station: str, before: str) -> Script:
        appliance = self._target(station, "")
        yield from self._think(f"{before} Next, I need to go to {appliance} and {verb} it.")
        yield from self._visit(appliance, inside=False)
        yield from self._do(f"{verb} {found} with {appliance}")

    def _light(self, lamp: str, before: str) -> Script:
        found = yield from self._find(lamp, _a(lamp), f"{before} Next, I need to find {_a(lamp)}.")
        if found:
            yield from self._do(f"use {found}")

    def _known(self, thing: str, leave: str) -> tuple[str, str] | None:
        """A thing of a kind and where it was seen: here if possible."""
        kept = self._target(leave, thing) if leave else ""
        places = [self.at, *self.receptacles] if self.at else self.receptacles
        for where in places:
            for name in sorted(self.seen.get(where, ()), key=_number):
                if _kind(name) == thing and where != kept:
                    return name, where
        return None

    def _order(self, thing: str) -> list[str]:
        """Receptacles not looked into, the most promising for their turns first."""
        places = training_places()

        def promise(receptacle: str) -> tuple[float, str, int]:
            kind = _kind(receptacle)
            turns = places.turns(kind) if receptacle not in self.closed else 2
            return -places.rate(thing, kind) / turns, kind, _number(receptacle)

        return sorted((r for r in self.receptacles if r not in self.seen), key=promise)

    def _target(self, kind: str, thing: str) -> str:
        """The receptacle of a kind to use: where such things lie already, else here, else one seen, else any."""

        def cost(receptacle: str) -> tuple[int, bool, bool, int]:
            lying = sum(_kind(name) == thing for name in self.seen.get(receptacle, ()))
            return -lying, receptacle != self.at, receptacle not in self.seen, _number(receptacle)

        return min((r for r in self.receptacles if _kind(r) == kind), key=cost, default="")

    def _visit(self, receptacle: str, *, inside: bool = True) -> Script:
        """Stand at a receptacle, with its door open if need be."""
        if self.at != receptacle:
            observation = yield from self._do(f"go to {receptacle}")
            if observation == _NOTHING:  # receptacles can share a place
                yield from self._do(f"examine {receptacle}")
                self.at = receptacle
        if inside and receptacle in self.closed:
            yield from self._do(f"open {receptacle}")

    def _think(self, thought: str) -> Script:
        yield Decision(thought, None)

    def _do(self, action: str) -> Reading:
        """Act, now and then after a mistake and its mending; what is read."""
        if self.error_rate and self.chance.random() < self.error_rate:
            yield from self._err(action)
        return (yield from self._act(action))

    def _act(self, action: str) -> Reading:
        observation = yield Decision(None, action)
        self._note(action, observation)
        return observation

    def _note(self, action: str, observation: str) -> None:
        if observation == _NOTHING:
            return
        view = _VIEW.search(observation)
        if view:
            where = view[1] or view[2]
            self.seen[where] = _THING.findall(view[3])
            self.closed.discard(where)
        closed = re.search(r"The ([a-z]+ [0-9]+) is closed\.$", observation)
        if closed:
            self.closed.add(closed[1])
        if action.startswith("go to "):
            self.at = action.removeprefix("go to ")
        took = re.match(r"You pick up the ([a-z]+ [0-9]+) from the ([a-z]+ [0-9]+)", observation)
        if took:
            self.held = took[1]
            self.seen[took[2]] = [name for name in self.seen.get(took[2], ()) if name != took[1]]
        moved = re.match(r"You move the ([a-z]+ [0-9]+) to the ([a-z]+ [0-9]+)", observation)
        if moved:
            self.held = ""
            self.seen[moved[2]] = [*self.seen.get(moved[2], ()), moved[1]]

    def _err(self, action: str) -> Script:
        """A mistake before an action, noticed and mended."""
        others = [r for r in self.receptacles if r != self.at and not action.endswith(r)]
        if not others:
            return
        other = self.chance.choice(others)
        if action.startswith("go to "):
            way = action.removeprefix("go to ")
            observation = yield from self._act(f"go to {other}")
            noticed = "Nothing happens." if observation == _NOTHING else f"I went to {other}, which is the wrong way."
            yield from self._think(f"{noticed} I need to go to {way}.")
            return
        take = re.fullmatch(r"take ([a-z]+ [0-9]+) from ([a-z]+ [0-9]+)", action)
        beside = [name for name in self.seen.get(take[2], ()) if name != take[1]] if take else []
        if take and beside and self.chance.random() < 0.5:
            wrong = self.chance.choice(beside)
            observation = yield from self._act(f"take {wrong} from {take[2]}")
            if observation == _NOTHING:
                yield from self._think(f"I cannot take {wrong}, and it is not what I need. I need to take {take[1]}.")
                return
            yield from self._think(f"I took {wrong} by mistake. I need to put it back and take {take[1]}.")
            yield from self._put_down(wrong, take[2])
            return
        wrong_action = re.sub(r"[a-z]+ [0-9]+$", other, action)
        held = self.held
        observation = yield from self._act(wrong_action)
        if observation == _NOTHING:
            yield from self._think(f"Nothing happens, because {other} is not where I am. I need to {action}.")
        elif held and not self.held:
            yield from self._think(f"I put {held} in/on {other} by mistake. I need to take it back.")
            yield from self._act(f"take {held} from {other}")

    def _put_down(self, wrong: str, where: str) -> Script:
        """Rid the hand of a thing: back to where it was, or where else there is room for it."""
        observation = yield from self._act(f"move {wrong} to {where}")
        if observation != _NOTHING:
            return
        for receptacle in self._fallbacks(where):
            yield from self._think(f"Nothing happens, so {wrong} cannot go there. I can try {receptacle}.")
            yield from self._act(f"go to {receptacle}")
            if receptacle in self.closed:
                yield from self._act(f"open {receptacle}")
            observation = yield from self._act(f"move {wrong} to {receptacle}")
            if observation != _NOTHING:
                break
        yield from self._act(f"go to {where}")

    def _fallbacks(self, where: str) -> list[str]:
        wide = ("countertop", "diningtable", "desk", "dresser", "sidetable", "coffeetable", "shelf", "bed")
        order = {kind: number for number, kind in enumerate(wide)}
        others = [r for r in self.receptacles if r != where]
        return sorted(others, key=lambda r: (order.get(_kind(r), len(order)), _number(r)))


def _kind(name: str) -> str:
    return name.split(" ")[0]


def _number(name: str) -> int:
    return int(name.split(" ")[1])


def _a(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _ranges(order: Sequence[str]) -> str:
    """`shelf (1-3), desk (1)`: at most six kinds."""
    numbers: dict[str, list[int]] = {}
    for name in order:
        numbers.setdefault(_kind(name), []).append(_number(name))
    parts = []
    for kind, its in list(numbers.items())[:6]:
        span = f"{min(its)}-{max(its)}" if len(its) > 1 else f"{its[0]}"
        parts.append(f"{kind} ({span})")
    return ", ".join(parts)
