"""A shopper for WebShop that goes by the instruction and the pages, or by the hidden goal."""

import re
from typing import Any

from sadstream.environments.protocol import Decision
from sadstream.environments.webshop_data import Goal
from sadstream.environments.webshop_reward import count_options
from sadstream.environments.webshop_search import analyze
from sadstream.environments.webshop_text import BACK, BUY
from sadstream.errors import ConfigError

CAP = re.compile(r",? and price lower than ([\d.]+) dollars")
PRODUCT = re.compile(r"\n\[(\w+)\] \n(.*) \n\$([\d.]+)")
OPTION = re.compile(r"(.+?) \[(.+)\]")
# What people say around the thing they want; a shop finds nothing by these.
FILLER_WORDS = (
    "i i'm im i'd i've am we my me you your need needs want wants wanted would like looking look find buy get "
    "purchase a an the for of please can could some something one also which who where has have had having should "
    "must may so too about around from than do does help try trying search searching interested hoping prefer "
    "preferably make sure comes come it's its that's them those any"
)
FILLER = frozenset(FILLER_WORDS.split())


class WebShopExpert:
    """Searches with the instruction's words, opens the product that fits them best, clicks the options that fit, buys.

    It reads ReAct's view, and knows no more than that shows; with `goal` it is privileged: it searches for the title
    of the product the goal was written for, and clicks the options that the reward counts.

    Args:
        goal: look at the hidden goal.
    """

    def __init__(self, goal: bool = False) -> None:
        self.privileged = goal
        self.name = "expert[goal]" if goal else "expert"

    def begin(self, environment: Any, task_id: str, observation: str, *, seed: int) -> None:
        if "\nInstruction:  \n" not in observation:
            raise ConfigError("the WebShop expert reads ReAct's pages", hint="leave view=react")
        said = observation.split("\nInstruction:  \n", 1)[1].removesuffix(" \n[Search] ")
        cap = CAP.search(said)
        self._cap = float(cap[1]) if cap else float("inf")
        self._said = CAP.sub("", said)
        self._words = frozenset(analyze(self._said))
        self._goal: Goal | None = environment.goal if self.privileged else None
        words = [word for part in self._said.split() if (word := part.strip(".,!?;:"))]
        told = [word for word in words if word not in FILLER] or words
        self._wish = " ".join(words[words.index(told[0]) :]) if told else ""
        self._queries = [environment.product.title] if self.privileged else [" ".join(told)]
        self._queries = [query for query in (*self._queries, self._said) if query]
        self._clicks: list[str] = []  # what is still to be clicked
        self._on_results = False

    def decide(self, observation: str) -> Decision:
        if self._clicks:
            return Decision(None, f"click[{self._clicks.pop(0)}]")
        if observation.endswith("\n[Search] "):
            self._on_results = True
            # Where all queries found nothing the last is asked again, until the turns are up.
            return Decision(None, f"search[{self._queries.pop(0) if len(self._queries) > 1 else self._queries[0]}]")
        if self._on_results:
            return self._choose_product(observation)
        return self._choose_options(observation)

    def _choose_product(self, observation: str) -> Decision:
        shown = [(asin, title, float(price)) for asin, title, price in PRODUCT.findall(observation)]
        if not shown:
            return Decision(None, f"click[{BACK}]")
        asin, _, price = max(shown, key=self._fit)
        self._on_results, self._clicks = False, [asin]
        if price <= self._cap:
            within = "" if self._cap == float("inf") else f" and is less than {self._cap:.2f} dollars"
            return Decision(f"{asin} fits best{within}. I can check {asin} first.", None)
        return Decision(f"{asin} fits best, though it costs more than {self._cap:.2f} dollars.", None)

    def _fit(self, product: tuple[str, str, float]) -> tuple[bool, bool, float]:
        """How well a product fits, to compare: the goal itself, then one within the cap, then words of its title."""
        asin, title, price = product
        shared = len(self._words.intersection(analyze(title))) / max(1, len(self._words))
        return self._goal is not None and asin == self._goal.asin, price <= self._cap, shared

    def _choose_options(self, observation: str) -> Decision:
        # Options stand between the two buttons on top and the title, which the price follows.
        lines = observation.split("\nPrice: ", 1)[0].split("\n")[3:-1]
        options = [match.groups() for line in lines if (match := OPTION.fullmatch(line))]
        picked = [value for _, values in options if (value := self._value(values.split("]["))) is not None]
        self._clicks = [*picked, BUY]
        if not picked:
            return Decision(f"For {self._wish}, the item seems good to buy.", None)
        named = " and ".join(f"'{value}'" for value in picked)
        return Decision(f"For {self._wish}, the item has options {named} and seems good to buy.", None)

    def _value(self, values: list[str]) -> str | None:
        """The value that fits best, by the share of its words that the instruction has; None where none has any."""
        if self._goal is not None:
            return next((value for value in values if count_options([value], self._goal.options)), None)
        fits = {value: self._words.intersection(words) for value in values if (words := set(analyze(value)))}
        best = max(
            fits, key=lambda value: (len(fits[value]) / len(set(analyze(value))), len(fits[value])), default=None
        )
        return best if best is not None and fits[best] else None
