"""Options of commands that play: which episodes, and how models are asked."""

from collections.abc import Callable, Sequence
from typing import Any

import click


class KeyValue(click.ParamType):
    """`KEY=VALUE` as a pair."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, rest = value.partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, rest


def by_name(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Pairs as a dictionary; a key given twice is wrong usage."""
    given = dict(pairs)
    if len(given) < len(pairs):
        raise click.BadParameter("a key is given twice", ctx, param)
    return given


_PLAY = (
    click.option("--env", required=True, help="alfworld, hotpotqa, webshop, textworld, or module:Class of your own."),
    click.option("--out", required=True, type=click.Path(), help="New folder for what is played."),
    click.option(
        "--tasks", default="", type=click.Path(), help="File of task ids, one a line.  [default: all of the split]"
    ),
    click.option("--limit", default=0, help="Tasks at most, drawn by the seed.  [default: all]"),
    click.option("--episodes-per-task", default=1, show_default=True, help="Play each task so often, by other seeds."),
    click.option("--max-steps", default=0, help="Turns an episode.  [default: what the environment says]"),
    click.option("--seed", default=0, show_default=True, help="Of chance, --limit, --shuffle and intervals."),
    click.option("--shuffle", default=0, help="New games of each by re-placing things (ALFWorld).  [default: none]"),
    click.option("--data", default="", help="Path of the environment's data.  [default: what it comes with]"),
    click.option(
        "--option",
        "options",
        type=KeyValue(),
        multiple=True,
        callback=by_name,
        help="A further option of the environment's class; may be repeated.",
    ),
)
_MODEL = (
    click.option("--endpoint", default="", help="OpenAI-compatible server that serves MODEL, up to and with /v1."),
    click.option(
        "--prompt",
        type=click.Choice(["auto", "zero-shot", "few-shot"]),
        default="auto",
        show_default=True,
        help="Examples before each episode; auto: for all but models that `train` made.",
    ),
    click.option("--constrain", is_flag=True, help="Take the likeliest of the actions that the environment lists."),
    click.option("--temperature", default=0.0, show_default=True, help="0 is greedy."),
    click.option("--max-new-tokens", default=128, show_default=True, help="Tokens of one answer at most."),
    click.option("--context", default=0, help="Tokens of prompt and answer at most.  [default: what the model takes]"),
    click.option("--timeout", default=300.0, show_default=True, help="Seconds that a server's answer may take."),
    click.option("--seats", default=16, show_default=True, help="Episodes side by side."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."),
)


def play_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which episodes are played to a command."""
    return _with(_PLAY, command)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says how models are asked to a command."""
    return _with(_MODEL, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
