import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sadstream import SegmentConfig, iter_samples, scan_index, segment_logs
from sadstream.codec import decode_teacher_sample
from sadstream.errors import ConfigError, EndpointError, ModelError, RenderError
from sadstream.model_files import window_length
from sadstream.models import load_model
from sadstream.progress import silent
from sadstream.teacher import CacheConfig, cache_teacher
from sadstream.tokens import ACT, REASON
from sadstream_cli import cli
from tests import tiny
from tests.chat_templates import chat_tokenizer
from tests.servers import send, serving
from tests.test_teacher import samples_of


@pytest.fixture(scope="module")
def logits_of(tiny_teacher):
    return load_model(tiny_teacher, torch.device("cpu"), torch.float32)


def as_vllm_answers(model, asked):
    """What vLLM's server answers: the likeliest ids of each token of the prompt, and the token itself."""
    ids = torch.tensor(asked["prompt"])
    with torch.no_grad():
        logprobs = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
    said = [None]
    for position in range(1, len(ids)):
        row = logprobs[position - 1]
        best = row.topk(asked["prompt_logprobs"]).indices.tolist()
        found = {*best, int(ids[position])}
        said.append({str(i): {"logprob": float(row[i]), "rank": 1, "decoded_token": "x"} for i in found})
    return {"choices": [{"text": "", "prompt_logprobs": said}]}


def teacher_server(model, spoil=lambda answer: answer):
    def answer(handler, path, body):
        if path == "/models":
            send(handler, {"data": [{"id": "the-teacher"}]})
        else:
            assert path == "/completions" and body["model"] == "the-teacher"
            send(handler, spoil(as_vllm_answers(model, body)))

    return serving(answer)


def cache(spans, teacher, out, **options) -> dict:
    return cache_teacher(CacheConfig(spans=str(spans), teacher=str(teacher), out=str(out), top_k=8, **options), silent)


def test_a_served_teacher_says_what_the_same_model_says_here(tiny_spans, tiny_cache, tiny_teacher, logits_of, tmp_path):
    with teacher_server(logits_of) as url:
        summary = cache(tiny_spans, tiny_teacher, tmp_path / "out", backend="openai", endpoint=url)
        assert cache(tiny_spans, tiny_teacher, tmp_path / "out", backend="openai", endpoint=url)["already_done"]
    assert summary["n_samples"] == len(samples_of(tiny_cache))
    for served, local in zip(samples_of(tmp_path / "out"), samples_of(tiny_cache), strict=True):
        np.testing.assert_array_equal(served["token_ids"], local["token_ids"])
        np.testing.assert_array_equal(served["positions"], local["positions"])
        assert (served["topk_ids"] == local["topk_ids"]).mean() > 0.99
        np.testing.assert_allclose(np.exp(served["topk_logprobs"]), np.exp(local["topk_logprobs"]), atol=2e-3)
        np.testing.assert_allclose(served["tail_mass"], local["tail_mass"], rtol=1e-2, atol=1e-5)
        np.testing.assert_allclose(served["token_logprobs"], local["token_logprobs"], atol=0.01)
        # Of the top k and the rest alone: never more than the whole.
        assert (served["entropy"] <= local["entropy"] + 0.01).all()


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda a: {"choices": []}, EndpointError, "without prompt logprobs that can be read"),
        (lambda a: {"choices": [{"prompt_logprobs": None}]}, EndpointError, "gives no prompt_logprobs"),
        (lambda a: {"choices": [{"prompt_logprobs": a["choices"][0]["prompt_logprobs"][:-1]}]}, ModelError, "tokens"),
        (lambda a: {"choices": [{"prompt_logprobs": [None, {"3": {"logprob": -1}}]}]}, ModelError, "tokens were given"),
        (lambda a: capped(a, 3), ModelError, "and 8 were asked for"),
        (lambda a: json.loads(json.dumps(a).replace('"logprob": -', '"logprob": ')), ModelError, "no logprobs"),
    ],
    ids=["empty", "none", "short", "nonsense", "capped", "positive"],
)
def test_a_server_that_answers_badly_is_told_in_a_line_and_nothing_is_written(
    tiny_spans, tiny_teacher, logits_of, tmp_path, spoil, error, says
):
    with teacher_server(logits_of, spoil) as url, pytest.raises(error, match=says):
        cache(tiny_spans, tiny_teacher, tmp_path / "out", backend="openai", endpoint=url, limit=2)
    assert not list((tmp_path / "out").glob("shard-*"))


