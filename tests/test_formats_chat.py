import gzip
import json
import random
import zipfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sadstream.formats import FORMATS, TextFormat, tags
from sadstream.logs import scan_logs
from sadstream.progress import silent
from sadstream.segment import segment
from sadstream.spans import SegmentConfig, segment_logs

# File below data/formats: the format it is read as.
FILES = {
    "openai-chat/pydantic_ai_conversations.jsonl": "openai-chat",
    "openai-chat/crewai_conversations.jsonl": "openai-chat",
    "openai-chat/openinference_conversations.jsonl": "openai-chat",
    "openai-chat/pydantic_ai_request_response_pairs.jsonl": "openai-calls",
    "tau-bench/gpt-4o-airline_60.json": "openai-chat",
    "smolagents/toolcalling_prompt_decoy.jsonl": "openai-chat",
    "openhands-llm-logs/fncall-llm-message.json": "openai-chat",
    "openhands-llm-logs/litellm_proxy__anthropic__claude-sonnet-4-20250514-1757015040.416.json": "openai-calls",
    "openhands-llm-logs/litellm_proxy__anthropic__claude-sonnet-4-20250514-1757015046.707.json": "openai-calls",
    "openhands-llm-logs/litellm_proxy__deepseek__deepseek-chat-1757015076.651.json": "openai-calls",
    "webdancer/sample_traj_first40.jsonl.gz": "tagged-chat",
    "search-r1/case.txt": "chatml-text",
    "sharegpt/glaive_toolcall_en_demo.json.gz": "sharegpt",
    "sharegpt/glaive_toolcall_zh_demo.json": "sharegpt",
    "llamafactory/reason_tool_use_demo_50.jsonl": "llamafactory",
    "inspect-ai/2025-05-12T20-27-36-04-00_browser.json.gz": "inspect",
    "inspect-ai/2025-05-12T20-28-26-04-00_security-guide.json": "inspect",
    "inspect-ai/log_images_tc.json": "inspect",
    "inspect-ai/log_tool_call_error.json": "inspect",
    "inspect-ai/log_message_deduplication.eval": "inspect-sample",
}
DEEPSEEK = "openhands-llm-logs/litellm_proxy__deepseek__deepseek-chat-1757015076.651.json"


def read(path, **options):
    return list(segment(scan_logs(str(path), **options)).collect().iter_rows(named=True))


def read_text(tmp_path, content, name="log"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path)


