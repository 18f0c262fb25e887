import gzip
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadstream.environments.json_files import packaged, read_json
from sadstream.environments.porter import stem
from sadstream.environments.webshop import WebShop
from sadstream.environments.webshop_data import Goal, Product, read_catalogue
from sadstream.environments.webshop_expert import WebShopExpert
from sadstream.environments.webshop_reward import (
    COLORS,
    count_options,
    load_tagger,
    reward,
    title_nouns,
    token_set_ratio,
    type_reward,
)
from sadstream.environments.webshop_search import K1, B, SearchIndex, analyze, document
from sadstream.environments.webshop_text import Page, react_text
from sadstream.errors import ConfigError, TaskError
from tests.free_text_laws import check_invalid_changes_nothing, check_laws, check_pickle, noise, run

SHOPS = {view: WebShop(view=view) for view in ("react", "text")}
REACT, TEXT = SHOPS["react"], SHOPS["text"]
CATALOGUE = read_catalogue(None, seed=0)
PRODUCTS = list(CATALOGUE.products.values())
TASKS = REACT.task_ids("all")
WITH_OPTIONS = next(task for task, goal in CATALOGUE.goals.items() if len(goal.options) == 2)


def product(**fields: Any) -> Product:
    plain = {"asin": "B1", "title": "Red Cotton Shirt", "description": "", "bullets": ("",), "price": 10.0}
    others = {"price_tag": "$10.0", "options": {}, "attributes": (), "query": "q", "categories": frozenset()}
    return Product(**{**plain, **others, **fields})


def says(shop: WebShop, action: str) -> str:
    return shop.step(action).observation


def open_target(shop: WebShop, task_id: str) -> str:
    """Search for the product the goal was written for, and open it."""
    shop.reset(task_id)
    says(shop, f"search[{shop.product.title}]")
    return says(shop, f"click[{shop.product.asin}]")


@st.composite
def plays(draw: st.DrawFn, *, max_size: int = 8) -> tuple[Any, str, list[str]]:
    """A shop, a task and actions: a search, then what pages offer (found by walking), and noise."""
    shop = SHOPS[draw(st.sampled_from(sorted(SHOPS)))]
    task_id = draw(st.sampled_from(TASKS))
    shop.reset(task_id)
    words = st.lists(st.sampled_from(shop.goal.instruction.split()), min_size=1, max_size=4)
    actions: list[str] = []
    for _ in range(draw(st.integers(0, max_size))):
        offered = shop.admissible()
        kind = draw(st.sampled_from(("offered", "offered", "offered", "search", "noise")))
        if kind == "noise":
            actions.append(draw(noise))
        elif kind == "search" or not offered:
            actions.append(f"search[{' '.join(draw(words))}]")
        else:
            actions.append(draw(st.sampled_from(offered)))
        shop.step(actions[-1])
    return shop, task_id, actions


@given(plays())
def test_an_episode_is_a_pure_function_of_task_and_actions(drawn: tuple[Any, str, list[str]]) -> None:
    check_laws(*drawn)


@settings(max_examples=8)
@given(plays())
def test_a_pickled_episode_goes_on(drawn: tuple[Any, str, list[str]]) -> None:
    check_pickle(*drawn)


@given(plays(), st.lists(noise, max_size=3))
def test_an_invalid_action_changes_nothing(drawn: tuple[Any, str, list[str]], more: list[str]) -> None:
    shop, task_id, actions = drawn
    check_invalid_changes_nothing(shop, task_id, [*actions, *more], ["click[Back to Search]", "search[red shoes]"])


@given(plays())
def test_every_click_that_is_offered_is_valid(drawn: tuple[Any, str, list[str]]) -> None:
    shop, task_id, actions = drawn
    shop.reset(task_id)
    for action in actions:
        shop.step(action)
    for offered in shop.admissible() or ():
        shop.reset(task_id)
        for action in actions:
            shop.step(action)
        assert shop.step(offered).valid


