"""`sadstream inspect`."""

import click

from sadstream_cli.output import ProgressLine, json_option, print_json, print_table


@click.command("inspect")
@click.argument("path", type=click.Path())
@click.option("--verify", is_flag=True, help="Compare every file with its checksum; exit 1 if one differs.")
@json_option
def command(path: str, verify: bool, as_json: bool) -> int:
    """Show what a folder or shard that sadstream wrote holds.

    \b
    Example:
      sadstream inspect spans
      sadstream inspect teacher --verify
    """
    from sadstream.inspect import inspect_artefact, verify_artefact

    progress = ProgressLine()
    wrong = verify_artefact(path, progress) if verify else []
    progress.close()
    tables = inspect_artefact(path) if not wrong else []
    if as_json:
        print_json({"tables": {table.title: table.rows for table in tables}, **({"wrong": wrong} if verify else {})})
    else:
        for table in tables:
            print_table(table.title, table.rows)
            click.echo()
        if verify:
            click.echo("\n".join(wrong) if wrong else "All files are what was written.")
    return 1 if wrong else 0