def read_records(tmp_path, *records):
    rows = read_text(tmp_path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    for row in rows:
        check_partition(row)
    return rows


def check_partition(row):
    at = 0
    for span in row["spans"]:
        assert span["start"] == at
        assert span["start"] <= span["body_start"] <= span["body_stop"] <= span["stop"]
        at = span["stop"]
    assert at == len(row["text"] or "")


def kinds(row):
    return [(s["kind"], row["text"][s["start"] : s["stop"]]) for s in row["spans"]]


def bodies(row):
    return [row["text"][s["body_start"] : s["body_stop"]] for s in row["spans"]]


def arguments(row):
    return [row["text"][s["arguments_start"] : s["arguments_stop"]] for s in row["spans"] if s["name"] and is_call(s)]


def is_call(span):
    return span["kind"] == "act" and span["arguments_start"] is not None


@pytest.fixture(scope="module")
def rows(shared_data):
    made = {}
    for name in FILES:
        made[name] = read(shared_data / "formats" / name)
        for row in made[name]:
            check_partition(row)
    return made


# ---- counts; the rules are in formats.md, section 5


def expected_spans(name, counts):
    """Reason, act and observation spans by the counts, and what these count otherwise, by name."""
    reason = counts.get("thoughts", 0) + counts.get("assistant_reasoning", 0)
    act = sum(counts.get(k, 0) for k in ("tool_calls", "messages", "answers", "assistant_text", "assistant_tool_call"))
    observation = counts.get("tool_results", 0) + counts.get("user_turns", 0) + counts.get("tool_text", 0)
    if name.startswith("openai-chat/pydantic_ai_conv"):
        reason -= 1  # counted is a `thought_signature`, which nobody can read: a span without text
    if name == DEEPSEEK:
        reason += counts["function_tags"]  # counted are messages; before each `<function=` stands a thought
    if name.startswith("llamafactory"):
        # A user who speaks again answers the agent; the first in each of the records is the task.
        observation += counts["user_text"] - counts["trajectories"]
    if name.startswith("sharegpt"):
        observation -= counts["trajectories"]  # counted is each record's first human turn too, its task
    if name.startswith("search-r1"):
        # Counted is all after the first header of the agent as one run; the file holds a second prompt, which
        # mentions each tag once and <answer> twice. Of the thoughts three stand outside of tags.
        reason = counts["think"] - 1 + 3
        act = counts["search"] - 1 + counts["answer"] - 2
        observation = counts["information"] - 1
    return {"reason": reason, "act": act, "observation": observation}


@pytest.mark.parametrize("name", FILES)
def test_real_logs_give_the_counts_that_other_code_found(name, shared_data, tmp_path):
    counts = json.loads((shared_data / "counts.json").read_text())[f"formats/{name}"]
    log = shared_data / "formats" / name
    if name == "inspect-ai/log_tool_call_error.json":
        # Nobody acts in it: refused, with its spans counted.
        (row,) = read(log)
        assert [s["kind"] for s in row["spans"]] == ["observation"] * counts["tool_results"]
        assert all(s["error"] for s in row["spans"])
        return
    found = segment_logs(SegmentConfig(logs=(str(log),), out=str(tmp_path / "out")), silent)
    n_spans = {kind: found["n_spans"][kind] + found["n_rejected_spans"][kind] for kind in found["n_spans"]}
    del n_spans["context"]
    assert found["n_passed_over"] == {}
    assert found["formats"] == {FILES[name]: found["n_trajectories"]}
    if name == "openhands-llm-logs/fncall-llm-message.json":
        # Not counted by other code: the words beside five of its six calls.
        assert n_spans == {"reason": 5, "act": 6, "observation": 6}
        return
    if name.endswith("pairs.jsonl"):
        # Twelve calls; three of the five conversations begin with the same message.
        assert found["n_trajectories"] == 5
        return
    n_runs = 2 if name.startswith("search-r1") else counts["trajectories"]
    assert found["n_trajectories"] + found["n_rejected"] == n_runs
    assert n_spans == expected_spans(name, counts)


def test_no_other_file_is_read_as_one_of_these_formats(shared_data):
    mine = set(FILES.values()) | {"verifiers", "chatml"}
    for path in sorted((shared_data / "formats").rglob("*")):
        name = path.relative_to(shared_data / "formats").as_posix()
        if not path.is_file() or name in FILES or path.stat().st_size > 300_000 or path.suffix == ".md":
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        try:
            values = [json.loads(data)]
        except ValueError:
            values = [json.loads(line) for line in data.split(b"\n")[:3] if line.strip()]
        for value in values:
            found = next((f.name for f in FORMATS if not isinstance(f, TextFormat) and f.recognise(value)), None)
            assert found not in mine, name


# ---- round trips: the messages from the spans, against another reading of the file


def rebuilt(row):
    """Messages by number: author, hidden thoughts, text as logged, calls, and ids of results."""
    messages = {}
    for span in row["spans"]:
        message = messages.setdefault(
            span["message"], {"author": span["author"], "thoughts": [], "text": "", "calls": [], "answers": []}
        )
        message["author"] = "agent" if span["author"] == "agent" else message["author"]
        start, stop = (
            (span["logged_start"], span["logged_stop"])
            if span["logged_start"] is not None
            else (span["start"], span["stop"])
        )
        logged = row["text"][start:stop]
        if is_call(span) and span["logged_start"] is not None and row["text"].startswith("Action: ", span["start"]):
            message["calls"].append((span["call_id"], span["name"], logged))
        elif span["hidden"]:
            message["thoughts"] += [logged] if logged else []
        else:
            message["text"] += logged
        if span["kind"] == "observation" and span["call_id"]:
            message["answers"].append(span["call_id"])
    return [messages[index] for index in sorted(messages)]


AUTHORS = {"system": "system", "user": "user", "assistant": "agent", "tool": "environment"}


def text_in(content, name="text"):
    if isinstance(content, list):
        return "".join(b.get(name, "") for b in content if b["type"] == "text")
    return content or ""


def message_of(m):
    calls = [
        (c["id"], c["function"]["name"], c["function"]["arguments"])
        if isinstance(c["function"], dict)
        else (c["id"], c["function"], c["arguments"])
        for c in m.get("tool_calls") or []
    ]
    return {
        "author": AUTHORS[m["role"]],
        "thoughts": [m[k] for k in ("reasoning", "reasoning_content") if m.get(k)],
        "text": text_in(m.get("content")),
        "calls": calls,
        "answers": [m["tool_call_id"]] if "tool_call_id" in m else [],
    }


def values_of(path):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError:
        return [json.loads(line) for line in data.split(b"\n") if line.strip()]
    return value if isinstance(value, list) and "role" not in value[0] else [value]


@pytest.mark.parametrize(
    "name", [name for name, format in FILES.items() if format in ("openai-chat", "tagged-chat")] + [DEEPSEEK]
)
def test_chat_messages_come_back_from_the_spans(name, rows, shared_data):
    values = values_of(shared_data / "formats" / name)
    assert len(values) == len(rows[name])
    for value, row in zip(values, rows[name], strict=True):
        messages = value if isinstance(value, list) else value.get("messages") or value["traj"]
        if name == DEEPSEEK:
            messages = [*messages, value["response"]["choices"][0]["message"]]
        expected = [message_of(m) for m in messages]
        assert rebuilt(row) == expected
        if isinstance(value, dict):
            assert [json.loads(t) for t in row["tools"]] == (value.get("tools") or value.get("functions") or [])
            left = json.loads(row["extra"])
            assert all(left[k] == value[k] for k in left if k not in ("request", "response"))


def test_everything_of_a_message_that_has_no_place_is_in_extra(rows, shared_data):
    name = "openai-chat/pydantic_ai_conversations.jsonl"
    known = {"role", "content", "tool_calls", "tool_call_id", "name", "reasoning"}
    for value, row in zip(values_of(shared_data / "formats" / name), rows[name], strict=True):
        found = {}
        for span in row["spans"]:
            kept = found.setdefault(span["message"], {})
            kept |= json.loads(span["extra"] or "{}")
            for opaque in map(json.loads, span["opaque"]):
                kept |= opaque if isinstance(opaque, dict) and "type" not in opaque else {}
        for index, message in enumerate(value["messages"]):
            left = {k: v for k, v in message.items() if k not in known}
            assert left.items() <= found[index].items()
        media = [b for m in value["messages"] for b in (m.get("content") or []) if isinstance(b, dict)]
        media = [b for b in media if b["type"] != "text"]
        assert [json.loads(o) for s in row["spans"] for o in s["opaque"] if '"type"' in o] == media


def test_the_pairs_give_the_longest_paths_once(rows, shared_data):
    name = "openai-chat/pydantic_ai_request_response_pairs.jsonl"
    pairs = values_of(shared_data / "formats" / name)
    assert [row["source"]["record"] for row in rows[name]] == ["1", "4", "7", "8", "11"]
    for row in rows[name]:
        request = pairs[int(row["source"]["record"])]["request"]
        *history, reply = rebuilt(row)
        assert history == [message_of(m) for m in request["messages"]]
        assert reply["author"] == "agent"
    streamed = json.loads(rows[name][1]["extra"])["response"]
    assert (streamed["object"], streamed["usage"]["prompt_tokens"] > 0) == ("chat.completion.chunk", True)
    # Streamed replies were put together: the client sent the first ones back in the next request.
    last = rebuilt(rows[name][1])[-1]
    assert (last["calls"][0][1], json.loads(last["calls"][0][2])["answers"][0]["answer"]) == (
        "final_result",
        "Mexico City",
    )


def test_sharegpt_turns_come_back_from_the_spans(rows, shared_data):
    for name in (n for n, format in FILES.items() if format == "sharegpt"):
        for value, row in zip(values_of(shared_data / "formats" / name), rows[name], strict=True):
            turns = [
                f'{{"name": "{m["calls"][0][1]}", "arguments": {m["calls"][0][2]}}}' if m["calls"] else m["text"]
                for m in rebuilt(row)
            ]
            assert turns == [t["value"] for t in value["conversations"]]
            assert [json.loads(t) for t in row["tools"]] == json.loads(value["tools"])
            assert row["task"] == value["conversations"][0]["value"]


def test_llamafactory_blocks_come_back_from_the_spans(rows, shared_data):
    name = "llamafactory/reason_tool_use_demo_50.jsonl"
    for value, row in zip(values_of(shared_data / "formats" / name), rows[name], strict=True):
        for message, found in zip(value["messages"], rebuilt(row), strict=True):
            blocks = message["content"]
            assert found["author"] == AUTHORS[message["role"]]
            assert found["thoughts"] == [b["value"] for b in blocks if b["type"] == "reasoning"]
            assert found["text"] == text_in(blocks, "value")
            calls = [json.loads(b["value"]) for b in blocks if b["type"] == "tool_call"]
            assert [(c[1], json.loads(c[2])) for c in found["calls"]] == [(c["name"], c["arguments"]) for c in calls]


@pytest.mark.parametrize("name", [name for name, format in FILES.items() if format.startswith("inspect")])
def test_inspect_messages_come_back_from_the_spans(name, rows, shared_data):
    path = shared_data / "formats" / name
    if path.suffix == ".eval":
        with zipfile.ZipFile(path) as archive:
            samples = [json.loads(archive.read("samples/0_epoch_1.json"))]
    else:
        samples = values_of(path)[0]["samples"]
    for sample, row in zip(samples, rows[name], strict=True):
        text = json.dumps(sample["messages"])
        for key, attachment in (sample.get("attachments") or {}).items():
            text = text.replace(f"attachment://{key}", json.dumps(attachment)[1:-1])
        expected = [message_of(m) for m in json.loads(text)]
        found = rebuilt(row)
        for message in found:
            message["calls"] = [(i, n, json.loads(a)) for i, n, a in message["calls"]]
        assert found == expected
        assert row["task_id"] == str(sample["id"])
        target = sample["target"]
        gold = row["outcome"]["gold"]
        assert (json.loads(gold) if isinstance(target, list) else gold or "") == target


def test_chatml_text_stays_byte_for_byte(rows, shared_data):
    whole = (shared_data / "formats" / "search-r1/case.txt").read_text()
    first, second = rows["search-r1/case.txt"]
    assert first["text"] + second["text"] == whole
    assert second["outcome"]["answer"] == "sinoatrial (SA) node"
    end = first["spans"][-1]
    assert end["kind"] == "act"
    prompt = [s for s in first["spans"] if s["message"] == 1]
    assert {s["kind"] for s in prompt} == {"context"}


def test_outcomes_of_real_logs(rows):
    frame = pl.DataFrame([r["outcome"] for r in rows["tau-bench/gpt-4o-airline_60.json"]], infer_schema_length=None)
    assert (frame["reward"] == 1).sum() == 23
    browser, *_ = rows["inspect-ai/2025-05-12T20-27-36-04-00_browser.json.gz"]
    assert (browser["outcome"]["success"], browser["outcome"]["ending"]) == (True, "finished")
    assert browser["source"]["format_version"] == "2"
    images, *_ = rows["inspect-ai/log_images_tc.json"]
    assert images["outcome"]["success"] is False
    assert images["outcome"]["answer"] == "[hedgehog]"
    assert rows["webdancer/sample_traj_first40.jsonl.gz"][0]["outcome"]["gold"] == '[["English horse race Derby"]]'


# ---- traps


def tool_call(id, name, arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_openai_messages_with_everything(tmp_path):
    record = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x.png"}}]},
            {
                "role": "assistant",
                "content": "Let me look.",
                "reasoning_content": "Hm.",
                "tool_calls": [tool_call("1", "a", '{"x":  1}'), tool_call("2", "b", "{'x'"), tool_call("3", "c", "")],
            },
            {"role": "tool", "tool_call_id": "3", "content": ""},
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "one"}]},
            {"role": "user", "content": "<system-reminder>Go.</system-reminder>\nThe other."},
            {"role": "assistant", "content": "", "refusal": None},
            {"role": "assistant", "content": "<think>Sure.</think>\n\nDone.", "refusal": None},
        ],
        "n": 1.50,
    }
    (row,) = read_records(tmp_path, record)
    assert kinds(row) == [
        ("context", "Be brief.\n"),
        ("context", "[image_url]\n"),
        ("reason", "Thought: Hm.\n"),
        ("reason", "Thought: Let me look.\n"),
        ("act", 'Action: a({"x":  1})\n'),
        ("act", "Action: b[{'x']\n"),
        ("act", "Action: c()\n"),
        ("observation", "Observation: \n"),
        ("observation", "Observation: one\n"),
        ("context", "<system-reminder>Go.</system-reminder>\n"),
        ("observation", "Observation: The other.\n"),
        ("reason", ""),
        ("reason", "<think>Sure.</think>\n\n"),
        ("act", "Answer: Done.\n"),
    ]
    assert arguments(row) == ['{"x":  1}', "{'x'", ""]
    assert [s["syntax"] for s in row["spans"] if is_call(s)] == ["json", "text", "json"]
    assert json.loads(row["spans"][0]["extra"]) == {"role": "developer"}
    assert json.loads(row["spans"][1]["opaque"][0])["image_url"] == {"url": "x.png"}
    assert row["spans"][1]["logged_start"] == row["spans"][1]["logged_stop"]
    assert bodies(row)[12] == "Sure.</think>"
    assert row["spans"][2]["hidden"]
    assert json.loads(row["extra"]) == {"n": 1.5}
    assert [s["step"] for s in row["spans"]] == [None, None, 0, 0, 0, 0, 0, 0, 0, None, 0, 1, 1, 1]


