"""Chats whose reply stands beside them: logged calls of many makers, each after its real form."""

import json

import pytest

from tests.test_formats_foreign import MESSAGES, calls, lines
from tests.test_formats_wild import cut, kinds, runs

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


def test_what_repeats_or_sums_up_the_last_turn_is_no_further_one(tmp_path):
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
