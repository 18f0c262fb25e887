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
    show_default="200; of a run, 40",
    help="Trajectories or windows on the page at most, evenly spread over all; 0 is all.",
)
@click.option("--split", default="", help="Only those of this split on the page: train or holdout.")
@json_option
def command(path: str, verify: bool, html: str | None, limit: int | None, split: str, as_json: bool) -> int:
    """Show what a folder or shard that sadstream wrote holds.

    With --html FILE also as a page that works without network: spans coloured by
    kind; for teacher shards what the teacher expected at each token; for a run
    also how far its student is from that (KL, now and before training). The
    student reads each window for it, held-out ones first.

    \b
    Example:
      sadstream inspect spans
      sadstream inspect teacher --verify
      sadstream inspect examples/logs --html logs.html
      sadstream inspect run --html run.html --split holdout --limit 20
    """
    from sadstream.inspect import inspect_artefact, verify_artefact
    from sadstream.page_file import is_artefact, write_page

    progress = ProgressLine()
    wrong = verify_artefact(path, progress) if verify else []
    tables = inspect_artefact(path) if not wrong and (html is None or is_artefact(path)) else []
    page = write_page(path, html, progress, limit=limit, split=split) if html is not None and not wrong else None
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
        for note in page["notes"]:
            click.echo(note)
        click.echo(
            f"Written: {page['file']} ({page['n_shown']:,} of {page['n_all']:,} {page['what']}, "
            f"{page['n_bytes']:,} bytes); open it in a browser"
        )
    return 1 if wrong else 0
