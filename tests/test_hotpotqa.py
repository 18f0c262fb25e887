import ast
import gzip
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadstream.environments.hotpotqa import HotPotQA
from sadstream.environments.hotpotqa_data import Page, read_questions
from sadstream.environments.hotpotqa_expert import HotPotQAExpert
from sadstream.environments.hotpotqa_pages import PageIndex
from sadstream.environments.hotpotqa_scores import exact_match, f1, normalize_answer
from sadstream.environments.hotpotqa_tools import Reading, reflexion_lookup, reflexion_search
from sadstream.errors import ConfigError, TaskError
from tests.free_text_laws import check_invalid_changes_nothing, check_laws, check_pickle, noise, run

ROW = {
    "_id": "q1",
    "question": "Who made Bar?",
    "answer": "the Foo Company",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Bar (game)", 0], ["Foo", 1]],
    "context": [
        ["Foo", ["Foo is a firm.", " It made games. Many of them.", " Its Seat is in Rome."]],
        ["Bar (game)", ["Bar is a game by Foo.", " Two.", " Three.", " Four.", " Five.", " Six has the seat."]],
        ["Bar (song)", ["Bar is a song."]],
        ["Baz (film)", ["Baz is a film."]],
    ],
}


@pytest.fixture(scope="module")
def questions() -> HotPotQA:
    return HotPotQA()


@pytest.fixture
def small(tmp_path: Path) -> HotPotQA:
    (tmp_path / "q.json").write_text(json.dumps([ROW]))
    environment = HotPotQA(tmp_path / "q.json")
    environment.reset("q1")
    return environment


def says(environment: HotPotQA, action: str) -> str:
    return environment.step(action).observation


ENVIRONMENTS = {
    "react": HotPotQA(),
    "wikienv": HotPotQA(sentences="wikienv"),
    "reflexion": HotPotQA(tool="reflexion"),
}
DEV = list(ENVIRONMENTS["react"].task_ids("dev"))


@st.composite
def plays(draw: st.DrawFn, *, max_size: int = 6) -> tuple[Any, str, list[str]]:
    """An environment, a task and actions: titles that are there, cut titles, words of the pages, answers, noise."""
    environment = ENVIRONMENTS[draw(st.sampled_from(sorted(ENVIRONMENTS)))]
    task_id = draw(st.sampled_from(DEV))
    environment.reset(task_id)
    titles = [page.title for page in environment.question.pages]
    title = st.sampled_from(titles)
    words = st.sampled_from(sorted({w for page in environment.question.pages for w in page.sentences[0].split()}))
    action = st.one_of(
        title.map("Search[{}]".format),
        title.map(lambda text: f"search[{text[:-2]}]"),
        words.map("Lookup[{}]".format),
        st.sampled_from((f"Finish[{environment.question.answer}]", "Finish[no]", "finish[]")),
        noise,
    )
    return environment, task_id, draw(st.lists(action, max_size=max_size))


@given(plays())
def test_an_episode_is_a_pure_function_of_task_and_actions(drawn: tuple[Any, str, list[str]]) -> None:
    check_laws(*drawn)


@settings(max_examples=8)
@given(plays())
def test_a_pickled_episode_goes_on(drawn: tuple[Any, str, list[str]]) -> None:
    check_pickle(*drawn)


@given(plays(), st.lists(noise, max_size=3))
def test_an_invalid_action_changes_nothing(drawn: tuple[Any, str, list[str]], more: list[str]) -> None:
    environment, task_id, actions = drawn
    check_invalid_changes_nothing(environment, task_id, [*actions, *more], ["Lookup[the]", "Lookup[the]", "Finish[no]"])


def test_a_title_opens_its_page_whatever_its_case_and_shows_five_sentences(small: HotPotQA) -> None:
    assert says(small, "Search[fOO]") == "Foo is a firm. It made games. Many of them. Its Seat is in Rome."
    assert says(small, "search[Bar (game)]") == "Bar is a game by Foo. Two. Three. Four. Five."


def test_parentheses_may_be_left_out_where_one_page_is_left(small: HotPotQA) -> None:
    assert says(small, "Search[Baz]") == "Baz is a film."
    assert says(small, "Search[Bar]").startswith("Could not find Bar. Similar: ['Bar (")


