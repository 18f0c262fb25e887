"""Chats whose reply stands beside them: logged calls of many makers, each after its real form."""

import json

import pytest

from sadstream.logs import scan_logs
from sadstream.progress import silent
from sadstream.spans import SegmentConfig, segment_logs
from tests.test_formats_foreign import MESSAGES, calls, lines
from tests.test_formats_wild import cut, kinds, rows, runs

ASKED, SAID = MESSAGES[:4], MESSAGES[4]
REPLY = SAID["content"]
CUT = ["context", "context", "reason", "act", "observation", "act"]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": ASKED, "response": REPLY},
        {"messages": ASKED, "completion": REPLY},
        {"messages": ASKED, "output": REPLY},
        {"prompt": ASKED, "response": REPLY},
        {"messages": ASKED, "response": SAID},
        {"messages": ASKED, "response": {"content": REPLY, "usage": {}}},
        {"messages": ASKED, "response": [SAID]},
        {"messages": ASKED, "choices": [{"message": SAID, "finish_reason": "stop"}]},
        # Ollama's, logged as asked and answered, and in one object.
        {"request": {"model": "m", "messages": ASKED}, "response": {"message": SAID, "done": True}},
        {"model": "m", "messages": ASKED, "message": SAID, "done": True},
        # Generations of Langfuse, rows of Braintrust, examples of LangSmith.
        {"input": ASKED, "output": SAID},
        {"input": {"messages": ASKED}, "output": {"choices": [{"message": SAID}]}},
        {"inputs": {"messages": ASKED}, "outputs": {"output": REPLY}},
        # Helicone's, and requests and responses with their bodies; outputs of DSPy.
        {"request_body": {"messages": ASKED}, "response_body": {"choices": [{"message": SAID}]}},
        {
            "request": {"body": {"messages": ASKED}},
            "response": {"status": 200, "body": {"choices": [{"message": SAID}]}},
        },
        {"messages": ASKED, "outputs": [REPLY]},
        # What the AI SDK returns.
        {"messages": ASKED, "response": {"messages": [SAID]}},
    ],
)
def test_a_reply_beside_the_messages_is_the_agents_last_turn(tmp_path, record):
    (run,) = runs(tmp_path / "a.jsonl", lines(record))
    (plain,) = runs(tmp_path / "b.json", MESSAGES)
    assert (run.source.format, run.text, kinds(run)) == ("chat-calls", plain.text, CUT)
    assert calls(run) == [("ls", "{}", "c1")]


def test_what_stands_around_messages_and_reply_is_kept(tmp_path):
    tool = {"name": "ls"}
    record = {
        "request": {"messages": ASKED, "tools": [tool], "model": "m"},
        "response": {"message": SAID, "done_reason": "length"},
        "at": 1,
    }
    (run,) = runs(tmp_path / "a.json", record)
    assert [json.loads(bytes(raw)) for raw in run.tools] == [tool]
    assert run.outcome.ending == "truncated"
    kept = {name: json.loads(bytes(raw)) for name, raw in run.extra.items()}
    assert kept == {"request": {"model": "m"}, "response": {"done_reason": "length"}, "at": 1}


def test_of_calls_that_repeat_the_history_the_last_is_the_run(tmp_path):
    call = {"messages": MESSAGES[:2], "response": {"message": MESSAGES[2]}}
    final = {"messages": MESSAGES[:4], "response": REPLY}
    more = {"messages": [*MESSAGES, {"role": "user", "content": "Sure?"}], "response": "Yes."}
    (run,) = runs(tmp_path / "a.jsonl", lines(call, final))
    assert kinds(run) == CUT
    (run,) = runs(tmp_path / "b.jsonl", lines(call, final, more))
    assert kinds(run) == [*CUT, "observation", "act"]
    assert len(runs(tmp_path / "c.jsonl", lines(final, {**final, "response": "None."}))) == 2