def notebook_turns(path: Path) -> Iterator[tuple[str, str]]:
    """Actions and observations that ReAct's notebook printed, its 500 episodes one after another."""
    cells = json.loads(path.read_text())["cells"]
    printed = "".join("".join(output.get("text", "")) for output in cells[7]["outputs"])
    for turn in re.split(r"(?m)^Action: ", printed)[1:]:
        action, _, observation = turn.partition("\nObservation: ")
        yield action, observation


def test_pages_equal_those_that_reacts_client_printed(shared_data: Path) -> None:
    goals = {goal.instruction: task_id for task_id, goal in CATALOGUE.goals.items()}
    n_equal: Counter[str] = Counter()
    for action, observation in notebook_turns(shared_data / "raw" / "webshop" / "react_webshop.ipynb"):
        ours, kind = "", ""
        if action == "reset":
            kind, instruction = "start", observation.split("\nInstruction:  \n")[1].split(" \n[Search]")[0]
            ours = react_text(Page(), instruction, [], None)
            if instruction in goals:
                assert REACT.reset(goals[instruction]) == ours
                n_equal["goals"] += 1
        elif found := re.match(r"\n\[Back to Search\] \nPage 1 \(Total results: (\d+)\)", observation):
            shown = [CATALOGUE.products[asin] for asin in re.findall(r"\n\[(B\w{9})\] ", observation)]
            kind, ours = "results", react_text(Page("results", tuple(range(int(found[1])))), "", shown, None)
        elif observation.startswith("\n[Back to Search] \n[< Prev] ") and action[6:-1] in CATALOGUE.products:
            asin = action[6:-1]
            kind, ours = "item", react_text(Page("item", asin=asin), "", [], CATALOGUE.products[asin])
        if kind:
            # What stands behind a page is the notebook's own: blank lines, a warning, the mean so far.
            assert observation.startswith(ours), (action, observation, ours)
            n_equal[kind] += 1
    assert n_equal == {"start": 500, "goals": 125, "results": 518, "item": 508}


def test_what_won_in_the_public_episodes_wins_here() -> None:
    rows = read_json(packaged("webshop", "items_human_ins_mined.json.gz"))
    n_found = n_won = 0
    for asin, mined in rows.items():
        for n, row in enumerate(mined):
            TEXT.reset(f"{asin}-{n}")
            TEXT.step(f"search[{row['queries'][0]}]")
            for _ in range(4):
                if f"click[{asin}]" in (TEXT.admissible() or ()):
                    break
                TEXT.step("click[next >]")
            if f"click[{asin}]" in (TEXT.admissible() or ()):
                n_found += 1
                clicks = [asin, *row["all_clicked"].values(), "Buy Now"]
                n_won += [TEXT.step(f"click[{click}]") for click in clicks][-1].reward == 1
    assert (n_found, n_won) == (125, 125)


def test_reacts_rules_of_where_what_may_be_done() -> None:
    REACT.reset(TASKS[0])
    assert REACT.admissible() is None
    assert REACT.step("click[Buy Now]") == ("Invalid action!", 0.0, False, False)
    for bad in ("search[]", "search[shoes", "buy", "click[]", "Search[shoes]"):
        assert not REACT.step(bad).valid
    results = says(REACT, "search[shoes]")
    assert results.count("\n$") == 3
    for bad in ("click[Next >]", "click[< Prev]", "search[boots]", f"click[{PRODUCTS[0].asin.lower()}]"):
        assert REACT.step(bad).observation == "Invalid action!"
    assert len(REACT.admissible() or ()) == 4
    assert says(REACT, "click[Back to Search]") == REACT.reset(TASKS[0])


def test_a_chosen_option_is_marked_and_survives_a_sub_page_but_not_a_step_back() -> None:
    item = open_target(REACT, WITH_OPTIONS)
    name, values = next(iter(REACT.product.options.items()))
    assert f"\n{name} [{values[0]}][{values[1]}]" in item
    assert REACT.step(f"click[{values[0]}]") == (f"You have clicked {values[0]}.", 0.0, False, True)
    assert says(REACT, f"click[{values[0]}]") == f"You have clicked {values[0]}."
    assert says(REACT, f"click[{values[1]}]") == f"You have clicked {values[1]}."
    assert says(REACT, "click[Description]") == "\n[Back to Search] \n[< Prev] "
    assert f"\n{name} [{values[0]}][[{values[1]}]]" in says(REACT, "click[< Prev]")
    says(REACT, "click[< Prev]")
    assert says(REACT, f"click[{REACT.product.asin}]") == item


