"""Which environment and which player a user wants: one of ours by name, or a class of the user's own."""

import contextlib
import difflib
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from sadstream.environments import ENVIRONMENTS
from sadstream.environments.protocol import Agent, Environment, Style
from sadstream.errors import ConfigError, SadstreamError, TaskError

RANDOM = "sadstream.environments.random_agent:RandomAgent"
AGENTS = ("expert", "random")

_IMPORTABLE = "module:Class, importable from here"
_ENVIRONMENT_METHODS = ("task_ids", "task_type", "reset", "step", "admissible")
_ENVIRONMENT_ATTRIBUTES = {"name": str, "style": str, "max_steps": int, "thoughts_count": bool, "examples": dict}
_AGENT_METHODS = ("begin", "decide")
_AGENT_ATTRIBUTES = {"name": str, "privileged": bool}


def load_environment(name: str, options: Mapping[str, str], *, seed: int = 0) -> Environment:
    """An environment, ready to be reset.

    Args:
        name: a key of `ENVIRONMENTS`, or `module:Class` of one's own, found from the working directory too.
        options: what its class takes, by name; each value becomes what the class's annotation asks for.
        seed: given to a class that takes one, unless the options name another.
    Raises:
        ConfigError: no such environment, module, class or option, or a value of the wrong type.
        TaskError: what it needs is not installed, or it is no environment.
    """
    if name in ENVIRONMENTS:
        place = ENVIRONMENTS[name].environment
    elif ":" in name:
        place = name
    else:
        raise ConfigError(f"unknown environment {name!r}", hint=_nearest(name, ENVIRONMENTS, "module:Class"))
    environment = _made(f"--env {name}", place, options, {"seed": str(seed)})
    _check(f"--env {name}", environment, _ENVIRONMENT_METHODS, _ENVIRONMENT_ATTRIBUTES, "Environment")
    if environment.style not in typing.get_args(Style):
        raise TaskError(
            f"--env {name}: style {environment.style!r}", hint=f"one of: {', '.join(typing.get_args(Style))}"
        )
    if environment.max_steps < 1:
        raise TaskError(f"--env {name}: max_steps {environment.max_steps}", hint="at least 1")
    return typing.cast(Environment, environment)


def load_agent(name: str, environment_name: str, options: Mapping[str, str]) -> Agent:
    """A player, ready to begin.

    Args:
        name: `expert` (of the named environment), `random`, or `module:Class` of one's own.
        environment_name: as `load_environment` takes it.
        options: what its class takes, as for `load_environment`.
    Raises:
        ConfigError, TaskError: as `load_environment`; also where the environment comes with no expert.
    """
    if name == "expert":
        entry = ENVIRONMENTS.get(environment_name)
        if entry is None or not entry.expert:
            raise ConfigError(
                f"--agent expert: {environment_name} comes with none", hint="name one as module:Class, or take random"
            )
        place = entry.expert
    elif name == "random":
        place = RANDOM
    elif ":" in name:
        place = name
    else:
        raise ConfigError(f"unknown agent {name!r}", hint=_nearest(name, AGENTS, "module:Class"))
    agent = _made(f"--agent {name}", place, options, {})
    _check(f"--agent {name}", agent, _AGENT_METHODS, _AGENT_ATTRIBUTES, "Agent")
    return typing.cast(Agent, agent)


