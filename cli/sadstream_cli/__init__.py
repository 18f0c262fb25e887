"""The `sadstream` command: parses, calls one function of the library a command, prints its summary."""

import sys

from sadstream_cli.group import cli

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command line and exit."""
    sys.exit(cli.run())
