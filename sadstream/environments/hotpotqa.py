"""HotPotQA with ReAct's Search, Lookup and Finish, over paragraphs that come with the questions."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Literal

from sadstream.environments.hotpotqa_data import Page, Question, read_questions
from sadstream.environments.hotpotqa_pages import PageIndex
from sadstream.environments.hotpotqa_scores import exact_match, f1
from sadstream.environments.hotpotqa_tools import (
    Reading,
    Sentences,
    Tool,
    react_lookup,
    react_search,
    reflexion_lookup,
    reflexion_search,
)
from sadstream.environments.json_files import packaged, read_text
from sadstream.environments.protocol import Reply, Style
from sadstream.errors import ConfigError, TaskError

Pages = Literal["question", "pooled"]

ACTIONS = {
    "react": re.compile(r"(search|lookup|finish|think)\[(.*)\]", re.DOTALL),
    "reflexion": re.compile(r"(search|lookup|finish)\[(.+)\]", re.DOTALL),
}
INVALID = {
    "react": "Invalid action: {}",
    "reflexion": "Invalid Action. Valid Actions are Lookup[<topic>] Search[<topic>] and Finish[<answer>].",
}


class HotPotQA:
    """Questions that need two pages; the reward is exact match of the answer that finishes an episode.

    The world is closed: what Search finds are the question's own paragraphs (ten, nearly always), or with
    `pages="pooled"` those of all questions. Scores compare models here, and not with ReAct's, which had Wikipedia.

    Args:
        data: a file in HotPotQA's distractor layout, official or Hugging Face, JSON or JSON lines, gzip or not; its
            questions are the split `train` if its name says train, else `dev`. None: the 80 + 565 that come along.
        sentences: what a page's sentences are: `data`, the data's own; `wikienv`, cut at ". " as the original did.
        tool: whose words it answers in, and its rules: ReAct's, or Reflexion's (the whole paragraph; a miss closes
            the page).
        seed: taken as every environment takes one; nothing is drawn here.
    Raises:
        ConfigError: an option that is none of those.
    """

    style: Style = "numbered"
    max_steps = 7
    thoughts_count = False

    def __init__(
        self,
        data: str | Path | None = None,
        pages: Pages = "question",
        sentences: Sentences = "data",
        tool: Tool = "react",
        seed: int = 0,
    ) -> None:
        _check("pages", pages, ("question", "pooled"))
        _check("sentences", sentences, ("data", "wikienv"))
        _check("tool", tool, ("react", "reflexion"))
        self._pages, self._sentences, self._tool = pages, sentences, tool
        self._library = Library(data)
        options = [f"pages={pages}"]
        options += [f"sentences={sentences}"] * (sentences != "data") + [f"tool={tool}"] * (tool != "react")
        options += [f"data={Path(data).name}"] if data is not None else []
        self.name = f"hotpotqa[{','.join(options)}]"
        self.examples = _examples() if tool == "react" else {}
        self._question: Question | None = None
        self._answer: str | None = None

    def task_ids(self, split: str) -> Sequence[str]:
        """Ids of `dev` (80, hard) or `train` (565), as the data orders them."""
        return self._library.task_ids(split)

    def task_type(self, task_id: str) -> str:
        """`bridge` or `comparison`."""
        return self._library.find(task_id).kind

    def reset(self, task_id: str) -> str:
        self._question = question = self._library.find(task_id)
        self._index = self._library.pooled() if self._pages == "pooled" else PageIndex(question.pages)
        self._reading = Reading()
        self._answer = None
        self._observation = f"Question: {question.text}"
        return self._observation

    def step(self, action: str) -> Reply:
        """Take `Search[title]`, `Lookup[keyword]` or `Finish[answer]`; the first letter's case does not matter."""
        self._begun()
        if self._answer is not None:
            return Reply(self._observation, self._reward(), True, False)
        stripped = action.strip()
        stripped = stripped[:1].lower() + stripped[1:]
        match = ACTIONS[self._tool].fullmatch(stripped)
        if match is None:
            return Reply(INVALID[self._tool].format(stripped), 0.0, False, False)
        verb, argument = match.groups()
        if verb == "finish":
            self._answer = argument
            self._observation = self._verdict()
        elif verb == "think":
            self._observation = "Nice thought."
        else:
            self._reading, self._observation = self._read(verb, argument)
        return Reply(self._observation, self._reward(), self._answer is not None, True)

    def admissible(self) -> None:
        """None: a title, a keyword and an answer are free text."""

    def random_action(self, random: Random) -> str:
        """A search for one of the question's pages, a look-up of a word of what was read last, or a word as answer."""
        words = re.findall(r"\w+", self._observation) or ["nothing"]
        page = random.choice(self.question.pages)
        return random.choice(
            [f"Search[{page.title}]", f"Lookup[{random.choice(words)}]", f"Finish[{random.choice(words)}]"]
        )

    @property
    def question(self) -> Question:
        """The present task with its answer and supporting facts: what only a privileged agent may look at.

        Raises:
            TaskError: no task was begun.
        """
        return self._begun()

    def metrics(self) -> dict[str, float]:
        """`em` and `f1` of the answer that finished the episode; both 0 where none did."""
        if self._answer is None:
            return {"em": 0.0, "f1": 0.0}
        return {"em": self._reward(), "f1": f1(self._answer, self.question.answer)}

    def _begun(self) -> Question:
        if self._question is None:
            raise TaskError("no task was begun", hint="call reset(task_id) first")
        return self._question

    def _read(self, verb: str, argument: str) -> tuple[Reading, str]:
        if self._tool == "react":
            if verb == "search":
                return react_search(self._reading, self._index, argument, self._sentences)
            return react_lookup(self._reading, argument, self._sentences)
        if verb == "search":
            return reflexion_search(self._reading, self._index, argument, self._sentences)
        return reflexion_lookup(self._reading, argument, self._sentences)

    def _reward(self) -> float:
        return float(self._answer is not None and exact_match(self._answer, self.question.answer))

    def _verdict(self) -> str:
        if self._tool == "react":
            return f"Episode finished, reward = {int(self._reward())}\n"
        return "Answer is CORRECT" if self._reward() else "Answer is INCORRECT"


