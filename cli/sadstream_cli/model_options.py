"""Options of commands that let models act."""

from collections.abc import Callable
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


_OPTIONS = (
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
    click.option("--seats", default=16, show_default=True, help="Episodes side by side."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, in their order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
