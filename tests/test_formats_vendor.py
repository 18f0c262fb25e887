"""Logs in the shapes of vendors' APIs and tools: Anthropic, Claude Code, Responses, Codex, pi, LangSmith."""

import gzip
import json
import random

import pytest

from sadstream.formats import FORMATS, RecordFormat, SessionFormat
from sadstream.formats.trees import longest_branch
from sadstream.frames import row_trajectory
from sadstream.logs import scan_logs
from sadstream.progress import silent
from sadstream.segment import segment
from sadstream.spans import SegmentConfig, segment_logs

SESSION = "b3a7bd3c-5a10-4e7b-8ff0-7fc0cd6d1093"
FILES = {
    "anthropic-messages/crewai_conversations.jsonl": "anthropic",
    "anthropic-messages/openinference_conversations.jsonl": "anthropic",
    "anthropic-messages/pydantic_ai_conversations.jsonl": "anthropic",
    "anthropic-messages/pydantic_ai_request_response_pairs.jsonl": "anthropic-calls",
    "claude-code/30530d66-37fb-4f3b-aa5f-d92b6a8afae2.jsonl": "claude-code",
    "claude-code/4c289ca8-f8bb-4588-8400-88b78beb784d.jsonl": "claude-code",
    "claude-code/553dd2b5-8a53-4fbf-9db2-240632522fe5.jsonl": "claude-code",
    f"claude-code/{SESSION}.jsonl": "claude-code",
    f"claude-code/{SESSION}__subagents__agent-a775a67.jsonl": "claude-code",
    f"claude-code/{SESSION}__subagents__agent-ac47f8c.jsonl": "claude-code",
    "claude-code/c8bcb3a7-8728-4d76-9aae-1cbaf2350114.jsonl": "claude-code",
    "codex-cli/real_redacted_session.jsonl": "codex",
    "codex-cli/shape_coverage_fixture.jsonl": "codex",
    "langsmith/anthropic_managed_custom_tools.jsonl": "anthropic-managed",
    "langsmith/anthropic_managed_mcp_tools_reject.jsonl": "anthropic-managed",
    "langsmith/langsmith_py_wrap_openai_reasoning.json": "langsmith",
    "openai-responses/langsmith_conversations.jsonl": "responses",
    "openai-responses/pydantic_ai_conversations.jsonl": "responses",
    "openai-responses/pydantic_ai_request_response_pairs.jsonl": "responses-calls",
    "pi-session/assistant-message-with-thinking-code.json": "pi",
    "pi-session/large-session.jsonl.gz": "pi",
}
OURS = set(FILES.values())