def test_the_reward_and_its_parts_are_those_of_what_was_clicked() -> None:
    open_target(REACT, WITH_OPTIONS)
    goal = REACT.goal
    clicked = [
        value for values in REACT.product.options.values() for value in values if count_options([value], goal.options)
    ]
    assert REACT.metrics() == {"type": 0.0, "attributes": 0.0, "options": 0.0, "price": 0.0}
    for value in clicked:
        REACT.step(f"click[{value}]")
    reply = REACT.step("click[Buy Now]")
    assert reply == ("Your score (min 0.0, max 1.0): 1.0", 1.0, True, True)
    assert REACT.metrics() == {"type": 1.0, "attributes": 1.0, "options": 1.0, "price": 1.0}
    open_target(REACT, WITH_OPTIONS)
    n_wanted = len(goal.attributes) + len(goal.options) + 1
    assert REACT.step("click[Buy Now]").reward == pytest.approx((len(goal.attributes) + 1) / n_wanted)
    assert REACT.metrics()["options"] == 0


def test_the_originals_text_mode_shows_ten_products_and_turns_pages() -> None:
    start = TEXT.reset(TASKS[0])
    assert start == f"WebShop [SEP] Instruction: [SEP] {TEXT.goal.instruction} [SEP] Search"
    first = says(TEXT, "search[black shoes]")
    assert first.startswith(f"Instruction: [SEP] {TEXT.goal.instruction} [SEP] Back to Search [SEP] Page 1 (Total")
    assert len(first.split(" [SEP] ")) == 5 + 30
    assert "Page 2 (Total results: " in says(TEXT, "click[next >]")
    assert says(TEXT, "click[< prev]") == first
    assert TEXT.step("nonsense") == (first, 0.0, False, False)
    assert says(TEXT, "search[Black SHOES]") == first
    asin = first.split(" [SEP] ")[5]
    assert " [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] " in says(TEXT, f"click[{asin.lower()}]")
    assert " [SEP] Your score (min 0.0, max 1.0) [SEP] 0" in says(TEXT, "click[buy now]")


def test_the_instruction_carries_the_cap_and_ids_are_stable() -> None:
    assert len(TASKS) == len(set(TASKS)) == 127
    assert len(REACT.task_ids("test")) == 51
    assert [*REACT.task_ids("test"), *REACT.task_ids("train")] == TASKS
    assert WebShop(seed=7).reset(TASKS[5]) == REACT.reset(TASKS[5])
    assert re.search(r"[^.], and price lower than \d+\.00 dollars \n\[Search\] $", REACT.reset(TASKS[5]))
    assert REACT.name == "webshop[tagger=words]"
    assert TEXT.name == "webshop[tagger=words,view=text]"
    assert REACT.examples[""].startswith("Webshop \nInstruction:  \n")


# By thefuzz 0.22.1.
@pytest.mark.parametrize(
    ("one", "other", "score"),
    [
        ("8.5 Ounce (Pack of 1)", "pack of 1, 8.5 ounce", 100),
        ("noise cancelling", "noise canceling", 97),
        ("café crème", "caf crme", 100),
        ("x-large", "xx-large", 93),
        ("", "", 0),
        ("...", "red", 0),
        ("3 ounce", "3-ounce (2-pack)", 100),
    ],
)
def test_token_set_ratio_is_thefuzzs(one: str, other: str, score: int) -> None:
    assert token_set_ratio(one, other) == token_set_ratio(other, one) == score


def test_a_match_is_a_score_above_85() -> None:
    for one, other, score in (("1 count", "2 count", 86), ("1 pack(fine comb)", "1 pack(wider comb)", 85)):
        assert token_set_ratio(one, other) == score
        assert count_options([one], [other]) == (score > 85)
        goal = Goal("B1", "", (other,), (), 20.0)
        assert reward(product(attributes=(one,)), product(), goal, (), "words").attributes == (score > 85)