def test_a_call_with_an_object_for_arguments_keeps_its_bytes(tmp_path):
    call = '{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"b":  1.0, "a": "\\u00e9"}}}'
    (row,) = read_text(tmp_path, f'[{{"role":"user","content":"x"}},{{"role":"assistant","tool_calls":[{call}]}}]')
    assert arguments(row) == ['{"b":  1.0, "a": "\\u00e9"}']


def test_legacy_function_calls(tmp_path):
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
        {"role": "function", "name": "f", "content": "r"},
        {"role": "assistant", "content": "done", "function_call": {"name": "", "arguments": ""}},
    ]
    (row,) = read_records(tmp_path, messages)
    assert [k for k, _ in kinds(row)] == ["context", "act", "observation", "act"]
    assert [s["name"] for s in row["spans"]] == [None, "f", "f", None]
    assert json.loads(row["spans"][3]["extra"]) == {"function_call": {"name": "", "arguments": ""}}
    assert [s["step"] for s in row["spans"]] == [None, 0, 0, 1]


def test_ids_that_come_again_answer_the_call_before_them(tmp_path):
    turn = [
        {"role": "assistant", "tool_calls": [tool_call("call_0", "f", "{}")]},
        {"role": "tool", "tool_call_id": "call_0", "content": "r"},
    ]
    (row,) = read_records(tmp_path, [{"role": "user", "content": "q"}, *turn, *turn])
    assert [s["step"] for s in row["spans"]] == [None, 0, 0, 1, 1]