def test_titles_are_read_without_html_escapes(tmp_path: Path) -> None:
    row = {**ROW, "context": [["Rock &amp; Roll", ["It rocks."]]], "supporting_facts": [["Rock &amp; Roll", 0]]}
    (tmp_path / "q.json").write_text(json.dumps([row]))
    environment = HotPotQA(tmp_path / "q.json")
    environment.reset("q1")
    assert says(environment, "Search[rock & roll]") == "It rocks."
    assert environment.question.supporting == (("Rock & Roll", 0),)


def test_a_miss_names_titles_without_brackets_and_leaves_the_page_open(small: HotPotQA) -> None:
    says(small, "Search[Foo]")
    assert says(small, "Lookup[foo]") == "(Result 1 / 1) Foo is a firm."
    missed = says(small, "Search[Fooo]")
    assert missed.startswith("Could not find Fooo. Similar: ['Foo', ")
    assert missed.endswith("'].")
    assert len(ast.literal_eval(missed.removeprefix("Could not find Fooo. Similar: ").removesuffix("."))) == 4
    # The lookup goes on where it stood.
    assert says(small, "Lookup[foo]") == "No more results.\n"
    assert says(small, "Lookup[seat]") == "(Result 1 / 1) Its Seat is in Rome."


def test_lookup_steps_through_all_sentences_and_a_page_opened_anew_begins_again(small: HotPotQA) -> None:
    assert says(small, "Lookup[seat]") == "No more results.\n"
    says(small, "Search[Bar (game)]")
    assert says(small, "Lookup[SEAT]") == "(Result 1 / 1) Six has the seat."
    assert says(small, "Lookup[f]") == "(Result 1 / 3) Bar is a game by Foo."
    assert says(small, "Lookup[f]") == "(Result 2 / 3) Four."
    assert says(small, "Lookup[F]") == "(Result 1 / 3) Bar is a game by Foo."
    says(small, "Search[Bar (game)]")
    assert says(small, "Lookup[F]") == "(Result 1 / 3) Bar is a game by Foo."


def test_finish_is_exact_match_after_normalising_and_f1_beside_it(small: HotPotQA) -> None:
    assert small.metrics() == {"em": 0.0, "f1": 0.0}
    reply = small.step("Finish[foo company!]")
    assert reply == ("Episode finished, reward = 1\n", 1.0, True, True)
    assert small.metrics() == {"em": 1.0, "f1": 1.0}
    assert small.step("Finish[no]") == ("Episode finished, reward = 1\n", 1.0, True, False)
    small.reset("q1")
    assert small.step("finish[The Foo]") == ("Episode finished, reward = 0\n", 0.0, True, True)
    assert small.metrics() == {"em": 0.0, "f1": pytest.approx(2 / 3)}


def test_thoughts_and_what_is_no_action_are_answered_as_wikienv_does(small: HotPotQA) -> None:
    assert small.step("think[hm]") == ("Nice thought.", 0.0, False, True)
    assert small.step(" Go[north] ") == ("Invalid action: go[north]", 0.0, False, False)
    assert small.step("SEARCH[Foo]") == ("Invalid action: sEARCH[Foo]", 0.0, False, False)


def test_wikienv_cuts_at_full_stops_and_doubles_the_last(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps([ROW]))
    environment = HotPotQA(tmp_path / "q.json", sentences="wikienv")
    environment.reset("q1")
    assert says(environment, "Search[Foo]") == "Foo is a firm. It made games. Many of them. Its Seat is in Rome.."
    assert says(environment, "Lookup[made]") == "(Result 1 / 1) It made games."


def test_reflexions_tool_shows_the_paragraph_and_a_miss_closes_it(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps([ROW]))
    environment = HotPotQA(tmp_path / "q.json", tool="reflexion")
    environment.reset("q1")
    page = says(environment, "Search[Bar (game)]")
    assert page.endswith("Five. Six has the seat.")
    assert says(environment, "Lookup[seat]") == f"(Result 1/1) {page}"
    assert says(environment, "Lookup[Seat]") == "No More Results"
    assert says(environment, "Lookup[zzz]") == "No Results"
    assert re.fullmatch(r"Could not find \[Bar\]\. Similar: \[.*\]", says(environment, "Search[Bar]"))
    assert says(environment, "Lookup[seat]").startswith("The last page Searched was not found")
    assert says(environment, "Look up").startswith("Invalid Action. Valid Actions are Lookup[<topic>]")
    assert says(environment, "Finish[Foo Company]") == "Answer is CORRECT"


