"""Plain text with one run or many: what an agent's harness printed."""

import re
from collections.abc import Iterator

import msgspec

from sadstream.formats.dialects import dialect_of
from sadstream.formats.kinds import TextFormat
from sadstream.formats.outcomes import finish_line, task_in
from sadstream.frames import Draft

# Reflexion prints these between runs. They tell the outcome and are no part of a run.
_BANNER = re.compile(r"#{20,}\s*$|BEGIN TRIAL ([0-9]+)|Trial summary:|-+ BEGIN ([A-Z]+) AGENTS -+")
_GOLD = "Correct answer:"
_RULE = re.compile(r"-{5,}\s*$")
_RUNNING_MEAN = re.compile(r"[0-9]+( [0-9.eE+-]+){3}\s*$")
_SCORE = re.compile(r"Your score \(min 0\.0, max 1\.0\): ([0-9.]+)")


def recognise(sample: str) -> bool:
    """Labels at line starts."""
    return dialect_of(sample) is not None


def read(lines: Iterator[str]) -> Iterator[Draft]:
    """The runs of a text, in order. Which dialect its labels are in shows in the first megabyte.

    Args:
        lines: with their line breaks; only "\\n" ends one.
    """
    head: list[str] = []
    n_chars = 0
    for line in lines:
        head.append(line)
        n_chars += len(line)
        if n_chars > 1_000_000:
            break
    dialect = dialect_of("".join(head))
    rest = _chain(head, lines)
    runs = _webshop_runs(rest) if dialect == "webshop" else _question_runs(rest, dialect)
    for number, draft in enumerate(runs):
        draft.record = str(number)
        draft.dialect = dialect
        yield draft


def _chain(head: list[str], lines: Iterator[str]) -> Iterator[str]:
    yield from head
    yield from lines


def _question_runs(lines: Iterator[str], dialect: str | None) -> Iterator[Draft]:
    """Runs that open with `Question:` (or, for `>` transcripts, with the room); else the whole text is one."""
    opening = "You are in the middle of a room" if dialect == "prompt" else "Question: "
    run: list[str] = []
    trial: int | None = None
    section: str | None = None
    between = False  # after a run's end, before the next one opens: the harness speaks
    gold: str | None = None

    def finish() -> Draft:
        text = "".join(run)
        about = {name: value for name, value in (("trial", trial), ("section", section)) if value is not None}
        draft = Draft(
            text=text,
            task=task_in(text),
            gold=gold,
            extra=msgspec.json.encode(about).decode(),
            **finish_line(text),
        )
        if "Answer is CORRECT" in text[-200:] or "Answer is INCORRECT" in text[-200:]:
            draft.success = "Answer is CORRECT" in text[-200:]
            draft.ending = "finished"
        elif section == "HALTED":
            draft.success = False
            draft.ending = "halted"
        return draft

    seen = False
    for line in lines:
        banner = _BANNER.match(line)
        opens = line.startswith(opening)
        if banner is not None or opens:
            if run and (seen or banner is None):
                if "".join(run).strip():
                    yield finish()
                run, gold = [], None
            between = banner is not None
        if banner is not None:
            trial = int(banner[1]) if banner[1] else trial
            section = banner[2] or section
            continue
        if opens:
            seen, between = True, False
        if line.startswith(_GOLD) and seen:
            gold = line.removeprefix(_GOLD).strip()
            between = True
        elif not between:
            run.append(line)
    if "".join(run).strip():
        yield finish()


def _webshop_runs(lines: Iterator[str]) -> Iterator[Draft]:
    """Runs that open with a rule, a number and `Action: reset`, and close with a line of running means."""
    run: list[str] = []
    number: str | None = None
    rule: str | None = None

    def finish() -> Draft:
        text = "".join(run)
        score = _SCORE.findall(text)
        reward = float(score[-1]) if score else None
        return Draft(
            text=text,
            task=task_in(text),
            task_id=number,
            reward=reward,
            success=None if reward is None else reward == 1.0,
            ending="halted" if reward is None else "finished",
        )

    for line in lines:
        if rule is not None:
            if re.match(r"[0-9]+\s*$", line):
                if run:
                    yield finish()
                run, number, rule = [rule, line], line.strip(), None
                continue
            if run:
                run.append(rule)
            rule = None
        if _RULE.match(line):
            rule = line
        elif _RUNNING_MEAN.match(line) and run:
            yield finish()
            run = []
        elif run or line.startswith("Action: "):
            run.append(line)
    if run:
        yield finish()


FORMATS = (
    TextFormat(
        "plain-text",
        "text files of one or many runs: Reflexion logs, WebShop output, `>` transcripts",
        recognise,
        read,
    ),
)
