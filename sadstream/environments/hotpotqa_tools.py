"""What Search and Lookup answer, in ReAct's words (`wikienv`) or in Reflexion's (LangChain's docstore)."""

from typing import Literal, NamedTuple

from sadstream.environments.hotpotqa_data import Page
from sadstream.environments.hotpotqa_pages import PageIndex

Tool = Literal["react", "reflexion"]
Sentences = Literal["data", "wikienv"]

N_SENTENCES = 5
N_SIMILAR = {"react": 5, "reflexion": 10}
NO_PAGE = (
    "The last page Searched was not found, so you cannot Lookup a keyword in it. "
    "Please try one of the similar pages given."
)


class Reading(NamedTuple):
    """The open page and how far a lookup in it has come.

    Attributes:
        n_shown: results of `keyword` that were shown, the next one's index.
    """

    page: Page | None = None
    keyword: str | None = None
    n_shown: int = 0


def split_page(page: Page, sentences: Sentences) -> list[str]:
    """A page's sentences: the data's own, or cut at ". " with a full stop put after each, as `wikienv` does."""
    if sentences == "data":
        return [stripped for sentence in page.sentences if (stripped := sentence.strip())]
    paragraphs = (part.strip() for part in "".join(page.sentences).split("\n"))
    return [f"{piece.strip()}." for part in paragraphs for piece in part.split(". ") if piece.strip()]


def react_search(reading: Reading, index: PageIndex, entity: str, sentences: Sentences) -> tuple[Reading, str]:
    """The page's first five sentences; or titles like it, and the old page stays open with its lookup."""
    page = index.find(entity)
    if page is None:
        return reading, f"Could not find {entity}. Similar: {index.similar(entity, N_SIMILAR['react'])}."
    return Reading(page), " ".join(split_page(page, sentences)[:N_SENTENCES])


def react_lookup(reading: Reading, keyword: str, sentences: Sentences) -> tuple[Reading, str]:
    """The next sentence of the open page that has the keyword, whatever its case; the same keyword goes on."""
    found = split_page(reading.page, sentences) if reading.page else []
    found = [sentence for sentence in found if keyword.lower() in sentence.lower()]
    n_shown = reading.n_shown if reading.keyword == keyword else 0
    if n_shown >= len(found):
        return reading._replace(keyword=keyword, n_shown=n_shown), "No more results.\n"
    answer = f"(Result {n_shown + 1} / {len(found)}) {found[n_shown]}"
    return reading._replace(keyword=keyword, n_shown=n_shown + 1), answer


def reflexion_search(reading: Reading, index: PageIndex, entity: str, sentences: Sentences) -> tuple[Reading, str]:
    """The whole paragraph; or titles like it, and no page is open. A lookup's place outlives both, as in LangChain."""
    page = index.find(entity)
    if page is None:
        titles = index.similar(entity, N_SIMILAR["reflexion"])
        return reading._replace(page=None), f"Could not find [{entity}]. Similar: {titles}"
    return reading._replace(page=page), " ".join(split_page(page, sentences))


def reflexion_lookup(reading: Reading, keyword: str, sentences: Sentences) -> tuple[Reading, str]:
    """The paragraph, if it has the keyword and was not shown for it before: a page here is one paragraph."""
    if reading.page is None:
        return reading, NO_PAGE
    paragraph, wanted = " ".join(split_page(reading.page, sentences)), keyword.lower()
    place = reading.n_shown + 1 if reading.keyword == wanted else 0
    after = reading._replace(keyword=wanted, n_shown=place)
    if wanted not in paragraph.lower():
        return after, "No Results"
    return after, "No More Results" if place >= 1 else f"(Result 1/1) {paragraph}"