@given(st.text(max_size=20), st.text(max_size=20))
def test_token_set_ratio_equals_thefuzz_where_that_is_installed(one: str, other: str) -> None:
    fuzz = pytest.importorskip("thefuzz.fuzz")
    assert token_set_ratio(one, other) == fuzz.token_set_ratio(one, other)


words = st.lists(st.sampled_from(("red", "cotton", "shirt", "blue", "wool", "hat", "big", "a")), max_size=6)


@given(words, words, st.booleans(), st.booleans())
def test_type_reward_falls_with_shared_nouns(bought: list[str], wanted: list[str], query: bool, category: bool) -> None:
    one = product(title=" ".join(bought), query="x" if query else "y", categories=frozenset("abc" if category else "a"))
    other = product(title=" ".join(wanted), query="x", categories=frozenset("abz"))
    nouns = [word for word in wanted if len(word) >= 3]
    score = len(set(bought) & set(nouns)) / len(nouns) if nouns else 0.2
    by_hand = 1.0 if query or category or score > 0.2 else 0.5
    by_hand = 0.1 if score < 0.1 else by_hand
    by_hand = 0.0 if score == 0 else by_hand
    assert type_reward(one, other, "words") == by_hand


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_reward_is_the_share_of_what_was_asked_for(has: int, wants: int, chosen: int, asked: int, dear: bool) -> None:
    letters = ("alpha", "bravo", "delta")
    colors = ("red", "blue", "green")
    bought = product(attributes=letters[:has], price=30.0 if dear else 10.0)
    goal = Goal("B1", "", letters[:wants], colors[:asked], 20.0)
    parts = reward(bought, product(), goal, colors[:chosen], "words")
    n_met = min(has, wants) + min(chosen, asked) + (not dear)
    assert parts.total == pytest.approx(n_met / (wants + asked + 1))
    assert parts.price == (not dear)
    assert all(0 <= part <= 1 for part in parts)
    other_kind = reward(bought, product(title="Blue Woollen Hat"), goal, colors[:chosen], "words")
    assert (other_kind.type, other_kind.total) == (0.0, 0.0)


def test_attributes_are_found_in_the_texts_and_options_by_their_first_color() -> None:
    goal = Goal("B1", "", ("machine wash",), (), 50.0)
    for fields in (
        {"title": "Machine Washable Shirt"},
        {"bullets": ("x", "Machine wash")},
        {"description": "MACHINE WASH"},
    ):
        assert reward(product(**fields), product(title="shirt machine red"), goal, (), "words").attributes == 1
    assert reward(product(bullets=("machine", "wash")), product(), goal, (), "words").attributes == 1
    assert reward(product(), product(), goal, (), "words").attributes == 0
    assert len(COLORS) == 102
    assert count_options(["dark red wine"], ["navy, dark"]) == 1  # dark comes before navy, red and wine
    assert count_options(["red"], ["blue"]) == 0


