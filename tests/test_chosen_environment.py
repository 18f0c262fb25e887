import pickle
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream.environments import ENVIRONMENTS, Entry
from sadstream.environments import chosen as choosing
from sadstream.environments.chosen import load_agent, load_environment
from sadstream.errors import ConfigError, SadstreamError, TaskError
from tests.environment_laws import check_laws
from tests.strategies import texts
from tests.worlds import Echo


class Everything(Echo):
    """Takes one option of each type that a command line can give, and one that it cannot."""

    def __init__(
        self,
        words: str = "",
        number: int = 1,
        share: float = 0.5,
        flag: bool = False,
        place: Path = Path(),
        either: str | Path | None = None,
        maybe: int | None = None,
        choice: Literal["left", "right"] = "left",
        plain="",
        *,
        numbers: dict[str, int] | None = None,
        call: type[Any] | None = None,
        seed: int = -1,
    ) -> None:
        super().__init__()
        self.given = (words, number, share, flag, place, either, maybe, choice, plain)
        self.seed = seed


class ForCheckersOnly(Echo):
    """Its annotation has no value at run time."""

    def __init__(self, place: "NoSuchName" = None, seed: int = 0) -> None:  # type: ignore[name-defined]  # noqa: F821
        super().__init__()


class AnyOption(Echo):
    """Takes whatever it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.given = options


class Picky(Echo):
    """Refuses what it is given."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        if size > 3:
            raise ValueError("too large")


class WrongStyle(Echo):
    def __init__(self) -> None:
        super().__init__()
        self.style = "verse"  # type: ignore[assignment]


HERE = "tests.test_chosen_environment"


def failure(load: Any, *arguments: Any) -> str:
    with pytest.raises(SadstreamError) as raised:
        load(*arguments)
    assert raised.value.hint
    assert "\n" not in str(raised.value) + raised.value.hint
    return f"{type(raised.value).__name__}: {raised.value} | {raised.value.hint}"


def test_options_become_what_the_class_asks_for():
    options = {
        "words": "5",
        "number": "7",
        "share": "0.25",
        "flag": "true",
        "place": "a/b",
        "either": "c",
        "maybe": "3",
        "choice": "right",
        "plain": "8",
    }
    made: Any = load_environment(f"{HERE}:Everything", options)
    assert made.given == ("5", 7, 0.25, True, Path("a/b"), "c", 3, "right", "8")
    bare: Any = load_environment(f"{HERE}:Everything", {})
    assert bare.given == ("", 1, 0.5, False, Path(), None, None, "left", "")


def test_a_class_that_takes_a_seed_gets_one_and_an_option_goes_before_it():
    seeds = [
        load_environment(f"{HERE}:Everything", {}).seed,  # type: ignore[attr-defined]
        load_environment(f"{HERE}:Everything", {}, seed=5).seed,  # type: ignore[attr-defined]
        load_environment(f"{HERE}:Everything", {"seed": "6"}, seed=5).seed,  # type: ignore[attr-defined]
    ]
    assert seeds == [0, 5, 6]
    load_environment("tests.worlds:Echo", {}, seed=5)


def test_an_annotation_that_cannot_be_looked_up_hinders_only_its_own_option():
    load_environment(f"{HERE}:ForCheckersOnly", {})
    assert "which no command line can give" in failure(load_environment, f"{HERE}:ForCheckersOnly", {"place": "a"})


def test_a_class_that_takes_anything_gets_it_as_text():
    made: Any = load_environment(f"{HERE}:AnyOption", {"depth": "2"})
    assert made.given == {"depth": "2"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"nummer": "1"}, "ConfigError: --env ENV: it has no option 'nummer' | did you mean number"),
        ({"zzz": "1"}, "it has no option 'zzz' | one of: words, number,"),
        ({"number": "many"}, "option number=many: Expected `int`"),
        ({"number": "1.5"}, "option number=1.5: Expected `int`"),
        ({"share": "half"}, "option share=half: Expected `float`"),
        ({"flag": "perhaps"}, "option flag=perhaps: Expected `bool`"),
        ({"choice": "up"}, "option choice=up: Invalid enum value 'up' | choice is Literal['left', 'right']"),
        ({"maybe": "x"}, "option maybe=x: Expected `int | null`"),
        ({"numbers": "a"}, "option numbers=a: Expected"),
        ({"call": "int"}, "option call is type[typing.Any] | None, which no command line can give"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options, named):
    message = failure(load_environment, f"{HERE}:Everything", options).replace(f"{HERE}:Everything", "ENV")
    assert named.replace("typing.", "") in message.replace("typing.", ""), message


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("alfwrld", "ConfigError: unknown environment 'alfwrld' | did you mean alfworld or textworld?"),
        (
            "chess",
            "ConfigError: unknown environment 'chess' | one of: alfworld, hotpotqa, textworld, webshop, module:Class",
        ),
        ("no_such_module:Class", "ConfigError: --env no_such_module:Class: no module 'no_such_module'"),
        ("tests.no_such:Class", "ConfigError: --env tests.no_such:Class: no module 'tests.no_such'"),
        ("tests.worlds:Eco", "ConfigError: --env tests.worlds:Eco: tests.worlds has no 'Eco' | did you mean Echo"),
        ("tests.worlds:", "tests.worlds has no ''"),
        (":Echo", "ConfigError: --env :Echo: "),
        (".worlds:Echo", "ConfigError: --env .worlds:Echo: TypeError: "),
        ("tests.worlds:time", "time is no class"),
        ("builtins:int", "TaskError: --env builtins:int: no environment: it lacks task_ids()"),
        (
            "tests.worlds:Nothing",
            "TaskError: --env tests.worlds:Nothing: no environment: it lacks task_ids(), task_type()",
        ),
        (
            "tests.worlds:Winner",
            "no environment: it lacks task_ids(), task_type(), reset(), step(), admissible(), style",
        ),
        (f"{HERE}:WrongStyle", "style 'verse' | one of: labels, numbered, prompt, webshop"),
        ("tests.worlds:NeedsMissing", "TaskError: --env tests.worlds:NeedsMissing: needs the package 'no_such_package"),
    ],
)
def test_a_name_that_means_no_environment_is_one_line(name, named):
    assert named in failure(load_environment, name, {})


