"""`sadstream prune-student`."""

import shlex

import click

from sadstream_cli.output import ProgressLine, json_option, print_facts, print_json


@click.command("prune-student")
@click.argument("model")
@click.option("--layers", required=True, type=int, help="How many layers to keep.")
@click.option(
    "--keep",
    type=click.Choice(["even", "ends"]),
    default="even",
    show_default=True,
    help="Which: evenly spaced, or the first and the last ones, half each, which begin nearer to the teacher.",
)
@click.option("--out", required=True, type=click.Path(), help="New folder for the student.")
@json_option
def command(model: str, layers: int, keep: str, out: str, as_json: bool) -> None:
    """Make a student from a teacher by keeping some of its layers, first and last among them.

    MODEL is a folder, a hub name, or smollm2-135m, the embedded default.

    \b
    Example:
      sadstream prune-student smollm2-135m --layers 15 --keep ends --out student
    """
    from sadstream.prune import prune_student

    progress = ProgressLine()
    summary = prune_student(
        model, out, layers=layers, keep=keep, on_note=lambda note: progress(0, None, "layers", note)
    )
    progress.close()
    if as_json:
        print_json(summary)
        return
    if summary.get("already_done"):
        click.echo(f"{out} is finished already.")
    print_facts([("layers kept", str(summary["layers_kept"])), ("parameters", summary["n_parameters"]), ("wrote", out)])
    click.echo(f"Next: sadstream train teacher --student {shlex.quote(out)} --out run")
