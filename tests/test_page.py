import base64
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sadstream import scan_index
from sadstream.errors import InputError
from sadstream.page import Entry, Page, Spans, Tokens, Value, render_page, trajectory_entry
from sadstream.page_file import write_page
from sadstream.page_source import Vocabulary, read_page, spread, thinned
from sadstream.progress import silent
from sadstream_cli import cli
from sadstream_schemas import TRAJECTORY_VERSION, Outcome, Source, Span, Trajectory
from tests.strategies import texts

EXAMPLES = Path(__file__).parent.parent / "examples" / "logs"
KINDS = ("context", "reason", "act", "observation")
HOSTILE = (
    "</script><script>document.title='owned'</script><!-- <img src='http://127.0.0.1:PORT/x' onerror='owned()'>"
    "<svg/onload=owned()> \u2028 \x00 \x1b[31mred\x1b[0m a\u202eb \u200b {{data}} {{policy}} & ' \" "
    "\U000e0068\U000e0069"
)


def entry(*bodies: str, **facts: Any) -> Entry:
    """A trajectory whose spans are these, of the kinds in turn, each with the label `L:`."""
    spans, start = [], 0
    for number, body in enumerate(bodies):
        stop = start + 2 + len(body)
        kind = KINDS[number % 4]
        step = None if kind == "context" else number // 4
        spans.append(
            Span(kind=kind, start=start, stop=stop, body_start=start + 2, body_stop=stop, author="agent", step=step)
        )
        start = stop
    return trajectory_entry(
        Trajectory(
            format_version=TRAJECTORY_VERSION,
            text="".join("L:" + body for body in bodies),
            spans=spans,
            **{"id": "run", "source": Source(file="log", record="0", format="made"), **facts},
        )
    )


def page_of(*entries: Entry, **facts: Any) -> str:
    return render_page(Page(**{"title": "t", "n_all": len(entries), "entries": list(entries), **facts})).decode()


def data_of(document: str) -> dict[str, Any]:
    (block,) = re.findall(r'<script id="data" type="text/plain">([^<]*)</script>', document)
    return json.loads(zlib.decompress(base64.b64decode(block, validate=True)))


@given(st.lists(texts(), min_size=1, max_size=5), texts(), texts())
def test_any_text_comes_back_from_the_data_block(bodies, task, name):
    made = entry(*bodies, task=task, id=name or "run", task_id=name)
    (read,) = data_of(page_of(made, title=task))["entries"]
    assert (read["text"], read["task"], read["task_id"]) == (made.text, task, name)
    bounds = read["spans"]["bounds"]
    assert [read["text"][a:b] for a, b in pairwise(bounds)] == ["L:" + body for body in bodies]


@given(texts(), texts())
@example(HOSTILE, HOSTILE)
def test_no_text_of_a_log_changes_the_document_around_the_data(text, title):
    around = re.compile(r"(?<=<title>)[^<]*|(?<=text/plain\">)[^<]*")
    assert around.sub("", page_of(entry(text), title=title)) == around.sub("", page_of(entry("plain"), title="t"))


@given(st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010), min_size=1))
def test_lone_surrogates_become_one_replacement_each_and_move_no_offset(text):
    (read,) = data_of(page_of(entry(text), title=text))["entries"]
    assert read["text"] == "L:" + re.sub("[\ud800-\udfff]", "\ufffd", text)
    assert read["spans"]["bounds"] == [0, len(text) + 2]


def test_equal_pages_have_equal_bytes_and_nothing_of_the_time_or_the_place(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "b" / "logs")
    write_page(EXAMPLES, tmp_path / "a.html", silent)
    write_page(tmp_path / "b" / "logs", tmp_path / "b.html", silent)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b", "b.html"]


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_names_nothing_outside_itself_and_allows_no_inline_handler():
    document = page_of(entry(HOSTILE, id=HOSTILE, task=HOSTILE), title=HOSTILE)
    parser = _Elements()
    parser.feed(document)
    attributes = {name for _, found in parser.found for name in found}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style", "action")}
    assert {found["href"] for _, found in parser.found if "href" in found} == {"#spans"}
    assert [tag for tag, _ in parser.found].count("script") == 2
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|\beval\b|new Function", document)
    (policy,) = [found["content"] for _, found in parser.found if found.get("http-equiv")]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy.split(";", 3)[3]


