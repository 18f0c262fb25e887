"""`sadstream segment`."""

import re
import shlex
from typing import Any

import click

from sadstream_cli.format_table import TABLE
from sadstream_cli.output import ProgressLine, json_option, print_facts, print_json

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class _Size(click.ParamType):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG]?I?B?)", value.strip().upper())
        if found is None or found[2] not in _UNITS:
            self.fail(f"{value!r} is not a size; write 64MB, 1GB or a number of bytes", param, ctx)
        return int(float(found[1]) * _UNITS[found[2]])


def _formats() -> str:
    width = max(len(name) for name, _ in TABLE)
    rows = "\n".join(f"  {name:<{width}}  {about}" for name, about in TABLE)
    return f"\b\nFormats, recognised from content:\n{rows}"


@click.command("segment", epilog=_formats())
@click.argument("logs", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(), help="New folder for the span shards.")
@click.option("--format", default="auto", show_default=True, help="A format's name, or module:function for your own.")
@click.option(
    "--where", default="", help='Keep trajectories for which this SQL holds, e.g. "success AND n_steps < 20".'
)
@click.option("--holdout", default=0.05, show_default=True, help="Share of tasks held out, by a hash of the task.")
@click.option("--dedupe", is_flag=True, help="Leave out exact repeats.")
@click.option("--shard-size", type=_Size(), default="64MB", show_default=True, help="Close a shard at this size.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a malformed record does; skipped ones are listed in rejects.jsonl.",
)
@json_option
def command(logs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Cut raw agent logs into REASON, ACT and observation spans.

    LOGS are files, folders, globs in quotes, fsspec URLs, or - for standard input; .gz and .zst are unpacked, Parquet,
    Arrow and zip files are looked into. The format of each record is recognised by its content.

    \b
    Example:
      sadstream segment examples/logs --out spans
      sadstream segment "runs/*.jsonl.gz" --where "success AND repeated_action_share < 0.5" --out spans
    """
    from sadstream.manifest import REJECTS
    from sadstream.spans import SegmentConfig, segment_logs

    progress = ProgressLine()
    summary = segment_logs(SegmentConfig(logs=logs, **options), progress)
    progress.close()
    if as_json:
        print_json(summary)
        return
    out = summary["out"]
    if summary.get("already_done"):
        click.echo(f"{out} is finished already: the same logs, the same options.")
    print_facts(
        [
            ("trajectories", summary["n_trajectories"]),
            ("by format", summary["formats"]),
            ("held out", summary["n_holdout"]),
            ("steps", summary["n_steps"]),
            ("spans", summary["n_spans"]),
            ("not a run", summary["n_rejected"] or None),
            ("left out by --where", summary["n_filtered"] or None),
            ("repeats left out", summary["n_duplicates"] or None),
            ("passed over", summary["n_passed_over"] or None),
            ("bytes read", summary["n_bytes_in"]),
            ("seconds", summary.get("seconds")),
            ("wrote", f"{summary['n_shards']} shard(s) in {out}"),
        ]
    )
    if summary["n_rejected"] or summary["n_passed_over"] or summary["n_duplicates"]:
        click.echo(f"What was left out, and why: {out}/{REJECTS}")
    if summary["n_trajectories"]:
        click.echo(f"Next: sadstream cache-teacher {shlex.quote(out)} --teacher smollm2-135m --out teacher")
    else:
        click.echo("Nothing is left to learn from: loosen --where.")