def test_calls_are_told_apart_by_what_was_called_and_not_by_thoughts(tmp_path):
    user = {"role": "user", "content": "q"}
    think, text = {"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "a"}
    first = {"messages": [user], "response": {"message": {"role": "assistant", "content": [think, text]}}}
    later = [user, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    (run,) = runs(tmp_path / "a.jsonl", lines(first, {"messages": later, "response": "b"}))
    assert kinds(run) == ["context", "act", "observation", "act"]
    typed = [
        user,
        {"role": "assistant", "content": [text, {"type": "tool_use", "id": "t", "name": "ls", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
    ]
    for asked in (ASKED, typed):
        other = json.loads(json.dumps(asked).replace('"ls"', '"pwd"'))
        content = lines(*({"messages": messages, "response": REPLY} for messages in (asked, other)))
        assert len(runs(tmp_path / "b.jsonl", content)) == 2


def test_what_repeats_or_sums_up_the_last_turn_is_no_further_one(tmp_path):
    about = {"role": "user", "content": "Good."}
    # The last are options of a question, as Inspect's data sets have them.
    status = {"message": "rate limited", "error": True}
    for beside in ({"output": about}, status, {"choices": ["Paris", "Rome"], "target": "B"}):
        (run,) = runs(tmp_path / "a.jsonl", lines({"messages": ASKED, **beside}))
        assert (run.source.format, kinds(run)) == ("openai-chat", CUT[:-1])
    for output in (REPLY, "one", {"n_tokens": 3}, None, ""):
        (run,) = runs(tmp_path / "a.jsonl", lines({"messages": MESSAGES, "output": output}))
        assert (run.source.format, kinds(run)) == ("openai-chat", CUT)
        assert json.loads(bytes(run.extra["output"])) == output


def test_the_messages_before_a_reply_are_read_by_who_knows_them(tmp_path):
    react = [
        {"role": "user", "content": "Question: Who?"},
        {"role": "assistant", "content": "Thought: Look.\nAction: search[x]"},
        {"role": "user", "content": "Observation: y"},
    ]
    (run,) = runs(tmp_path / "a.json", {"messages": react, "response": "Thought: So.\nAction: finish[y]"})
    assert cut(run)[-2:] == [("reason", "Thought: So.\n"), ("act", "Action: finish[y]\n")]
    typed = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "ls", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a"}]},
    ]
    (run,) = runs(tmp_path / "b.json", {"messages": typed, "response": "done"})
    assert (kinds(run), calls(run)) == (["context", "act", "observation", "act"], [("ls", "{}", "t")])
    tagged = [{"role": "user", "content": "q"}]
    (run,) = runs(tmp_path / "c.json", {"messages": tagged, "response": "<think>h</think>\n<search> x </search>"})
    assert kinds(run) == ["context", "reason", "act"]


# ---- preference pairs, in the forms of TRL, LLaMA-Factory, UltraFeedback, distilabel and OpenAI

GOOD, BAD = {"role": "assistant", "content": REPLY}, {"role": "assistant", "content": "No file."}


def chosen(tmp_path, record):
    """The one run of a pair; that the rejected answer is refused by name."""
    path = tmp_path / "pair.jsonl"
    path.write_text(lines(record))
    run, refused = rows(path)
    assert (run["refused"], refused["refused"]) == (None, "not-chosen")
    assert refused["source"]["record"].startswith("0.")
    return run


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": ASKED, "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"messages": ASKED, "chosen": GOOD, "rejected": BAD},
        {"messages": [*ASKED, GOOD], "chosen": REPLY, "rejected": "No file."},
        {"messages": [*ASKED, GOOD], "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"prompt": ASKED, "chosen": REPLY, "rejected": "No file."},
        {"prompt": "<|user|>\nList.", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"system": "Be brief.", "prompt": ASKED[1:], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": {"messages": [*ASKED, GOOD]}, "rejected": {"messages": [*ASKED, BAD]}},
        {"input": {"messages": ASKED}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    ],
)
def test_of_a_preference_pair_the_chosen_answer_after_its_prompt_is_the_run(tmp_path, record):
    run = chosen(tmp_path, record)
    (plain,) = runs(tmp_path / "b.json", MESSAGES)
    assert (run["source"]["format"], run["text"]) == ("preferences", plain.text)
    assert [span["kind"] for span in run["spans"]] == CUT
    assert "No file." in run["extra"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"question": "q", "chosen": "a", "rejected": "b"}, ["q\n", "Answer: a\n"]),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, ["s\n", "q\n", "Answer: a\n"]),
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "longer b"},
            },
            ["q\n", "Answer: a\n"],
        ),
        (
            {
                "prompt": "q\n",
                "chosen": "Thought: x\nAction: f[y]\n",
                "rejected": "Thought: a far longer thought\nAction: g[z]\n",
            },
            ["q\n", "Thought: x\n", "Action: f[y]\n"],
        ),
        (
            {"chosen": "Thought: x\nAction: f[y]\n", "rejected": "Thought: a far longer one\nAction: g[z]\n"},
            ["Thought: x\n", "Action: f[y]\n"],
        ),
    ],
)
def test_a_chosen_answer_may_be_text(tmp_path, record, expected):
    run = chosen(tmp_path, record)
    spans = [run["text"][span["start"] : span["stop"]] for span in run["spans"]]
    assert [text for text in spans if text] == expected