def read(tmp_path, content, name="log"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return trajectories(path)


def read_lines(tmp_path, *values):
    return read(tmp_path, "".join(json.dumps(value) + "\n" for value in values))


def trajectories(path):
    """Trajectories of a file, each with spans that cover its text."""
    rows = segment(scan_logs(str(path))).collect()
    found = [row_trajectory(row) for row in rows.filter(rows["refused"].is_null()).iter_rows(named=True)]
    for trajectory in found:
        edges = [0, *(span.stop for span in trajectory.spans)]
        assert [*(span.start for span in trajectory.spans), len(trajectory.text)] == edges
    return found


def logged(trajectory, span):
    """What the log itself holds of a span."""
    start = span.start if span.logged_start is None else span.logged_start
    stop = span.stop if span.logged_stop is None else span.logged_stop
    return trajectory.text[start:stop]


def rebuilt(trajectory):
    """The log's messages, from the spans alone: calls, results, thoughts, and what everyone says."""
    found = []
    for span in trajectory.spans:
        body = logged(trajectory, span)
        if span.kind == "act" and span.name is not None:
            arguments = trajectory.text[span.arguments_start : span.arguments_stop]
            found.append(("call", span.call_id, span.name, arguments))
        elif span.kind == "observation" and span.author == "environment":
            found.append(("result", span.call_id, body))
        elif not body:
            continue
        elif span.author == "agent":
            found.append(("thought" if span.kind == "reason" else "says", body))
        elif found and found[-1][:2] == (span.author, span.message):
            found[-1] = (span.author, span.message, found[-1][2] + body)
        else:
            found.append((span.author, span.message, body))
    return [(event[0], event[2]) if event[0] in ("user", "system") else event for event in found]


def opaque(trajectory):
    return "\n".join(bytes(raw).decode() for span in trajectory.spans for raw in span.opaque)


def kinds(trajectory):
    return [span.kind for span in trajectory.spans if span.stop > span.start]


def spoken(trajectory):
    return [(s.kind, logged(trajectory, s)) for s in trajectory.spans if s.stop > s.start]


@pytest.fixture(scope="session")
def real(shared_data):
    """Trajectories of every real file."""
    return {name: trajectories(shared_data / "formats" / name) for name in FILES}


def raw_records(shared_data, name):
    path = shared_data / "formats" / name
    data = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    return [json.loads(line) for line in data.decode().split("\n") if line.strip()]


# ---- counts


def expected(name, counts):
    """Trajectories, reason, act and observation spans by formats.md, section 5."""
    c = counts[f"formats/{name}"]
    if name.startswith("anthropic"):
        # `tool_calls` holds the server's own already.
        return (
            c["trajectories"],
            c["thoughts"],
            c["tool_calls"] + c["messages"],
            c["tool_results"] + c["user_turns"],
        )
    if name.startswith("claude-code"):
        return c["sessions"], None, None, None
    return (
        c["trajectories"],
        c.get("thoughts", 0),
        c.get("tool_calls", 0) + c["assistant_messages"],
        None,
    )


COUNTED = [
    name for name in FILES if not name.startswith(("langsmith", "pi-session")) and "request_response_pairs" not in name
]


@pytest.mark.parametrize("name", COUNTED)
def test_real_logs_give_the_counts_that_other_code_found(name, shared_data, tmp_path):
    counts = json.loads((shared_data / "counts.json").read_text())
    config = SegmentConfig(logs=(str(shared_data / "formats" / name),), out=str(tmp_path / "out"))
    found = segment_logs(config, silent)
    spans = {kind: found["n_spans"][kind] + found["n_rejected_spans"][kind] for kind in found["n_spans"]}
    c = counts[f"formats/{name}"]
    n_trajectories, reason, act, observation = expected(name, counts)
    assert found["n_trajectories"] + found["n_rejected"] + found["n_duplicates"] == n_trajectories
    assert found["formats"].keys() <= {FILES[name]}
    if reason is not None:
        assert (spans["reason"], spans["act"]) == (reason, act)
    if observation is not None:
        assert spans["observation"] == observation
    elif name.startswith("claude-code"):
        # Text beside calls is a thought, other text an act: their sum is counted, and thinking apart.
        assert spans["reason"] + spans["act"] == c["thinking_blocks"] + c["text_blocks"] + c["tool_calls"]
        assert c["tool_results"] <= spans["observation"] <= c["tool_results"] + c["user_text_blocks"]
    else:
        # `user_messages` counts those before the first act too, which are the prompt.
        n_prompts = sum(
            next((i for i, said in enumerate(events) if said != "user"), len(events))
            for events in user_and_acts(shared_data, name)
        )
        assert spans["observation"] == c.get("tool_results", 0) + c["user_messages"] - n_prompts


def user_and_acts(shared_data, name):
    """By run of Responses items: `user` or `act`, in order."""
    records = raw_records(shared_data, name)
    runs = (
        [[r["payload"] for r in records if r["type"] == "response_item"]]
        if name.startswith("codex")
        else [r["input"] for r in records]
    )
    for items in runs:
        yield [
            "user" if item.get("role") == "user" else "act"
            for item in items
            if item.get("role") in ("user", "assistant") or item.get("type", "").endswith("_call")
        ]


def test_the_pi_session_has_the_counts_that_other_code_found(real, shared_data):
    c = json.loads((shared_data / "counts.json").read_text())["formats/pi-session/large-session.jsonl.gz"]
    (run,) = real["pi-session/large-session.jsonl.gz"]
    found = kinds(run)
    messages = [r["message"] for r in raw_records(shared_data, "pi-session/large-session.jsonl.gz") if "message" in r]
    before = next(
        i
        for i, m in enumerate(messages)
        if any(b["type"] in ("text", "toolCall") for b in m["content"]) and m["role"] == "assistant"
    )
    n_prompts = sum(m["role"] == "user" for m in messages[:before])
    assert found.count("observation") == c["toolResult"] + c["user"] - n_prompts
    assert found.count("reason") + found.count("act") == sum(
        c[n] for n in ("assistant_text", "assistant_thinking", "assistant_toolCall")
    )
    assert run.outcome.ending == "unknown"


@pytest.mark.parametrize(
    ("name", "n_runs"),
    [
        # By counts.json 2 and 4 first messages differ: three of Anthropic's four recordings open with the same words.
        ("anthropic-messages/pydantic_ai_request_response_pairs.jsonl", 4),
        ("openai-responses/pydantic_ai_request_response_pairs.jsonl", 4),
    ],
)
def test_of_logged_calls_only_the_last_of_each_recording_is_a_run(name, n_runs, real):
    assert len(real[name]) == n_runs
    texts = [run.text for run in real[name]]
    assert not any(a != b and b.startswith(a) for a in texts for b in texts)


@pytest.mark.parametrize("name", FILES)
def test_real_logs_are_recognised(name, real):
    assert {run.source.format for run in real[name]} == {FILES[name]}


def test_no_other_log_is_taken_for_one_of_these(shared_data):
    others = [
        path
        for folder in ("raw", "formats")
        for path in sorted((shared_data / folder).rglob("*"))
        if path.suffix in (".json", ".jsonl", ".traj", ".ipynb")
        and path.relative_to(shared_data / "formats" if folder == "formats" else shared_data).as_posix() not in FILES
        and path.stat().st_size < 3_000_000
    ]
    mine = [f for f in FORMATS if isinstance(f, RecordFormat | SessionFormat) and f.name in OURS]
    assert len(others) > 50
    for path in others:
        for value in values_in(path):
            assert [f.name for f in mine if f.recognise(value)] == [], path


def values_in(path):
    text = path.read_text(encoding="utf-8-sig")
    try:
        whole = json.loads(text)
        return [whole, *(whole if isinstance(whole, list) else [])]
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


# ---- round trips against an extraction of its own


def verbatim(raw_text, value, arguments):
    """Arguments are a piece of the log, byte for byte, and mean what it says."""
    assert arguments in raw_text
    assert json.loads(arguments) == value
    return True


def anthropic_events(messages, system=None):
    """Events as `rebuilt` gives them; arguments as values."""
    if isinstance(system, str) and system:
        yield "system", system
    elif system:
        yield "system", "".join(block["text"] for block in system)
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        calls = any(b["type"].endswith("tool_use") for b in blocks)
        said = ""
        for block in blocks:
            kind = block["type"]
            if kind.endswith("tool_use"):
                yield "call", block["id"], block["name"], block["input"]
            elif kind.endswith("_result"):
                if said:
                    yield message["role"], said
                said = ""
                yield "result", block["tool_use_id"], anthropic_result(block.get("content", ""))
            elif kind == "thinking":
                if block["thinking"]:
                    yield "thought", block["thinking"]
            elif kind == "text" and message["role"] == "assistant":
                yield "thought" if calls else "says", block["text"]
            elif kind == "text":
                said += block["text"]
        if said:
            yield message["role"], said


def anthropic_result(content):
    if isinstance(content, list) and all(block.get("type") == "text" for block in content):
        return "\n".join(block["text"] for block in content)
    return content


def assert_same(found, wanted, raw_text):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a[:-1] == b[:-1]
        if a[0] == "call" and not isinstance(b[-1], str):
            assert verbatim(raw_text, b[-1], a[-1])
        elif a[0] == "result" and not isinstance(b[-1], str):
            assert json.loads(a[-1]) == b[-1]
        else:
            assert a[-1] == b[-1]


@pytest.mark.parametrize("name", [n for n, f in FILES.items() if f == "anthropic"])
def test_anthropic_messages_come_back(name, real, shared_data):
    raw_text = (shared_data / "formats" / name).read_text()
    for record, run in zip(raw_records(shared_data, name), real[name], strict=True):
        assert_same(rebuilt(run), list(anthropic_events(record["messages"], record.get("system"))), raw_text)
        assert [json.loads(bytes(tool)) for tool in run.tools] == record.get("tools", [])
        kept = opaque(run)
        for block in (b for m in record["messages"] if isinstance(m["content"], list) for b in m["content"]):
            assert block.get("signature", "") in kept
            if block["type"] in ("image", "container_upload", "tool_addition"):
                assert block in [json.loads(line) for line in kept.split("\n")]
        assert record.keys() - {"messages", "system", "tools"} == run.extra.keys()


@pytest.mark.parametrize("name", [n for n, f in FILES.items() if f == "claude-code"])
def test_claude_code_sessions_come_back(name, real, shared_data):
    lines = raw_records(shared_data, name)
    messages = {}
    for number, line in enumerate(lines):
        if line["type"] in ("user", "assistant"):
            message = line["message"]
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            key = message.get("id", number)
            messages.setdefault(key, {"role": message["role"], "content": []})["content"] += blocks
    (run,) = real[name]
    raw_text = (shared_data / "formats" / name).read_text()
    assert_same(rebuilt(run), list(anthropic_events(messages.values())), raw_text)
    signatures = [b["signature"] for m in messages.values() for b in m["content"] if "signature" in b]
    assert all(signature in opaque(run) for signature in signatures)
    uuids = {line["uuid"] for line in lines if line["type"] in ("user", "assistant")}
    assert {json.loads(bytes(s.extra["line"]))["uuid"] for s in run.spans if "line" in s.extra} == uuids


def responses_events(items, instructions=None):
    if instructions:
        yield "system", instructions
    for item in items:
        kind = item.get("type", "message")
        content = item.get("content")
        if kind == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            texts = [content] if isinstance(content, str) else [b["text"] for b in content if "text" in b]
            if role == "assistant":
                yield from (("says", text) for text in texts if text)
            elif texts:
                yield role, "".join(texts)
            else:
                yield role, " ".join(f"[{b['type'].removeprefix('input_')}]" for b in content)
        elif kind == "reasoning":
            texts = [b["text"] for b in content or item["summary"]]
            if texts:
                yield "thought", "\n\n".join(texts)
        elif kind.endswith("_call"):
            asked = next((item[n] for n in ("arguments", "input", "action") if n in item), item.get("revised_prompt"))
            native = item["call_id"] if item.get("call_id") else item.get("id")
            yield "call", native, item.get("name", kind.removesuffix("_call")), "" if asked is None else asked
        elif kind.endswith("_output"):
            output = item["output"] if "output" in item else item["tools"]
            if isinstance(output, list) and "output" in item:
                output = "\n".join(b["text"] for b in output if "text" in b)
            yield "result", item["call_id"], output


@pytest.mark.parametrize("name", [n for n, f in FILES.items() if f == "responses"])
def test_responses_items_come_back(name, real, shared_data):
    raw_text = (shared_data / "formats" / name).read_text()
    for record, run in zip(raw_records(shared_data, name), real[name], strict=True):
        wanted = list(responses_events(record["input"], record.get("instructions")))
        # A hosted search that no client answers has no call id in its output either.
        assert_same(rebuilt(run), wanted, raw_text)
        for item in record["input"]:
            assert (item.get("encrypted_content") or "") in opaque(run)
        assert record.keys() - {"input", "instructions", "tools"} == run.extra.keys()


@pytest.mark.parametrize("name", [n for n, f in FILES.items() if f == "codex"])
def test_codex_items_come_back(name, real, shared_data):
    lines = raw_records(shared_data, name)
    (run,) = real[name]
    payloads = [line["payload"] for line in lines if line["type"] == "response_item"]
    wanted = [e for e in responses_events(payloads) if e[0] in ("call", "says", "thought")]
    found = [e for e in rebuilt(run) if e[0] in ("call", "says", "thought")]
    assert_same(found, wanted, (shared_data / "formats" / name).read_text())
    results = [p for p in payloads if p["type"].endswith("_output")]
    assert [s.call_id for s in run.spans if s.kind == "observation"] == [p["call_id"] for p in results]
    n_contexts = sum(line["type"] == "compacted" for line in lines)
    assert sum(bytes(s.extra.get("type", b"")) == b'"compacted"' for s in run.spans) == n_contexts
    assert run.id == next(line["payload"]["id"] for line in lines if line["type"] == "session_meta")


def test_the_pi_session_comes_back(real, shared_data):
    name = "pi-session/large-session.jsonl.gz"
    messages = [line["message"] for line in raw_records(shared_data, name) if line["type"] == "message"]
    wanted = []
    for message in messages:
        calls = any(b["type"] == "toolCall" for b in message["content"])
        texts = [b["text"] for b in message["content"] if b["type"] == "text"]
        if message["role"] == "toolResult":
            wanted.append(("result", message["toolCallId"], "\n".join(texts)))
        elif message["role"] == "user":
            wanted.append(("user", "".join(texts)))
        for block in message["content"] if message["role"] == "assistant" else ():
            if block["type"] == "toolCall":
                wanted.append(("call", block["id"], block["name"], block["arguments"]))
            elif block["type"] == "thinking":
                wanted.append(("thought", block["thinking"]))
            elif block["text"]:
                wanted.append(("thought" if calls else "says", block["text"]))
    (run,) = real[name]
    raw_text = gzip.decompress((shared_data / "formats" / name).read_bytes()).decode()
    assert_same(rebuilt(run), wanted, raw_text)
    failed = [m["toolCallId"] for m in messages if m.get("isError")]
    assert [s.call_id for s in run.spans if s.error] == failed
    kept = {s.message: json.loads(bytes(s.extra["message"])) for s in run.spans if "message" in s.extra}
    for index, message in enumerate(messages):
        left = message.keys() - {"role", "content", "toolCallId", "toolName", "isError"}
        assert kept[index] == {key: message[key] for key in left}


def test_managed_sessions_come_back(real, shared_data):
    for name in (n for n, f in FILES.items() if f == "anthropic-managed"):
        (run,) = real[name]
        create, *events = raw_records(shared_data, name)
        streamed = [e for method, e in events if method.endswith("stream")]
        calls = [e for e in streamed if e["type"].endswith("tool_use")]
        raw_text = (shared_data / "formats" / name).read_text()
        found = rebuilt(run)
        assert found[0] == ("system", create[1]["agent"]["system"])
        for event, call in zip(calls, [e for e in found if e[0] == "call"], strict=True):
            assert call[1:3] == (event["id"], event["name"])
            assert verbatim(raw_text, event["input"], call[3])
        results = [e for e in streamed if e["type"].endswith("_result")]
        answered = [next(v for k, v in e.items() if k.endswith("tool_use_id")) for e in results]
        assert [e[1] for e in found if e[0] == "result"] == answered
        said = [b["text"] for e in streamed if e["type"] == "agent.message" for b in e["content"]]
        assert [e[1] for e in found if e[0] in ("says", "thought")] == said
        assert run.outcome.ending == "finished"
        assert run.id == create[1]["id"]


def test_a_document_in_a_result_is_read_and_its_title_kept(real):
    (run,) = real["langsmith/anthropic_managed_mcp_tools_reject.jsonl"]
    (page,) = [s for s in run.spans if s.kind == "observation" and s.opaque]
    assert logged(run, page).startswith("---\nmeta-analytics-location")
    assert json.loads(bytes(page.opaque[0]))["title"].startswith("GitHub - langchain-ai")
    (refused,) = [s for s in run.spans if s.error]
    assert "has been rejected" in logged(run, refused)


def test_a_payload_of_langsmith_is_one_run(real):
    (run,) = real["langsmith/langsmith_py_wrap_openai_reasoning.json"]
    assert kinds(run) == ["context", "act"]
    assert run.task.startswith("Write a bash script")
    assert logged(run, run.spans[-1]).startswith("Certainly!")


def test_a_whole_folder_of_sessions_keeps_every_id(shared_data, tmp_path):
    config = SegmentConfig(logs=(str(shared_data / "formats" / "claude-code"),), out=str(tmp_path / "out"))
    found = segment_logs(config, silent)
    assert found["n_trajectories"] == 7


# ---- traps, one by one


def anthropic(*messages, **fields):
    return {"messages": [{"role": role, "content": content} for role, content in messages], **fields}


TASK = ("user", "Weather?")
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "12"}