def _nearest(name: str, known: typing.Iterable[str], *others: str) -> str:
    near = difflib.get_close_matches(name, list(known), 3, 0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"one of: {', '.join([*known, *others])}"


def _made(flag: str, place: str, options: Mapping[str, str], if_taken: Mapping[str, str]) -> Any:
    """An object of the class at `module:Class`, with options as its constructor wants them."""
    make = _imported(flag, place)
    taken = {key: value for key, value in if_taken.items() if key in _parameters(make)}
    arguments = _arguments(flag, make, {**taken, **options})
    with _what_is_missing(flag):
        try:
            return make(**arguments)
        except (SadstreamError, ModuleNotFoundError):
            raise
        except Exception as error:
            if place.startswith("sadstream."):
                raise
            raise TaskError(f"{flag}: {type(error).__name__}: {error}", hint="its own constructor said so") from error


def _imported(flag: str, place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    # As `python -m` does: a module wherever the user stands is found.
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        with _what_is_missing(flag):
            found = importlib.import_module(module)
    except TaskError as error:
        absent = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if absent is not None and (module == absent or module.startswith(f"{absent}.")):
            raise ConfigError(f"{flag}: no module {absent!r}", hint=_IMPORTABLE) from error
        raise
    except Exception as error:  # the user's module raises what it will
        if module.startswith("sadstream."):
            raise
        raise ConfigError(f"{flag}: {type(error).__name__}: {error}", hint=_IMPORTABLE) from error
    finally:
        if added:
            sys.path.remove(here)
    made: Any = getattr(found, name, None) if name else None
    if made is None:
        classes = [key for key, value in vars(found).items() if inspect.isclass(value)]
        raise ConfigError(f"{flag}: {module} has no {name!r}", hint=_nearest(name, classes) if classes else _IMPORTABLE)
    if not callable(made):
        raise ConfigError(f"{flag}: {name} is no class", hint=_IMPORTABLE)
    return typing.cast(Callable[..., Any], made)


@contextlib.contextmanager
def _what_is_missing(flag: str) -> Iterator[None]:
    """Turn a package that is not installed into one line that says how to get it.

    Raises:
        TaskError: names the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        absent = (error.name or "").split(".")[0]
        raise TaskError(
            f"{flag}: needs the package {absent!r}, which is not installed", hint=_install(absent)
        ) from error


def _install(module: str) -> str:
    """The line that installs a package: the extra of ours that asks for it, where one does."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires("sadstream") or ():
            package = re.split(r"[\s\[<>=!~;@(]", requirement, maxsplit=1)[0]
            extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", requirement)
            if extra and extra[1] != "dev" and _plain(package) == _plain(module):
                return f"pip install 'sadstream[{extra[1]}]'"
    return f"pip install {module}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).casefold()


def _arguments(flag: str, make: Callable[..., Any], options: Mapping[str, str]) -> dict[str, Any]:
    """Options as the types that the constructor's annotations name.

    Raises:
        ConfigError: an option that it does not take, or a value of another type.
    """
    if not options:
        return {}
    parameters = _parameters(make)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    named = [key for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    arguments = {}
    for key, value in options.items():
        if key in named:
            arguments[key] = _converted(flag, key, value, parameters[key].annotation)
        elif takes_any:
            arguments[key] = value
        else:
            raise ConfigError(
                f"{flag}: it has no option {key!r}", hint=_nearest(key, named) if named else "it has none"
            )
    return arguments


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a class can be given, its annotations as types where they can be looked up."""
    for eval_str in (True, False):
        # A name that is there for type checkers only has no value; some built-in classes tell nothing at all.
        with contextlib.suppress(NameError, TypeError, ValueError, AttributeError):
            return inspect.signature(make, eval_str=eval_str).parameters
    return {}


def _converted(flag: str, key: str, value: str, wanted: Any) -> Any:
    if wanted is inspect.Parameter.empty or wanted is Any or str in typing.get_args(wanted):
        return value
    try:
        return msgspec.convert(value, wanted, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{flag}: option {key}={value}: {error}", hint=f"{key} is {_type_name(wanted)}") from error
    except (TypeError, NotImplementedError) as error:
        raise ConfigError(
            f"{flag}: option {key} is {_type_name(wanted)}, which no command line can give", hint="leave it out"
        ) from error


def _path(wanted: type, value: Any) -> Any:
    if wanted is Path:
        return Path(value)
    raise NotImplementedError


def _type_name(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")


def _check(flag: str, made: Any, methods: tuple[str, ...], attributes: dict[str, type], protocol: str) -> None:
    """Refuse what lacks a part of the protocol.

    Raises:
        TaskError: names all that is absent or of another type.
    """
    wrong = [f"{name}()" for name in methods if not callable(getattr(made, name, None))]
    for name, wanted in attributes.items():
        value = getattr(made, name, None)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            wrong.append(f"{name}: {wanted.__name__}")
    if wrong:
        raise TaskError(
            f"{flag}: no {protocol.lower()}: it lacks {', '.join(wrong)}",
            hint=f"sadstream.environments.{protocol} says what is asked for; docs/environments.md has an example",
        )