def test_a_tagger_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load_tagger.cache_clear()
    for module, tagger, install in (
        ("spacy", "spacy", "pip install spacy"),
        ("HanTa.HanoverTagger", "hanta", "pip install HanTa"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=tagger) as raised:
            WebShop(tagger=tagger)
        assert install in raised.value.hint
    with pytest.raises(ConfigError, match="'verbs'"):
        WebShop(tagger="verbs")
    load_tagger.cache_clear()
    assert title_nouns("A Big-Red hat, hat 4x", "words") == ("big", "red", "hat", "hat")


# From the paper's own tables, and two of its author's later changes.
PORTER_PAIRS = (
    "caresses caress ponies poni cats cat feed feed agreed agre plastered plaster bled bled motoring motor sing "
    "sing conflated conflat troubled troubl sized size hopping hop falling fall hissing hiss filing file happy "
    "happi sky sky relational relat conditional condit valenci valenc digitizer digit vietnamization vietnam "
    "operator oper feudalism feudal decisiveness decis callousness callous formaliti formal sensibiliti sensibl "
    "triplicate triplic formative form electriciti electr hopeful hope goodness good revival reviv allowance "
    "allow airliner airlin adjustable adjust replacement replac adoption adopt communism commun activate activ "
    "effective effect probate probat rate rate cease ceas controll control roll roll yes ye yoyo yoyo technology "
    "technolog incredibly incred is is"
)


def test_stems_are_porters() -> None:
    pairs = PORTER_PAIRS.split()
    assert [stem(word) for word in pairs[::2]] == pairs[1::2]


@given(st.lists(st.sampled_from(sorted({w for p in PRODUCTS[:200] for w in p.title.split()})), min_size=1, max_size=6))
def test_search_ranks_as_bm25_by_hand(query: list[str]) -> None:
    some = PRODUCTS[:200]
    texts = [analyze(document(one)) for one in some]
    mean = sum(map(len, texts)) / len(texts)
    scores = dict.fromkeys(range(len(some)), 0.0)
    for word in analyze(" ".join(query)):
        n_with = sum(word in text for text in texts)
        for number, text in enumerate(texts):
            times = text.count(word)
            idf = math.log(1 + (len(some) - n_with + 0.5) / (n_with + 0.5))
            scores[number] += idf * times / (times + K1 * (1 - B + B * len(text) / mean))
    hits = SOME.search(" ".join(query))
    best = sorted((number for number, score in scores.items() if score > 0), key=lambda number: -scores[number])[:50]
    assert [scores[number] for number in hits] == pytest.approx([scores[number] for number in best])


SOME = SearchIndex(PRODUCTS[:200])


def test_words_are_cut_and_stopped_as_lucene_does() -> None:
    assert analyze("The wi-fi's 3.5-ounce 1,000 U.S.B cables; it's not for THAT") == [
        "wi",
        "fi",
        "3.5",
        "ounc",
        "1,000",
        "u.s.b",
        "cabl",
    ]
    assert SOME.search("zzzz the of") == ()


def test_the_target_is_among_three_for_most_goals_by_the_mined_query() -> None:
    rows = read_json(packaged("webshop", "items_human_ins_mined.json.gz"))
    index = SearchIndex(PRODUCTS)
    n_shown = n_found = 0
    for asin, mined in rows.items():
        for row in mined:
            hits = [PRODUCTS[number].asin for number in index.search(row["queries"][0])]
            n_shown += asin in hits[:3]
            n_found += asin in hits
    assert (n_shown, n_found) == (117, 125)


def test_the_expert_buys_by_what_it_reads_and_better_by_the_hidden_goal() -> None:
    for expert, least, name in ((WebShopExpert(), 80, "expert"), (WebShopExpert(goal=True), 125, "expert[goal]")):
        rewards = [reply.reward for task in TASKS if (reply := run(REACT, expert, task)[0]) is not None and reply.done]
        assert len(rewards) == len(TASKS)
        assert sum(one == 1 for one in rewards) >= least
        assert expert.name == name
    assert not WebShopExpert().privileged
    assert WebShopExpert(goal=True).privileged
    with pytest.raises(ConfigError, match="ReAct's pages"):
        run(TEXT, WebShopExpert(), TASKS[0])


ITEM = {
    "asin": "B000000001", "name": "Red Shirt", "pricing": "$1,299.50$10.00", "full_description": None,
    "small_description": "One bullet", "images": [""], "category": "fashion", "query": " Shirts ",
    "product_category": "Clothing › Men › Shirts",
    "customization_options": {"Color": [{"value": " Red/Blue ", "image": None}], "Size": None},
}  # fmt: skip
HUMAN = [
    {"instruction": "a red shirt.", "instruction_attributes": ["cotton"], "instruction_options": ["red"]},
    {"instruction": "left out", "instruction_attributes": [], "instruction_options": []},
]


def write_original(folder: Path, items: list[Any], *, packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in (
        ("items_shuffle_1000.json", items),
        ("items_ins_v2_1000.json", {"B000000002": {"attributes": ["cotton"]}}),
        ("items_human_ins.json", {"B000000001": HUMAN, "B000000002": HUMAN[:1]}),
    ):
        content = json.dumps(value).encode()
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def test_the_original_data_files_are_read(tmp_path: Path) -> None:
    items = [ITEM, {**ITEM, "name": "again"}, {**ITEM, "asin": "nan"}, {**ITEM, "asin": "B000000002", "pricing": ""}]
    folder = write_original(tmp_path / "data", items, packed=True)
    catalogue = read_catalogue(folder, seed=0)
    one, two = catalogue.products.values()
    assert (one.price, one.price_tag) == (10.0, "$1299.5 to $10.0")
    assert (two.price, two.price_tag) == (100.0, "$100.0")
    assert (one.options, one.query) == ({"color": ("red |  blue",)}, "shirts") or one.options == {
        "color": ("red | blue",)
    }
    assert one.categories == {"Clothing", "Men", "Shirts"}
    assert (one.attributes, two.attributes) == (("DUMMY_ATTR",), ("cotton",))
    assert sorted(catalogue.goals) == ["B000000001-0", "B000000002-0"]
    caps = {seed: read_catalogue(folder, seed=seed).goals["B000000001-0"].price_cap for seed in range(20)}
    assert set(caps.values()) == {30.0, 40.0, 50.0}
    goal = catalogue.goals["B000000001-0"]
    assert goal.instruction == f"a red shirt, and price lower than {goal.price_cap:.2f} dollars"
    shop = WebShop(folder)
    assert shop.name == "webshop[tagger=words,data=data]"
    assert shop.reset("B000000001-0") == WebShop(folder).reset("B000000001-0")


def test_a_value_that_two_options_have_is_chosen_for_the_last(tmp_path: Path) -> None:
    def values(*names: str) -> list[dict[str, str]]:
        return [{"value": name} for name in names]

    options = {"color": values("red", "blue"), "trim": values("red", "tan")}
    shop = WebShop(write_original(tmp_path / "data", [{**ITEM, "customization_options": options}]))
    open_target(shop, "B000000001-0")
    for clicked in ("red", "tan"):  # red is the trim's, and tan takes its place
        says(shop, f"click[{clicked}]")
    shop.step("click[Buy Now]")
    assert shop.metrics()["options"] == 0


def test_large_data_are_split_as_the_benchmark_is() -> None:
    goals = {str(n): CATALOGUE.goals[TASKS[0]] for n in range(2000)}
    splits = CATALOGUE._replace(goals=goals).splits()
    assert {name: len(ids) for name, ids in splits.items()} == {"test": 500, "dev": 1000, "train": 500}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "items_human_ins.json").unlink(), "no items_human_ins.json"),
        (lambda folder: (folder / "items_shuffle_1000.json").unlink(), "no WebShop data"),
        (lambda folder: (folder / "items_ins_v2_1000.json").write_text("[]"), "items_ins_v2_1000.json: not WebShop's"),
        (lambda folder: (folder / "items_human_ins.json").write_text('{"a": '), "items_human_ins.json: not JSON"),
        (lambda folder: (folder / "items_human_ins.json").write_text("{}"), "no goal for any product"),
        (lambda folder: write_original(folder, [{**ITEM, "name": 3}, {"asin": "B0"}]), "row 2: .*no '"),
        (
            lambda folder: (folder / "items_shuffle_1000.json").write_bytes(gzip.compress(b"[" * 99)[:-9]),
            "items_shuffle",
        ),
    ],
)
def test_damaged_data_are_named_with_place_and_mend(tmp_path: Path, spoil: Any, says: str) -> None:
    folder = write_original(tmp_path / "data", [ITEM])
    spoil(folder)
    with pytest.raises(TaskError, match=says) as raised:
        WebShop(folder)
    assert raised.value.hint


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(TaskError, match="'eval'") as raised:
        REACT.task_ids("eval")
    assert "test, train and all" in raised.value.hint
    for ask in (REACT.reset, REACT.task_type):
        with pytest.raises(TaskError, match="'nope'"):
            ask("nope")
    with pytest.raises(TaskError, match="no task was begun"):
        WebShop().step("search[x]")
    with pytest.raises(ConfigError, match="view='html'"):
        WebShop(view="html")
