"""Porter's stemmer for English words.

Source: M. F. Porter, An algorithm for suffix stripping, Program 14 (1980), with the two changes its author published
later (`bli` and `logi` in step 2), as Lucene has it.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

# A consonant is any letter but a vowel, and y only where no consonant stands before it.
CONSONANT, VOWEL = "[^aeiou]", "[aeiouy]"
CONSONANTS, VOWELS = CONSONANT + "[^aeiouy]*", VOWEL + "[aeiou]*"
MEASURE_ABOVE_0 = re.compile(f"^({CONSONANTS})?{VOWELS}{CONSONANTS}")
MEASURE_IS_1 = re.compile(f"^({CONSONANTS})?{VOWELS}{CONSONANTS}({VOWELS})?$")
MEASURE_ABOVE_1 = re.compile(f"^({CONSONANTS})?{VOWELS}{CONSONANTS}{VOWELS}{CONSONANTS}")
HAS_VOWEL = re.compile(f"^({CONSONANTS})?{VOWEL}")
DOUBLE = re.compile(r"([^aeiouylsz])\1$")
SHORT = re.compile(f"^{CONSONANTS}{VOWEL}[^aeiouwxy]$")

STEP_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble", "logi": "log",
}  # fmt: skip
STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ou", "ism", "ate", "iti", "ous",
    "ive", "ize",
)  # fmt: skip


def _longest_first(suffixes: Iterable[str]) -> re.Pattern[str]:
    return re.compile(f"^(.+?)({'|'.join(sorted(suffixes, key=len, reverse=True))})$")


SUFFIX_2, SUFFIX_3, SUFFIX_4 = _longest_first(STEP_2), _longest_first(STEP_3), _longest_first(STEP_4)
SUFFIX_4_ION = re.compile("^(.+?[st])(ion)$")


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """The stem of a lower-case word.

    >>> [stem(word) for word in ("caresses", "ponies", "relational", "hopping", "cleaner")]
    ['caress', 'poni', 'relat', 'hop', 'cleaner']
    """
    if len(word) < 3:
        return word
    first_y = word[0] == "y"
    word = "Y" + word[1:] if first_y else word  # a y at the beginning is a consonant
    word = _step_4(_step_3(_step_2(_step_1c(_step_1b(_step_1a(word))))))
    word = _step_5(word)
    return "y" + word[1:] if first_y else word


def _step_1a(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 1 else word


def _step_1b(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if MEASURE_ABOVE_0.match(word[:-3]) else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            if not HAS_VOWEL.match(rest):
                return word
            if rest.endswith(("at", "bl", "iz")) or SHORT.match(rest):
                return rest + "e"
            return rest[:-1] if DOUBLE.search(rest) else rest
    return word


def _step_1c(word: str) -> str:
    return word[:-1] + "i" if word.endswith("y") and HAS_VOWEL.match(word[:-1]) else word


def _step_2(word: str) -> str:
    match = SUFFIX_2.match(word)
    return match[1] + STEP_2[match[2]] if match and MEASURE_ABOVE_0.match(match[1]) else word


def _step_3(word: str) -> str:
    match = SUFFIX_3.match(word)
    return match[1] + STEP_3[match[2]] if match and MEASURE_ABOVE_0.match(match[1]) else word


def _step_4(word: str) -> str:
    if match := SUFFIX_4.match(word):
        return match[1] if MEASURE_ABOVE_1.match(match[1]) else word
    match = SUFFIX_4_ION.match(word)
    return match[1] if match and MEASURE_ABOVE_1.match(match[1]) else word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        rest = word[:-1]
        if MEASURE_ABOVE_1.match(rest) or (MEASURE_IS_1.match(rest) and not SHORT.match(rest)):
            word = rest
    return word[:-1] if word.endswith("ll") and MEASURE_ABOVE_1.match(word) else word