def test_encrypted_reasoning_is_kept_without_text(tmp_path):
    details = [{"type": "reasoning.encrypted", "data": "QUJD"}]
    message = {"role": "assistant", "content": "hi", "reasoning_details": details}
    (row,) = read_records(tmp_path, [{"role": "user", "content": "q"}, message])
    thought = row["spans"][1]
    assert (thought["kind"], thought["start"] == thought["stop"]) == ("reason", True)
    assert json.loads(thought["opaque"][0]) == {"reasoning_details": details}


def test_reasoning_lost_on_the_way_back_is_taken_from_the_reply(tmp_path):
    question = {"role": "user", "content": "q"}
    reply = {"role": "assistant", "content": None, "tool_calls": [tool_call("1", "f", "{}")]}
    result = {"role": "tool", "tool_call_id": "1", "content": "r"}
    first = {"messages": [question], "response": {"choices": [{"message": {**reply, "reasoning": "Why."}}]}}
    end = {"message": {"role": "assistant", "content": "d"}, "finish_reason": "length"}
    second = {"messages": [question, reply, result], "tools": [{"x": 1}], "response": {"choices": [end], "id": "c"}}
    (row,) = read_records(tmp_path, first, second)
    assert kinds(row)[1] == ("reason", "Thought: Why.\n")
    assert row["outcome"]["ending"] == "truncated"
    assert row["tools"] == ['{"x": 1}']
    assert json.loads(row["extra"])["response"] == {"id": "c", "choices": [{"finish_reason": "length"}]}


