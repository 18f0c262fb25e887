"""New ALFWorld games: a room's things put elsewhere and another goal, each proven by a plan that wins.

Source: goal conditions and their words are those of ALFWorld's `goal_library.py` (MIT).
"""

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec

from sadstream.environments.alfworld_games import Game, problem_of
from sadstream.environments.alfworld_places import training_places
from sadstream.environments.alfworld_rules import House, State, act, commands, furnish
from sadstream.environments.pddl import Fact, Goal, Problem, write_problem
from sadstream.errors import TaskError

# By task type: what the thing must be able to become, what it then is, the verb, its receptacle, and the goal's words.
_TREATED = {
    "pick_clean_then_place_in_recep": ("cleanable", "isclean", "clean", "sinkbasintype"),
    "pick_heat_then_place_in_recep": ("heatable", "ishot", "heat", "microwavetype"),
    "pick_cool_then_place_in_recep": ("coolable", "iscool", "cool", "fridgetype"),
}
_WORDS = {
    "pick_and_place_simple": ("put a {thing} in {where}", "put some {thing} on {where}"),
    "look_at_obj_in_light": ("look at {thing} under the {where}", "examine the {thing} with the {where}"),
    "pick_clean_then_place_in_recep": ("put a clean {thing} in {where}", "clean some {thing} and put it in {where}"),
    "pick_heat_then_place_in_recep": ("put a hot {thing} in {where}", "heat some {thing} and put it in {where}"),
    "pick_cool_then_place_in_recep": ("put a cool {thing} in {where}", "cool some {thing} and put it in {where}"),
    "pick_two_obj_and_place": ("put two {thing} in {where}", "find two {thing} and put them in {where}"),
}
_ATTEMPTS = 200


class Wish(NamedTuple):
    """A goal: task type, type of the thing, and type of the receptacle or the lamp, as `mugtype`."""

    task_type: str
    thing: str
    where: str


@lru_cache(maxsize=64)
def shuffled_game(game: Game, number: int, seed: int) -> Game:
    """The `number`-th new game in a game's room; the same for the same arguments.

    Things that can be picked up are put into receptacles that the room's own `canContain` allows, more often where
    the training rooms have them; then one of the possible task types is drawn, and a goal of it. What is returned has
    a walkthrough that was played to the win; a draw for which none is found is drawn again.

    Raises:
        TaskError: the game is damaged, or no new one can be made of its room.
    """
    chance = random.Random(f"{seed}/{game.task}#{number}")
    problem = problem_of(game)
    for _ in range(_ATTEMPTS):
        moved = _moved(problem, chance)
        house, state = furnish(moved)
        wishes: dict[str, list[Wish]] = {}
        for wish in _wishes(house, state):
            wishes.setdefault(wish.task_type, []).append(wish)
        if not wishes:
            continue
        wish = chance.choice(wishes[chance.choice(sorted(wishes))])
        wanted = moved._replace(goal=_goal(wish))
        walkthrough = plan(*furnish(wanted), wish)
        if walkthrough is None:
            continue
        words = {"thing": wish.thing.removesuffix("type"), "where": wish.where.removesuffix("type")}
        return msgspec.structs.replace(
            game,
            task=f"{game.task}#{number}",
            task_type=wish.task_type,
            goal=chance.choice(_WORDS[wish.task_type]).format(**words),
            pddl_problem=write_problem(wanted, domain="alfred"),
            walkthrough=tuple(walkthrough),
        )
    raise TaskError(f"{game.origin or game.task}: no new game could be made of this room", hint="leave out its task")


def plan(house: House, state: State, wish: Wish) -> list[str] | None:
    """Commands that win, by one who knows where everything is; None where this way does not."""
    done: list[str] = []
    name = house.names

    def do(command: str) -> bool:
        nonlocal state
        action = commands(house, state).get(command)
        if action is not None:
            state, _ = act(house, state, action)
            done.append(command)
        return action is not None

    def reach(receptacle: str, *, inside: bool) -> None:
        do(f"go to {name[receptacle]}")
        if inside:
            do(f"open {name[receptacle]}")

    while not state.won and len(done) < 40:
        target = _target(house, state, wish)
        stays = target if wish.task_type == "pick_two_obj_and_place" else None
        wanted = ((t, where) for t, where in _lying(house, state) if _is(house, t, wish.thing) and where != stays)
        found = next(wanted, None)
        if found is None or target is None or not house.has("pickupable", found[0]):
            return None
        thing, where = found
        reach(where, inside=True)
        if not do(f"take {name[thing]} from {name[where]}"):
            return None
        if wish.task_type in _TREATED:
            _, _, verb, kind = _TREATED[wish.task_type]
            station = next((r for r in house.places if _is(house, r, kind)), None)
            if station is None:
                return None
            reach(station, inside=False)
            do(f"{verb} {name[thing]} with {name[station]}")
        if wish.task_type == "look_at_obj_in_light":
            reach(target, inside=False)
            for lamp, stand in _lying(house, state):
                if stand == target and _is(house, lamp, wish.where):
                    do(f"use {name[lamp]}")
            return done if state.won else None
        reach(target, inside=True)
        if not do(f"move {name[thing]} to {name[target]}"):
            return None
    return done if state.won else None


