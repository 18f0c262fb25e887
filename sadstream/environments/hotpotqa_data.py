"""HotPotQA questions with their paragraphs, from the official layout or the Hugging Face one."""

import hashlib
import html
from pathlib import Path
from typing import Any, NamedTuple

from sadstream.environments.json_files import read_rows
from sadstream.errors import TaskError


class Page(NamedTuple):
    """A paragraph of Wikipedia; the sentences as the data has them, most with a leading space."""

    title: str
    sentences: tuple[str, ...]


class Question(NamedTuple):
    """A question, its answer, the pages of its world and which sentences of them support the answer.

    Attributes:
        kind: bridge or comparison; "" where the data does not say.
        supporting: (title, index of the sentence), as the data orders them.
    """

    id: str
    text: str
    answer: str
    kind: str
    supporting: tuple[tuple[str, int], ...]
    pages: tuple[Page, ...]


def read_questions(path: Path) -> dict[str, Question]:
    """The questions of a file by id, in its order: a JSON array or JSON lines, gzip or not.

    A row without an id gets one from a hash of its question.

    Raises:
        TaskError: the file is damaged, a row is not such a question, or an id comes twice; names the place.
    """
    questions: dict[str, Question] = {}
    for where, row in read_rows(path):
        try:
            question = _question(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise TaskError(
                f"{where}: not a HotPotQA question: {what}",
                hint="a row needs question, answer, context and supporting_facts, as in the official distractor files",
            ) from error
        if question.id in questions:
            raise TaskError(f"{where}: the id {question.id!r} comes a second time", hint="keep one of the two rows")
        questions[question.id] = question
    if not questions:
        raise TaskError(f"{path}: no question in it", hint="name a file in HotPotQA's distractor layout")
    return questions


def _question(row: Any) -> Question:
    text, answer = row["question"], row["answer"]
    if not isinstance(text, str) or not isinstance(answer, str):
        raise TypeError("question and answer must be text")
    native = row.get("_id") or row.get("id")
    return Question(
        id=str(native) if native else hashlib.sha256(text.encode()).hexdigest()[:16],
        text=text.strip(),
        answer=answer,
        kind=row.get("type") or "",
        supporting=tuple(
            (html.unescape(str(title)), int(index)) for title, index in _pairs(row["supporting_facts"], "sent_id")
        ),
        pages=tuple(
            Page(html.unescape(str(title)), tuple(map(str, given)))
            for title, given in _pairs(row["context"], "sentences")
        ),
    )


def _pairs(value: Any, second: str) -> list[tuple[Any, Any]]:
    """(title, x) pairs: a list of them, or Hugging Face's dict of two lists."""
    if isinstance(value, dict):
        return list(zip(value["title"], value[second], strict=True))
    return [(title, other) for title, other in value]
