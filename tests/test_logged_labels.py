"""Logprobs that logs hold become the teacher's word on the very tokens they are of."""

import gzip
import itertools
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream import teacher
from sadstream.chat_template import read_template
from sadstream.codec import alike_in_width, decode_teacher_sample
from sadstream.doctor import DoctorConfig, doctor
from sadstream.errors import ConfigError, ManifestError, ModelError
from sadstream.frames import row_trajectory
from sadstream.logged_labels import LOGGED, NO_LOGPROBS, OTHER_TEXT, OTHER_TOKENS, UNREADABLE, LoggedLabels, tell
from sadstream.logged_tokens import UNKNOWN, LoggedToken, Written, logged_tokens, place_tokens, vocabulary_bytes
from sadstream.logs import scan_logs
from sadstream.model_files import resolve_model
from sadstream.models import load_tokenizer
from sadstream.progress import silent
from sadstream.segment import segment
from sadstream.shards import iter_samples, scan_index
from sadstream.spans import SegmentConfig, segment_logs
from sadstream.teacher import CacheConfig, cache_teacher
from sadstream.teacher_index import logprobs_digest
from sadstream.train import TrainConfig, train
from sadstream.windows import Job, Plan, Tokenised, windows_of
from sadstream_schemas import Trajectory
from tests.chat_templates import chat_tokenizer

TOKENIZER = chat_tokenizer("chatml")
TEMPLATE = read_template(TOKENIZER, "chatml")
VOCABULARY = vocabulary_bytes(TOKENIZER)
SERVED_CALLS = Path(__file__).parent / "served_calls.jsonl.gz"

_words = st.text(alphabet="ab. é🦉\n李", max_size=12)
# What a server's tokens hold beyond the words: thinking that it took out, the end of the turn.
_beyond = st.sampled_from(["", "<think>a. b</think>\n", "\n\n"])
_ends = st.sampled_from(["", "<|im_end|>", "</s>"])


def entry(data: bytes, logprob: float, others: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    told = {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}
    return told if others is None else {**told, "top_logprobs": others}


@st.composite
def entries(draw: st.DrawFn, data: bytes) -> list[dict[str, Any]]:
    """Tokens of some bytes, the tokenizer's own or cut anywhere, each with up to four others of the vocabulary."""
    if draw(st.booleans()):
        parts = [VOCABULARY[i] for i in TOKENIZER(data.decode(), add_special_tokens=False)["input_ids"]]
    else:
        edges = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=8))})
        parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert b"".join(parts) == data
    told = []
    for part in parts:
        named = draw(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=4, unique_by=VOCABULARY.__getitem__))
        shares = draw(st.lists(st.floats(0.01, 1), min_size=len(named) + 1, max_size=len(named) + 1))
        own, *others = (math.log(share / sum(shares) * 0.9) for share in shares)
        likeliest = [
            entry(VOCABULARY[i], value) for i, value in zip(named, others, strict=True) if VOCABULARY[i] != part
        ]
        if draw(st.booleans()):
            likeliest.append(entry(part, own))
        told.append(entry(part, own, likeliest))
    return told


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages, of which some of the agent's have logprobs; each has a word of its own."""
    messages = [{"role": "user", "content": "E0."}]
    for number in range(draw(st.integers(1, 3))):
        words = f"{draw(_words)}A{number}.{draw(_words)}"
        messages.append({"role": "assistant", "content": words})
        if draw(st.integers(0, 3)):
            said = draw(_beyond) + words.strip() + draw(_ends)
            messages[-1]["logprobs"] = {"content": draw(entries(said.encode()))}
        messages.append({"role": "user", "content": f"E{number + 1}."})
    return messages


def trajectory_of(messages: list[dict[str, Any]], tmp_path: Path) -> Trajectory:
    log = tmp_path / "chat.jsonl"
    log.write_text(json.dumps({"messages": messages}) + "\n")
    return row_trajectory(next(segment(scan_logs([str(log)])).collect().iter_rows(named=True)))