def test_tags_in_chat_turns(tmp_path):
    calls = '{"name": "a", "arguments": {"q": [1,  2]}}\n{"name": "b", "arguments": {}}'
    messages = [
        {"role": "system", "content": "Call <tool_call>{...}</tool_call>."},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": f"Plan.\n</think>\n\nNow.\n<tool_call>\n{calls}\n</tool_call>"},
        {"role": "user", "content": "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"},
        {"role": "assistant", "content": "<think>`<answer>` next</think><tool_call>{'name': 'c', 'x': 1,}"},
        {"role": "user", "content": "<tool_response>3</tool_response>"},
        {"role": "assistant", "content": "<think>Now</think>\n<answer>A</answer>"},
    ]
    (row,) = read_records(tmp_path, {"messages": messages, "answer": "A"})
    assert row["source"]["format"] == "tagged-chat"
    assert kinds(row) == [
        ("context", "Call <tool_call>{...}</tool_call>.\n"),
        ("context", "q\n"),
        ("reason", "Plan.\n</think>\n\n"),
        ("reason", "Now.\n"),
        ("act", '<tool_call>\n{"name": "a", "arguments": {"q": [1,  2]}}\n'),
        ("act", '{"name": "b", "arguments": {}}\n</tool_call>\n'),
        ("observation", "<tool_response>\n1\n</tool_response>\n"),
        ("observation", "<tool_response>\n2\n</tool_response>\n"),
        ("reason", "<think>`<answer>` next</think>"),
        ("act", "<tool_call>{'name': 'c', 'x': 1,}\n"),
        ("observation", "<tool_response>3</tool_response>\n"),
        ("reason", "<think>Now</think>\n"),
        ("act", "<answer>A</answer>\n"),
    ]
    assert arguments(row) == ['{"q": [1,  2]}', "{}"]
    assert [s["name"] for s in row["spans"] if s["kind"] == "act"] == ["a", "b", "c", None]
    assert row["spans"][9]["flags"] == ["unclosed"]
    assert row["outcome"]["gold"] == "A"