def test_a_reminder_in_a_users_turn_is_context_wherever_it_stands(tmp_path):
    reply = "Well.\n<system-reminder>a</system-reminder>\n<system-reminder>b</system-reminder> Go on."
    turn = [RESULT, {"type": "text", "text": reply}, {"type": "text", "text": "<system-reminder>c</system-reminder>"}]
    (run,) = read_lines(tmp_path, anthropic(TASK, ("assistant", [USE]), ("user", turn)))
    assert spoken(run)[2:] == [
        ("observation", "12"),
        ("observation", "Well.\n"),
        ("context", "<system-reminder>a</system-reminder>\n"),
        ("context", "<system-reminder>b</system-reminder> "),
        ("observation", "Go on."),
        ("context", "<system-reminder>c</system-reminder>"),
    ]
    assert rebuilt(run)[-1] == ("user", reply + "<system-reminder>c</system-reminder>")
    (unclosed,) = read_lines(tmp_path, anthropic(("user", "<system-reminder>"), ("assistant", [USE])))
    assert spoken(unclosed)[0] == ("context", "<system-reminder>")


def test_arguments_keep_the_bytes_of_the_log(tmp_path):
    arguments = '{"b":1.50,  "a": "\\u00e9", "b": [1 ,2]}'
    raw = json.dumps(anthropic(TASK, ("assistant", [USE]))).replace('{"city": "Ulm"}', arguments)
    (run,) = read(tmp_path, raw)
    assert rebuilt(run)[-1] == ("call", "t1", "weather", arguments)


