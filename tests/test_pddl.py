import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream.environments.pddl import by_predicate, holds, predicates, read_problem, write_problem

THINGS = {"a": "toy", "b": "toy", "c": "box", "d": "box"}
NAMES = st.sampled_from([*THINGS, "?x", "?y"])
CONDITIONS = st.one_of(
    st.tuples(st.just("red"), NAMES).map(list),
    st.tuples(st.sampled_from(["in", "="]), NAMES, NAMES).map(list),
)
VARIABLES = st.lists(
    st.tuples(st.sampled_from(["?x", "?y"]), st.just("-"), st.sampled_from(["toy", "box"])), min_size=1, max_size=2
).map(lambda found: [word for typed in found for word in typed])


def nested(inner):
    """A level more of a goal."""
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: ["and", *parts]),
        st.lists(inner, max_size=3).map(lambda parts: ["or", *parts]),
        inner.map(lambda part: ["not", part]),
        st.tuples(inner, inner).map(lambda parts: ["imply", *parts]),
        st.tuples(st.sampled_from(["exists", "forall"]), VARIABLES, inner).map(list),
    )


GOALS = st.tuples(
    st.sampled_from(["exists", "forall"]),
    st.just(["?x", "-", "toy", "?y", "-", "box"]),
    st.recursive(CONDITIONS, nested, max_leaves=8),
).map(list)
FACTS = st.lists(
    st.one_of(
        st.tuples(st.just("red"), st.sampled_from(sorted(THINGS))),
        st.tuples(st.just("in"), st.sampled_from(sorted(THINGS)), st.sampled_from(sorted(THINGS))),
    ),
    max_size=12,
)


def brute(goal, bound, facts):
    """Whether a goal holds, by trying everything."""
    head, *rest = goal
    if head in ("exists", "forall"):
        typed = dict(zip(rest[0][::3], rest[0][2::3], strict=True))
        choices = [[thing for thing, kind in THINGS.items() if kind == wanted] for wanted in typed.values()]
        tried = (brute(rest[1], bound | dict(zip(typed, c, strict=True)), facts) for c in itertools.product(*choices))
        return any(tried) if head == "exists" else all(tried)
    if head == "and":
        return all(brute(part, bound, facts) for part in rest)
    if head == "or":
        return any(brute(part, bound, facts) for part in rest)
    if head == "not":
        return not brute(rest[0], bound, facts)
    if head == "imply":
        return not brute(rest[0], bound, facts) or brute(rest[1], bound, facts)
    words = [bound.get(word, word) for word in rest]
    return words[0] == words[1] if head == "=" else (head, *words) in facts


@given(GOALS, FACTS)
def test_a_goal_holds_where_trying_everything_says_so(goal, facts):
    assert holds(goal, by_predicate(facts), THINGS) == brute(goal, {}, set(facts))


@given(GOALS, FACTS)
def test_a_written_problem_is_read_back(goal, facts):
    objects = "\n".join(f"{thing} - {kind}" for thing, kind in THINGS.items())
    text = f"(define (problem P) (:domain d) (:objects {objects}) (:init ; none\n (= (cost) 3)) (:goal (and)))"
    problem = read_problem(text)._replace(init=facts, goal=goal)
    assert problem.name == "p"
    assert problem.objects == THINGS
    assert read_problem(write_problem(problem, domain="d")) == problem


def test_predicates_of_a_goal_are_all_named():
    goal = ["and", ["exists", ["?x", "-", "toy"], ["and", ["red", "?x"], ["not", ["in", "?x", "c"]]]]]
    assert {"red", "in"} <= predicates(goal)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not one expression"),
        ("(define (problem p)", "1 brackets are not closed"),
        ("(define (problem p)))", "closes that none opened"),
        ("(define (:objects) (:init) (:goal (and)))", "no `(problem ...)`"),
        ("(define (problem p) (:objects) (:init))", "no `(:goal ...)`"),
        ("(define (problem p) (:objects a -) (:init) (:goal (and)))", "without a type"),
        ("(define (problem p) (:objects a - toy) (:init (red b)) (:goal (and)))", "`b` stands in a fact"),
        ("(define (problem p) (:objects a - toy) (:init (not (red a))) (:goal (and)))", "not a fact"),
        ("(define (problem p) (:objects a - toy) (:init red) (:goal (and)))", "not a fact"),
    ],
)
def test_a_damaged_problem_is_refused_with_what_is_wrong(text, said):
    with pytest.raises(ValueError) as error:
        read_problem(text)
    assert said in str(error.value)


@pytest.mark.parametrize("goal", ["won", [["red", "a"]], ["and", "red"], ["red", ["a"]]])
def test_a_goal_of_another_form_is_refused(goal):
    with pytest.raises(ValueError):
        holds(goal, {}, THINGS)
