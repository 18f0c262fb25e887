"""WebShop's reward for a purchase, with its four parts."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from rapidfuzz import fuzz, utils

from sadstream.environments.webshop_data import Goal, Product
from sadstream.errors import ConfigError

Tagger = Literal["words", "spacy", "hanta"]

MATCH_ABOVE = 85
WORDS = re.compile(r"[^\W\d_]{3,}")
TOKEN = re.compile(r"\w+|[^\w\s]")
LATIN_1 = dict.fromkeys(range(128, 256))
# The original's list, in its order: the first that an option contains stands for it.
COLOR_WORDS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo "
    "caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream "
    "crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather "
    "indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha "
    "multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal "
    "rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise "
    "violet walnut wheat white wine yellow"
)
COLORS = tuple(COLOR_WORDS.split())


class Reward(NamedTuple):
    """The reward of a purchase and what it is made of.

    Attributes:
        total: type * (attributes + options + price) / number of things asked for, in [0, 1].
        type: 0, 0.1, 0.5 or 1: is it the kind of thing that was wanted.
        attributes, options: shares of the goal's that the purchase has; 1 where the goal has none.
        price: 1 if it is within the cap, else 0.
    """

    total: float
    type: float
    attributes: float
    options: float
    price: float


def reward(bought: Product, wanted: Product, goal: Goal, chosen: Iterable[str], tagger: Tagger) -> Reward:
    """The reward for buying a product with the chosen option values.

    Args:
        wanted: the product the goal was written for.
        tagger: tells the nouns of titles, for the type.
    """
    n_attributes = sum(_has_attribute(bought, attribute) for attribute in goal.attributes)
    n_options = count_options(chosen, goal.options)
    price = float(bought.price <= goal.price_cap)
    kind = type_reward(bought, wanted, tagger)
    n_wanted = len(goal.attributes) + len(goal.options) + 1
    return Reward(
        total=(n_attributes + n_options + price) / n_wanted * kind,  # in the original's order, to the last bit
        type=kind,
        attributes=n_attributes / len(goal.attributes) if goal.attributes else 1.0,
        options=n_options / len(goal.options) if goal.options else 1.0,
        price=price,
    )


def type_reward(bought: Product, wanted: Product, tagger: Tagger) -> float:
    """Whether the two are one kind of thing, by query, category and the nouns of their titles."""
    nouns = title_nouns(wanted.title, tagger)
    shared = set(title_nouns(bought.title, tagger)) & set(nouns)
    # Repeats count below and not above the line, as in the original.
    score = len(shared) / len(nouns) if nouns else 0.2
    if score == 0:
        return 0.0
    if score < 0.1:
        return 0.1
    same = bought.query == wanted.query or len(bought.categories & wanted.categories) >= 2 or score > 0.2
    return 1.0 if same else 0.5


def count_options(chosen: Iterable[str], wanted: Iterable[str]) -> int:
    """How many wanted option values one of the chosen matches, whatever the options' names."""
    values = [_color(value) for value in chosen]
    return sum(any(token_set_ratio(value, _color(want)) > MATCH_ABOVE for value in values) for want in wanted)


def token_set_ratio(one: str, other: str) -> int:
    """thefuzz's score of that name, 0 to 100: without Latin-1's upper half and marks, lower case, rounded.

    >>> token_set_ratio("8.5 Ounce (Pack of 1)", "pack of 1, 8.5 ounce")
    100
    """
    cleaned = [utils.default_process(text.translate(LATIN_1)) for text in (one, other)]
    return round(fuzz.token_set_ratio(*cleaned))


@lru_cache(maxsize=1 << 16)
def title_nouns(title: str, tagger: Tagger) -> tuple[str, ...]:
    """The nouns of a title, lower case, repeats kept: of all words of three letters or more, or as a tagger says.

    Raises:
        ConfigError: no such tagger, or what it needs is not installed.
    """
    return tuple(load_tagger(tagger)(title))


@lru_cache(maxsize=4)
def load_tagger(tagger: Tagger) -> Callable[[str], list[str]]:
    """The function that a tagger's name stands for.

    Raises:
        ConfigError: no such tagger, or what it needs is not installed.
    """
    if tagger == "words":
        return lambda title: WORDS.findall(title.lower())
    if tagger == "spacy":
        return _load_spacy()
    if tagger == "hanta":
        return _load_hanta()
    raise ConfigError(f"no tagger {tagger!r}", hint=f"there is {', '.join(get_args(Tagger))}")


def _load_spacy() -> Callable[[str], list[str]]:
    try:
        import spacy

        nlp: Any = spacy.load("en_core_web_sm")
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"the tagger spacy: {error}", hint="pip install spacy && python -m spacy download en_core_web_sm"
        ) from error
    return lambda title: [token.text.lower() for token in nlp(title) if token.pos_ in ("NOUN", "PROPN")]


def _load_hanta() -> Callable[[str], list[str]]:
    try:
        from HanTa.HanoverTagger import HanoverTagger

        hanta: Any = HanoverTagger("morphmodel_en.pgz")
    except (ImportError, OSError) as error:
        raise ConfigError(f"the tagger hanta: {error}", hint="pip install HanTa") from error
    return lambda title: [
        word.lower() for word, _, tag in hanta.tag_sent(TOKEN.findall(title)) if tag.startswith(("NN", "NP"))
    ]


def _has_attribute(bought: Product, attribute: str) -> bool:
    if any(token_set_ratio(own, attribute) > MATCH_ABOVE for own in bought.attributes):
        return True
    texts = (bought.title, " ".join(bought.bullets), bought.description)
    return any(attribute in text.lower() for text in texts)


def _color(option: str) -> str:
    return next((color for color in COLORS if color in option), option)