def test_a_file_says_how_many_of_how_many_it_shows(tmp_path, tiny_spans):
    summary = write_page(tiny_spans, tmp_path / "page.html", silent, limit=5)
    data = data_of((tmp_path / "page.html").read_text())
    assert (summary["n_shown"], summary["n_all"]) == (len(data["entries"]), data["n_all"]) == (5, 24)
    ids = scan_index(tiny_spans).collect()["id"].to_list()
    assert [found["id"] for found in data["entries"]] == [ids[number] for number in (0, 4, 9, 14, 19)]


@given(st.integers(0, 300), st.integers(1, 40))
def test_what_is_taken_is_spread_evenly(n_all, limit):
    taken = spread(n_all, limit)
    assert len(taken) == min(n_all, limit)
    assert {n_all // len(taken), -(-n_all // len(taken))} >= set(np.diff(taken)) if taken else True
    from_stream = thinned(range(n_all), limit)
    assert len(from_stream) == len(taken) and from_stream == sorted(set(from_stream))
    # As seen in the first half and the second: neither is left out, whatever the stream's length.
    assert abs(sum(number < n_all / 2 for number in from_stream) - len(taken) / 2) <= 1 + len(taken) / 4


def test_logs_shards_and_their_folder_show_the_same_trajectories(tmp_path):
    assert cli.run(["segment", str(EXAMPLES), "--out", str(tmp_path / "spans"), "--holdout", "0"]) == 0
    of_logs, of_folder, of_tar = (
        [(found.id, found.text, found.spans, found.success) for found in read_page(path, silent, limit=0).entries]
        for path in (EXAMPLES, tmp_path / "spans", tmp_path / "spans" / "shard-000000.tar")
    )
    assert of_logs == of_folder == of_tar
    assert len(of_logs) == 35


def test_a_window_s_tokens_join_to_its_text_and_carry_what_the_teacher_said(tiny_cache):
    page = read_page(tiny_cache, silent, limit=0)
    assert page.what == "windows" and {value.name for value in page.values} == {"entropy", "surprise", "tail"}
    seen_emoji = 0
    for found in page.entries:
        tokens = found.tokens
        assert tokens is not None
        assert tokens.bounds[0] == 0 and tokens.bounds[-1] == len(found.text) == found.spans.bounds[-1]
        assert "\ufffd" not in found.text and tokens.bounds == sorted(tokens.bounds)
        seen_emoji += "🔎" in found.text
        for start, stop, kind in zip(found.spans.bounds, found.spans.bounds[1:], found.spans.kinds, strict=False):
            label = found.text[start:stop].lstrip().split(" ")[0]
            assert kind == {"Thought": 1, "Action": 2, "Observation": 3}.get(label, 0)
        assert {tokens.kinds[token] for token in tokens.positions} <= {1, 2}
        n = len(tokens.positions)
        assert {len(column) for column in tokens.values.values()} == {n}
        assert len(tokens.top_pieces) == len(tokens.top_probabilities) == n
        for probabilities, tail in zip(tokens.top_probabilities, tokens.values["tail"], strict=True):
            assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) + tail < 1.001
        for at, (token, surprise) in enumerate(zip(tokens.positions, tokens.values["surprise"], strict=True)):
            logged = found.text[tokens.bounds[token] : tokens.bounds[token + 1]]
            expected = [page.pieces[piece] for piece in tokens.top_pieces[at]]
            if logged in expected and logged.isascii():
                probability = tokens.top_probabilities[at][expected.index(logged)]
                assert probability == pytest.approx(np.exp(-surprise), rel=0.03, abs=2e-3)
    assert seen_emoji > 3


@given(st.lists(st.integers(0, 330), min_size=1, max_size=40))
def test_the_texts_that_tokens_add_join_to_what_they_say_together(tiny_teacher, token_ids):
    texts = Vocabulary(tiny_teacher).texts(token_ids)
    assert len(texts) == len(token_ids)
    whole = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json")).decode(token_ids, skip_special_tokens=False)
    assert "".join(texts) == whole


def test_what_has_no_trajectories_is_refused_by_name(tmp_path, tiny_student, capsys):
    (tmp_path / "words.jsonl").write_text('{"text": "only words"}\n')
    for path in (tmp_path / "words.jsonl", tmp_path / "none"):
        with pytest.raises(InputError, match=path.name):
            write_page(path, tmp_path / "page.html", silent)
        assert cli.run(["inspect", str(path), "--html", str(tmp_path / "page.html")]) == 1
    assert not (tmp_path / "page.html").exists()