def test_windows_leave_room_for_the_token_that_an_engine_writes(tiny_spans, tiny_teacher, logits_of, tmp_path):
    def server(length):
        def answer(handler, path, body):
            if path == "/models":
                send(handler, {"data": [{"id": "the-teacher", "max_model_len": length}]})
            else:
                assert len(body["prompt"]) + body["max_tokens"] <= length
                send(handler, as_vllm_answers(logits_of, body))

        return serving(answer)

    options = {"backend": "openai", "positions": "all"}
    with server(41) as url:
        for length, name in ((41, "same"), (0, "default")):
            with pytest.raises(ConfigError, match=r"the server takes 41, one of them written") as caught:
                cache(tiny_spans, tiny_teacher, tmp_path / name, endpoint=url, max_length=length, **options)
            assert "--max-length 40" in caught.value.hint
        cache(tiny_spans, tiny_teacher, tmp_path / "out", endpoint=url, max_length=40, **options)
        assert max(scan_index(tmp_path / "out").collect()["n_tokens"]) == 40


@pytest.mark.parametrize("backend", ["vllm", "openai"])
def test_at_most_one_token_less_than_the_model_takes_is_asked_of_an_engine(tiny_spans, tiny_teacher, tmp_path, backend):
    options = {"backend": backend, "endpoint": "http://127.0.0.1:9/v1" if backend == "openai" else ""}
    # The tiny teacher takes 512.
    with pytest.raises(ConfigError, match=r"takes 512, and 1 of them is written") as caught:
        cache(tiny_spans, tiny_teacher, tmp_path / "out", max_length=512, **options)
    assert "at most 511" in caught.value.hint
    assert window_length(0, tiny_teacher, n_written=1) == window_length(511, tiny_teacher, n_written=1) == 511
    assert window_length(0, tiny_teacher) == window_length(512, tiny_teacher) == 512


def capped(answer, n):
    said = answer["choices"][0]["prompt_logprobs"]
    return {"choices": [{"prompt_logprobs": [row and dict(list(row.items())[:n]) for row in said]}]}


def test_options_that_a_backend_does_not_have_are_refused(tiny_spans, tiny_teacher, tmp_path):
    with pytest.raises(ConfigError, match="gives the top k alone"):
        cache(tiny_spans, tiny_teacher, tmp_path / "out", backend="vllm", mode="sample")
    with pytest.raises(ConfigError, match="go together"):
        cache(tiny_spans, tiny_teacher, tmp_path / "out", backend="openai")


def chat_teacher(folder: Path) -> Path:
    tokenizer = chat_tokenizer("qwen3")
    return tiny.save_model(tiny.llama_config(len(tokenizer)), folder / "chat-teacher", tokenizer=tokenizer)


def chat_record(number: int) -> dict:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": json.dumps({"year": number})}}
    return {
        "id": f"chat-{number}",
        "messages": [
            {"role": "user", "content": tiny.question(number)},
            {"role": "assistant", "content": None, "reasoning_content": "I look it up.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": f"Oslo, {number}"},
            {"role": "assistant", "content": f"It was Oslo, {number}."},
        ],
    }


def chat_spans(folder: Path) -> Path:
    records = [chat_record(1), {"id": "text-1", "text": tiny.react_text(1)}]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    segment_logs(SegmentConfig(logs=(str(folder / "log.jsonl"),), out=str(folder / "spans"), holdout=0), silent)
    return folder / "spans"


