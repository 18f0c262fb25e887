"""`sadstream train`."""

from typing import Any

import click
from click.core import ParameterSource

from sadstream_cli.output import ProgressLine, json_option, print_facts, print_json, print_table


@click.command("train")
@click.argument("shards", type=click.Path(), required=False)
@click.option("--student", help="A folder or a hub name; its tokenizer must be the teacher's.")
@click.option("--out", type=click.Path(), help="New folder for the run.")
@click.option(
    "--objective",
    type=click.Choice(["sad", "token-kd", "imitation"]),
    default="sad",
    show_default=True,
    help="A divergence per span kind; over tokens, without spans; cross-entropy on what was logged.",
)
@click.option(
    "--kd-tokens",
    type=click.Choice(["agent", "all"]),
    default="agent",
    show_default=True,
    help="Of token-kd: what the agent wrote, or every token.",
)
@click.option(
    "--divergence",
    type=click.Choice(["forward-kl", "reverse-kl", "jsd"]),
    default="forward-kl",
    show_default=True,
    help="Between teacher and student, over the top k and the rest.",
)
@click.option(
    "--reduction",
    type=click.Choice(["sum", "mean"]),
    default="sum",
    show_default=True,
    help="One mean over all tokens (the paper's), or one per kind.",
)
@click.option("--lambda-reason", default=1.0, show_default=True, help="Weight of REASON spans.")
@click.option("--lambda-act", default=1.0, show_default=True, help="Weight of ACT spans.")
@click.option("--temperature", default=1.0, show_default=True, help="Of the top k and the rest, on both sides.")
@click.option("--ce-weight", default=0.0, show_default=True, help="Share of cross-entropy that is mixed in, 0 to 1.")
@click.option(
    "--curriculum",
    type=click.Choice(["none", "complexity", "depth"]),
    default="none",
    show_default=True,
    help="complexity: each epoch goes from easy to hard; depth: later steps count later on.",
)
@click.option("--mix", multiple=True, metavar="FORMAT=WEIGHT", help="How often an epoch takes a sample; repeatable.")
@click.option("--updates", default=0, help="Optimiser steps.  [default: as many as --epochs take]")
@click.option("--epochs", default=1, show_default=True, help="Passes over the training split.")
@click.option("--batch-tokens", default=8192, show_default=True, help="Real tokens an update.")
@click.option("--micro-batch-tokens", default=0, help="Padded tokens at once.  [default: CPU one window, GPU 16384]")
@click.option("--lr", default=1e-4, show_default=True, help="Peak learning rate.")
@click.option("--seed", default=0, show_default=True, help="Of order and dropout.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16 (autocast).")
@click.option("--save-every", default=200, show_default=True, help="Updates between checkpoints.")
@click.option("--eval-every", default=0, help="Updates between held-out measures; the best is kept.  [default: none]")
@click.option("--config", type=click.Path(), default="", help="TOML file with options, rarer ones too; flags win.")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool, config: str, **options: Any) -> None:
    """Train a student on what the teacher said.

    SHARDS is the folder that `sadstream cache-teacher` wrote. An interrupted run continues from its last checkpoint
    when the same command is given again. RUN/model is what transformers and vLLM load. Rarer options have no flag: a
    --config file sets them by name (schedule, lora_rank, compile, clip and others; docs/method.md lists them).

    \b
    Example:
      sadstream train teacher --student student --out run --epochs 3 --batch-tokens 1024 --lr 1e-3
    """
    from sadstream.inspect import run_tables
    from sadstream.train import read_config, train

    progress = ProgressLine()
    given = {
        name: value
        for name, value in options.items()
        if value is not None and (not config or ctx.get_parameter_source(name) is not ParameterSource.DEFAULT)
    }
    missing = [name for name in ("shards", "student", "out") if name not in given]
    if missing and not config:
        raise click.UsageError(f"missing {' and '.join(missing)}; give them, or a --config that holds them")
    summary = train(read_config(config, given), progress)
    progress.close()
    if not summary:  # of a rank that is not the first
        return
    if as_json:
        print_json(summary)
        return
    out = summary["out"]
    if summary.get("already_done"):
        click.echo(f"{out} is finished already: the same shards, student and options.")
    print_facts(
        [
            ("updates", summary["n_updates"]),
            ("tokens", summary["n_tokens"]),
            ("samples", f"{summary['n_train']} trained on, {summary['n_holdout']} held out"),
            ("windows", "packed" if summary.get("packed") else "padded"),
            ("padding share", summary["padding_share"]),
            ("least held-out KL", summary.get("eval_best")),
            ("tokens a second", summary.get("tokens_per_second")),
            ("seconds", summary.get("seconds")),
            ("wrote", f"{summary['model']}, {out}/curves.png, {out}/metrics.jsonl"),
        ]
    )
    for table in run_tables(summary):
        print_table(table.title, table.rows)
    if not summary["n_holdout"]:
        click.echo("Nothing was held out, so nothing could be measured: segment with --holdout 0.05.")
