"""Plain text with one run or many: what an agent's harness printed."""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sadstream.formats.dialects import dialect_of
from sadstream.formats.kinds import TextFormat
from sadstream.formats.outcomes import as_bool, as_float, as_text, finish_line, task_in
from sadstream.frames import Draft

# Reflexion prints these between runs. They tell the outcome and are no part of a run.
_BANNER = re.compile(r"#{20,}\s*$|BEGIN TRIAL ([0-9]+)|Trial summary:|-+ BEGIN ([A-Z]+) AGENTS -+")
_GOLD = "Correct answer:"
_STATUS = re.compile(r"STATUS: (OK|FAIL)\s*$")
_VERDICT = re.compile(r"Observation(?: [0-9]+)?: Answer is (CORRECT|INCORRECT)")
# Before its task, an agent is told examples, or its failed trial of the same question.
_EXAMPLES = re.compile(r"Here (?:are|is) [a-z0-9 ]{0,20}examples?[.:]")
_END_OF_TOLD = re.compile(r"\(END PREVIOUS TRIAL\)|Here is the task[.:]")
# ReAct's notebooks print the question's number before it, and FEVER's questions are claims.
_QUESTION = re.compile(r"(?:[0-9]+ )?Question: |[0-9]+ Claim: ")
_ROOM = re.compile("You are in the middle of a room")
_MARKDOWN = re.compile(r"(?m)^(?:#{1,6} \S|```)")
_PLAYED = re.compile(r"(?m)^(?:> ?[Tt]hink:|You are in the middle of a room)")
_RULE = re.compile(r"-{5,}\s*$")
_HARNESS = re.compile(r"\s*$|[-#]{5,}\s*$|Environment #[0-9]+:\s*$|[0-9]+( [0-9.eE+-]+){3}\s*$")
_RUNNING_MEAN = re.compile(r"[0-9]+( [0-9.eE+-]+){3}\s*$")
_SCORE = re.compile(r"Your score \(min 0\.0, max 1\.0\): ([0-9.]+)")


def recognise(sample: str) -> bool:
    """Labels at line starts; lines of `> ` in Markdown are quotations."""
    dialect = dialect_of(sample)
    if dialect == "prompt" and _MARKDOWN.search(sample):
        return _PLAYED.search(sample) is not None
    return dialect is not None


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


class _Run:
    """Lines of a run as they come: what the agent was told before it began, the run itself, what follows its end.

    All of them are its text; labels count in the run alone, and what stands around it is context.
    """

    def __init__(self, told: Sequence[str] = ()) -> None:
        self.told = list(told)
        self.lines: list[str] = []
        self.after: list[str] = []
        self.asked = False
        self.outcome: dict[str, Any] = {}

    def draft(self, trial: int | None, section: str | None) -> Draft | None:
        """The run, with what banners said of it; None where there is none, not even a question."""
        text = "".join(self.lines)
        if not text.strip() and not (self.told and self.asked):
            return None
        about = {name: value for name, value in (("trial", trial), ("section", section)) if value is not None}
        draft = Draft(text=text, task=task_in(text), extra=msgspec.json.encode(about).decode(), **finish_line(text))
        verdict = _VERDICT.search(text, max(0, len(text) - 200))
        if verdict:
            draft.success = verdict[1] == "CORRECT"
            draft.ending = "finished"
        elif section == "HALTED":
            draft.success = False
            draft.ending = "halted"
        if self.told or self.after:
            told, after = "".join(self.told), "".join(self.after)
            parts = (("context", told), (None, text), ("context", after))
            draft.text = told + text + after
            draft.task = draft.task or task_in("".join(self.told[_last_told_again(self.told) + 1 :]))
            draft.pieces = [{"kind": kind, "text": part} for kind, part in parts if part]
        for name, value in self.outcome.items():
            setattr(draft, name, value)
        return draft


def _last_told_again(lines: list[str]) -> int:
    return max((i for i, line in enumerate(lines) if _END_OF_TOLD.match(line)), default=-1)


def _question_runs(lines: Iterator[str], dialect: str | None) -> Iterator[Draft]:
    """Runs that open with `Question:` (or, for `>` transcripts, with the room); else the whole text is one.

    What a harness prints between runs is no part of them: banners, a gold answer, a status, a line of results. Other
    words there are what the next run's agent was told. Examples and earlier trials that are told are no runs.
    """
    opening = _ROOM if dialect == "prompt" else _QUESTION
    run = _Run()
    trial: int | None = None
    section: str | None = None
    seen = False  # a run has opened, or the harness spoke: only then has it anything to say between runs
    between = False  # after a run's end, before the next one opens
    showing = False  # examples, until the task

    def finish() -> Iterator[Draft]:
        draft = run.draft(trial, section)
        if draft is not None:
            yield draft

    for line in lines:
        banner = _BANNER.match(line)
        opens = banner is None and not showing and opening.match(line) is not None
        if banner is not None:
            if seen:
                yield from finish()
                run = _Run()
            between = seen = True
            trial = int(banner[1]) if banner[1] else trial
            section = banner[2] or section
            continue
        if opens and not seen and dialect_of("".join(run.lines)) is None:
            run = _Run(run.lines if any(not _HARNESS.match(line) for line in run.lines) else ())
        elif opens and run.lines:
            yield from finish()
            run = _Run()
        if opens:
            seen, between, run.asked = True, False, True
        closing = _closing(line) if seen else None
        if closing is not None:
            run.outcome |= closing
            between = True
        elif between and _HARNESS.match(line):
            continue
        elif between:
            yield from finish()
            run, between = _Run([line]), False
        elif run.after or (line.startswith("Reflections:") and run.lines and _VERDICT.match(run.lines[-1])):
            run.after.append(line)
        elif _END_OF_TOLD.match(line):
            run.told += [*run.lines, line]
            run.lines, showing, seen = [], False, True
        elif run.told and not run.lines and (showing or dialect_of(line) is None):
            run.told.append(line)
        else:
            run.lines.append(line)
        if dialect == "prompt" and _EXAMPLES.search(line) and dialect_of("".join(run.lines)) is None:
            showing = True
    yield from finish()


def _closing(line: str) -> dict[str, Any] | None:
    """What a line says of the run that it closes: a gold answer, a status, ReAct's dict of results; None for others."""
    if line.startswith(_GOLD):
        return {"gold": line.removeprefix(_GOLD).strip()}
    status = _STATUS.match(line)
    if status:
        return {"success": status[1] == "OK", "ending": "finished" if status[1] == "OK" else "halted"}
    if not line.startswith("{'steps': "):
        return None
    try:
        said = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError):
        return {}
    answer, gold = as_text(said.get("answer")), as_text(said.get("gt_answer"))
    found = {"success": as_bool(said.get("em")), "reward": as_float(said.get("reward")), "answer": answer, "gold": gold}
    found["ending"] = "finished" if answer else "halted"
    return {name: value for name, value in found.items() if value is not None}


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