def test_unreadable_thoughts_render_to_nothing_and_are_kept(tmp_path):
    turn = [
        {"type": "thinking", "thinking": "", "signature": "s1"},
        {"type": "redacted_thinking", "data": "r1"},
        USE,
        {"type": "thinking", "thinking": "Again.", "signature": "s2"},
        {**USE, "id": "t2", "type": "mcp_tool_use", "server_name": "m"},
    ]
    (run,) = read_lines(tmp_path, anthropic(TASK, ("assistant", turn)))
    assert kinds(run) == ["context", "act", "reason", "act"]
    assert [s.kind for s in run.spans] == ["context", "reason", "reason", "act", "reason", "act"]
    kept = [json.loads(bytes(raw)) for s in run.spans for raw in s.opaque]
    assert [k.get("signature", k.get("data")) for k in kept] == ["s1", "r1", "s2"]
    assert all(s.hidden for s in run.spans if s.kind == "reason")
    assert {n: json.loads(bytes(v)) for n, v in run.spans[-1].extra.items()} == {
        "type": "mcp_tool_use",
        "server_name": "m",
    }


def test_results_of_the_server_stand_in_the_agents_turn_and_are_the_environments(tmp_path):
    found = [{"type": "web_search_result", "url": "u", "encrypted_content": "x" * 50}]
    turn = [
        {**USE, "type": "server_tool_use"},
        {"type": "web_search_tool_result", "tool_use_id": "t1", "content": found},
        {"type": "text", "text": "It rains."},
    ]
    (run,) = read_lines(tmp_path, anthropic(TASK, ("assistant", turn)))
    assert kinds(run) == ["context", "act", "observation", "reason"]
    result = run.spans[2]
    assert (result.author, result.message, result.call_id) == ("environment", 1, "t1")
    assert json.loads(bytes(result.extra["role"])) == "assistant"
    assert logged(run, result) == '[{"type":"web_search_result","url":"u"}]'
    assert json.loads(bytes(result.opaque[0])) == "x" * 50


