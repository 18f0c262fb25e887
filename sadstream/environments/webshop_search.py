"""WebShop's search: BM25 over titles, descriptions, first bullets and options, in Lucene's words."""

import heapq
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable

from sadstream.environments.porter import stem
from sadstream.environments.webshop_data import Product

K1, B = 0.9, 0.4
N_HITS = 50
STOPS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
STOP_WORDS = frozenset(STOPS.split())
# Near to Unicode's word breaks, which Lucene cuts at: a mark between two letters or two digits does not part them.
WORD = re.compile(r"\w+(?:(?<=\d)[.,](?=\d)\w+|(?<=[^\W\d])[.'’:](?=[^\W\d])\w+)*")
POSSESSIVE = re.compile(r"['’]s$")


class SearchIndex:
    """Products by the words they hold; arrays, so that a million of them fit in memory. Never changed once built."""

    def __init__(self, products: Iterable[Product]) -> None:
        documents = [Counter(analyze(document(product))) for product in products]
        frequency = Counter(word for count in documents for word in count)
        lengths = [sum(count.values()) for count in documents]
        mean = sum(lengths) / len(lengths) if lengths else 1.0
        self._numbers = {word: array("I") for word in frequency}
        self._weights = {word: array("d") for word in frequency}
        idf = {word: math.log(1 + (len(documents) - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
        for number, count in enumerate(documents):
            norm = K1 * (1 - B + B * lengths[number] / mean)
            for word, times in count.items():
                self._numbers[word].append(number)
                self._weights[word].append(idf[word] * times / (times + norm))

    def search(self, query: str) -> tuple[int, ...]:
        """Numbers of the best products, at most 50, the best first; of equal ones the earlier in the catalogue."""
        scores: dict[int, float] = {}
        for word, times in Counter(analyze(query)).items():
            if word in self._numbers:
                for number, weight in zip(self._numbers[word], self._weights[word], strict=True):
                    scores[number] = scores.get(number, 0.0) + times * weight
        return tuple(heapq.nsmallest(N_HITS, scores, key=lambda number: (-scores[number], number)))


def document(product: Product) -> str:
    """What of a product is searched."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first_bullet = product.bullets[0] if product.bullets else ""
    return " ".join((product.title, product.description, first_bullet, options)).lower()


def analyze(text: str) -> list[str]:
    """Stems of the words of a text, without stop words.

    >>> analyze("The Runner's shoes, size 9.5 for running")
    ['runner', 'shoe', 'size', '9.5', 'run']
    """
    words = (POSSESSIVE.sub("", word) for word in WORD.findall(text.lower()))
    return [stem(word) for word in words if word not in STOP_WORDS]