class Library:
    """Questions by split, read when first asked for and shared by all copies of an environment."""

    def __init__(self, data: str | Path | None) -> None:
        if data is None:
            self._paths = {split: packaged("hotpotqa", f"{split}.jsonl.gz") for split in ("dev", "train")}
        else:
            self._paths = {"train" if "train" in Path(data).name.lower() else "dev": Path(data)}
        self._splits: dict[str, dict[str, Question]] = {}
        self._pool: PageIndex | None = None

    def task_ids(self, split: str) -> list[str]:
        if split not in self._paths:
            raise TaskError(f"no split {split!r}", hint=f"there is {' and '.join(self._paths)}")
        return list(self._read(split))

    def find(self, task_id: str) -> Question:
        """The question of that id.

        Raises:
            TaskError: there is none.
        """
        for split in self._paths:
            if (question := self._read(split).get(task_id)) is not None:
                return question
        raise TaskError(f"no task {task_id!r}", hint=f"task_ids({next(iter(self._paths))!r}) lists some that are")

    def pooled(self) -> PageIndex:
        """The pages of all questions, each title once (the first of them that has it)."""
        if self._pool is None:
            pages: dict[str, Page] = {}
            for split in self._paths:
                for question in self._read(split).values():
                    for page in question.pages:
                        pages.setdefault(page.title, page)
            self._pool = PageIndex(pages.values())
        return self._pool

    def _read(self, split: str) -> dict[str, Question]:
        if split not in self._splits:
            self._splits[split] = read_questions(self._paths[split])
        return self._splits[split]


def _examples() -> dict[str, str]:
    return {"": read_text(packaged("hotpotqa", "examples.txt"))}


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{option}={value!r} is no option of hotpotqa", hint=f"{option} is one of {', '.join(known)}")