def test_the_rendering_follows_the_log_and_is_recorded(tmp_path):
    spans, teacher = chat_spans(tmp_path), chat_teacher(tmp_path)
    summary = cache(spans, teacher, tmp_path / "out")
    assert summary["n_rendered"] == {"text": 1, "chat": 1}
    rows = scan_index(tmp_path / "out").collect()
    assert dict(zip(rows["id"], rows["render"], strict=True)) == {"chat-1": "chat", "text-1": "text"}
    tokenizer = chat_tokenizer("qwen3")
    said = []
    for (_, data), row in zip(iter_samples(tmp_path / "out"), rows.iter_rows(named=True), strict=True):
        arrays = decode_teacher_sample(data)
        learnt = arrays["token_ids"][arrays["positions"]]
        assert set(arrays["kinds"][arrays["positions"]]) <= {REASON, ACT}
        if row["render"] == "chat":
            said.append(tokenizer.decode(learnt))
    assert said == [
        "<think>\nI look it up.\n</think>\n\n"
        '<tool_call>\n{"name": "look_up", "arguments": {"year": 1}}\n</tool_call><|im_end|>'
        "<think>\n\n</think>\n\nIt was Oslo, 1.<|im_end|>"
    ]


def test_a_rendering_that_was_asked_for_and_cannot_be_is_named(tmp_path, tiny_teacher):
    spans = chat_spans(tmp_path)
    with pytest.raises(RenderError, match="has no chat template"):
        cache(spans, tiny_teacher, tmp_path / "out", render="chat")
    summary = cache(spans, tiny_teacher, tmp_path / "other")
    assert summary["n_rendered"] == {"text": 2, "chat": 0}


def test_runs_that_a_template_refuses_are_counted_by_reason_and_said(tmp_path, capsys):
    records = [chat_record(1), chat_record(2), chat_record(3), {"id": "text-1", "text": tiny.react_text(1)}]
    for record in records[1:3]:
        record["messages"][3]["content"] = "First. <think>So.</think> Then."
    # The same in another step.
    del records[2]["messages"][1:3]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    spans, teacher = str(tmp_path / "spans"), str(chat_teacher(tmp_path))
    segment_logs(SegmentConfig(logs=(str(tmp_path / "log.jsonl"),), out=spans, holdout=0), silent)
    reason = "its chat template drops the agent's words in the agent's message"
    out = ["cache-teacher", spans, "--teacher", teacher, "--out", str(tmp_path / "out")]
    for more in (["--dry-run"], [], []):
        assert cli.run([*out, *more, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["n_refused_by_template"] == {reason: 2}
    assert cli.run(out) == 0
    assert f"As text, not through the chat template: 2 run(s) of messages. {reason}" in capsys.readouterr().out
    assert scan_index(tmp_path / "out").collect().filter(render="text").height == 3
    assert cache(spans, teacher, tmp_path / "text", render="text")["n_refused_by_template"] == {}


def test_a_step_longer_than_a_window_is_cut_and_counted_and_none_of_it_is_lost(tmp_path, capsys):
    long = chat_record(1)
    long["messages"][3]["content"] = "It was Oslo, and I say so again. " * 9
    (tmp_path / "log.jsonl").write_text(json.dumps(long) + "\n")
    spans, teacher = str(tmp_path / "spans"), chat_teacher(tmp_path)
    segment_logs(SegmentConfig(logs=(str(tmp_path / "log.jsonl"),), out=spans, holdout=0), silent)
    whole = cache(spans, teacher, tmp_path / "whole", max_length=500)
    assert whole["n_cut_steps"] == 0
    summary = cache(spans, teacher, tmp_path / "cut", max_length=80)
    assert summary["n_samples"] >= summary["n_cut_steps"] > 2
    assert summary["n_supervised"] == whole["n_supervised"]
    command = ["cache-teacher", spans, "--teacher", str(teacher), "--out", str(tmp_path / "cut"), "--top-k", "8"]
    assert cli.run([*command, "--max-length", "80"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"windows that cut a step {summary['n_cut_steps']}" in said
    learnt = [
        np.concatenate([arrays["token_ids"][arrays["positions"]] for arrays in samples_of(tmp_path / name)])
        for name in ("whole", "cut")
    ]
    np.testing.assert_array_equal(*learnt)


def test_another_rendering_is_another_cache(tmp_path):
    spans, teacher = chat_spans(tmp_path), chat_teacher(tmp_path)
    assert cache(spans, teacher, tmp_path / "out", render="text")["n_rendered"]["chat"] == 0
    with pytest.raises(Exception, match="render was 'text' and is now 'chat'"):
        cache(spans, teacher, tmp_path / "out", render="chat")
