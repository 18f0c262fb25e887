"""`sadstream inspect`."""

import click

from sadstream_cli.output import ProgressLine, json_option, print_json, print_table


@click.command("inspect")
@click.argument("path", type=click.Path())
@click.option("--verify", is_flag=True, help="Compare every file with its checksum; exit 1 if one differs.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    help="Write a page that shows the trajectories, span by span; PATH may also be raw logs.",
)
@click.option(
    "--limit",
    type=int,
    default=200,
    show_default=True,
    help="Trajectories on the page at most, evenly spread over all; 0 is all.",
)
@json_option
def command(path: str, verify: bool, html: str | None, limit: int, as_json: bool) -> int:
    """Show what a folder or shard that sadstream wrote holds.

    With --html FILE also as a page that works without network: spans coloured by
    kind, and for teacher shards what the teacher expected at each token.

    \b
    Example:
      sadstream inspect spans
      sadstream inspect teacher --verify
      sadstream inspect examples/logs --html logs.html
    """
    from sadstream.inspect import inspect_artefact, verify_artefact
    from sadstream.page_source import is_artefact, write_page

    progress = ProgressLine()
    wrong = verify_artefact(path, progress) if verify else []
    tables = inspect_artefact(path) if not wrong and (html is None or is_artefact(path)) else []
    page = write_page(path, html, progress, limit=limit) if html is not None and not wrong else None
    progress.close()
    if as_json:
        summary = {"tables": {table.title: table.rows for table in tables}, **({"wrong": wrong} if verify else {})}
        print_json({**summary, **({"page": page} if page else {})})
        return 1 if wrong else 0
    for table in tables:
        print_table(table.title, table.rows)
        click.echo()
    if verify:
        click.echo("\n".join(wrong) if wrong else "All files are what was written.")
    if page:
        click.echo(
            f"Written: {page['file']} ({page['n_shown']:,} of {page['n_all']:,} {page['what']}, "
            f"{page['n_bytes']:,} bytes); open it in a browser"
        )
    return 1 if wrong else 0
