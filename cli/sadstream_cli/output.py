"""What commands print: progress on stderr, summaries on stdout."""

import json
import shutil
import sys
import time
from collections.abc import Iterable
from typing import Any

import click

_EVERY_SECONDS = {True: 0.1, False: 10.0}
_BAR = 24

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")


class ProgressLine:
    """A `sadstream.progress.Progress`: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._begin = time.monotonic()
        self._shown_at = 0.0 if self._live else self._begin
        self._note = ""
        self._width = 0
        self._counting: tuple[float, int] | None = None  # when the count began, and at what

    def __call__(self, done: int, total: int | None, unit: str, note: str = "") -> None:
        now = time.monotonic()
        if total and self._counting is None:
            self._counting = (now, done)
        stage = note.split(",")[0] if not done else self._note
        is_new = stage != self._note
        if now - self._shown_at < _EVERY_SECONDS[self._live] and not (is_new and not self._live) and done != total:
            return
        if done == total and not self._live and now - self._shown_at < 1.0:
            return
        self._shown_at, self._note = now, stage
        text = self._text(done, total, unit, note, self._seconds_left(done, total, now))
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]
            click.echo("\r" + text.ljust(self._width), err=True, nl=False)
            self._width = len(text)
        else:
            click.echo(text, err=True)

    def _seconds_left(self, done: int, total: int | None, now: float) -> float | None:
        if not total or self._counting is None:
            return None
        begin, before = self._counting
        worked = done - before
        return (now - begin) / worked * (total - done) if worked > 0 and done < total else None

    def _text(self, done: int, total: int | None, unit: str, note: str, seconds_left: float | None) -> str:
        if not total:
            count = f"{_quantity(done)} {unit}  " if done else ""
            return f"{count}{note}"
        share = min(1.0, done / total)
        bar = "#" * round(share * _BAR)
        left = "" if seconds_left is None else f", {_duration(seconds_left)} left"
        return f"[{bar:<{_BAR}}] {share:4.0%} {_quantity(done)}/{_quantity(total)} {unit}{left}  {note}"

    def close(self) -> None:
        """End the bar's line."""
        if self._live and self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)
            self._width = 0


def _quantity(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number / (1000 if letter == 'k' else size):.1f}{letter}"
    return str(number)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_json(summary: dict[str, Any]) -> None:
    """A summary as one JSON object on stdout."""
    click.echo(json.dumps(summary, ensure_ascii=False))


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Name and value, a line each, in two columns."""
    shown = [(name, _cell(value)) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"  {name:<{width}}  {value}")


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """A titled table; numbers to the right."""
    click.echo(title)
    if not rows:
        click.echo("  (nothing)")
        return
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    right = [all(isinstance(row[column], int | float | None) for row in rows) for column in columns]
    click.echo("  " + "  ".join(_pad(c, w, r) for c, w, r in zip(columns, widths, right, strict=True)).rstrip())
    for line in cells:
        click.echo("  " + "  ".join(_pad(c, w, r) for c, w, r in zip(line, widths, right, strict=True)).rstrip())


def _pad(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(number)}" for name, number in value.items())
    return str(value)