def jobs_of(
    trajectory: Trajectory, render: Any, *, tokenizer: Any = TOKENIZER, template: Any = TEMPLATE, max_length: int = 8192
) -> list[Job]:
    return list(windows_of(trajectory, {}, Plan(tokenizer, template, render, max_length, "supervised", 0)))


def wanted(job: Job, messages: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Of each supervised token what the log tells of it, found by counting bytes."""
    assert b"".join(VOCABULARY[i] for i in job.tokenised.token_ids.tolist()) == job.tokenised.text.encode()
    ends = np.cumsum([len(VOCABULARY[i]) for i in job.tokenised.token_ids.tolist()]).tolist()
    told: dict[tuple[int, int], dict[str, Any]] = {}
    for message in messages:
        if "logprobs" in message and job.tokenised.text.count(message["content"].strip()) == 1:
            tokens = message["logprobs"]["content"]
            said = b"".join(bytes(token["bytes"]) for token in tokens)
            words = message["content"].strip().encode()
            text = job.tokenised.text.encode()
            start, at = text.index(words), -said.index(words)
            # Beyond the words, as far as text and tokens are alike.
            least, most = start, start + len(words)
            while most < len(text) and text[most : most + 1] == said[most - start - at :][:1]:
                most += 1
            while text[least - 1 : least] == said[: least - start - at][-1:] != b"":
                least -= 1
            for token in tokens:
                place = (start + at, start + at + len(token["bytes"]))
                if least <= place[0] and place[1] <= most:
                    told[place] = token
                at += len(token["bytes"])
    for position in np.flatnonzero(job.window.supervised).tolist():
        number = int(job.window.tokens[position])
        yield position, told.get((ends[number] - len(VOCABULARY[job.tokenised.token_ids[number]]), ends[number]))


@pytest.mark.parametrize("render", ["text", "chat"])
@given(messages=chats(), top_k=st.sampled_from([2, 32]), max_length=st.sampled_from([24, 8192]))
def test_rows_are_what_the_log_says_of_the_same_bytes(messages, top_k, max_length, render, tmp_path_factory):
    trajectory = trajectory_of(messages, tmp_path_factory.getbasetemp())
    labels = LoggedLabels(TOKENIZER, n_named=len(TOKENIZER), top_k=top_k)
    for job in jobs_of(trajectory, render, max_length=max_length):
        arrays = labels.ask([job])[0]
        assert arrays.sources is not None
        rows = list(wanted(job, messages))
        assert [position for position, _ in rows] == arrays.positions.tolist()
        for row, (position, told) in enumerate(rows):
            own = VOCABULARY[job.token_ids[position]]
            said = {own: 0.0}
            if told is not None:
                said = {bytes(e["bytes"]): e["logprob"] for e in [*told["top_logprobs"], told]}
            assert (arrays.sources[row] == LOGGED) == (told is not None)
            ranked = sorted(said.values(), reverse=True)[:top_k]
            kept = np.isfinite(arrays.topk_logprobs[row])
            np.testing.assert_allclose(arrays.topk_logprobs[row][kept], ranked, rtol=1e-5)
            named = [VOCABULARY[i] for i in arrays.topk_ids[row][kept].tolist()]
            np.testing.assert_allclose([said[data] for data in named], ranked, rtol=1e-5)
            mass = math.fsum(map(math.exp, ranked))
            assert math.exp(arrays.log_tail[row]) == pytest.approx(1 - mass, abs=1e-6)
            parts = [*(math.exp(value) for value in ranked), 1 - mass]
            assert arrays.entropy[row] == pytest.approx(-sum(p * math.log(p) for p in parts if p > 1e-12), abs=1e-4)
            assert arrays.token_logprobs[row] == pytest.approx(said[own], abs=1e-6)


def test_hard_labels_are_counted_by_why_they_are_hard(tmp_path):
    words = "So it is Rome."
    alike = [VOCABULARY[i] for i in TOKENIZER(" it is", add_special_tokens=False)["input_ids"]]
    logged = [entry(part, -0.5, []) for part in (b"So", *alike, b" Ro", b"me", b".")]
    messages = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": words, "logprobs": {"content": logged}},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    job = jobs_of(trajectory_of(messages, tmp_path), "text")[0]
    arrays = LoggedLabels(TOKENIZER, n_named=len(TOKENIZER), top_k=8).ask([job])[0]
    by_source: dict[int, str] = {}
    for source, position in zip(arrays.sources.tolist(), arrays.positions.tolist(), strict=True):
        by_source[source] = by_source.get(source, "") + VOCABULARY[job.token_ids[position]].decode()
    assert by_source[NO_LOGPROBS] == "Answer: Yes.\n" and by_source[OTHER_TEXT] == "Answer:\n"
    # The log has `So` where the window has ` S`, `o`, and ` Ro`, `me` where it has ` Rome`.
    assert by_source[OTHER_TOKENS] == " So Rome" and by_source[LOGGED] == " it is."


def told_of(logprobs: Any, tmp_path: Path, content: str = "So it is.") -> list[LoggedToken] | None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content, "logprobs": logprobs}]
    return logged_tokens(trajectory_of(messages, tmp_path), VOCABULARY).get(1)


def test_logprobs_are_read_in_each_shape_that_servers_write(tmp_path):
    others = [{"token": "So", "logprob": -0.1}, {"token": "No", "logprob": -3}]
    chat = {"content": [{"token": "So", "logprob": -0.1, "top_logprobs": others}], "refusal": None}
    plain = LoggedToken(b"So", -0.1, ((b"So", -0.1), (b"No", -3.0)))
    assert told_of(chat, tmp_path) == told_of(chat["content"], tmp_path) == [plain]
    completion = {"tokens": ["So"], "token_logprobs": [-0.1], "top_logprobs": [{"So": -0.1, "No": -3}]}
    assert told_of(completion, tmp_path) == [plain]
    assert told_of({"tokens": ["So"], "token_logprobs": [-0.1]}, tmp_path) == [plain._replace(others=())]
    number = VOCABULARY.index(b"o")
    by_id = {"token": f"token_id:{number}", "logprob": -0.1, "top_logprobs": [{"token": "token_id:7", "logprob": -2}]}
    assert told_of({"content": [by_id]}, tmp_path) == [LoggedToken(b"o", -0.1, ((7, -2.0),))]
    assert told_of({"content": None, "refusal": [{"token": "No", "logprob": -1}]}, tmp_path) == [
        LoggedToken(b"No", -1.0, ())
    ]
    for nothing in (None, {}, [], {"content": None, "refusal": None}, {"content": []}):
        assert told_of(nothing, tmp_path) is None


@pytest.mark.parametrize("word", ["tokens", '"tokens"'])
def test_a_token_named_tokens_makes_no_older_completion_of_a_chat_s(word, tmp_path):
    others = [{"token": word, "logprob": -3.0}]
    chat = {"content": [{"token": "So", "logprob": -0.1, "top_logprobs": others}]}
    assert told_of(chat, tmp_path) == [LoggedToken(b"So", -0.1, ((word.encode(), -3.0),))]


def test_others_that_the_server_could_not_show_are_left_to_the_tail(tmp_path):
    assert b"\xff" in VOCABULARY
    others = [{"token": "\ufffd", "logprob": -1.5}, {"token": "\ufffd", "logprob": -1.6}, entry(b"Z", -1.0)]
    content = {"content": [entry(b"Z", -1.0, others)]}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Z", "logprobs": content}]
    job = jobs_of(trajectory_of(messages, tmp_path), "chat")[0]
    arrays = LoggedLabels(TOKENIZER, n_named=len(TOKENIZER), top_k=8).ask([job])[0]
    assert arrays.topk_ids[0][np.isfinite(arrays.topk_logprobs[0])].tolist() == [VOCABULARY.index(b"Z")]
    assert math.exp(arrays.log_tail[0]) == pytest.approx(1 - math.exp(-1.0))


@pytest.mark.parametrize(
    "damaged",
    [
        {"content": [{"token": "So", "logprob": 0.7}]},
        {"content": [{"token": "So", "logprob": "high"}]},
        {"content": [{"token": "So", "logprob": -0.1, "bytes": [999]}]},
        {"content": [{"logprob": -0.1}]},
        {"tokens": ["So", "it"], "token_logprobs": [-0.1]},
        # Logarithms to base 10, say.
        {"content": [entry(b"So", -0.3, [entry(b"So", -0.3), entry(b"No", -0.5), entry(b"Oh", -0.8)])]},
        {"content": "So"},
        "So",
        7,
    ],
    ids=str,
)
def test_logprobs_that_are_none_leave_hard_labels_and_stop_nothing(damaged, tmp_path):
    assert told_of(damaged, tmp_path) == []
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "So.", "logprobs": damaged}]
    job = jobs_of(trajectory_of(messages, tmp_path), "text")[0]
    arrays = LoggedLabels(TOKENIZER, n_named=len(TOKENIZER), top_k=8).ask([job])[0]
    assert (arrays.sources == UNREADABLE).all() and not arrays.token_logprobs.any()


def test_a_token_that_the_server_could_not_show_is_not_guessed(tmp_path):
    replaced = {"token": "\ufffd", "logprob": -0.1, "bytes": list("\ufffd".encode())}
    tokens = [entry(b"a", -0.1, []), replaced, entry(b"b", -0.2, [])]
    assert [token.data for token in told_of({"content": tokens}, tmp_path) or ()] == [b"a", UNKNOWN, b"b"]


def test_what_stands_around_such_a_token_is_placed_all_the_same():
    text = "Answer: I saw an owl 🦉 in the café, it was an owl.\n"
    unknown = LoggedToken(UNKNOWN, -0.1, ())
    known = ["I", " saw", " an", " owl", " ", " in", " the", " caf", "é", ",", " it", " was", " an", " owl", "."]
    said = [LoggedToken(token.encode(), -0.1, ()) for token in known]
    said[5:5] = [unknown, unknown]
    placed = place_tokens(text, [Written(0, 0, len(text), text[8:-1])], {0: said})
    data = text.encode()
    assert [data[p.start : p.stop] for p in placed] == [token.data for token in said if token is not unknown]
    assert all(data[p.start : p.stop] == p.token.data for p in placed)


@given(words=_words, number=st.integers(0, 99), data=st.data())
def test_tokens_that_are_placed_are_placed_right_whatever_the_server_shows_of_them(words, number, data):
    whole = f"{words}A{number}. {words}"
    told = [LoggedToken(bytes(e["bytes"]), -0.1, ()) for e in data.draw(entries(whole.encode()))]
    shown = [data.draw(st.booleans()) for _ in told]
    said = [
        token
        if is_shown or token.data.decode("utf-8", "ignore").encode() == token.data
        else token._replace(data=UNKNOWN)
        for token, is_shown in zip(told, shown, strict=True)
    ]
    ends = np.cumsum([len(token.data) for token in told]).tolist()
    right = {(end - len(token.data), end) for token, end in zip(told, ends, strict=True) if token.data}
    for one in place_tokens(whole, [Written(0, 0, len(whole), whole)], {0: said}):
        assert (one.start, one.stop) in right and whole.encode()[one.start : one.stop] == one.token.data


def test_words_in_several_places_go_where_what_stands_around_them_is_alike_or_nowhere():
    said = [LoggedToken(data, -0.1, ()) for data in (b"OK", b" then ", b"OK", b"!")]
    text = "Answer: OK!\n"
    written = Written(0, 0, len(text), "OK")
    # The second is followed by what follows in the text.
    assert [(p.start, p.stop) for p in place_tokens(text, [written], {0: said})] == [(8, 10), (10, 11)]
    assert place_tokens("Answer: OK\n", [Written(0, 0, 11, "OK")], {0: said}) == []


def test_all_that_a_model_wrote_is_placed_through_its_own_template_thinking_calls_and_the_end_of_the_turn(tmp_path):
    tokenizer = chat_tokenizer("qwen3")
    call = '<tool_call>\n{"name": "look_up", "arguments": {"word": "owl"}}\n</tool_call>'
    said = f"<think>\nI look it up.\n</think>\n\n{call}<|im_end|>"
    vocabulary = vocabulary_bytes(tokenizer)
    tokens = [entry(vocabulary[i], -0.5, []) for i in tokenizer(said, add_special_tokens=False)["input_ids"]]
    function = {"name": "look_up", "arguments": '{"word": "owl"}'}
    reply = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I look it up.",
        "logprobs": {"content": tokens},
    }
    reply["tool_calls"] = [{"id": "1", "type": "function", "function": function}]
    trajectory = trajectory_of([{"role": "user", "content": "owl?"}, reply], tmp_path)
    labels = LoggedLabels(tokenizer, n_named=len(tokenizer), top_k=8)
    (job,) = jobs_of(trajectory, "chat", tokenizer=tokenizer, template=read_template(tokenizer, "qwen3"))
    arrays = labels.ask([job])[0]
    assert (arrays.sources == LOGGED).all() and len(arrays.sources) == len(tokens)
    (job,) = jobs_of(trajectory, "text", tokenizer=tokenizer)
    arrays = labels.ask([job])[0]
    of_log = b"".join(
        vocabulary[i] for i in job.token_ids[arrays.positions[arrays.sources == LOGGED]].tolist()
    ).decode()
    assert "look it up." in of_log and "owl" in of_log and "Action" not in of_log


def test_a_row_names_ids_of_the_tokenizer_alone_equal_ones_by_id_and_none_without_mass(tmp_path):
    number = {data: i for i, data in enumerate(VOCABULARY)}
    others = [entry(data, -5.0) for data in (b"c", b"b", b"a")] + [entry(b"A", -9999.0), entry(b"never a token", -5.0)]
    others.append({"token": f"token_id:{len(VOCABULARY) + 9}", "logprob": -5.0})
    content = {"content": [entry(b"Z", 0.0005, others)]}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Z", "logprobs": content}]
    job = jobs_of(trajectory_of(messages, tmp_path), "chat")[0]
    least = max(number[data] for data in (b"b", b"c", b"Z")) + 1
    arrays = LoggedLabels(TOKENIZER, n_named=least, top_k=8).ask([job])[0]
    assert arrays.topk_ids[0].tolist() == [number[data] for data in (b"Z", b"a", b"b", b"c")]
    assert arrays.topk_logprobs[0].tolist() == [0.0, -5.0, -5.0, -5.0]
    assert arrays.token_logprobs[0] == 0.0 and np.isneginf(arrays.log_tail[0])
    fewer = LoggedLabels(TOKENIZER, n_named=number[b"c"], top_k=8).ask([job])[0]
    assert number[b"c"] not in fewer.topk_ids[0].tolist()


def test_langchain_s_logprobs_stand_in_the_metadata_of_a_response(tmp_path):
    metadata = {"model_name": "m", "logprobs": {"content": [{"token": "So", "logprob": -0.1}]}}
    messages = [
        {"type": "human", "data": {"content": "?", "type": "human"}},
        {"type": "ai", "data": {"content": "So.", "type": "ai", "response_metadata": metadata}},
    ]
    log = tmp_path / "chain.json"
    log.write_text(json.dumps({"messages": messages}))
    trajectory = row_trajectory(next(segment(scan_logs([str(log)])).collect().iter_rows(named=True)))
    assert logged_tokens(trajectory, VOCABULARY) == {1: [LoggedToken(b"So", -0.1, ())]}


def test_the_responses_api_s_logprobs_stand_in_the_block_of_the_text(tmp_path):
    block = {"type": "output_text", "text": "So.", "annotations": [], "logprobs": [{"token": "So", "logprob": -0.1}]}
    reply = {"type": "message", "role": "assistant", "content": [block]}
    call = {"request": {"input": [{"role": "user", "content": "?"}]}, "response": {"output": [reply]}}
    log = tmp_path / "calls.jsonl"
    log.write_text(json.dumps(call) + "\n")
    trajectory = row_trajectory(next(segment(scan_logs([str(log)])).collect().iter_rows(named=True)))
    assert logged_tokens(trajectory, VOCABULARY) == {1: [LoggedToken(b"So", -0.1, ())]}


SO = {"content": [{"token": "So", "logprob": -0.1}]}
REPLY = {"role": "assistant", "content": "So."}


@pytest.mark.parametrize(
    "beside",
    [
        {"completion": {"choices": [{"message": REPLY, "logprobs": SO}], "usage": {"total_tokens": 3}}},
        {"choices": [{"index": 0, "message": REPLY, "logprobs": SO}]},
        {"output": {"message": REPLY, "logprobs": SO}},
        {"response": REPLY, "logprobs": SO},
        {"response": {**REPLY, "logprobs": None}, "logprobs": SO},
        # Ollama's.
        {"response": {"message": REPLY, "done": True, "logprobs": SO["content"]}},
        {"response": "So.", "logprobs": SO},
        {"response": {**REPLY, "logprobs": SO}},
    ],
    ids=str,
)
def test_a_reply_beside_its_messages_has_the_logprobs_that_stand_with_it(beside, tmp_path):
    asked = [{"role": "user", "content": "?"}]
    first = {"messages": asked, **beside}
    then = {"messages": [*asked, REPLY, {"role": "user", "content": "Sure?"}], "response": "Yes."}
    log = tmp_path / "calls.jsonl"
    log.write_text(f"{json.dumps(first)}\n{json.dumps(then)}\n")
    trajectory = row_trajectory(next(segment(scan_logs([str(log)])).collect().iter_rows(named=True)))
    assert trajectory.source.format == "chat-calls"
    assert logged_tokens(trajectory, VOCABULARY) == {1: [LoggedToken(b"So", -0.1, ())]}
    log.write_text(json.dumps(first) + "\n")
    trajectory = row_trajectory(next(segment(scan_logs([str(log)])).collect().iter_rows(named=True)))
    assert logged_tokens(trajectory, VOCABULARY) == {1: [LoggedToken(b"So", -0.1, ())]}
    assert b"logprobs" not in b"".join(map(bytes, trajectory.extra.values()))


def test_what_is_placed_once_is_not_placed_again():
    def places(text: str, tokens: list[bytes], *pieces: tuple[int, int, str]) -> list[tuple[int, int]]:
        said = [LoggedToken(data, -0.1, ()) for data in tokens]
        return [(p.start, p.stop) for p in place_tokens(text, [Written(0, *piece) for piece in pieces], {0: said})]

    # The tokens of the thought say `go` too, and are not those of the act.
    text = "Thought: a go x\nAnswer: go\n"
    assert places(text, [b"a", b" go", b" x"], (0, 16, "a go x"), (16, 27, "go")) == [(9, 10), (10, 13), (13, 15)]
    # The first piece goes on into the second, which then has no place in the tokens that are left.
    text = "a go x go\n"
    tokens = [b"a go x", b" go", b" go"]
    assert places(text, tokens, (0, 7, "a go x"), (7, 10, "go")) == [(0, 6), (6, 9)]


def test_tokens_whose_offsets_leave_blanks_out_are_found_where_they_stand():
    token_ids = np.array([VOCABULARY.index(data) for data in (b"a", b"b")])
    kinds, steps = np.ones(2, np.uint8), np.zeros(2, np.int32)
    text = Tokenised("a  b", (Written(0, 0, 4, "a  b"),), token_ids, np.array([[0, 1], [3, 4]]), kinds, steps)
    tokens = [LoggedToken(data, -0.1, ()) for data in (b"a", b"  ", b"b")]
    told, sources = tell(text, {0: tokens}, VOCABULARY)
    assert told == {0: tokens[0], 1: tokens[2]} and sources.tolist() == [LOGGED, LOGGED]


@given(st.text(max_size=30))
def test_the_bytes_of_ids_are_those_of_the_text(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert b"".join(VOCABULARY[i] for i in ids) == text.encode()


def test_the_bytes_of_ids_are_known_of_sentencepiece_too():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "\u2581So": 1, "<0xC3>": 2, "<0xA9>": 3, "a<0x41>": 4}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert vocabulary_bytes(fast) == [b"<unk>", b" So", b"\xc3", b"\xa9", b"a<0x41>"]


# Whole commands.


def served_spans(tmp_path: Path, **changes: Any) -> Path:
    segment_logs(SegmentConfig(logs=(str(SERVED_CALLS),), out=str(tmp_path / "spans"), **changes), silent)
    return tmp_path / "spans"


def cache(spans: Path, teacher: Path, out: Path, **options: Any) -> dict[str, Any]:
    return cache_teacher(CacheConfig(spans=str(spans), teacher=str(teacher), out=str(out), **options), silent)


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return [decode_teacher_sample(data) for _, data in iter_samples(folder)]


def logged_in_file() -> int:
    n_logged = 0
    for line in gzip.decompress(SERVED_CALLS.read_bytes()).splitlines():
        response = json.loads(line)["response"]
        chunks = [response]
        if isinstance(response, str):
            chunks = [json.loads(event[5:]) for event in response.splitlines() if event.startswith("data: {")]
        for choice in (c for chunk in chunks for c in chunk["choices"]):
            n_logged += len((choice["logprobs"] or {}).get("content") or ())
    return n_logged


def test_segment_keeps_what_was_logged_of_every_call_of_a_growing_history():
    frame = segment(scan_logs([str(SERVED_CALLS)])).collect()
    trajectories = [row_trajectory(row) for row in frame.iter_rows(named=True)]
    told = [logged_tokens(trajectory, VOCABULARY) for trajectory in trajectories]
    assert [len(messages) for messages in told] == [3, 2, 2]
    assert sum(len(tokens) for messages in told for tokens in messages.values()) == logged_in_file()
    assert "logprobs" not in json.loads(frame["extra"][0]).get("response", {})["choices"][0]


def test_a_real_server_s_logprobs_are_what_its_model_says_here(tmp_path):
    try:
        teacher = resolve_model("smollm2-135m", lambda note: None)
    except ModelError as error:
        pytest.skip(f"the embedded teacher is not installed: {error}")
    spans = served_spans(tmp_path)
    summary = cache(spans, teacher, tmp_path / "labels", backend="logs")
    # Every token that the server logged, streamed and called tools included.
    assert summary["labels"]["n_logged"] == logged_in_file() > 200
    cache(spans, teacher, tmp_path / "asked", top_k=20, dtype="float32")
    off, same = [], []
    for label, told in zip(samples_of(tmp_path / "labels"), samples_of(tmp_path / "asked"), strict=True):
        np.testing.assert_array_equal(label["token_ids"], told["token_ids"])
        soft = np.isfinite(label["topk_logprobs"]).sum(1) > 1
        off.append(np.abs(label["token_logprobs"] - told["token_logprobs"])[soft])
        same.append((label["topk_ids"][:, 0] == told["topk_ids"][:, 0])[soft])
    # bfloat16 there, float32 here; and its template showed the model no calls of earlier turns.
    assert np.median(np.concatenate(off)) < 0.03 and np.concatenate(same).mean() > 0.95


@pytest.fixture(scope="module")
def labels(tmp_path_factory, tiny_teacher) -> Path:
    """Logged distributions in the tiny teacher's tokens, of one run more than another has."""
    folder = tmp_path_factory.mktemp("logged")
    write_chats(folder / "logs", tiny_teacher, range(12))
    spans = segment_all(folder)
    cache(spans, tiny_teacher, folder / "labels", backend="logs", render="text")
    return folder / "labels"


def write_chats(logs: Path, teacher: Path, numbers: Any, *, n_others: int = 0) -> None:
    tokenizer = load_tokenizer(teacher)
    vocabulary = vocabulary_bytes(tokenizer)
    logs.mkdir(exist_ok=True)
    for number in numbers:
        draw = random.Random(number)
        words = f"Ada lived in Rome for {number} years, and then went to Oslo."
        tokens = []
        for i in tokenizer(words, add_special_tokens=False)["input_ids"]:
            others = [entry(vocabulary[j], -3.0 - j / 99) for j in draw.sample(range(300), n_others or 1 + number % 4)]
            tokens.append(entry(vocabulary[i], -0.3, others))
        messages = [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": words, "logprobs": {"content": tokens}},
        ]
        (logs / f"{number}.json").write_text(json.dumps({"messages": messages}))


def segment_all(folder: Path) -> Path:
    segment_logs(SegmentConfig(logs=(str(folder / "logs"),), out=str(folder / "spans"), holdout=0.3), silent)
    return folder / "spans"


@pytest.mark.parametrize(
    "options", [{}, {"divergence": "jsd"}, {"temperature": 2.0}, {"objective": "token-kd"}], ids=str
)
def test_training_takes_logged_distributions_as_a_teacher_s(labels, tiny_student, tmp_path, options):
    config = TrainConfig(
        shards=str(labels), student=str(tiny_student), out=str(tmp_path / "run"), batch_tokens=300, updates=2, **options
    )
    assert train(config, silent)["n_updates"] == 2


def test_reverse_kl_is_refused_where_some_labels_are_hard(labels, tiny_student, tmp_path):
    run = {
        "shards": str(labels),
        "student": str(tiny_student),
        "out": str(tmp_path / "run"),
        "divergence": "reverse-kl",
    }
    with pytest.raises(ConfigError, match=r"labels in .* are hard: no bound there"):
        train(TrainConfig(**run), silent)


def test_doctor_finds_logged_distributions_in_order(labels):
    found = doctor(DoctorConfig(shards=str(labels)), silent)
    assert found["ok"], found["verdicts"]


def test_rows_of_several_widths_stand_side_by_side(labels):
    samples = samples_of(labels)
    assert len({arrays["topk_ids"].shape[1] for arrays in samples}) > 1
    ids, logprobs = (np.concatenate(alike_in_width(name, samples)) for name in ("topk_ids", "topk_logprobs"))
    row = 0
    for arrays in samples:
        for one_ids, one in zip(arrays["topk_ids"], arrays["topk_logprobs"], strict=True):
            kept = np.isfinite(logprobs[row])
            np.testing.assert_array_equal(ids[row][kept], one_ids[np.isfinite(one)])
            np.testing.assert_array_equal(logprobs[row][kept], one[np.isfinite(one)])
            assert (ids[row][~kept] == ids[row][0]).all()
            row += 1
    assert row == len(ids)


def test_logs_that_say_more_of_the_same_words_are_read_anew(tmp_path, tiny_teacher):
    write_chats(tmp_path / "logs", tiny_teacher, range(3))
    first = cache(segment_all(tmp_path), tiny_teacher, tmp_path / "labels", backend="logs", render="text")
    write_chats(tmp_path / "logs", tiny_teacher, range(3, 5))
    grown = cache(segment_all(tmp_path), tiny_teacher, tmp_path / "labels", backend="logs", render="text")
    assert (first["n_samples"], grown["n_samples"]) == (3, 5) and grown["labels"]["n_logged"] > 0
    (tmp_path / "again").mkdir()
    write_chats(tmp_path / "again" / "logs", tiny_teacher, range(5), n_others=6)
    with pytest.raises(ManifestError, match="not in the spans any more"):
        cache(segment_all(tmp_path / "again"), tiny_teacher, tmp_path / "labels", backend="logs", render="text")


def test_what_was_logged_is_hashed_once_a_trajectory(tmp_path, tiny_teacher, monkeypatch):
    """It is many times the text, and windows of 64 tokens are many."""
    n_hashed = 0

    def counted(trajectory: Trajectory) -> bytes:
        nonlocal n_hashed
        n_hashed += 1
        return logprobs_digest(trajectory)

    monkeypatch.setattr(teacher, "logprobs_digest", counted)
    write_chats(tmp_path / "logs", tiny_teacher, range(4))
    spans = segment_all(tmp_path)
    summary = cache(spans, tiny_teacher, tmp_path / "out", backend="logs", render="text", max_length=24)
    assert summary["n_samples"] > n_hashed == 4
    # Other logprobs of the same words are another answer.
    shutil.rmtree(tmp_path / "logs")
    shutil.rmtree(spans)
    write_chats(tmp_path / "logs", tiny_teacher, range(4), n_others=9)
    again = cache(segment_all(tmp_path), tiny_teacher, tmp_path / "again", backend="logs", render="text", max_length=24)
    assert again["n_samples"] == summary["n_samples"]
    keys = [set(scan_index(tmp_path / name).collect()["teacher_key"]) for name in ("out", "again")]
    assert keys[0].isdisjoint(keys[1])
