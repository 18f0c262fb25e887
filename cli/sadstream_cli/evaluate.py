"""`sadstream evaluate`."""

from typing import Any

import click

from sadstream_cli.model_options import KeyValue, by_name, model_options
from sadstream_cli.output import ProgressLine, json_option, print_facts, print_json, print_table


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--env", required=True, help="alfworld, hotpotqa, webshop, or module:Class of your own.")
@click.option("--out", required=True, type=click.Path(), help="New folder for episodes and results.")
@click.option("--split", default="", help="Which tasks.  [default: valid_unseen, dev or test of the environment]")
@click.option(
    "--tasks", default="", type=click.Path(), help="File of task ids, one a line.  [default: all of the split]"
)
@click.option("--limit", default=0, help="Tasks at most, drawn by the seed.  [default: all]")
@click.option("--episodes-per-task", default=1, show_default=True, help="Play each task so often, with other seeds.")
@click.option("--max-steps", default=0, help="Turns an episode.  [default: what the environment says]")
@click.option(
    "--thoughts",
    type=click.Choice(["default", "count", "free"]),
    default="default",
    show_default=True,
    help="Whether a turn that only thinks uses up one of --max-steps.",
)
@click.option("--seed", default=0, show_default=True, help="Of chance, --limit, --shuffle and intervals.")
@click.option("--reference", default="", type=click.Path(), help="Span shards to compare thoughts with (CoT match).")
@click.option("--shuffle", default=0, help="New games of each by re-placing things (ALFWorld).  [default: none]")
@click.option("--data", default="", help="Path of the environment's data.  [default: what it comes with]")
@click.option(
    "--option",
    "options",
    type=KeyValue(),
    multiple=True,
    callback=by_name,
    help="A further option of the environment's class; may be repeated.",
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds that a server's answer may take.")
@model_options
@json_option
def command(as_json: bool, models: tuple[str, ...], **options: Any) -> None:
    """Play whole episodes with models and report how well they act.

    MODEL is a path, a hub name, smollm2-135m, what --endpoint calls it, expert, random, or module:Class. Each episode
    is appended to OUT/NAME/trajectories.jsonl as it ends; a killed run continues where it stopped. Several models play
    the same tasks and are compared.

    \b
    Example:
      sadstream evaluate expert random --env alfworld --limit 20 --out results
      sadstream evaluate smollm2-135m --env alfworld --limit 2 --max-steps 5 --out small
    """
    from sadstream.evaluate import EvaluateConfig, evaluate
    from sadstream.inspect import result_tables

    progress = ProgressLine()
    results = evaluate(EvaluateConfig(models=list(models), **options), progress)
    progress.close()
    if as_json:
        print_json(results)
        return
    out = results["out"]
    if results.get("already_done"):
        click.echo(f"{out} is finished already: the same models, the same options.")
    print_facts(
        [
            ("tasks", results["n_tasks"]),
            ("turns at most", results["max_steps"]),
            ("thoughts use up turns", results["thoughts_count"]),
            ("seconds", results.get("seconds")),
            ("wrote", f"{out}/results.json, success.png, and a folder a model"),
        ]
    )
    for table in result_tables(results):
        print_table(table.title, table.rows)
