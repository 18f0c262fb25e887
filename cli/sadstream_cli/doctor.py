"""`sadstream doctor`."""

from typing import Any

import click

from sadstream_cli.output import ProgressLine, json_option, print_json, print_table


@click.command("doctor")
@click.argument("shards", type=click.Path())
@click.option(
    "--teacher", default="", help="Ask this model again about some windows: a folder, hub name, smollm2-135m."
)
@click.option("--windows", default=8, show_default=True, help="How many windows it is asked about.")
@click.option("--seed", default=0, show_default=True, help="Which windows.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool, **options: Any) -> None:
    """Is a teacher's cache whole, aligned, and what it says?

    SHARDS is the folder that `sadstream cache-teacher` wrote. Checksums, indexes, tokenizer and numbers are compared;
    the logged tokens must be foretold better than their neighbours. With --teacher some windows are asked again. A line
    a verdict; exit 1 where something is wrong.

    \b
    Example:
      sadstream doctor teacher
    """
    from sadstream.doctor import DoctorConfig, doctor

    progress = ProgressLine()
    summary = doctor(DoctorConfig(**options), progress)
    progress.close()
    if as_json:
        print_json(summary)
    else:
        for verdict in summary["verdicts"]:
            click.echo(f"  {'ok   ' if verdict['ok'] else 'WRONG'}  {verdict['check']}: {verdict['says']}")
        if "by_kind" in summary:
            print_table("tokens by kind", [{"kind": kind, **row} for kind, row in summary["by_kind"].items()])
        if "truncation" in summary:
            rows = [{"k": int(k), "lost, nats": lost} for k, lost in summary["truncation"].items()]
            print_table("where only the likeliest k are kept and made to sum to 1", rows)
        click.echo("Nothing is wrong." if summary["ok"] else "Something is wrong: see above.")
    if not summary["ok"]:
        context.exit(1)