def test_function_tags_run_to_the_end_where_the_stop_word_cut_them(tmp_path):
    turn = "I look.\n\n<function=terminal>\n<parameter=command>echo '</x>'\nls</parameter>\n"
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": turn},
        {"role": "user", "content": "EXECUTION RESULT of [terminal]:\na.py"},
    ]
    (row,) = read_records(tmp_path, messages)
    assert [k for k, _ in kinds(row)] == ["context", "reason", "act", "observation"]
    assert arguments(row) == ["\n<parameter=command>echo '</x>'\nls</parameter>\n"]
    assert [s["name"] for s in row["spans"]] == [None, None, "terminal", "terminal"]
    assert row["spans"][2]["flags"] == ["unclosed"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n", [("act", "  \n")]),
        ("plain", [("act", "plain")]),
        ("<think>cut off", [("reason", "<think>cut off")]),
        ("a <search> b", [("act", "a <search> b")]),
        ("\n<search>x</search> ", [("act", "\n<search>x</search> ")]),
        ("<search>x</search><information>y", [("act", "<search>x</search>"), ("observation", "<information>y")]),
        ("Hi <tool_call>[1]</tool_call>", [("reason", "Hi "), ("act", "<tool_call>[1]</tool_call>")]),
    ],
)
def test_cutting_by_tags(text, expected):
    parts = tags.cut(text)
    assert [(p.kind, p.text) for p in parts] == expected
    assert "".join(p.text for p in parts) == text


def test_cutting_by_tags_keeps_every_character():
    pieces = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        '{"name": "f", "arguments": {"a": 1}}',
        "x",
        " ",
        "\n",
    ]
    pieces += ["<search>", "</search>", "<function=f>", "</function>", "<answer>", "</answer>", "\u2028", "é"]
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(pieces, k=draw.randrange(9)))
        parts = tags.cut(text)
        assert "".join(p.text for p in parts) == text
        for part in parts:
            start, stop = part.about.get("arguments_start", 0), part.about.get("arguments_stop", 0)
            assert 0 <= start <= stop <= len(part.text)