def test_media_have_a_placeholder_only_where_nothing_else_stands(tmp_path):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    alone = {**RESULT, "content": [image], "is_error": True}
    beside = {**RESULT, "tool_use_id": "t2", "content": [image, {"type": "text", "text": "a map"}]}
    record = anthropic(
        ("user", [{"type": "text", "text": "See."}, image]), ("assistant", [USE]), ("user", [alone, beside])
    )
    (run,) = read_lines(tmp_path, record)
    assert [text for _, text in spoken(run)] == ["See.", '{"city": "Ulm"})'[:-1], "[image: image/png]", "a map"]
    assert [json.loads(bytes(raw)) for s in run.spans for raw in s.opaque] == [image] * 3
    assert [s.error for s in run.spans if s.call_id and s.kind == "observation"] == [True, None]


def test_a_system_prompt_is_the_first_message_and_one_in_the_middle_is_context(tmp_path):
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    record = anthropic(
        TASK, ("assistant", [USE]), ("system", "New rule."), ("user", [RESULT]), system=system, model="m"
    )
    (run,) = read_lines(tmp_path, record)
    assert [(s.author, s.message, s.kind) for s in run.spans] == [
        ("system", 0, "context"),
        ("user", 1, "context"),
        ("agent", 2, "act"),
        ("system", 3, "context"),
        ("environment", 4, "observation"),
    ]
    assert run.task == "Weather?"
    assert b"ephemeral" in bytes(run.spans[0].extra["cache_control"])
    assert run.extra.keys() == {"model"}