def test_an_own_constructor_s_error_is_one_line_with_what_it_said():
    assert "Picky: ValueError: too large" in failure(load_environment, f"{HERE}:Picky", {"size": "4"})
    load_environment(f"{HERE}:Picky", {"size": "3"})


@pytest.mark.parametrize(
    ("name", "environment", "named"),
    [
        ("expart", "alfworld", "unknown agent 'expart' | did you mean expert?"),
        ("gpt", "alfworld", "unknown agent 'gpt' | one of: expert, random, module:Class"),
        ("expert", "tests.worlds:Echo", "--agent expert: tests.worlds:Echo comes with none"),
        ("tests.worlds:Echo", "alfworld", "no agent: it lacks begin(), decide(), privileged: bool"),
        ("tests.worlds:Winer", "alfworld", "tests.worlds has no 'Winer' | did you mean Winner"),
    ],
)
def test_a_name_that_means_no_agent_is_one_line(name, environment, named):
    assert named in failure(load_agent, name, environment, {})


def test_the_random_policy_takes_no_options_and_goes_with_any_environment():
    assert load_agent("random", "tests.worlds:Echo", {}).name == "random"
    assert "it has none" in failure(load_agent, "random", "alfworld", {"rate": "1"})


def test_the_install_line_is_that_of_the_extra_which_asks_for_the_package(monkeypatch):
    asked = ["click>=8.1", 'Text_World[pddl]>=1.6; extra == "textworld"', "hypothesis>=6; extra == 'dev'"]
    monkeypatch.setattr(choosing.metadata, "requires", lambda name: asked)
    monkeypatch.setitem(sys.modules, "text_world", None)
    assert choosing._install("text_world") == "pip install 'sadstream[textworld]'"
    assert choosing._install("hypothesis") == "pip install hypothesis"
    assert choosing._install("click") == "pip install click"


def test_a_package_that_a_module_of_the_table_needs_is_named_and_not_the_module(monkeypatch, tmp_path):
    (tmp_path / "world_of_mine.py").write_text("import text_world_engine\nclass World: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ENVIRONMENTS, "mine", Entry("world_of_mine:World", "", "a world"))
    message = failure(load_environment, "mine", {})
    assert "--env mine: needs the package 'text_world_engine', which is not installed | pip install text_wo" in message
    assert "expert: mine comes with none" in failure(load_agent, "expert", "mine", {})


def test_a_module_in_the_working_directory_is_found_and_the_path_left_as_it_was(monkeypatch, tmp_path):
    (tmp_path / "my_echo.py").write_text("from tests.worlds import Echo\nclass Mine(Echo): ...\n")
    (tmp_path / "broken_echo.py").write_text("class Mine(:\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_environment("my_echo:Mine", {"n_tasks": "2"}).task_ids("train") == ["word-0", "word-1"]
    assert "broken_echo.py, line 1" in failure(load_environment, "broken_echo:Mine", {})
    (tmp_path / "failing_echo.py").write_text("1 / 0\n")
    assert "--env failing_echo:Mine: ZeroDivisionError: division by zero" in failure(
        load_environment, "failing_echo:Mine", {}
    )
    assert sys.path == before


def test_errors_of_loading_survive_pickling():
    with pytest.raises(ConfigError) as raised:
        load_environment("alfwrld", {})
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.hint) == (str(raised.value), raised.value.hint)


@given(texts(), texts())
def test_any_name_and_option_is_answered_with_an_error_of_ours(name, value):
    for load in (lambda: load_environment(name, {value: value}), lambda: load_agent(name, name, {value: value})):
        with pytest.raises((ConfigError, TaskError)):
            load()


# ---- the laws, on the example and on our own small world; and that they catch who breaks them


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12))
def test_the_example_and_the_echo_hold_to_the_laws(choices):
    check_laws(lambda: load_environment("examples.own_environment:Jugs", {}), "train", choices)
    check_laws(Echo, "train", choices)


class Forgetful(Echo):
    def step(self, action: str) -> Any:
        reply = super().step(action)
        self._done = False
        return reply


class Shared(Echo):
    """Keeps an episode's state where copies share it."""

    def reset(self, task_id: str) -> str:
        self._heard: list[str] = []
        return super().reset(task_id)

    def step(self, action: str) -> Any:
        self._heard.append(action)
        return super().step(action)._replace(observation=" ".join(self._heard))


class Leaky(Echo):
    """Goes on where the last episode stopped."""

    _count = 0

    def step(self, action: str) -> Any:
        self._count += action in self.admissible()
        return super().step(action)._replace(observation=str(self._count))


class Lavish(Echo):
    def step(self, action: str) -> Any:
        return super().step(action)._replace(reward=2.0)


class Lenient(Echo):
    def step(self, action: str) -> Any:
        return super().step(action)._replace(valid=True)


@pytest.mark.parametrize("world", [Forgetful, Shared, Leaky, Lavish, Lenient])
def test_the_laws_catch_who_breaks_them(world):
    with pytest.raises((AssertionError, TaskError)):
        check_laws(world, "train", [0, 0, 1, 2, 2])
