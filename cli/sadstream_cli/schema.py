"""`sadstream schema`."""

import json

import click


@click.command("schema")
@click.argument("name")
def command(name: str) -> None:
    """Print the JSON Schema of a record: trajectory, span, teacher-sample or manifest.

    \b
    Example:
      sadstream schema trajectory
    """
    from sadstream_schemas import RECORDS, json_schema

    if name not in RECORDS:
        raise click.UsageError(f"no record is called {name!r}; one of: {', '.join(RECORDS)}")
    click.echo(json.dumps(json_schema(name), indent=2))