def test_a_retried_call_is_a_run_of_its_own_and_a_grown_history_is_not(tmp_path):
    def logged_call(messages, *answer):
        response = {"type": "message", "role": "assistant", "content": list(answer), "stop_reason": "end_turn"}
        return {"request": {"messages": messages}, "response": response}

    first = [{"role": "user", "content": "Weather?"}]
    marked = [{"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": {}}]}]
    rest = [{"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}]
    done = {"type": "text", "text": "12."}
    lines = [logged_call(first, USE), logged_call([*marked, *rest], done), logged_call(first, done)]
    runs = read_lines(tmp_path, *lines)
    assert [kinds(run) for run in runs] == [["context", "act", "observation", "act"], ["context", "act"]]
    assert [run.outcome.ending for run in runs] == ["finished", "finished"]


def line(number, kind, content, parent=None, session="s", **fields):
    message = {"role": kind, "content": content}
    if "id" in fields:
        message["id"] = fields.pop("id")
    return {
        "parentUuid": parent,
        "isSidechain": False,
        "sessionId": session,
        "type": kind,
        "uuid": f"u{number}",
        "message": message,
        **fields,
    }


def text(words):
    return [{"type": "text", "text": words}]


def test_of_a_forked_session_the_longest_branch_is_read(tmp_path):
    lines = [
        line(0, "user", "old words"),
        line(1, "assistant", text("old answer"), "u0", id="m1"),
        line(2, "user", "new words"),
        line(3, "assistant", text("I look."), "u2", id="m2"),
        line(4, "assistant", [USE], "u3", id="m2"),
        line(5, "assistant", [{**USE, "id": "t2"}], "u4", id="m2"),
        line(6, "user", [RESULT], "u4"),
        line(7, "user", [{**RESULT, "tool_use_id": "t2"}], "u5"),
        line(8, "assistant", text("Done."), "u7", id="m3"),
    ]
    (run,) = read_lines(tmp_path, *lines)
    assert kinds(run) == ["context", "reason", "act", "act", "observation", "observation", "act"]
    assert run.task == "new words"
    assert [s.message for s in run.spans] == [0, 1, 1, 1, 2, 3, 4]
    assert bytes(run.extra["n_lines_off_branch"]) == b"2"


def test_the_longest_branch_of_no_lines_is_empty():
    assert longest_branch([], []) == []
    assert longest_branch([None, None], [1, 1]) == [1]


def test_side_chains_are_runs_of_their_own_with_the_session_as_parent(tmp_path):
    lines = [
        line(0, "user", "Do it."),
        line(1, "assistant", [USE], "u0", id="m1"),
        line(2, "user", "Sub task", None, isSidechain=True),
        line(3, "assistant", text("Sub answer"), "u2", isSidechain=True, id="m2"),
        line(4, "user", "Named", None, isSidechain=True, agentId="a7"),
        line(5, "assistant", text("Named answer"), "u4", isSidechain=True, agentId="a7", id="m3"),
        line(6, "user", [RESULT], "u1"),
        line(7, "user", "Other", session="s2"),
        line(8, "assistant", text("Yes"), "u7", session="s2", id="m4"),
        {"type": "summary", "summary": "A title", "leafUuid": "u6"},
        {"type": "file-history-snapshot", "messageId": "x", "snapshot": {}},
        {"type": "queue-operation", "operation": "dequeue", "sessionId": "s"},
    ]
    runs = read_lines(tmp_path, *lines)
    assert [(run.id, run.parent_id) for run in runs] == [("s", None), ("s/u2", "s"), ("s/a7", "s"), ("s2", None)]
    assert [len(run.spans) for run in runs] == [3, 2, 2, 2]
    assert json.loads(bytes(runs[0].extra["summaries"]))[0]["summary"] == "A title"


def test_a_line_that_stands_twice_is_read_once(tmp_path):
    first = line(0, "user", "Do it.")
    (run,) = read_lines(
        tmp_path, first, first, line(1, "assistant", [USE], "u0", id="m"), line(2, "user", [RESULT], "u1")
    )
    assert kinds(run) == ["context", "act", "observation"]


def test_what_the_harness_puts_into_a_session_is_context(tmp_path):
    lines = [
        line(0, "user", "<command-name>/init</command-name>"),
        line(1, "user", "Do it.", "u0"),
        line(2, "assistant", [USE], "u1", id="m1"),
        line(3, "user", [RESULT], "u2"),
        line(4, "user", "Caveat", "u3", isMeta=True),
        line(5, "user", "<local-command-stdout>x</local-command-stdout>", "u4"),
        {**line(6, "assistant", text("API Error: 500"), "u5", id="m2"), "isApiErrorMessage": True},
        {
            "type": "system",
            "subtype": "compact_boundary",
            "content": "Conversation compacted",
            "isSidechain": False,
            "sessionId": "s",
            "uuid": "u7",
            "parentUuid": None,
            "logicalParentUuid": "u6",
        },
        line(8, "user", "This session is continued.", "u7", isCompactSummary=True),
        line(9, "assistant", text("On it."), "u8", id="m3"),
        line(10, "user", "[Request interrupted by user]", "u9"),
    ]
    (run,) = read_lines(tmp_path, *lines)
    assert run.task == "Do it."
    assert [kind for kind, _ in spoken(run)] == [
        "context",
        "context",
        "act",
        "observation",
        "context",
        "context",
        "context",
        "context",
        "act",
        "observation",
    ]
    assert all(s.author != "agent" for s in run.spans if s.kind == "context")
    assert run.outcome.ending == "aborted"


def test_a_tool_result_without_a_line_before_it_is_still_read(tmp_path):
    lines = [
        line(0, "user", "Do it.", "gone"),
        line(1, "assistant", [USE], "u0", id="m"),
        line(2, "user", [RESULT], "x"),
    ]
    (run,) = read_lines(tmp_path, *lines)
    assert kinds(run) == ["context", "act", "observation"]


def test_hosted_tools_have_call_and_result_in_one_item(tmp_path):
    items = [
        {"role": "user", "content": "Find."},
        {"type": "mcp_call", "id": "i1", "name": "look", "arguments": "{}", "output": "seen", "server_label": "s"},
        {"type": "web_search_call", "id": "i2", "status": "completed", "action": {"query": "q"}},
        {"type": "code_interpreter_call", "id": "i3", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        {"type": "custom_tool_call", "call_id": "c4", "id": "i4", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c4", "output": [{"type": "input_text", "text": "ok"}]},
        {"type": "item_reference", "id": "i9"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "A", "annotations": []}, {"type": "refusal", "refusal": "No."}],
        },
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "More."}]},
    ]
    (run,) = read_lines(tmp_path, {"input": items, "instructions": "Help."})
    assert kinds(run) == [
        "context",
        "context",
        *["act", "observation"] * 1,
        "act",
        "act",
        "observation",
        "act",
        "observation",
        "act",
        "act",
        "context",
        "observation",
    ]
    found = rebuilt(run)
    assert found[2:5] == [
        ("call", "i1", "look", "{}"),
        ("result", "i1", "seen"),
        ("call", "i2", "web_search", '{"query": "q"}'),
    ]
    assert found[7] == ("call", "c4", "patch", "*** Begin")
    assert [s.syntax for s in run.spans if s.name] == ["json", "json", "code", "text"]
    assert bytes(run.spans[-2].extra["role"]) == b'"developer"'


