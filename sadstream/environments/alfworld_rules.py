"""ALFWorld's household: what can be done now, and what it changes.

Source: `alfred.pddl` and `alfred.twl2` of alfworld 0.4.2 (MIT), as TextWorld 1.7.0 plays them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sadstream.environments.alfworld_text import Names, help_text, inventory, look, look_closely, view
from sadstream.environments.pddl import Fact, Facts, Problem, by_predicate, holds, predicates

# Treatment by the type of receptacle that gives it: the verb, what it needs, what it adds and what it ends.
_TREATMENTS = {
    "sinkbasintype": ("clean", "cleanable", "isclean", None),
    "microwavetype": ("heat", "heatable", "ishot", "iscool"),
    "fridgetype": ("cool", "coolable", "iscool", "ishot"),
}
# TextWorld keeps what became false as a fact too, and ALFWorld's `look` asks for it: see `_beside`.
_TAKEN = "not_inreceptacle"
_KNIVES = ("knifetype", "butterknifetype")


class House(NamedTuple):
    """What never changes in a game.

    Attributes:
        agent: id of the one who acts.
        names: of all things in text.
        places: location of each receptacle, sorted by id.
        kinds: types of each thing and receptacle, as `mugtype`.
        facts: those of the start, by predicate.
        goal_predicates: predicates whose change may win.
    """

    problem: Problem
    agent: str
    names: Names
    places: dict[str, str]
    kinds: dict[str, set[str]]
    facts: dict[str, frozenset[Fact]]
    goal_predicates: frozenset[str]

    def has(self, predicate: str, thing: str) -> bool:
        return (predicate, thing) in self.facts.get(predicate, ())


class State(NamedTuple):
    """What holds now: facts by predicate, and whether the goal is one of them. Never altered, only replaced."""

    facts: dict[str, frozenset[Fact]]
    won: bool


class Action(NamedTuple):
    """A thing to do: verb, and the ids it is about."""

    verb: str
    first: str = ""
    second: str = ""


def furnish(problem: Problem) -> tuple[House, State]:
    """A game's house, and how it is at the start.

    Raises:
        ValueError: the problem is not one of ALFWorld's.
    """
    found = by_predicate(problem.init)
    standing = found.get("atlocation", set())
    if len(standing) != 1 or len(next(iter(standing))) != 3:
        raise ValueError("one `(atLocation agent place)` is needed")
    agent = next(iter(standing))[1]
    kinds: dict[str, set[str]] = {}
    for predicate in ("objecttype", "receptacletype"):
        for _, thing, kind in _pairs(found, predicate):
            kinds.setdefault(thing, set()).add(kind)
    places = {receptacle: place for _, receptacle, place in sorted(_pairs(found, "receptacleatlocation"))}
    if not places:
        raise ValueError("no receptacle stands anywhere")
    _pairs(found, "inreceptacle")
    facts = {predicate: frozenset(its) for predicate, its in found.items()}
    names = Names.of({word for fact in problem.init for word in fact[1:]})
    house = House(problem, agent, names, places, kinds, facts, predicates(problem.goal))
    return house, State(facts, holds(problem.goal, facts, problem.objects))


def first_text(house: House, state: State, goal: str) -> str:
    """What is read at the start."""
    seen = look(house.names, _here(house, state), around=list(house.places))
    return f"-= Welcome to TextWorld, ALFRED! =-\n\n{seen}\n\nYour task is to: {goal}."


def commands(house: House, state: State) -> dict[str, Action]:
    """All that can be done now: action by command."""
    return dict(_commands(house, state))


def act(house: House, state: State, action: Action) -> tuple[State, str]:
    """The state after an action that `commands` offers, and what is read."""
    name = house.names
    verb, first, second = action
    here = _location(house, state)
    add: list[Fact] = []
    drop: list[Fact] = []
    match verb:
        case "go to":
            drop, add = [("atlocation", house.agent, here)], [("atlocation", house.agent, house.places[first])]
        case "open":
            add = [("opened", first)]
        case "close":
            drop = [("opened", first)]
        case "take":
            drop = [("inreceptacle", first, second), ("objectatlocation", first, here)]
            add = [("holds", house.agent, first), ("holdsany", house.agent), (_TAKEN, first, second)]
        case "move":
            drop = [("holds", house.agent, first), ("holdsany", house.agent), (_TAKEN, first, second)]
            add = [("inreceptacle", first, second), ("objectatlocation", first, here)]
        case "use":
            add = [("istoggled", first)]
            on = ("ison", first)
            (drop if on in state.facts.get("ison", ()) else add).append(on)
        case "slice":
            add = [("issliced", first)]
        case "clean" | "heat" | "cool":
            gained, lost = next(t[2:] for t in _TREATMENTS.values() if t[0] == verb)
            add, drop = [(gained, first)], [(lost, first)] if lost else []
    after = _changed(house, state, add, drop)
    match verb:
        case "go to":
            text = f"You arrive at {name[first]}. {_view(house, after, first)}"
        case "open":
            text = f"You open the {name[first]}. {_view(house, after, first)}"
        case "close":
            text = f"You close the {name[first]}."
        case "take":
            text = f"You pick up the {name[first]} from the {name[second]}."
        case "move":
            text = f"You move the {name[first]} to the {name[second]}."
        case "use":
            text = f"You turn on the {name[first]}."
        case "slice":
            text = f"You sliced the {name[first]} with the {name[second]}."
        case "clean" | "heat" | "cool":
            text = f"You {verb} the {name[first]} using the {name[second]}."
        case "examine":
            text = _view(house, after, first) if first in house.places else _examined(house, after, first)
        case "inventory":
            text = inventory(name, _held(house, after))
        case "look":
            text = look(name, _here(house, after), beside=_beside(house, after))
        case _:
            text = help_text()
    return after, text


def _commands(house: House, state: State) -> Iterator[tuple[str, Action]]:
    name = house.names
    place = _location(house, state)
    for word in ("look", "inventory", "help"):
        yield word, Action(word)
    for receptacle, its_place in house.places.items():
        if its_place != place:
            yield f"go to {name[receptacle]}", Action("go to", receptacle)
    held = _held(house, state)
    for thing in held:
        yield f"examine {name[thing]}", Action("examine", thing)
    for receptacle in _here(house, state):
        where = name[receptacle]
        yield f"examine {where}", Action("examine", receptacle)
        openable, opened = house.has("openable", receptacle), ("opened", receptacle) in state.facts.get("opened", ())
        if openable:
            verb = "close" if opened else "open"
            yield f"{verb} {where}", Action(verb, receptacle)
        visible = opened or not openable
        for thing in _contents(state, receptacle):
            if visible and not held and house.has("pickupable", thing):
                yield f"take {name[thing]} from {where}", Action("take", thing, receptacle)
            if house.has("toggleable", thing):
                yield f"use {name[thing]}", Action("use", thing)
        for thing in held:
            if visible and _fits(house, receptacle, thing):
                yield f"move {name[thing]} to {where}", Action("move", thing, receptacle)
            for kind in house.kinds.get(receptacle, ()):
                verb, needed, *_ = _TREATMENTS.get(kind, ("", "", "", None))
                if verb and house.has(needed, thing):
                    yield f"{verb} {name[thing]} with {where}", Action(verb, thing, receptacle)
    for knife in held:
        if not house.kinds.get(knife, set()).isdisjoint(_KNIVES):
            for _, thing, where in state.facts.get("objectatlocation", ()):
                if where == place and house.has("sliceable", thing):
                    yield f"slice {name[thing]} with {name[knife]}", Action("slice", thing, knife)


def _changed(house: House, state: State, add: list[Fact], drop: list[Fact]) -> State:
    if not add and not drop:
        # A goal that holds from the start is won by whatever is done first.
        return state
    facts = dict(state.facts)
    for fact in drop:
        facts[fact[0]] = facts.get(fact[0], frozenset()) - {fact}
    for fact in add:
        facts[fact[0]] = facts.get(fact[0], frozenset()) | {fact}
    won = state.won
    if any(fact[0] in house.goal_predicates for fact in (*add, *drop)):
        won = holds(house.problem.goal, facts, house.problem.objects)
    return State(facts, won)


def _pairs(facts: Facts | dict[str, set[Fact]], predicate: str) -> list[Fact]:
    found = list(facts.get(predicate, ()))
    if any(len(fact) != 3 for fact in found):
        raise ValueError(f"`{predicate}` is between two")
    return found


def _location(house: House, state: State) -> str:
    return next(place for _, agent, place in state.facts["atlocation"] if agent == house.agent)


def _here(house: House, state: State) -> list[str]:
    place = _location(house, state)
    return [receptacle for receptacle, its_place in house.places.items() if its_place == place]


def _beside(house: House, state: State) -> list[str]:
    """Things at this place that were taken out of a receptacle here and lie elsewhere now.

    Only where receptacles share a place is there any: taken from the one and put into the other.
    """
    place = _location(house, state)
    at_place = state.facts.get("objectatlocation", ())
    return [
        thing
        for _, thing, receptacle in sorted(state.facts.get(_TAKEN, ()))
        if house.places[receptacle] == place and ("objectatlocation", thing, place) in at_place
    ]


def _held(house: House, state: State) -> list[str]:
    return sorted(thing for _, agent, thing in state.facts.get("holds", ()) if agent == house.agent)


def _contents(state: State, receptacle: str) -> list[str]:
    return sorted(thing for _, thing, where in state.facts.get("inreceptacle", ()) if where == receptacle)


def _fits(house: House, receptacle: str, thing: str) -> bool:
    allowed = house.facts.get("cancontain", frozenset())
    return any(
        ("cancontain", outer, inner) in allowed
        for outer in house.kinds.get(receptacle, ())
        for inner in house.kinds.get(thing, ())
    )


def _view(house: House, state: State, receptacle: str) -> str:
    opened = ("opened", receptacle) in state.facts.get("opened", ()) if house.has("openable", receptacle) else None
    return view(house.names, receptacle, _contents(state, receptacle), opened=opened)


def _examined(house: House, state: State, thing: str) -> str:
    if house.has("isreceptacleobject", thing):
        inside = sorted(inner for _, inner, outer in house.facts.get("inreceptacleobject", ()) if outer == thing)
        return look_closely(house.names, thing, inside=inside)
    words = ("isclean", "ishot", "iscool", "issliced", "istoggled")
    is_so = {word for word in words if (word, thing) in state.facts.get(word, ())}
    if not house.has("toggleable", thing):
        is_so.discard("istoggled")
    return look_closely(house.names, thing, is_so=is_so, sliceable=house.has("sliceable", thing))
