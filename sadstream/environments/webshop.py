"""WebShop: find a product in a shop's pages and buy it with the right options."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

from sadstream.environments.json_files import packaged, read_text
from sadstream.environments.protocol import Reply, Style
from sadstream.environments.webshop_data import Goal, Product, read_catalogue
from sadstream.environments.webshop_reward import Reward, Tagger, load_tagger, reward
from sadstream.environments.webshop_search import SearchIndex
from sadstream.environments.webshop_text import (
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    SUB_PAGES,
    Page,
    View,
    clickables,
    original_text,
    react_text,
    shown_hits,
)
from sadstream.errors import ConfigError, TaskError

ACTION = re.compile(r"(search|click)\[(.+)\]", re.DOTALL)
INVALID = "Invalid action!"


class WebShop:
    """A shop with a search, and goals that people wrote; the reward says how near the purchase comes to the goal.

    The pages and the formula are the original's; the catalogue that comes along (1,468 products, 127 goals, all of
    them once solved by an agent) and its hidden attributes are not, so scores rank models here and say nothing beside
    published ones. The tagger that tells nouns for a part of the reward is part of the name. An episode takes 14 turns,
    thoughts among them: ReAct's 15 had the reset among them.

    Args:
        data: a folder with the original's files (`items_shuffle*.json`, `items_ins_v2*.json`, `items_human_ins.json`,
            gzip or not). None: the catalogue that comes along.
        view: `react`, the pages as ReAct's client prints them, three products a page, and its rules (search on the
            first page only, no turning of pages, exact case); `text`, the original's text mode.
        tagger: `words` (all words of three letters or more), `spacy` (the original's) or `hanta`.
        seed: draws the price caps of goals whose data state none.
    Raises:
        ConfigError: an option that is none of those, or a tagger that is not installed.
        TaskError: data that are missing or damaged.
    """

    style: Style = "webshop"
    max_steps = 14
    thoughts_count = True

    def __init__(
        self, data: str | Path | None = None, view: View = "react", tagger: Tagger = "words", seed: int = 0
    ) -> None:
        if view not in ("react", "text"):
            raise ConfigError(f"view={view!r} is no option of webshop", hint="view is one of react, text")
        load_tagger(tagger)
        self._view, self._tagger = view, tagger
        self._catalogue = read_catalogue(None if data is None else Path(data), seed=seed)
        self._splits = self._catalogue.splits()
        self._products = list(self._catalogue.products.values())
        self._search = SearchIndex(self._products)
        options = [f"tagger={tagger}"] + [f"view={view}"] * (view != "react")
        options += [f"data={Path(data).name}"] if data is not None else []
        self.name = f"webshop[{','.join(options)}]"
        self.examples = {"": read_text(packaged("webshop", "example.txt"))} if view == "react" else {}
        self._task_id: str | None = None

    def task_ids(self, split: str) -> Sequence[str]:
        """Ids of `test` or `train` (51 and 76 of the goals that come along), or `all` of them.

        Larger data are cut as the benchmark is: 500 `test`, 1,000 `dev`, the others `train`.
        """
        if split == "all":
            return list(self._catalogue.goals)
        if split not in self._splits:
            raise TaskError(f"no split {split!r}", hint=f"there is {', '.join(self._splits)} and all")
        return list(self._splits[split])

    def task_type(self, task_id: str) -> str:
        """Nothing: goals are of one kind."""
        self._goal(task_id)
        return ""

    def reset(self, task_id: str) -> str:
        self._goal(task_id)
        self._task_id = task_id
        self._page = Page()
        self._reward: Reward | None = None
        self._observation = self._text()
        return self._observation

    def step(self, action: str) -> Reply:
        """Take `search[words]` or `click[what is shown]`."""
        goal = self.goal
        if self._reward is not None:
            return Reply(self._observation, self._reward.total, True, False)
        page = self._next_page(action.strip())
        if page is None:
            # The original shows the page again.
            return Reply(INVALID if self._view == "react" else self._observation, 0.0, False, False)
        clicked_option = page.kind == self._page.kind == "item"
        self._page = page
        if page.kind == "done":
            bought, wanted = self._catalogue.products[page.asin], self._catalogue.products[goal.asin]
            self._reward = reward(bought, wanted, goal, dict(page.chosen).values(), self._tagger)
        self._observation = self._text()
        observation = self._observation
        if self._view == "react" and clicked_option:
            observation = f"You have clicked {action.strip()[len('click[') : -1]}."
        return Reply(observation, self._reward.total if self._reward else 0.0, self._reward is not None, True)

    def admissible(self) -> list[str] | None:
        """The clicks that are valid now; None where one can search, in free text, and nothing else."""
        if self._task_id is None or self._page.kind == "start":
            return None
        return [f"click[{name}]" for name in self._clickables()]

    def random_action(self, random: Random) -> str:
        """A search for some of the instruction's words, where one can only search."""
        words = self.goal.instruction.replace("[", " ").replace("]", " ").split()
        chosen = sorted(random.sample(range(len(words)), min(len(words), random.randint(2, 5))))
        return f"search[{' '.join(words[i] for i in chosen)}]"

    @property
    def goal(self) -> Goal:
        """What the present task asks for: all but its instruction is what only a privileged agent may look at.

        Raises:
            TaskError: no task was begun.
        """
        if self._task_id is None:
            raise TaskError("no task was begun", hint="call reset(task_id) first")
        return self._catalogue.goals[self._task_id]

    @property
    def product(self) -> Product:
        """The product that the goal was written for; for a privileged agent."""
        return self._catalogue.products[self.goal.asin]

    def metrics(self) -> dict[str, float]:
        """The reward's parts, each in [0, 1]: `type`, `attributes`, `options`, `price`; all 0 if nothing was bought."""
        parts = self._reward or Reward(0.0, 0.0, 0.0, 0.0, 0.0)
        return {name: value for name, value in parts._asdict().items() if name != "total"}

    def _goal(self, task_id: str) -> Goal:
        if task_id not in self._catalogue.goals:
            raise TaskError(f"no task {task_id!r}", hint="task_ids('all') lists those there are")
        return self._catalogue.goals[task_id]

    def _shown(self) -> list[Product]:
        return [self._products[number] for number in shown_hits(self._page, self._view)]

    def _present(self) -> Product | None:
        return self._catalogue.products.get(self._page.asin)

    def _clickables(self) -> list[str]:
        return clickables(self._page, self._view, self._shown(), self._present())

    def _text(self) -> str:
        instruction = self.goal.instruction
        total = self._reward.total if self._reward else 0.0
        if self._view == "text":
            return original_text(self._page, instruction, self._shown(), self._present(), total)
        if self._page.kind == "done":
            return f"Your score (min 0.0, max 1.0): {total}"
        return react_text(self._page, instruction, self._shown(), self._present())

    def _next_page(self, action: str) -> Page | None:
        """Where an action leads; None where it is not one, or not one for this page."""
        match = ACTION.fullmatch(action)
        if match is None:
            return None
        verb, argument = match.groups()
        if verb == "search":
            if self._view == "react" and self._page.kind != "start":
                return None
            return Page("results", self._search.search(argument))
        names = self._clickables()
        if self._view == "text":
            argument = {name.lower(): name for name in names}.get(argument.lower(), "")
        return self._click(argument) if argument in names else None

    def _click(self, name: str) -> Page:
        """Where something clickable leads."""
        page = self._page
        if name == BACK:
            return Page()
        if page.kind == "results":
            if name in (PREVIOUS, NEXT):
                return page._replace(number=page.number + (1 if name == NEXT else -1))
            return page._replace(kind="item", asin=name)
        if name == PREVIOUS:
            if page.kind == "sub":
                return page._replace(kind="item", sub="")
            return page._replace(kind="results", asin="", chosen=())
        if name in SUB_PAGES:
            return page._replace(kind="sub", sub=name)
        if name == BUY:
            return page._replace(kind="done")
        product = self._present()
        names = [option for option, values in product.options.items() if name in values] if product else []
        return page._replace(chosen=tuple({**dict(page.chosen), names[-1]: name}.items()))