def test_encrypted_reasoning_is_kept_and_no_error(tmp_path):
    items = [
        {"role": "user", "content": "Sum."},
        {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "reasoning", "id": "r2", "summary": [{"type": "summary_text", "text": "Add."}]},
        {"type": "function_call", "id": "f1", "call_id": "c1", "name": "add", "arguments": '{"a":1'},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
    ]
    for value in ({"input": items[:1], "output": items[1:], "status": "completed"}, items):
        (run,) = read(tmp_path, json.dumps(value))
        assert kinds(run) == ["context", "reason", "act", "observation"]
        assert bytes(run.spans[1].opaque[0]) == b'"gAAA"'
        assert rebuilt(run)[2] == ("call", "c1", "add", '{"a":1')
        assert run.spans[-1].step == 0


def test_a_response_that_names_the_one_before_continues_it(tmp_path):
    def say(words):
        return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": words}]}

    calls = [
        {"request": {"input": "Hi"}, "response": {"id": "r1", "output": [say("Hello")], "status": "completed"}},
        {"request": {"input": "Go", "previous_response_id": "r1"}, "response": {"id": "r2", "output": [say("Gone")]}},
    ]
    (run,) = read_lines(tmp_path, *calls)
    assert rebuilt(run) == [("user", "Hi"), ("says", "Hello"), ("user", "Go"), ("says", "Gone")]


def test_an_old_codex_rollout_has_bare_items(tmp_path):
    def said(role, words):
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": "message", "role": role, "content": [{"type": kind, "text": words}]}

    lines = [
        {"id": "c1", "timestamp": "t", "instructions": "Be brief."},
        {"record_type": "state"},
        said("user", "<environment_context>x</environment_context>"),
        said("user", "Fix it."),
        {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "k"},
        {"type": "function_call_output", "call_id": "k", "output": '{"output":"ok"}'},
        said("user", "<turn_aborted>"),
        said("assistant", "Fixed."),
    ]
    (run,) = read_lines(tmp_path, *lines)
    assert (run.id, run.task) == ("c1", "Fix it.")
    assert kinds(run) == ["context"] * 3 + ["act", "observation", "context", "act"]


def test_a_compacted_codex_history_is_new_context_and_events_are_left_out(tmp_path):
    def item(payload, kind="response_item"):
        return {"timestamp": "t", "type": kind, "payload": payload}

    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]}
    lines = [
        item({"id": "c2", "base_instructions": {"text": "Help."}, "forked_from_id": "c1"}, "session_meta"),
        item({"id": "c1", "base_instructions": {"text": "Old."}}, "session_meta"),
        item(said),
        item({"type": "agent_message", "message": "Done."}, "event_msg"),
        item({"message": "Summary.", "replacement_history": [said]}, "compacted"),
        item({"message": "", "replacement_history": [said]}, "compacted"),
        item({"type": "task_complete"}, "event_msg"),
    ]
    (run,) = read_lines(tmp_path, *lines)
    assert spoken(run) == [("context", "Help."), ("act", "Done."), ("context", "Summary.")]
    assert (run.id, run.parent_id, run.outcome.ending) == ("c2", "c1", "finished")
    assert [json.loads(bytes(s.opaque[0])) for s in run.spans if s.opaque] == [said, said]


def pi(number, role, content, parent=None, **fields):
    message = {"role": role, "content": content, **fields}
    return {"type": "message", "id": str(number), "parentId": parent, "timestamp": "t", "message": message}


def test_a_pi_session_that_is_a_tree_is_read_along_its_longest_branch(tmp_path):
    call = {"type": "toolCall", "id": "k", "name": "bash", "arguments": {"command": "ls"}}
    lines = [
        {"type": "session", "version": 3, "id": "p", "cwd": "/", "timestamp": "t"},
        pi(1, "user", "Go."),
        pi(2, "assistant", [], "1", stopReason="aborted", errorMessage="e"),
        pi(3, "assistant", [{"type": "thinking", "thinking": "Hm.", "thinkingSignature": "s"}, call], "1"),
        pi(4, "toolResult", text("a.py"), "3", toolCallId="k", toolName="bash", isError=False),
        {"type": "compaction", "id": "5", "parentId": "4", "timestamp": "t", "summary": "So far."},
        pi(6, "assistant", text("Done."), "5", stopReason="stop"),
        {"type": "session", "id": "q", "cwd": "/", "timestamp": "t"},
        pi(1, "user", "Again."),
        pi(2, "assistant", [], "1", stopReason="aborted"),
    ]
    (first,) = read_lines(tmp_path, *lines[:7])
    assert spoken(first) == [
        ("context", "Go."),
        ("reason", "Hm."),
        ("act", '{"command": "ls"}'),
        ("observation", "a.py"),
        ("context", "So far."),
        ("act", "Done."),
    ]
    assert (first.id, first.outcome.ending, first.source.format_version) == ("p", "finished", "3")
    both = read_lines(tmp_path, *lines)
    assert [(run.id, run.outcome.ending) for run in both] == [("p", "finished"), ("q", "aborted")]
    assert [s.kind for s in both[1].spans if s.stop == s.start] == ["reason"]


