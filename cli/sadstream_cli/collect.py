"""`sadstream collect`."""

import shlex
from typing import Any

import click

from sadstream_cli.output import ProgressLine, json_option, print_facts, print_json, print_table
from sadstream_cli.play_options import KeyValue, by_name, model_options, play_options


@click.command("collect")
@play_options
@click.option("--agent", required=True, help="expert, random, module:Class of your own, or MODEL.")
@click.option("--split", default="train", show_default=True, help="Which of the environment's tasks.")
@click.option("--keep", type=click.Choice(["won", "all"]), default="won", show_default=True, help="What to write.")
@click.option(
    "--agent-option",
    "agent_options",
    type=KeyValue(),
    multiple=True,
    callback=by_name,
    help="An option of the agent's class, as error_rate=0.1; may be repeated.",
)
@click.option("--guide", default="", help="expert or MODEL that takes some of the turns.  [default: none]")
@click.option("--guide-share", default=0.5, show_default=True, help="Probability of a turn to be the guide's.")
@model_options
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Play tasks of an environment and write what the agent did as logs.

    Each episode is appended to trajectories.jsonl as it ends, if it was won (or with --keep all), and told of in
    episodes.jsonl; a killed run continues where it stopped. `sadstream segment` takes the folder.

    \b
    Example:
      sadstream collect --env alfworld --agent expert --limit 50 --out played
      sadstream segment played --out spans
      sadstream collect --env alfworld --agent run/model --keep all --out on-policy
    """
    from sadstream.collect import CollectConfig, collect
    from sadstream.inspect import episode_tables

    progress = ProgressLine()
    summary = collect(CollectConfig(**options), progress)
    progress.close()
    if as_json:
        print_json(summary)
        return
    out = summary["out"]
    if summary.get("already_done"):
        click.echo(f"{out} is finished already: the same tasks, the same options.")
    print_facts(
        [
            ("episodes", summary["n_episodes"]),
            ("kept", summary["n_kept"]),
            ("ended", summary["endings"]),
            ("turns at most", summary["max_steps"]),
            ("thoughts use up turns", summary["thoughts_count"]),
            ("the agent knows more than it reads", summary["privileged"] or None),
            ("seconds", summary.get("seconds")),
            ("wrote", out),
        ]
    )
    for table in episode_tables(summary):
        print_table(table.title, table.rows)
    if summary["n_kept"]:
        click.echo(f"Next: sadstream segment {shlex.quote(out)} --out spans")
    else:
        click.echo("Nothing was won, so nothing was kept: --keep all keeps every episode.")
