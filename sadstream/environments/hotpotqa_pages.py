"""Finding a page by its title among a closed set, and titles like the one that was not found."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rapidfuzz import fuzz, process

from sadstream.environments.hotpotqa_data import Page

K1, B = 1.2, 0.75
N_CANDIDATES = 50
PARENTHESES = re.compile(r"\s*\([^()]*\)$")
WORD = re.compile(r"\w+")


class PageIndex:
    """The pages of a closed world.

    What only a miss needs is built at the first one and left out of pickles.
    """

    def __init__(self, pages: Iterable[Page]) -> None:
        self.pages = tuple(pages)
        self._by_title = {page.title.strip().lower(): page for page in reversed(self.pages)}
        shortened = Counter(_short(page.title) for page in self.pages)
        # A title without its parentheses opens the page where only one page is left with it.
        self._by_short_title = {_short(page.title): page for page in self.pages if shortened[_short(page.title)] == 1}
        self._ranking: _Ranking | None = None

    def find(self, entity: str) -> Page | None:
        """The page of that title, whatever its case; else the only one of that title before its parentheses."""
        wanted = entity.strip().lower()
        return self._by_title.get(wanted) or self._by_short_title.get(wanted)

    def similar(self, entity: str, n: int) -> list[str]:
        """At most `n` titles, the likeliest first, by BM25 over title and text and a fuzzy match of the title."""
        if self._ranking is None:
            self._ranking = _Ranking(self.pages)
        return self._ranking.best(entity, n)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ranking": None}


class _Ranking:
    """An inverted index with the weight of each word in each page: a miss reads only the pages with its words."""

    def __init__(self, pages: tuple[Page, ...]) -> None:
        self._titles = [page.title for page in pages]
        self._lower = [title.lower() for title in self._titles]
        counts = [Counter(_words(" ".join((page.title, *page.sentences)))) for page in pages]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / len(lengths) if lengths else 1.0
        frequency = Counter(word for count in counts for word in count)
        self._postings: dict[str, list[tuple[int, float]]] = {word: [] for word in frequency}
        for number, count in enumerate(counts):
            norm = K1 * (1 - B + B * lengths[number] / mean)
            for word, times in count.items():
                idf = math.log(1 + (len(pages) - frequency[word] + 0.5) / (frequency[word] + 0.5))
                self._postings[word].append((number, idf * times * (K1 + 1) / (times + norm)))

    def best(self, entity: str, n: int) -> list[str]:
        wanted = entity.lower()
        scores: dict[int, float] = {}
        for word in dict.fromkeys(_words(wanted)):
            for number, weight in self._postings.get(word, ()):
                scores[number] = scores.get(number, 0.0) + weight
        by_text = sorted(scores, key=lambda number: (-scores[number], number))[:N_CANDIDATES]
        by_title = process.extract(wanted, self._lower, scorer=fuzz.ratio, processor=None, limit=N_CANDIDATES)
        highest = max(scores.values(), default=1.0) or 1.0

        def score(number: int) -> float:
            title = self._lower[number]
            fuzzy = fuzz.token_set_ratio(wanted, title) + fuzz.ratio(wanted, title)
            return scores.get(number, 0.0) / highest + fuzzy / 100

        candidates = {*by_text, *(number for _, _, number in by_title)}
        return [self._titles[number] for number in sorted(candidates, key=lambda number: (-score(number), number))[:n]]


def _short(title: str) -> str:
    return PARENTHESES.sub("", title.strip().lower())


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
