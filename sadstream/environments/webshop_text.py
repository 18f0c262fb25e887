"""WebShop's pages as text: as ReAct's client shows them, or as the original's text mode does."""

import json
from typing import Literal, NamedTuple

from sadstream.environments.webshop_data import Product

View = Literal["react", "text"]

N_PER_PAGE = 10
N_REACT_SHOWS = 3
BACK, PREVIOUS, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews")
SEPARATOR = " [SEP] "
# What Flask writes for these in JSON on a page.
HTML_SAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"})


class Page(NamedTuple):
    """Where a shopper is.

    Attributes:
        kind: start, results, item, sub (a sub-page of an item) or done.
        hits: numbers of the products found, the best first.
        number: of the page of results, from 1.
        chosen: the option value clicked last by option name, in the order of first clicks.
        sub: which sub-page.
    """

    kind: Literal["start", "results", "item", "sub", "done"] = "start"
    hits: tuple[int, ...] = ()
    number: int = 1
    asin: str = ""
    chosen: tuple[tuple[str, str], ...] = ()
    sub: str = ""


def shown_hits(page: Page, view: View) -> tuple[int, ...]:
    """The products that a page of results shows: ten, of which ReAct's client prints three."""
    first = (page.number - 1) * N_PER_PAGE
    return page.hits[first : first + (N_REACT_SHOWS if view == "react" else N_PER_PAGE)]


def react_text(page: Page, instruction: str, shown: list[Product], product: Product | None) -> str:
    """A page as ReAct's client prints it, blanks at line ends included.

    Args:
        shown: the products of a page of results.
        product: of an item or a sub-page.
    """
    if page.kind == "start":
        return f"\nWebshop \nInstruction:  \n{instruction} \n[Search] "
    if page.kind == "results":
        head = f"\n[{BACK}] \nPage {page.number} (Total results: {len(page.hits)}) \n[{NEXT}] "
        return head + "".join(f"\n[{one.asin}] \n{one.title} \n{one.price_tag} " for one in shown)
    head = f"\n[{BACK}] \n[{PREVIOUS}] "
    if product is None:
        return head
    if page.kind == "sub":
        return head + "".join(f"\n{text} " for text in _sub_texts(page.sub, product) if text.strip())
    # The client marks what its address names in quotes, whichever option it is a value of.
    chosen = repr(dict(page.chosen))
    for name, values in product.options.items():
        head += f"\n{name} " + "".join(f"[[{v}]]" if f"'{v}'" in chosen else f"[{v}]" for v in values)
    foot = "".join(f"\n[{name}] " for name in (*SUB_PAGES, BUY))
    return f"{head}\n{product.title} \nPrice: {product.price_tag} \nRating: N.A. {foot}"


def original_text(page: Page, instruction: str, shown: list[Product], product: Product | None, reward: float) -> str:
    """A page as the original's text mode prints it: its visible strings, `[SEP]` between them."""
    if page.kind == "start":
        return SEPARATOR.join(("WebShop", "Instruction:", instruction, "Search"))
    if page.kind == "done":
        return _receipt(page, reward)
    parts = ["Instruction:", instruction, BACK]
    if page.kind == "results":
        parts += [f"Page {page.number} (Total results: {len(page.hits)})"]
        parts += [PREVIOUS] * (page.number > 1) + [NEXT]
        for one in shown:
            parts += [one.asin, one.title.strip(), one.price_tag]
    elif product is not None:
        parts.append(PREVIOUS)
        if page.kind == "sub":
            parts += [text.strip() for text in _sub_texts(page.sub, product) if text]
        else:
            for name, values in product.options.items():
                parts += [name.strip(), *values]
            parts += [product.title.strip(), f"Price: {product.price_tag}", "Rating: N.A.", *SUB_PAGES, BUY]
    return SEPARATOR.join(parts)


def clickables(page: Page, view: View, shown: list[Product], product: Product | None) -> list[str]:
    """What `click[...]` takes on a page, as it is printed; ReAct's client refuses to turn pages of results."""
    if page.kind == "results":
        turn = [PREVIOUS] * (page.number > 1) + [NEXT] if view == "text" else []
        return [BACK, *turn, *(one.asin for one in shown)]
    if page.kind == "sub":
        return [BACK, PREVIOUS]
    if page.kind == "item" and product is not None:
        values = dict.fromkeys(value for values in product.options.values() for value in values)
        return [BACK, PREVIOUS, *values, *SUB_PAGES, BUY]
    return []


def _sub_texts(sub: str, product: Product) -> list[str]:
    """What stands on a sub-page; nobody has reviews here, as in the original's own set-up."""
    if sub == "Description":
        return [product.description]
    return [f" {bullet}" for bullet in product.bullets] if sub == "Features" else []


def _receipt(page: Page, reward: float) -> str:
    """The original's last page, with the fields that it leaves without a value."""
    options = json.dumps(dict(page.chosen), sort_keys=True).translate(HTML_SAFE)
    bought = ["asin", page.asin, "options", options, "attrs", "None", "category", "None", "query", "None"]
    target = ["asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query"]
    return SEPARATOR.join(
        (
            "Thank you for shopping with us!",
            *("Your code:", "None", "(Paste it in your MTurk interface.)"),
            *("Purchased", *bought, "product category", "None", "Target", *target, "Goal", "None"),
            *("Reward", "Your score (min 0.0, max 1.0)", str(reward), "Reward Details", "None"),
        )
    )