def test_reflexions_words_are_those_of_its_public_log(shared_data: Path) -> None:
    log = (shared_data / "raw" / "hotpotqa" / "reflexion_react_base_5_trials.txt").read_text()
    missed = re.findall(
        r"Action \d+: Search\[(.*)\]\nObservation \d+: (Could not find \[.*\]\. Similar: (\[.*\]))\n", log
    )
    n_compared = 0
    for entity, observation, titles in missed:
        listed = ast.literal_eval(titles)
        index = PageIndex(Page(title, (title,)) for title in listed)
        if index.find(entity) is None and listed:
            _, ours = reflexion_search(Reading(), index, entity, "data")
            head, _, ours_listed = ours.partition("Similar: ")
            assert observation.startswith(head)
            assert sorted(ast.literal_eval(ours_listed)) == sorted(listed)
            n_compared += 1
    assert n_compared > 50
    pairs = re.findall(r"Observation \d+: (.*)\n.*\nAction \d+: Lookup\[(.*)\]\nObservation \d+: No Results\n", log)
    found = [(page, keyword) for page, keyword in pairs if not page.startswith(("Could not", "(Result", "No "))]
    assert found
    for page, keyword in found:
        assert reflexion_lookup(Reading(Page("", (page,))), keyword, "data")[1] == "No Results"


def test_em_and_f1_are_those_of_fireacts_public_runs(shared_data: Path) -> None:
    runs = json.loads((shared_data / "raw" / "hotpotqa" / "fireact_trajs_gpt35_dev_0_500.json").read_text())
    scored = [one for one in runs.values() if one.get("pred") is not None]
    assert len(scored) > 400
    for one in scored:
        assert exact_match(one["pred"], one["gt"]) == bool(one["em"])
        assert f1(one["pred"], one["gt"]) == pytest.approx(float(one["f1"]))


answers = st.lists(st.sampled_from(("yes", "no", "The", "an", "Foo", "foo,", "bar!", "é", "noanswer", "-")), max_size=5)


@given(answers, answers)
def test_f1_agrees_with_counting_by_hand(one: list[str], other: list[str]) -> None:
    def tokens(words: list[str]) -> list[str]:
        kept = ("".join(c for c in word.lower() if c not in string.punctuation) for word in words)
        return [word for word in kept if word and word not in ("a", "an", "the")]

    ours, gold = tokens(one), tokens(other)
    n_shared = sum(min(ours.count(word), gold.count(word)) for word in set(ours))
    closed = any(words in (["yes"], ["no"], ["noanswer"]) for words in (ours, gold)) and ours != gold
    by_hand = 0.0 if closed or not n_shared else 2 * n_shared / (len(ours) + len(gold))
    a, b = " ".join(one), " ".join(other)
    assert f1(a, b) == pytest.approx(by_hand)
    assert f1(a, b) == f1(b, a)
    assert exact_match(a, b) == (ours == gold)
    assert normalize_answer(normalize_answer(a)) == normalize_answer(a)


def test_the_data_that_come_along_are_whole(questions: HotPotQA) -> None:
    assert Counter(map(questions.task_type, questions.task_ids("dev"))) == {"bridge": 68, "comparison": 12}
    assert len(questions.task_ids("train")) == 565
    assert not set(questions.task_ids("dev")) & set(questions.task_ids("train"))
    assert questions.name == "hotpotqa[pages=question]"
    assert questions.examples[""].count("Question: ") == 3
    assert questions.reset(questions.task_ids("dev")[0]).startswith("Question: VIVA Media AG changed")
    assert questions.admissible() is None


@pytest.mark.parametrize("options", [{}, {"sentences": "wikienv"}, {"tool": "reflexion"}])
def test_the_expert_answers_every_question(options: dict[str, Any]) -> None:
    environment, expert, n_quoted = HotPotQA(**options), HotPotQAExpert(), 0
    for task_id in (*environment.task_ids("dev"), *environment.task_ids("train")):
        reply, decisions, observations = run(environment, expert, task_id)
        assert reply is not None
        assert reply.reward == 1
        # What it says it knows it has read.
        pages = {page.title: page.sentences for page in environment.question.pages}
        for title, index in environment.question.supporting:
            for sentence in pages[title][index : index + 1]:
                if sentence.strip() in (decisions[-1].thought or ""):
                    assert any(sentence.strip() in observation for observation in observations)
                    n_quoted += 1
    assert n_quoted > 1200
    assert expert.privileged