def test_chatml_in_a_record_and_in_a_text(tmp_path):
    text = (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
        '<think>\nHm\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nR\n</tool_response><|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>\n"
    )
    (row,) = read_records(tmp_path, {"text": text, "reward": 1})
    twice = read_text(tmp_path, text + text)
    assert row["text"] == text
    assert [r["text"] for r in twice] == [text, text]
    assert kinds(twice[0]) == kinds(row)
    agent = [(s["kind"], row["text"][s["start"] : s["stop"]]) for s in row["spans"] if s["author"] == "agent"]
    assert agent[-1] == ("act", "Done.<|im_end|>\n")
    assert agent[1][1].endswith("</tool_call><|im_end|>\n")
    assert [k for k, _ in agent] == ["reason", "act", "act"]
    assert arguments(row) == ['{"a": 1}']
    assert (row["task"], row["outcome"]["reward"]) == ("Q", 1.0)


def test_agentinstruct_turns_are_cut_at_their_labels(tmp_path):
    record = {
        "id": "alfworld_12",
        "conversations": [
            {"from": "human", "loss": None, "value": "You are in a house."},
            {"from": "gpt", "loss": False, "value": "OK. I'll follow your instructions."},
            {"from": "human", "loss": None, "value": "Your task: find a mug."},
            {"from": "gpt", "loss": True, "value": "Thought: go in, says `Action: x`\n\nAction: go to desk 1"},
            {"from": "human", "loss": None, "value": "Observation: a desk."},
            {"from": "gpt", "loss": True, "value": "Think: so\nAct: take mug"},
        ],
    }
    (row,) = read_records(tmp_path, record)
    assert row["id"] == "alfworld_12"
    assert row["task"] == "Your task: find a mug."
    assert kinds(row)[1:] == [
        ("context", "OK. I'll follow your instructions.\n"),
        ("context", "Your task: find a mug.\n"),
        ("reason", "Thought: go in, says `Action: x`\n\n"),
        ("act", "Action: go to desk 1\n"),
        ("observation", "Observation: a desk.\n"),
        ("reason", "Think: so\n"),
        ("act", "Act: take mug\n"),
    ]
    assert bodies(row)[3:] == ["go in, says `Action: x`", "go to desk 1", "a desk.", "so", "take mug"]
    assert [s["author"] for s in row["spans"]] == ["user", "agent", "user", "agent", "agent", "user", "agent", "agent"]
    assert json.loads(row["spans"][3]["extra"]) == {"loss": True}
    without = {"conversations": [{k: t[k] for k in ("from", "value")} for t in record["conversations"]]}
    (again,) = read_records(tmp_path, without)
    assert kinds(again) == kinds(row)


def test_function_calls_of_sharegpt(tmp_path):
    listed = '[{"name": "a", "arguments": {"x": 1}}, {"arguments": {}, "name": "b"}]'
    record = {
        "system": "S",
        "tools": "not JSON",
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": listed},
            {"from": "function_call", "value": "broken("},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": ""},
        ],
    }
    (row,) = read_records(tmp_path, record)
    assert [k for k, _ in kinds(row)] == ["context", "context", "act", "act", "act", "observation", "reason"]
    assert [row["text"][s["start"] : s["stop"]] for s in row["spans"] if is_call(s)] == [
        'Action: a({"x": 1})\n',
        "Action: b({})\n",
        "Action: [broken(]\n",
    ]
    assert json.loads(row["spans"][3]["extra"]) == {"call": {"arguments": {}, "name": "b"}}
    assert json.loads(row["extra"]) == {"tools": "not JSON"}


def test_a_closing_think_in_text_beside_a_reasoning_block_is_text(tmp_path):
    blocks = [{"type": "reasoning", "value": "a"}, {"type": "text", "value": "b</think>\nc"}]
    (row,) = read_records(
        tmp_path,
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": blocks}]},
    )
    assert row["source"]["format"] == "llamafactory"
    assert kinds(row)[1:] == [("reason", "Thought: a\n"), ("act", "Answer: b</think>\nc\n")]