def _moved(problem: Problem, chance: random.Random) -> Problem:
    """The problem with its things put elsewhere."""
    places = training_places()
    house, _ = furnish(problem)
    receptacles = list(house.places)
    there: dict[str, str] = {}
    for thing, where in _lying_at(problem.init):
        if not house.has("pickupable", thing):
            continue
        fitting = [r for r in receptacles if _fits(house, thing, r)] or [where]
        kind = house.names[thing].split(" ")[0]
        weights = [places.rate(kind, house.names[r].split(" ")[0]) for r in fitting]
        there[thing] = chance.choices(fitting, weights)[0]
    init: list[Fact] = []
    for fact in problem.init:
        match fact:
            case ("inreceptacle", thing, _) if thing in there:
                init.append(("inreceptacle", thing, there[thing]))
            case ("objectatlocation", thing, _) if thing in there:
                init.append(("objectatlocation", thing, house.places[there[thing]]))
            case _:
                init.append(fact)
    return problem._replace(init=list(dict.fromkeys(init)))


def _wishes(house: House, state: State) -> Iterator[Wish]:
    """Every goal that can be reached here and does not hold yet, in a fixed order."""
    kinds: dict[str, list[str]] = {}
    lamps: dict[str, None] = {}
    for thing, _ in _lying(house, state):
        for kind in sorted(house.kinds.get(thing, ())):
            if house.has("pickupable", thing):
                kinds.setdefault(kind, []).append(thing)
            elif house.has("toggleable", thing) and kind in ("desklamptype", "floorlamptype"):
                lamps[kind] = None
    for kind in sorted(kinds):
        for lamp in sorted(lamps):
            yield Wish("look_at_obj_in_light", kind, lamp)
        for receptacle in sorted({k for r in house.places for k in house.kinds.get(r, ()) if _allowed(house, k, kind)}):
            targets = [r for r in house.places if _is(house, r, receptacle)]
            lying = [
                sum(where == target for thing, where in _lying(house, state) if thing in kinds[kind])
                for target in targets
            ]
            if not any(lying):
                yield Wish("pick_and_place_simple", kind, receptacle)
            if len(kinds[kind]) >= 2 and max(lying) < 2:
                yield Wish("pick_two_obj_and_place", kind, receptacle)
            for task_type, (able, _, _, station) in _TREATED.items():
                stands = any(_is(house, r, station) for r in house.places)
                if stands and all(house.has(able, thing) for thing in kinds[kind]):
                    yield Wish(task_type, kind, receptacle)


def _goal(wish: Wish) -> Goal:
    """The goal condition, as ALFWorld's library has it."""
    of_kind: list[Goal] = [["objecttype", "?o", wish.thing], ["receptacletype", "?r", wish.where]]
    inside: Goal = ["inreceptacle", "?o", "?r"]
    if wish.task_type == "look_at_obj_in_light":
        lit: list[Goal] = [
            ["objecttype", "?ot", wish.where],
            ["toggleable", "?ot"],
            ["istoggled", "?ot"],
            ["receptacleatlocation", "?r", "?l"],
            ["atlocation", "?a", "?l"],
            ["inreceptacle", "?ot", "?r"],
        ]
        who: Goal = ["?ot", "-", "object", "?r", "-", "receptacle", "?a", "-", "agent", "?l", "-", "location"]
        held: Goal = ["and", ["objecttype", "?o", wish.thing], ["holds", "?a", "?o"]]
        return ["and", ["exists", who, ["and", *lit]], ["exists", ["?o", "-", "object", "?a", "-", "agent"], held]]
    if wish.task_type == "pick_two_obj_and_place":
        second: list[Goal] = [
            ["not", ["=", "?o", "?o2"]],
            ["objecttype", "?o2", wish.thing],
            ["receptacletype", "?r", wish.where],
            ["inreceptacle", "?o2", "?r"],
        ]
        body: Goal = ["and", *of_kind, inside, ["exists", ["?o2", "-", "object"], ["and", *second]]]
    elif wish.task_type in _TREATED:
        able, become, *_ = _TREATED[wish.task_type]
        body = ["and", [able, "?o"], *of_kind, [become, "?o"], inside]
    else:
        body = ["and", inside, *of_kind]
    return ["and", ["exists", ["?r", "-", "receptacle"], ["exists", ["?o", "-", "object"], body]]]


def _target(house: House, state: State, wish: Wish) -> str | None:
    """The receptacle where things go, or where a lamp stands: where most of what counts lies already."""
    counted = wish.where if wish.task_type == "look_at_obj_in_light" else wish.thing
    lying: dict[str, int] = {}
    for thing, where in _lying(house, state):
        lying[where] = lying.get(where, 0) + _is(house, thing, counted)
    if wish.task_type == "look_at_obj_in_light":
        fitting = [r for r in house.places if lying.get(r)]
    else:
        fitting = [r for r in house.places if _is(house, r, wish.where)]
        if wish.task_type in _TREATED:
            return fitting[0] if fitting else None
    return max(fitting, key=lambda r: lying.get(r, 0), default=None)


def _lying(house: House, state: State) -> list[tuple[str, str]]:
    return sorted((thing, where) for _, thing, where in state.facts.get("inreceptacle", ()))


def _lying_at(init: list[Fact]) -> list[tuple[str, str]]:
    return sorted((fact[1], fact[2]) for fact in init if fact[0] == "inreceptacle")


def _is(house: House, thing: str, kind: str) -> bool:
    return kind in house.kinds.get(thing, ())


def _allowed(house: House, receptacle_kind: str, kind: str) -> bool:
    return ("cancontain", receptacle_kind, kind) in house.facts.get("cancontain", ())


def _fits(house: House, thing: str, receptacle: str) -> bool:
    return any(
        _allowed(house, outer, inner)
        for outer in house.kinds.get(receptacle, ())
        for inner in house.kinds.get(thing, ())
    )
