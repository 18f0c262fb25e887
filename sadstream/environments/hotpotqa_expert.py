"""A teacher for HotPotQA that knows the answer and the supporting facts."""

import random
import re
from typing import Any

from sadstream.environments.hotpotqa_data import Question
from sadstream.environments.protocol import Decision
from sadstream.errors import ConfigError

KEYWORD = re.compile(r"[^\W_]{4,}")


class HotPotQAExpert:
    """Searches each page that supports the answer, looks up what the first sentences leave out, then answers.

    Privileged: the answer, the titles and the sentences are the data's.

    Args:
        error_rate: share of searches that first ask for a wrong title (the last word left out, or a letter) and
            recover, as long as the turns allow it.
    Raises:
        ConfigError: the rate is not in [0, 1].
    """

    privileged = True

    def __init__(self, error_rate: float = 0.0) -> None:
        if not 0 <= error_rate <= 1:
            raise ConfigError(f"error_rate={error_rate} is no share", hint="give a number from 0 to 1")
        self.error_rate = error_rate
        self.name = f"expert[error_rate={error_rate}]" if error_rate else "expert"

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        question: Question = environment.question
        self._answer = question.answer
        self._facts = _supporting_sentences(question)
        self._pages = {page.title: page.sentences for page in question.pages}
        self._titles = list(self._facts)
        self._title = ""  # of the page that was opened last
        self._missed = ""  # what was searched in its place just now
        self._seen: list[str] = []
        self._turns_left: int = environment.max_steps
        self._random = random.Random(f"{seed}:{task_id}")

    def decide(self, observation: str) -> Decision:
        if self._missed:
            return self._recover(observation)
        unseen = self._read(observation) if self._title else []
        self._turns_left -= 1
        spare = self._turns_left - len(self._titles)
        if unseen and spare > 0 and (keyword := self._keyword(unseen[0])):
            return Decision(f"I need to look up {keyword} in {self._title}.", f"Lookup[{keyword}]")
        if not self._titles:
            return Decision(" ".join((*self._seen, f"So the answer is {self._answer}.")), f"Finish[{self._answer}]")
        self._title = self._titles[0]
        if spare > 0 and self._random.random() < self.error_rate:
            self._missed = _slip(self._title, self._random)
            return Decision(f"I need to search {self._missed}.", f"Search[{self._missed}]")
        self._titles = self._titles[1:]
        return Decision(f"I need to search {self._title}.", f"Search[{self._title}]")

    def _recover(self, observation: str) -> Decision:
        missed, self._missed = self._missed, ""
        self._turns_left -= 1
        self._titles = self._titles[1:]
        if not observation.startswith("Could not find"):
            thought = f"That is not what I was looking for. I need to search {self._title}."
        elif self._title in observation:
            thought = f"I could not find {missed}, but {self._title} is similar. I need to search {self._title}."
        else:
            thought = f"I could not find {missed}. I need to search {self._title} instead."
        return Decision(thought, f"Search[{self._title}]")

    def _read(self, observation: str) -> list[str]:
        """Note which supporting sentences of the open page were seen; gives those that were not."""
        unseen = []
        for sentence in self._facts[self._title]:
            if sentence in observation:
                self._seen += [sentence] * (sentence not in self._seen)
            elif sentence not in self._seen:
                unseen.append(sentence)
        return unseen

    def _keyword(self, sentence: str) -> str | None:
        """A word of the sentence, the longest, that no other sentence of the page has."""
        others = " ".join(other for other in self._pages[self._title] if other.strip() != sentence).lower()
        words = [word for word in KEYWORD.findall(sentence) if word.lower() not in others]
        return max(words, key=len, default=None)


def _supporting_sentences(question: Question) -> dict[str, list[str]]:
    """The supporting sentences by title, in the data's order; an index past the end, as a few are, names none."""
    pages = {page.title: page.sentences for page in question.pages}
    facts: dict[str, list[str]] = {}
    for title, index in question.supporting:
        sentences = pages.get(title, ())
        facts.setdefault(title, []).extend(sentence.strip() for sentence in sentences[index : index + 1])
    return facts


def _slip(title: str, random_: random.Random) -> str:
    """A title with its last word left out, or else a letter."""
    first, _, last = title.rpartition(" ")
    if first and not last.startswith("(") and random_.random() < 0.5:
        return first
    place = random_.randrange(len(title))
    return title[:place] + title[place + 1 :]
