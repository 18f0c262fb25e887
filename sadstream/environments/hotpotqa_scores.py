"""HotPotQA's exact match and F1 of an answer."""

import re
import string
from collections import Counter

ARTICLE = re.compile(r"\b(a|an|the)\b")
DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
CLOSED_ANSWERS = ("yes", "no", "noanswer")


def normalize_answer(answer: str) -> str:
    """Lower case, without ASCII punctuation, articles and surplus spaces.

    >>> normalize_answer("The  Simpsons' creator.")
    'simpsons creator'
    """
    return " ".join(ARTICLE.sub(" ", answer.lower().translate(DROP_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> bool:
    """Whether two answers are one after normalising."""
    return normalize_answer(answer) == normalize_answer(gold)


def f1(answer: str, gold: str) -> float:
    """Token overlap of two normalised answers, in [0, 1]; 0 where one is yes, no or noanswer and the other is not it.

    Source: HotPotQA's evaluation script, as in ReAct's `wrappers.py`. Two empty answers score 0, though they match.

    >>> f1("Jonny Craig", "Jonny Craig the singer")
    0.8
    """
    one, two = normalize_answer(answer), normalize_answer(gold)
    if one != two and (one in CLOSED_ANSWERS or two in CLOSED_ANSWERS):
        return 0.0
    n_shared = sum((Counter(one.split()) & Counter(two.split())).values())
    if not n_shared:
        return 0.0
    precision, recall = n_shared / len(one.split()), n_shared / len(two.split())
    return 2 * precision * recall / (precision + recall)
