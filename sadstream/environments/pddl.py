"""PDDL problems: reading, writing, and whether a goal holds. Knows nothing of any domain."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, TypeAlias

Fact: TypeAlias = tuple[str, ...]  # predicate, then its arguments
Facts: TypeAlias = Mapping[str, Collection[Fact]]  # by predicate
Goal: TypeAlias = "str | list[Goal]"  # an s-expression

_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")


class Problem(NamedTuple):
    """A problem in lower case, as PDDL compares names.

    Attributes:
        name: of the problem.
        objects: type by name, in the order of the text.
        init: facts that hold at the start, in that order, without numbers.
        goal: s-expression.
    """

    name: str
    objects: dict[str, str]
    init: list[Fact]
    goal: Goal


def read_problem(text: str) -> Problem:
    """The problem that a `(define (problem ...) ...)` text states.

    Raises:
        ValueError: no such text; says what is wrong.
    """
    tree = _read(text)
    sections: dict[str, list[Goal]] = {}
    for part in tree[1:] if tree[0] == "define" else ():
        if isinstance(part, list) and part and isinstance(part[0], str):
            sections[part[0]] = part[1:]
    for wanted in ("problem", ":objects", ":init", ":goal"):
        if wanted not in sections:
            raise ValueError(f"no `({wanted} ...)` in the problem")
    if len(sections["problem"]) != 1 or len(sections[":goal"]) != 1:
        raise ValueError("a problem has one name and one goal")
    objects = _typed(sections[":objects"])
    init: list[Fact] = []
    for fact in sections[":init"]:
        if not isinstance(fact, list) or not fact:
            raise ValueError(f"not a fact: {fact}")
        if fact[0] == "=":  # a number: costs don't matter here
            continue
        words = tuple(word for word in fact if isinstance(word, str))
        if len(words) != len(fact):
            raise ValueError(f"not a fact: {fact}")
        for word in words[1:]:
            if word not in objects:
                raise ValueError(f"`{word}` stands in a fact, but not among the objects")
        init.append(words)
    return Problem(str(sections["problem"][0]), objects, init, sections[":goal"][0])


def write_problem(problem: Problem, *, domain: str) -> str:
    """The text that `read_problem` reads back."""
    objects = "".join(f"    {name} - {kind}\n" for name, kind in problem.objects.items())
    init = "".join(f"    ({' '.join(fact)})\n" for fact in problem.init)
    return (
        f"(define (problem {problem.name})\n(:domain {domain})\n(:objects\n{objects})\n(:init\n{init})\n"
        f"(:goal {_written(problem.goal)})\n)\n"
    )


def by_predicate(init: list[Fact]) -> dict[str, set[Fact]]:
    """Facts in sets, one for each predicate that occurs."""
    found: dict[str, set[Fact]] = {}
    for fact in init:
        found.setdefault(fact[0], set()).add(fact)
    return found


def predicates(goal: Goal) -> frozenset[str]:
    """Every word of a goal that may be a predicate: first words of its lists."""
    if isinstance(goal, str):
        return frozenset()
    first = {goal[0]} if goal and isinstance(goal[0], str) else set()
    return frozenset(first).union(*map(predicates, goal))


def holds(goal: Goal, facts: Facts, objects: Mapping[str, str]) -> bool:
    """Whether a goal of and, or, not, imply, =, exists and forall holds.

    Raises:
        ValueError: the goal has another form.
    """
    return _holds(goal, {}, facts, objects)


def _holds(goal: Goal, bound: dict[str, str], facts: Facts, objects: Mapping[str, str]) -> bool:
    if isinstance(goal, str) or (goal and not isinstance(goal[0], str)):
        raise ValueError(f"not a condition: {goal}")
    if not goal:
        return True
    match goal:
        case ["and", *parts]:
            return all(_holds(part, bound, facts, objects) for part in parts)
        case ["or", *parts]:
            return any(_holds(part, bound, facts, objects) for part in parts)
        case ["not", part]:
            return not _holds(part, bound, facts, objects)
        case ["imply", left, right]:
            return not _holds(left, bound, facts, objects) or _holds(right, bound, facts, objects)
        case ["exists", list(variables), body]:
            return _some(_typed(variables), body, bound, facts, objects)
        case ["forall", list(variables), body]:
            return not _some(_typed(variables), ["not", body], bound, facts, objects)
        case ["=", str(left), str(right)]:
            return bound.get(left, left) == bound.get(right, right)
    fact = tuple(bound.get(word, word) for word in goal if isinstance(word, str))
    if len(fact) != len(goal):
        raise ValueError(f"not a condition: {goal}")
    return fact in facts.get(fact[0], ())


def _some(
    variables: dict[str, str], body: Goal, bound: dict[str, str], facts: Facts, objects: Mapping[str, str]
) -> bool:
    """Whether some things in place of the variables make the body hold.

    Values come from the facts of the rarest condition that names an open variable, so a condition that no fact
    meets is answered at once.
    """
    while isinstance(body, list) and len(body) == 3 and body[0] == "exists" and isinstance(body[1], list):
        variables, body = variables | _typed(body[1]), body[2]
    if not variables:
        return _holds(body, bound, facts, objects)
    best: tuple[int, list[dict[str, str]]] | None = None
    for condition in _conjuncts(body):
        if variables.keys().isdisjoint(condition):
            continue
        known = facts.get(condition[0], ())
        if best is None or len(known) < best[0]:
            best = len(known), list(_matches(condition, known, variables, bound))
            if not best[1]:
                return False
    if best is None:
        name, kind = next(iter(variables.items()))
        best = 0, [{name: thing} for thing, its_kind in objects.items() if kind in (its_kind, "")]
    for found in best[1]:
        rest = {name: kind for name, kind in variables.items() if name not in found}
        if all(objects.get(thing) == variables[name] for name, thing in found.items() if variables[name]) and _some(
            rest, body, {**bound, **found}, facts, objects
        ):
            return True
    return False


def _conjuncts(body: Goal) -> Iterator[list[str]]:
    """The plain conditions that must hold for the body to hold."""
    if not isinstance(body, list) or not body:
        return
    if body[0] == "and":
        for part in body[1:]:
            yield from _conjuncts(part)
    elif body[0] not in ("or", "not", "imply", "exists", "forall", "="):
        yield [word for word in body if isinstance(word, str)]


def _matches(
    condition: list[str], known: Collection[Fact], variables: Mapping[str, str], bound: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """What the open variables stand for in each fact that fits the condition."""
    for fact in known:
        found: dict[str, str] = {}
        for word, value in zip(condition, fact, strict=False):
            if word in variables:
                if found.setdefault(word, value) != value:
                    break
            elif bound.get(word, word) != value:
                break
        else:
            yield found


def _read(text: str) -> list[Goal]:
    stack: list[list[Goal]] = [[]]
    for token in _TOKEN.findall(_COMMENT.sub("", text).lower()):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            if not stack:
                raise ValueError("a bracket closes that none opened")
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError(f"{len(stack) - 1} brackets are not closed")
    if len(stack[0]) != 1 or not isinstance(stack[0][0], list) or not stack[0][0]:
        raise ValueError("not one expression in brackets")
    return stack[0][0]


def _typed(words: list[Goal]) -> dict[str, str]:
    """`a b - kind c - kind` as kind by name; "" where none is said."""
    named: dict[str, str] = {}
    waiting: list[str] = []
    tokens = iter(words)
    for word in tokens:
        if not isinstance(word, str):
            raise ValueError(f"not a list of names: {word}")
        if word != "-":
            waiting.append(word)
            continue
        kind = next(tokens, None)
        if not isinstance(kind, str):
            raise ValueError("a `-` without a type after it")
        named |= dict.fromkeys(waiting, kind)
        waiting = []
    return named | dict.fromkeys(waiting, "")


def _written(goal: Goal) -> str:
    return goal if isinstance(goal, str) else f"({' '.join(map(_written, goal))})"