def test_the_command_prints_the_tables_and_what_it_wrote(tmp_path, tiny_spans, capsys):
    out = str(tmp_path / "page.html")
    assert cli.run(["inspect", str(tiny_spans), "--html", out, "--limit", "3", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["page"]["n_shown"] == 3 and summary["page"]["n_bytes"] == Path(out).stat().st_size
    assert "trajectories by format" in summary["tables"]
    assert cli.run(["inspect", str(EXAMPLES), "--html", out]) == 0
    assert "35 of 35 trajectories" in capsys.readouterr().out


# ---- In a browser


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome here")
    return found


@pytest.fixture
def loaded(browser, tmp_path):
    """The document after its script ran; fails if it complained."""

    def load(document: str, *, address: str = "", script: str = "") -> str:
        if script:  # what a user would do; the page's own policy would not let it run
            document = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", document)
            document = document.replace("</body>", f"<script>setTimeout(() => {{{script}}}, 1000)</script></body>")
        file = tmp_path / "page.html"
        file.write_text(document, encoding="utf-8")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom"]
        command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"{file.as_uri()}{address}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, encoding="utf-8")
        assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout

    return load


class _Spans(HTMLParser):
    """Kind, text and dimmed text of each span of a dumped document, in order, and of each token that is one."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.spans: list[list[str]] = []
        self.tokens: list[str] = []
        self._open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("meta", "input", "link"):
            return
        self._open.append(found.get("class") or tag)
        if "data-kind" in found:
            self.spans.append([found["data-kind"] or "", "", ""])
        if "data-t" in found:
            self.tokens.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "text" in self._open:
            self.spans[-1][1] += data
            if "label" in self._open:
                self.spans[-1][2] += data
            if any(name.split(" ")[0] == "t" for name in self._open):
                self.tokens[-1] += data


def test_the_first_trajectory_s_spans_are_drawn_as_they_were_cut(loaded):
    bodies = ["🔎 ask", " think 👩‍👩‍👧 é\n", "do 🇳🇴", "seen \U0010ffff <b>&amp;", "", "again 🔎🔎", "done"]
    drawn = _Spans(loaded(page_of(entry(*bodies), entry("other")))).spans
    assert drawn == [[KINDS[number % 4], "L:" + body, "L:"] for number, body in enumerate(bodies)]


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """A port on which requests are listed."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port, asked
        serving.shutdown()


def test_a_hostile_log_brings_in_no_element_and_no_request_and_is_shown_sanely(loaded, server):
    port, asked = server
    hostile = HOSTILE.replace("PORT", str(port))
    facts = dict.fromkeys(("id", "task", "task_id", "parent_id"), hostile)
    outcome = Outcome(answer=hostile, gold=hostile)
    source = Source(file=hostile, record="0", format=hostile)
    document = loaded(page_of(entry(hostile, hostile, outcome=outcome, source=source, **facts), title=hostile))
    parser = _Elements()
    parser.feed(document)
    tags = {tag for tag, _ in parser.found}
    assert not {"img", "svg"} & tags and [tag for tag, _ in parser.found].count("script") == 2
    assert not [name for _, found in parser.found for name in found if name.startswith("on")]
    assert not asked and "owned</title>" not in document
    for kind, text, _ in _Spans(document).spans:
        assert kind in ("context", "reason")
        assert text.startswith("L:</script><script>document.title='owned'</script><!-- <img src=")
        assert text.endswith("LSEP ␀ ␛[31mred␛[0m aRLOb ZWSP {{data}} {{policy}} & ' \" tags:hi")


def test_search_and_filters_of_the_address_choose_what_is_listed_and_marked(loaded):
    entries = [
        entry("İ🔎 Needle", "x", id="a", outcome=Outcome(success=True)),
        entry("needle needle", id="b", outcome=Outcome(success=False)),
        entry("hay", id="c", outcome=Outcome(success=True)),
        entry("needle", id="d", outcome=Outcome(success=True), source=Source(file="l", record="1", format="other")),
    ]
    document = loaded(page_of(*entries), address="#query=needle&success=yes&format=made")
    assert [html.unescape(text) for text in re.findall(r'class="row"[^>]* title="([^"]*)"', document)] == ["a"]
    assert re.findall(r"<mark[^>]*>([^<]*)</mark>", document) == ["Needle"]
    assert "1 of the 4 trajectories, 1 hit" in document


def test_keys_move_between_spans_and_trajectories_and_hits_in_long_spans_are_found(loaded):
    long = "\n".join(f"line {number}" for number in range(300))
    script = (
        "const press = key => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));"
        "const seen = [];"
        "for (const key of ['j', 'j', 'k', 'j', 'ArrowRight']) {"
        "press(key); seen.push(document.activeElement.dataset.i); }"
        "seen.push(current); press('/'); document.activeElement.value = 'needle'; filter(); press('Enter');"
        "document.title = JSON.stringify(seen);"
    )
    document = page_of(entry("a", "b", "c"), entry("d", "e", "f", long.replace("line 150", "the needle")), entry("g"))
    moved = loaded(document, script=script)
    assert json.loads(re.findall(r"<title>([^<]*)</title>", moved)[0]) == ["0", "1", "0", "1", None, 1]
    assert re.search(r'<mark[^>]*class="here"[^>]*>needle</mark>', moved)


def test_a_long_observation_is_cut_until_it_is_asked_for(loaded):
    long = "\n".join(f"line {number}" for number in range(300))
    document = page_of(entry("a", "b", "c", long))
    (*_, (kind, shown, _)) = _Spans(loaded(document)).spans
    assert kind == "observation" and "line 150" not in shown and shown.endswith("line 299")
    assert "characters more" in shown
    (*_, (_, whole, _)) = _Spans(loaded(document, script="document.querySelector('.more').click();")).spans
    assert whole == "L:" + long


def test_a_teacher_s_window_is_drawn_token_by_token(loaded, tiny_cache):
    page = read_page(tiny_cache, silent, limit=1)
    (found,) = page.entries
    assert found.tokens is not None
    drawn = _Spans(loaded(render_page(page).decode()))
    assert "".join(text for _, text, _ in drawn.spans) == found.text
    bounds, supervised = found.tokens.bounds, set(found.tokens.positions)
    widths = [(found.text[a:b], t) for t, (a, b) in enumerate(pairwise(bounds))]
    assert drawn.tokens == [text for text, token in widths if text or token in supervised]


def test_the_value_that_is_picked_shades_tokens_and_is_averaged_by_kind(loaded):
    def with_values(text: str, lost: list[float]) -> Entry:
        tokens = Tokens(
            bounds=[0, 1, 2, 3, 4, 5, 6],
            kinds=[0, 1, 1, 2, 2, 3],
            steps=[-1, 0, 0, 0, 0, 0],
            positions=[1, 2, 3, 4],
            values={"kl": [1.0, 3.0, 0.0, 0.5], "lost": lost},
        )
        made = entry("abcd", id=text)
        return msgspec.structs.replace(made, tokens=tokens)

    entries = [with_values("few", [0.1, -2.0, 0.0, 2.0]), with_values("many", [4.0, 4.0, 1.0, 2.0])]
    values = [Value(name="kl", label="KL", full=2.0), Value(name="lost", label="KL lost", unit="nats", full=2.0)]
    document = page_of(*entries, values=values, notes=["A note on <b>numbers</b>"])

    def levels(dumped: str) -> list[str]:
        return re.findall(r'class="t ?([hl]?\d?)"', dumped)

    first = loaded(document)
    assert levels(first) == ["", "h3", "h5", "", "h2", ""]
    assert re.search(r"mean of KL: REASON <b>2.000</b> ACT <b>0.250</b>", first)
    assert "A note on &lt;b&gt;numbers&lt;/b&gt;" in first
    pick = "$('shade').value = 'lost'; $('shade').dispatchEvent(new Event('change'));"
    picked = loaded(document, script=pick, address="#order=lost&t=1")
    assert levels(picked) == ["", "h1", "l5", "", "h5", ""]
    assert re.search(r"mean of KL lost: REASON <b>1.525</b> ACT <b>1.250</b>", picked)
    assert "full shade: 2.00 nats; dotted: below 0" in picked
    assert re.findall(r'class="row"[^>]* title="([^"]*)"', picked) == ["many", "few"]


def test_an_empty_trajectory_breaks_nothing(loaded):
    empty = Entry(
        id="e",
        format="f",
        text="",
        spans=Spans(bounds=[0], kinds=[], steps=[], body_starts=[], body_stops=[], authors=[]),
    )
    assert "outcome unknown" in loaded(page_of(empty))