def test_names_of_columns_are_no_preference_pair(tmp_path):
    columns = {"prompt": "conversations", "chosen": "chosen", "rejected": "rejected"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pairs": {"file_name": "a.json", "columns": columns}}))
    frame = scan_logs([str(tmp_path)]).collect()
    assert set(frame["refused"]) == {"unrecognised"}


def test_rejected_answers_are_counted_in_the_summary(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(lines(*[{"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]}] * 3))
    config = SegmentConfig(logs=(str(tmp_path / "pairs.jsonl"),), out=str(tmp_path / "spans"))
    found = segment_logs(config, silent)
    assert (found["n_trajectories"], found["n_passed_over"]) == (3, {"not-chosen": 3})


# ---- a system prompt beside messages that have none


@pytest.mark.parametrize("name", ["system", "system_prompt", "systemPrompt"])
def test_a_system_prompt_beside_the_messages_is_the_runs_first_context(tmp_path, name):
    react = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Thought: x\nAction: f[y]"}]
    share = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    for messages in (MESSAGES[1:], react, share, ASKED[1:]):
        beside = {"response": REPLY} if messages == ASKED[1:] else {}
        (run,) = runs(tmp_path / "a.json", {"messages": messages, name: "Be brief.", **beside})
        assert (cut(run)[0], run.spans[0].author) == (("context", "Be brief.\n"), "system")
        assert name not in run.extra
    (run,) = runs(tmp_path / "a.json", {"messages": MESSAGES, name: "Other."})
    assert cut(run)[0] == ("context", "Be brief.\n")
    assert json.loads(bytes(run.extra[name])) == "Other."


@pytest.mark.parametrize("odd", [None, [], "high", {"content": None}, {"content": "high"}], ids=str)
def test_a_streamed_reply_is_put_together_from_its_chunks_in_a_list_too(tmp_path, odd):
    told = [{"token": word, "logprob": -0.5} for word in ("So", ".")]
    deltas = [({"content": t["token"]}, {"content": [t]}) for t in told] + [({}, odd)]
    chunks = [
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "logprobs": logprobs}]}
        for delta, logprobs in deltas
    ]
    chunks.append({"object": "chat.completion.chunk", "choices": [], "usage": {"total_tokens": 9}})
    sent = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    request = {"messages": [{"role": "user", "content": "?"}], "stream": True}
    found = []
    for number, response in enumerate((chunks, sent)):
        (run,) = runs(tmp_path / f"{number}.jsonl", lines({"request": request, "response": response}))
        assert (run.source.format, cut(run)[-1]) == ("openai-calls", ("act", "Answer: So.\n"))
        found.append((json.loads(bytes(run.spans[-1].extra["logprobs"])), json.loads(bytes(run.extra["response"]))))
    assert found[0] == found[1]
    assert found[0] == ({"content": told}, {"object": "chat.completion.chunk", "usage": {"total_tokens": 9}})
