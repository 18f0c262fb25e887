"""`sadstream evaluate`."""

from typing import Any

import click

from sadstream_cli.output import ProgressLine, json_option, print_facts, print_json, print_table
from sadstream_cli.play_options import model_options, play_options


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@play_options
@click.option("--split", default="", help="Which tasks.  [default: valid_unseen, dev or test of the environment]")
@click.option(
    "--thoughts",
    type=click.Choice(["default", "count", "free"]),
    default="default",
    show_default=True,
    help="Whether a turn that only thinks uses up one of --max-steps.",
)
@click.option("--reference", default="", type=click.Path(), help="Span shards to compare thoughts with (CoT match).")
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