def test_an_imperfect_expert_misses_recovers_and_wins(questions: HotPotQA) -> None:
    expert = HotPotQAExpert(error_rate=0.5)
    assert expert.name == "expert[error_rate=0.5]"
    n_searches = n_missed = 0
    for task_id in questions.task_ids("dev"):
        reply, decisions, observations = run(questions, expert, task_id, seed=3)
        assert reply is not None
        assert reply.reward == 1
        assert decisions == run(questions, expert, task_id, seed=3)[1]
        n_searches += sum(decision.action.startswith("Search[") for decision in decisions)
        n_missed += sum(text.startswith("Could not find") for text in observations)
    assert 0.3 * 160 < n_missed < 0.7 * 160
    assert n_searches >= 160 + n_missed
    with pytest.raises(ConfigError, match=r"1\.5"):
        HotPotQAExpert(error_rate=1.5)


def test_pooled_pages_are_those_of_all_questions(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "_id": "q2", "context": [["Zed", ["Zed is far."]]], "supporting_facts": [["Zed", 0]]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    closed, pooled = HotPotQA(tmp_path / "train.jsonl"), HotPotQA(tmp_path / "train.jsonl", pages="pooled")
    for environment in (closed, pooled):
        assert environment.task_ids("train") == ["q1", "q2"]
        environment.reset("q1")
    assert says(closed, "Search[Zed]").startswith("Could not find Zed.")
    assert says(pooled, "Search[Zed]") == "Zed is far."
    assert pooled.name == "hotpotqa[pages=pooled,data=train.jsonl]"


def test_a_title_cut_short_is_among_the_similar_ones(questions: HotPotQA) -> None:
    n_found = n_cut = 0
    for task_id in questions.task_ids("dev"):
        questions.reset(task_id)
        index = PageIndex(questions.question.pages)
        for title in {title for title, _ in questions.question.supporting}:
            cut = title.rpartition(" ")[0]
            if cut and index.find(cut) is None:
                n_cut += 1
                n_found += title in index.similar(cut, 5)
    assert n_cut > 100
    assert n_found / n_cut > 0.99


def test_the_hugging_face_layout_gzip_and_rows_without_id_are_read(tmp_path: Path) -> None:
    plain = tmp_path / "official.json"
    plain.write_text(json.dumps([ROW]))
    other = {key: value for key, value in ROW.items() if key != "_id"} | {
        "context": {"title": [t for t, _ in ROW["context"]], "sentences": [s for _, s in ROW["context"]]},
        "supporting_facts": {"title": ["Bar (game)", "Foo"], "sent_id": [0, 1]},
    }
    packed = tmp_path / "validation.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(other).encode()))
    (one,), (two,) = read_questions(plain).values(), read_questions(packed).values()
    assert one._replace(id="") == two._replace(id="")
    assert list(read_questions(packed)) == list(read_questions(packed)) != ["q1"]
    assert HotPotQA(packed).task_ids("dev") == [two.id]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", json.dumps(ROW).encode() + b"\n{broken\n", "a.jsonl:2: not JSON"),
        ("b.json", b'[{"question": "x"', "b.json: not JSON"),
        ("c.json.gz", gzip.compress(json.dumps([ROW]).encode())[:-20], "c.json.gz: "),
        ("d.jsonl", json.dumps({**ROW, "answer": None}).encode(), "d.jsonl:1: .*must be text"),
        ("e.jsonl", b'{"question": "x", "answer": "y"}', "e.jsonl:1: .*no 'supporting_facts'"),
        ("f.json", json.dumps([ROW, ROW]).encode(), "f.json: row 2: the id 'q1' comes a second time"),
        ("g.json", b"[]", "no question"),
        ("h.json", b"\xff\xfe", "h.json: "),
    ],
)
def test_damaged_data_are_named_with_place_and_mend(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=says) as raised:
        HotPotQA(tmp_path / name).task_ids("dev")
    assert raised.value.hint


def test_what_is_not_there_is_named(questions: HotPotQA, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="'eval'") as raised:
        questions.task_ids("eval")
    assert "dev and train" in raised.value.hint
    with pytest.raises(TaskError, match="'nope'"):
        questions.reset("nope")
    with pytest.raises(TaskError, match=r"gone\.json"):
        HotPotQA(tmp_path / "gone.json").task_ids("dev")
    with pytest.raises(TaskError, match="no task was begun"):
        HotPotQA().step("Search[x]")
    for option in ("pages", "sentences", "tool"):
        with pytest.raises(ConfigError, match=f"{option}='no'"):
            HotPotQA(**{option: "no"})
