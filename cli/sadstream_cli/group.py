"""The group of commands: loads each on use, and turns the library's errors into one line and a hint."""

import errno
import importlib
import sys
from typing import Any

import click

_COMMANDS = (
    "segment",
    "prune-student",
    "cache-teacher",
    "doctor",
    "train",
    "evaluate",
    "collect",
    "inspect",
    "schema",
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"sadstream_cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def run(self, args: list[str] | None = None) -> int:
        """Run with arguments (of the process by default). Returns the exit code."""
        try:
            result: Any = self.main(args, prog_name="sadstream", standalone_mode=False)
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("\nInterrupted. The same command continues where it stopped.", err=True)
            return 130
        except OSError as error:
            if error.errno == errno.EPIPE:
                return 0
            if error.filename is None and error.errno not in _NO_ROOM:
                raise
            hint = "make room, then run the same command again" if error.errno in _NO_ROOM else "check the path"
            _report(f"{error.filename or 'disk'}: {error.strerror}", hint)
            return 1
        except Exception as error:
            # Imported by now if it was raised: asking sys.modules keeps `--help` free of the library.
            errors = sys.modules.get("sadstream.errors")
            if errors is None or not isinstance(error, errors.SadstreamError):
                raise
            _report(str(error), error.hint)
            return 1
        return result if isinstance(result, int) else 0


def _report(message: str, hint: str) -> None:
    click.echo(
        f"\nError: {' '.join(message.split())}" if sys.stderr.isatty() else f"Error: {' '.join(message.split())}",
        err=True,
    )
    if hint:
        click.echo(f"Hint: {hint}", err=True)


def _version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"sadstream {version('sadstream')}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Distil an agent from the logs you have.

    \b
    Raw logs to a distilled student, a folder a stage:
      sadstream segment LOGS --out spans
      sadstream prune-student smollm2-135m --layers 15 --keep ends --out student
      sadstream cache-teacher spans --teacher smollm2-135m --out teacher
      sadstream train teacher --student student --out run
      sadstream evaluate run/model --env alfworld --out results
    """
