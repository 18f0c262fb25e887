"""Worlds of text tasks to act in, and experts that solve them without weights. Standard library and a fuzzy matcher."""

from typing import NamedTuple

from sadstream.environments.protocol import Agent, Decision, Environment, Reply, Style


class Entry(NamedTuple):
    """An environment that comes with sadstream: `module:Class` of it and of its expert, and what it is."""

    environment: str
    expert: str
    about: str


ENVIRONMENTS: dict[str, Entry] = {
    "alfworld": Entry(
        "sadstream.environments.alfworld:ALFWorld",
        "sadstream.environments.alfworld_expert:ALFWorldExpert",
        "household tasks in text (ALFWorld)",
    ),
    "hotpotqa": Entry(
        "sadstream.environments.hotpotqa:HotPotQA",
        "sadstream.environments.hotpotqa_expert:HotPotQAExpert",
        "questions over a closed set of Wikipedia paragraphs (HotPotQA, ReAct's tool)",
    ),
    "textworld": Entry(
        "sadstream.environments.textworld_engine:TextWorld",
        "sadstream.environments.textworld_engine:TextWorldExpert",
        "games of a file of yours (TextWorld; needs the extra `textworld` and --data)",
    ),
    "webshop": Entry(
        "sadstream.environments.webshop:WebShop",
        "sadstream.environments.webshop_expert:WebShopExpert",
        "buying a product from pages of a shop (WebShop)",
    ),
}

__all__ = ["ENVIRONMENTS", "Agent", "Decision", "Entry", "Environment", "Reply", "Style"]
