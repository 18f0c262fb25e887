"""`sadstream cache-teacher`."""

import shlex
from typing import Any

import click

from sadstream_cli.output import ProgressLine, json_option, print_facts, print_json


@click.command("cache-teacher")
@click.argument("spans", type=click.Path())
@click.option("--teacher", required=True, help="A folder, a hub name, or smollm2-135m.")
@click.option("--out", required=True, type=click.Path(), help="New folder for the teacher shards.")
@click.option(
    "--top-k", default=32, show_default=True, help="Ids kept a token; the mass outside is kept as one number."
)
@click.option(
    "--top-p", default=1.0, show_default=True, help="Of the top k, only those needed for this share of the mass."
)
@click.option(
    "--mode",
    type=click.Choice(["top-k", "sample"]),
    default="top-k",
    show_default=True,
    help="Keep the likeliest ids, or draw ids (unbiased; for forward KL).",
)
@click.option("--draws", default=50, show_default=True, help="Ids drawn a token with --mode sample.")
@click.option(
    "--positions",
    type=click.Choice(["supervised", "all"]),
    default="supervised",
    show_default=True,
    help="Ask about what the agent wrote, or about every token (for flat token-level distillation).",
)
@click.option("--max-length", default=0, help="Tokens a window.  [default: what the teacher takes, at most 8192]")
@click.option(
    "--render",
    type=click.Choice(["auto", "text", "chat"]),
    default="auto",
    show_default=True,
    help="Text as it stands, or messages through the tokenizer's chat template; auto follows the log.",
)
@click.option(
    "--backend",
    type=click.Choice(["transformers", "vllm", "openai", "logs"]),
    default="transformers",
    show_default=True,
    help="Who answers: a model here (transformers, vLLM), a server that gives prompt logprobs (vLLM's), or nobody: "
    "the logprobs that the logs hold, and hard labels where they hold none.",
)
@click.option("--endpoint", default="", help="Address of the server, such as http://localhost:8000/v1.")
@click.option("--served-model", default="", help="The server's name for the teacher.  [default: its only one]")
@click.option("--concurrency", default=8, show_default=True, help="Requests to the server side by side.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that the teacher's folder brings.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--batch-tokens", default=0, help="Padded tokens a batch.  [default: CPU one window, GPU 16384]")
@click.option(
    "--packing",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Several windows in one row, where the teacher's attention keeps them apart; auto: on a GPU.",
)
@click.option("--limit", default=0, help="Windows at most, to try things out.  [default: all]")
@click.option(
    "--dry-run", is_flag=True, help="Write nothing: count what is to be asked, and time the teacher on 3 windows."
)
@json_option
def command(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Ask the teacher, once, about every token that will be supervised.

    SPANS is the folder that `sadstream segment` wrote. For each token of a REASON or ACT span the teacher's top-k
    logprobs, the mass outside them, its entropy and the logged token's logprob are stored. Runs longer than the
    teacher's context are cut at step boundaries into windows that repeat the prompt. Add logs to SPANS and run the same
    line again: only windows that were not asked about are. With a server, --teacher gives the tokenizer, and the key
    is read from OPENAI_API_KEY; with --backend logs it gives the tokenizer, and no weights are read: what the logs'
    own `logprobs` say of a token is taken where log and tokenizer cut it alike, and else the token is its own label.

    \b
    Example:
      sadstream cache-teacher spans --teacher smollm2-135m --out teacher
    With a server:
      sadstream cache-teacher spans --teacher DIR --backend openai --endpoint http://localhost:8000/v1 --out teacher
    """
    from sadstream.teacher import CacheConfig, cache_teacher, plan_cache

    progress = ProgressLine()
    config = CacheConfig(**options)
    summary = plan_cache(config, progress) if dry_run else cache_teacher(config, progress)
    progress.close()
    if as_json:
        print_json(summary)
        return
    if dry_run:
        print_facts(
            [
                ("windows", summary["n_windows"]),
                ("tokens", summary["n_tokens"]),
                ("supervised tokens", summary["n_supervised"]),
                ("bytes on disk, about", summary["n_bytes"]),
                ("tokens a second, of 3 windows", summary["tokens_per_second"]),
                ("hours, about", summary["hours"]),
                ("tokens a window at most", summary["max_length"]),
            ]
        )
        _say_refusals(summary)
        return
    if summary.get("already_done"):
        click.echo(f"{config.out} is finished already: the same spans, teacher and options.")
    print_facts(
        [
            ("samples", summary["n_samples"]),
            ("tokens", summary["n_tokens"]),
            ("supervised", summary["n_supervised"]),
            ("bytes a supervised token", summary["bytes_per_supervised_token"]),
            ("mean tail mass", summary["mean_tail_mass"]),
            ("mean entropy, nats", summary["mean_entropy_nats"]),
            ("windows through the chat template", summary["n_rendered"]["chat"] or None),
            *((what, summary.get("labels", {}).get(name) or None) for name, what in _LABELS.items()),
            ("windows whose prompt was cut", summary["n_cut_prompts"] or None),
            ("windows that cut a step", summary["n_cut_steps"] or None),
            ("windows were asked", summary.get("batches")),
            ("tokens a second", summary.get("tokens_per_second")),
            ("seconds", summary.get("seconds")),
            ("wrote", f"{summary['n_shards']} shard(s) in {config.out}"),
        ]
    )
    _say_refusals(summary)
    out, teacher = shlex.quote(config.out), shlex.quote(config.teacher)
    click.echo(
        f"Next: sadstream prune-student {teacher} --layers 15 --keep ends --out student   (unless you have a student)"
    )
    click.echo(f"      sadstream train {out} --student student --out run")


_LABELS = {
    "n_logged": "tokens with the log's own logprobs",
    "n_no_logprobs": "hard labels, no logprobs logged",
    "n_unreadable": "hard labels, logprobs unreadable",
    "n_other_text": "hard labels, text beside the logged tokens",
    "n_other_tokens": "hard labels, cut into other tokens",
}


def _say_refusals(summary: dict[str, Any]) -> None:
    """Runs of messages that went out as text, and why. A folder of an older version doesn't know."""
    for reason, n_runs in summary.get("n_refused_by_template", {}).items():
        click.echo(f"As text, not through the chat template: {n_runs:,} run(s) of messages. {reason}")