def test_verifiers_records_have_the_whole_prompt_as_context(tmp_path):
    prompt = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
    ]
    completion = [{"role": "assistant", "content": "<think>x</think>4"}, {"role": "user", "content": "Sure?"}]
    record = {"prompt": prompt, "completion": completion, "answer": "4", "reward": 0.5, "info": "{}", "task": "sum"}
    listed, plain = read_records(tmp_path, record, {**record, "prompt": "2+2?"})
    assert [k for k, _ in kinds(listed)] == ["context"] * 3 + ["reason", "act", "observation"]
    assert [k for k, _ in kinds(plain)] == ["context", "reason", "act", "observation"]
    assert listed["outcome"] == {"success": None, "reward": 0.5, "ending": "unknown", "answer": None, "gold": "4"}
    assert json.loads(listed["extra"]) == {"info": "{}", "task": "sum"}


def test_inspect_samples_resolve_attachments_and_pools(tmp_path):
    pool = [
        {"id": "u", "role": "user", "content": "attachment://abc"},
        {
            "id": "a",
            "role": "assistant",
            "content": [{"type": "reasoning", "reasoning": "r", "signature": "s"}, {"type": "text", "text": "t"}],
            "tool_calls": [{"id": "1", "function": "f", "arguments": {"x": 1}, "type": "function"}],
        },
        {"id": "e", "role": "tool", "tool_call_id": "1", "function": "f", "content": "", "error": {"type": "timeout"}},
    ]
    sample = {
        "id": 7,
        "epoch": 1,
        "input": "x",
        "target": ["A"],
        "messages": ["u", "a", "e"],
        "message_pool": pool,
        "attachments": {"abc": 'say "é"\n', "def": "unused"},
        "scores": {"m": {"value": 0.25, "answer": "B"}},
        "limit": {"type": "message"},
    }
    (row,) = read_records(tmp_path, {"version": 2, "eval": {"task": "t"}, "samples": [sample]})
    assert [k for k, _ in kinds(row)] == ["context", "reason", "reason", "act", "observation"]
    assert row["text"].startswith('say "é"\n')
    assert row["spans"][-1]["error"] is True
    assert json.loads(row["spans"][1]["opaque"][0]) == {"signature": "s"}
    assert row["outcome"] == {"success": None, "reward": 0.25, "ending": "halted", "answer": "B", "gold": '["A"]'}
    extra = json.loads(row["extra"])
    assert extra["attachments"] == {"def": "unused"}
    assert extra["log"]["eval"] == {"task": "t"}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_of_tables_are_read_as_records(kind, tmp_path):
    messages = [
        {"role": "user", "content": "q", "tool_calls": None, "tool_call_id": None},
        {"role": "assistant", "content": None, "tool_calls": [tool_call("1", "f", '{"a": 1}')], "tool_call_id": None},
        {"role": "tool", "content": "r", "tool_calls": None, "tool_call_id": "1"},
    ]
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    for name, column in (("messages", messages), ("conversations", turns)):
        table = pa.Table.from_pylist([{name: column, "reward": 1.0}, {name: column, "reward": None}])
        path = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)
    chat = read(tmp_path / f"messages.{kind}")
    assert [r["source"]["format"] for r in chat] == ["openai-chat"] * 2
    assert [k for k, _ in kinds(chat[0])] == ["context", "act", "observation"]
    assert arguments(chat[1]) == ['{"a": 1}']
    assert [r["outcome"]["reward"] for r in chat] == [1.0, None]
    assert [[k for k, _ in kinds(r)] for r in read(tmp_path / f"conversations.{kind}")] == [["context", "act"]] * 2


# ---- damage


def mutated(value, draw):
    """The value with one place in it replaced by something of another type, or gone."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]
    return draw.choice([None, True, 7, -1.5, "", "x", [], {}, [None], {"type": "text"}, [{"type": 1}], "<think>"])


@pytest.mark.parametrize("name", [n for n in FILES if not n.endswith((".txt", ".eval"))])
def test_damaged_records_raise_nothing_but_known_errors(name, shared_data, tmp_path):
    draw = random.Random(name)
    values = values_of(shared_data / "formats" / name)
    small = min(values, key=lambda v: len(json.dumps(v)))
    damaged = [mutated(small if draw.random() < 0.7 else mutated(small, draw), draw) for _ in range(60)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [small, *damaged]))
    for row in read(path, on_error="skip"):
        check_partition(row)