def lc(kind, content, **fields):
    return {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", kind],
        "kwargs": {"content": content, **fields},
    }


def run_tree():
    made = {"id": "k", "name": "add", "args": {"a": 1}, "type": "tool_call"}
    written = {"tool_calls": [{"id": "k", "function": {"name": "add", "arguments": '{"a":1}'}}]}
    ask = [lc("SystemMessage", "Help."), lc("HumanMessage", "1+1?")]
    answer = lc("AIMessage", "Adding.", tool_calls=[made], additional_kwargs=written)
    result = lc("ToolMessage", "2", tool_call_id="k")
    last = lc("AIMessage", "", tool_calls=[{**made, "id": "k2"}])
    late = lc("ToolMessage", "3", tool_call_id="k2", status="error")

    def run(number, kind, inputs, outputs, **fields):
        order = (
            f"2024010{number}T000000Zroot" if number == 0 else f"20240100T000000Zroot.2024010{number}T000000Z{number}"
        )
        base = {"id": str(number) if number else "root", "trace_id": "root", "dotted_order": order, "run_type": kind}
        return {**base, "inputs": inputs, "outputs": outputs, **fields}

    children = [
        run(1, "llm", {"messages": [ask]}, {"generations": [[{"text": "", "message": answer}]]}),
        run(2, "tool", {}, {"output": result}),
        run(3, "llm", {"messages": [[*ask, answer, result]]}, {"generations": [[{"message": last}]]}),
        run(4, "tool", {}, {"output": late}),
    ]
    return run(0, "chain", {}, {}), children


def test_of_a_langsmith_tree_the_last_model_call_is_the_run(tmp_path):
    root, children = run_tree()
    flat = read_lines(tmp_path, root, *children)
    nested = read_lines(tmp_path, {**root, "child_runs": children})
    posted = read_lines(tmp_path, {"post": [root, *({**c, "outputs": {}} for c in children)], "patch": children})
    for runs in (flat, nested, posted):
        (run,) = runs
        assert rebuilt(run) == [
            ("system", "Help."),
            ("user", "1+1?"),
            ("thought", "Adding."),
            ("call", "k", "add", '{"a":1}'),
            ("result", "k", "2"),
            ("call", "k2", "add", '{"a": 1}'),
            ("result", "k2", "3"),
        ]
        assert run.spans[-1].error is True
    assert flat[0].id.endswith("#root")


def test_a_trace_without_a_model_call_is_named_and_not_read(tmp_path):
    root, _ = run_tree()
    (tmp_path / "log").write_text(json.dumps(root))
    assert scan_logs(str(tmp_path / "log")).collect()["detail"].to_list() == ["no model was called in this trace"]


def test_what_the_client_sent_is_read_where_the_stream_does_not_repeat_it(tmp_path):
    sent = [["s", {"events": [{"type": "user.message", "content": text("Hi")}]}]]
    lines = [
        ["client.beta.sessions.create", {"id": "s", "agent": {"system": "Help."}}],
        ["client.beta.sessions.events.send", sent[0]],
    ]
    (tmp_path / "log").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    frame = segment(scan_logs(str(tmp_path / "log"))).collect()
    assert frame["text"].to_list() == ["Help.\nHi\n"]


# ---- mutated logs


def mutated(value, rng):
    """The value with one random part replaced or left out."""
    others = [None, True, 0, -1.5, "", "x", [], {}, [1], {"type": "text"}, [None], [[]], [{}], {"a": {"b": 1}}]
    paths = []

    def walk(node, path):
        paths.append(path)
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in list(children):
            walk(child, (*path, key))

    walk(value, ())
    path = rng.choice(paths[1:] or paths)
    copy = json.loads(json.dumps(value))
    node = copy
    for key in path[:-1]:
        node = node[key]
    if not path:
        return rng.choice(others)
    if rng.random() < 0.3:
        del node[path[-1]]
    else:
        node[path[-1]] = rng.choice(others)
    return copy


@pytest.mark.parametrize("format", sorted(OURS))
def test_a_damaged_log_is_read_or_refused_and_never_a_crash(format, shared_data, tmp_path):
    name = next(n for n, f in FILES.items() if f == format and "redacted" not in n)
    path = shared_data / "formats" / name
    whole = values_in(path) if not name.endswith(".gz") else raw_records(shared_data, name)
    values = [v for v in whole[:60] if len(json.dumps(v)) < 40_000]
    rng = random.Random(7)
    known = next(v for v in values if next(f for f in FORMATS if f.name == format).recognise(v))
    for number in range(30):
        damaged = [mutated(v, rng) if rng.random() < 0.4 else v for v in rng.sample(values, min(8, len(values)))]
        log = tmp_path / f"{number}.jsonl"
        log.write_text("".join(json.dumps(v) + "\n" for v in (known, *damaged)))
        for row in segment(scan_logs(str(log), on_error="skip")).collect().iter_rows(named=True):
            edges = [0, *(span["stop"] for span in row["spans"])]
            assert [*(span["start"] for span in row["spans"]), len(row["text"])] == edges
