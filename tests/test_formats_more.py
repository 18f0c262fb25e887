"""Gemini, Qwen Code, ToolBench, InterCode, WebVoyager, CrewAI, smolagents, OpenTelemetry."""

import copy
import gzip
import json
import random
from collections import Counter

import msgspec
import pytest

from sadstream.formats import (
    crewai,
    gemini,
    gemini_cli,
    intercode,
    openclaw,
    otel,
    qwen_code,
    smolagents,
    toolbench,
    webvoyager,
)
from sadstream.formats.crewai import cut_turn
from sadstream.frames import row_trajectory
from sadstream.logs import scan_logs
from sadstream.progress import silent
from sadstream.segment import segment
from sadstream.spans import SegmentConfig, segment_logs

FOLDERS = {
    "gemini": {"gemini", "gemini-calls"},
    "qwen-code": {"qwen-code"},
    "toolbench": {"toolbench"},
    "intercode": {"intercode"},
    "webvoyager": {"webvoyager"},
    "crewai-react": {"crewai"},
    "otel-genai": {"otel"},
    "otel-openclaw": {"openclaw"},
}
MODULES = (gemini, gemini_cli, qwen_code, toolbench, intercode, otel, openclaw, webvoyager, crewai, smolagents)
OURS = set().union(*FOLDERS.values()) | {"smolagents", "otel-lines"}


def load(path):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()] if ".jsonl" in path.name else json.loads(data)


def files(shared_data, folder):
    return sorted((shared_data / "formats" / folder).iterdir())


def runs(path):
    """Trajectories of a file, refused ones too."""
    frame = segment(scan_logs(str(path))).collect()
    return [row_trajectory({k: v for k, v in row.items() if k not in ("refused", "detail")}) for row in rows(frame)]


def rows(frame):
    return frame.iter_rows(named=True)


def read(tmp_path, *records):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return runs(path)


def kinds(run):
    return [s.kind for s in run.spans if s.stop > s.start]


def bodies(run):
    return [run.text[s.body_start : s.body_stop] for s in run.spans if s.stop > s.start]


def logged(run, span):
    """A span's text as the log holds it."""
    return run.text[span.start if span.logged_start is None else span.logged_start : _stop(span)]


def _stop(span):
    return span.stop if span.logged_stop is None else span.logged_stop


def arguments(run, span):
    return run.text[span.arguments_start : span.arguments_stop]


def n_spans(found):
    return {kind: found["n_spans"][kind] + found["n_rejected_spans"][kind] for kind in found["n_spans"]}


def messages(run):
    """Spans by message."""
    found = {}
    for span in run.spans:
        found.setdefault(span.message, []).append(span)
    return found


# ---- counts and recognition


@pytest.fixture(scope="module")
def counted(shared_data, tmp_path_factory):
    """Span counts, trajectories and format by file; a file that holds no run has none to segment."""
    made = {}
    for folder in FOLDERS:
        for path in files(shared_data, folder):
            frame = segment(scan_logs(str(path))).collect()
            spans = Counter(s["kind"] for row in rows(frame) for s in row["spans"] if s["stop"] > s["start"])
            formats = set(frame["source"].struct.field("format"))
            assert frame["refused"].null_count() == frame.height, path
            for row in rows(frame):
                edges = [0, *(s["stop"] for s in row["spans"])]
                assert [*(s["start"] for s in row["spans"]), len(row["text"])] == edges
            made[f"{folder}/{path.name}"] = (formats, frame.height, spans)
    return made


@pytest.fixture(scope="module")
def expected(shared_data):
    return json.loads((shared_data / "counts.json").read_text())


def test_every_file_is_read_as_its_format(counted):
    for name, (formats, _, _) in counted.items():
        assert formats <= FOLDERS[name.split("/")[0]], name


def test_no_other_log_is_taken_for_one_of_these(shared_data):
    for path in (shared_data / "formats").rglob("*"):
        if path.is_file() and path.parent.name not in FOLDERS and ".json" in path.name:
            data = load(path)
            for record in [data, *data] if isinstance(data, list) else [data, *data.values()]:
                for module in MODULES:
                    assert not any(f.recognise(record) for f in module.FORMATS), path


def test_segmenting_counts_what_scanning_finds(shared_data, counted, tmp_path):
    path = shared_data / "formats" / "gemini" / "crewai_conversations.jsonl"
    found = segment_logs(SegmentConfig(logs=(str(path),), out=str(tmp_path / "out")), silent)
    assert found["n_trajectories"] == 5
    # A part that renders to nothing would stand only in `spans`; this file has none.
    assert n_spans(found) == dict(counted["gemini/crewai_conversations.jsonl"][2])


def test_gemini_counts(counted, expected, shared_data):
    for path in files(shared_data, "gemini"):
        name = f"gemini/{path.name}"
        want = expected[f"formats/{name}"]
        if "trajectories" not in want:
            continue
        _, n_runs, spans = counted[name]
        assert n_runs == want["trajectories"]
        # Text of a turn that calls is a thought: the counts have one class for both.
        assert spans["reason"] + spans["act"] == want.get("thoughts", 0) + want["model_text_parts"] + want["tool_calls"]
        replies = media = 0
        for record in load(path):
            begun = False
            for content in record["contents"]:
                begun = begun or content["role"] == "model"
                if content["role"] == "model" or not begun:
                    continue
                texts = [p for p in content["parts"] if "text" in p]
                results = [p for p in content["parts"] if "functionResponse" in p]
                replies += sum(not p["text"].startswith("<system>") for p in texts)
                # A file that nothing stands beside has a placeholder, which the counts don't know.
                media += sum(not texts and not results for p in content["parts"])
        assert spans["observation"] == want["tool_results"] + replies + media
    pairs = expected["formats/gemini/pydantic_ai_request_response_pairs.jsonl"]
    # Two of the four recordings begin with the same words of the user and part after the first reply.
    assert counted["gemini/pydantic_ai_request_response_pairs.jsonl"][1] == pairs["distinct_first_messages"] + 1


def test_toolbench_counts(counted, expected, shared_data):
    for path in files(shared_data, "toolbench"):
        want = expected[f"formats/toolbench/{path.name}"]
        _, n_runs, spans = counted[f"toolbench/{path.name}"]
        assert n_runs == want["trajectories"]
        # A failed search has no path: its record is refused as no run.
        assert spans["reason"] == want.get("longest_thoughts", 0)
        assert spans["act"] == want.get("longest_actions", 0)
        assert spans["observation"] == want.get("longest_observations", 0)


def test_intercode_counts(counted, expected, shared_data):
    for path in files(shared_data, "intercode"):
        want = expected[f"formats/intercode/{path.name}"]
        _, n_runs, spans = counted[f"intercode/{path.name}"]
        # `steps` is the plan that the agent wrote and carries out; formats.md, section 1, has plans as reason, its
        # counts only `thoughts`.
        planned = want["actions"] if "plan_solve" in path.name else 0
        assert n_runs == want["trajectories"]
        assert spans["reason"] == want["thoughts"] + planned
        assert spans["act"] == want["actions"]
        assert spans["observation"] == want["observations"]
        assert sum(run.outcome.success for run in runs(path)) == want["solved"]


def test_webvoyager_counts(counted, expected, shared_data):
    for path in files(shared_data, "webvoyager"):
        want = expected[f"formats/webvoyager/{path.name}"]
        _, n_runs, spans = counted[f"webvoyager/{path.name}"]
        assert (n_runs, spans["reason"], spans["act"]) == (1, want["thoughts"], want["actions"])
        # The counts have every user turn; the first page stands in the prompt, before the agent's first token.
        assert spans["observation"] == want["observations"] - 1
        (run,) = runs(path)
        assert sum(len(s.opaque) for s in run.spans) == want["images"]


def test_crewai_counts(counted, expected):
    want = expected["formats/crewai-react/crewai_react_text.jsonl"]
    _, n_runs, spans = counted["crewai-react/crewai_react_text.jsonl"]
    assert n_runs == want["trajectories"]
    # The counts take the labels of the prompt that the framework repeated after an observation (record 0): two
    # thoughts, an action, an observation, a final answer. Two thoughts without label they don't take.
    assert spans["reason"] == want["thoughts"] - 2 + 2
    assert spans["act"] == want["actions"] + want["final_answers"] - 2
    assert spans["observation"] == want["observations"] - 1


def test_otel_counts(counted, expected, shared_data):
    for path in files(shared_data, "otel-genai"):
        want = expected[f"formats/otel-genai/{path.name}"]
        _, n_runs, spans = counted[f"otel-genai/{path.name}"]
        # Each model call of these says one thing: a tool call or words.
        assert (n_runs, spans["reason"]) == (want["trajectories"], 0)
        assert spans["act"] == want["spans_call_llm"]
        assert spans["observation"] == want["spans_execute_tool"]


def test_openclaw_and_qwen_code_counts(counted, shared_data):
    events = Counter(e["type"] for e in load(files(shared_data, "otel-openclaw")[0]))
    _, n_runs, spans = counted["otel-openclaw/sample-telemetry.jsonl"]
    assert n_runs == 4
    assert spans["act"] == events["tool.start"] + events["message.sending"]
    # Two messages of the user's after the first, three of sub-agents that are done, one of a clock.
    assert spans["observation"] == events["tool.end"] + 6
    assert counted["qwen-code/qwen_code.jsonl"][2] == {"context": 1, "act": 2, "observation": 1}


# ---- round trips: what the log says, from the spans alone


def raw_json(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def same_json(text, value):
    return json.loads(text) == value


def gemini_parts(run, spans):
    """Parts of a message, from its spans."""
    parts = []
    for span in spans:
        opaque = [json.loads(bytes(o)) for o in span.opaque]
        extra = {name: json.loads(bytes(raw)) for name, raw in span.extra.items()}
        if span.stop == span.start:
            parts += [{**part, **extra} for part in opaque if part]
        elif span.kind == "act" and span.name is not None:
            made = {"name": span.name, "args": json.loads(arguments(run, span))}
            ids = {} if "made-id" in span.flags else {"id": span.call_id}
            parts.append({**extra, "functionCall": {**made, **ids}, **(opaque[0] if opaque else {})})
        elif span.kind == "observation" and span.name is not None:
            made = {"name": span.name, "response": json.loads(logged(run, span))}
            ids = {} if "made-id" in span.flags else {"id": span.call_id}
            media = {"parts": opaque} if opaque else {}
            parts.append({**extra, "functionResponse": {**made, **ids, **media}})
        elif opaque and not any("ignature" in name for name in opaque[0]):
            parts += opaque
        else:
            marks = {"thought": True} if span.hidden else {}
            parts.append({**extra, "text": logged(run, span), **marks, **(opaque[0] if opaque else {})})
    return parts


ROLES = {"agent": "model", "user": "user", "environment": "user", "system": "system"}


def test_gemini_round_trip(shared_data):
    for path in files(shared_data, "gemini"):
        if "pairs" in path.name:
            continue
        for record, run in zip(load(path), runs(path), strict=True):
            back = messages(run)
            contents = [
                {"role": ROLES[spans[0].author], "parts": gemini_parts(run, spans)} for _, spans in sorted(back.items())
            ]
            if "systemInstruction" in record:
                assert contents.pop(0)["parts"] == record["systemInstruction"]["parts"]
            assert contents == record["contents"]
            assert [json.loads(bytes(tool)) for tool in run.tools] == record.get("tools", [])
            left = {name: json.loads(bytes(raw)) for name, raw in run.extra.items()}
            assert left == {k: v for k, v in record.items() if k not in ("contents", "systemInstruction", "tools")}


def test_gemini_arguments_are_the_logged_bytes(tmp_path):
    raw = '{"contents": [{"parts": [{"text": "q"}], "role": "user"}, {"role": "model", "parts": [{"functionCall": '
    raw += '{"name": "f", "args": {"a":  1.50, "b": "\\u00e9"}}}]}]}'
    (tmp_path / "log.json").write_text(raw)
    (run,) = runs(tmp_path / "log.json")
    assert arguments(run, run.spans[-1]) == '{"a":  1.50, "b": "\\u00e9"}'


def test_gemini_calls_round_trip(shared_data):
    path = shared_data / "formats" / "gemini" / "pydantic_ai_request_response_pairs.jsonl"
    records = load(path)
    for run in runs(path):
        record = records[int(run.source.record)]
        contents = [*record["request"]["contents"], record["response"]["candidates"][0]["content"]]
        back = [gemini_parts(run, spans) for _, spans in sorted(messages(run).items())]
        if "systemInstruction" in record["request"]:
            assert back.pop(0) == record["request"]["systemInstruction"]["parts"]
        wanted = [content["parts"] for content in contents]
        assert [p for p in back if p != [{"text": ""}]] == [p for p in wanted if p != [{"text": ""}]]


def test_qwen_code_round_trip(shared_data):
    (path,) = files(shared_data, "qwen-code")
    lines = load(path)
    (run,) = runs(path)
    assert run.id == lines[0]["sessionId"]
    assert json.loads(bytes(run.extra["events"])) == [line for line in lines if "message" not in line]
    said = [line for line in lines if "message" in line]
    for line, (_, spans) in zip(said, messages(run).items(), strict=True):
        assert gemini_parts(run, spans)[0].items() >= line["message"]["parts"][0].items()
        extra = {name: json.loads(bytes(raw)) for name, raw in spans[0].extra.items()}
        assert extra == {k: v for k, v in line.items() if k != "message"}


def test_toolbench_round_trip(shared_data):
    for path in files(shared_data, "toolbench"):
        record = load(path)
        (run,) = runs(path)
        answer = record["answer_generation"]
        assert [json.loads(bytes(tool)) for tool in run.tools] == answer["function"]
        assert (run.task, run.outcome.success) == (answer["query"], record["win"])
        paths = answer.get("train_messages", [])
        if not paths:
            assert kinds(run) == ["context"]
            continue
        back = []
        for _, spans in sorted(messages(run).items()):
            message = {"role": {"agent": "assistant", "environment": "function"}.get(spans[0].author, spans[0].author)}
            for span in spans:
                message |= {name: json.loads(bytes(raw)) for name, raw in span.extra.items()}
                if span.kind == "act":
                    message["function_call"] = {"name": span.name, "arguments": arguments(run, span)}
                else:
                    message["content"] = logged(run, span)
                    message |= {"name": span.name} if span.name else {}
            back.append(message)
        # An absent `content` and one that is null are the same.
        longest = [{k: v for k, v in m.items() if v is not None} for m in max(paths, key=len)]
        assert back == longest


def test_intercode_round_trip(shared_data):
    for path in files(shared_data, "intercode"):
        data = load(path)
        for record, run in zip(data.get("logs", data).values(), runs(path), strict=True):
            history = {name: [] for name in record["turn_history"]}
            for span in run.spans:
                name = {"act": "actions", "observation": "observations"}.get(span.kind)
                name = name or ("steps" if "steps" in history else "thoughts" if span.kind == "reason" else None)
                if span.kind == "context":
                    continue
                history[name].append(logged(run, span))
                for key, raw in span.extra.items():
                    history[key].append(json.loads(bytes(raw)))
            assert history == record["turn_history"]
            assert run.task == record["query"]
            assert run.outcome.reward == record["summary"]["max_reward"]


def test_webvoyager_and_crewai_round_trip(shared_data):
    for path in [*files(shared_data, "webvoyager"), *files(shared_data, "crewai-react")]:
        data = load(path)
        logs = [data] if "webvoyager" in path.parent.name else [record["messages"] for record in data]
        for log, run in zip(logs, runs(path), strict=True):
            back = messages(run)
            for number, message in enumerate(log):
                spans = back[number]
                text = "".join(logged(run, s) for s in spans)
                content = message["content"]
                blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
                assert text == "".join(block.get("text", "") for block in blocks)
                images = [json.loads(bytes(o)) for s in spans for o in s.opaque]
                assert images == [block for block in blocks if "text" not in block]
                extra = {name: json.loads(bytes(raw)) for name, raw in spans[0].extra.items()}
                assert extra == {k: v for k, v in message.items() if k not in ("role", "content")}


def test_otel_round_trip(shared_data):
    for path in files(shared_data, "otel-genai"):
        record = load(path)
        (run,) = runs(path)
        speaking = [s for s in record["spans"] if s["attributes"]["gen_ai.operation.name"] != "invoke_agent"]
        said, seen, prompts = [], [], []
        for span in sorted(speaking, key=lambda s: s["start_time"]):
            attributes = span["attributes"]
            if "gen_ai.tool.name" in attributes:
                seen.append((attributes["gen_ai.tool.name"], attributes["gen_ai.output"]))
                continue
            prompts += json.loads(attributes.get("gen_ai.input.messages", "[]"))
            output = attributes["gen_ai.output"]
            try:
                tools = json.loads(output)
            except ValueError:
                tools = None
            if isinstance(tools, list):
                said += [(t["tool.name"], t["tool.args"]) for t in tools]
            else:
                said.append((None, output))
        acts = [s for s in run.spans if s.kind == "act"]
        for span, (name, value) in zip(acts, said, strict=True):
            text = logged(run, span) if name is None else arguments(run, span)
            assert span.name == name
            assert text == value if isinstance(value, str) else same_json(text, value)
        results = [s for s in run.spans if s.kind == "observation"]
        assert [(s.name, logged(run, s)) for s in results] == seen
        # Each result names the call it answers, by the tool's span where the model's words have no id.
        calls = [s.call_id for s in acts if s.name]
        assert [s.call_id for s in results] == calls[: len(results)]
        contexts = [(s.author, logged(run, s)) for s in run.spans if s.kind == "context"]
        assert contexts == [(m["role"], m["content"]) for m in prompts]
        assert run.outcome.answer == raw_json(record["final_output"])


def test_openclaw_round_trip(shared_data):
    (path,) = files(shared_data, "otel-openclaw")
    events = load(path)
    sessions = {}
    for event in events:
        key = event.get("sessionKey", "")
        sessions.setdefault(key if ":subagent:" in key else "", []).append(event)
    found = runs(path)
    assert len({run.id for run in found}) == 4
    assert [run.parent_id is None for run in found] == [True, False, False, False]
    for log, run in zip(sessions.values(), found, strict=True):
        for number, spans in messages(run).items():
            event, (span,) = log[number], spans
            fields = {name: json.loads(bytes(raw)) for name, raw in span.extra.items()}
            if span.opaque:
                fields = json.loads(bytes(span.opaque[0]))
            elif event["type"].startswith("tool"):
                fields["toolName"] = span.name
                if event["type"] == "tool.start":
                    fields["params"] = json.loads(arguments(run, span))
            else:
                fields["prompt" if event["type"] == "agent.start" else "content"] = logged(run, span)
            assert fields == event
        calls = [s.call_id for s in run.spans if s.kind == "act" and s.name]
        assert sorted(calls) == sorted(s.call_id for s in run.spans if s.kind == "observation" and s.name)


# ---- traps, one small record each


def gemini_log(*contents, **more):
    return {"contents": [{"role": role, "parts": list(parts)} for role, *parts in contents], **more}


def test_gemini_results_are_matched_by_name_and_order(tmp_path):
    calls = [{"functionCall": {"name": n, "args": {"i": i}}} for i, n in enumerate("fgf")]
    results = [{"functionResponse": {"name": n, "response": {"r": i}}} for i, n in enumerate("gff")]
    (run,) = read(tmp_path, gemini_log(("user", {"text": "q"}), ("model", *calls), ("user", *results)))
    ids = [s.call_id for s in run.spans if s.kind == "act"]
    assert ids == ["#0", "#1", "#2"]
    assert [s.call_id for s in run.spans if s.kind == "observation"] == ["#1", "#0", "#2"]


def test_gemini_thoughts_and_signatures(tmp_path):
    log = gemini_log(
        ("user", {"text": "q"}),
        (
            "model",
            {"text": "hm", "thought": True},
            {"text": "", "thoughtSignature": "s1"},
            {"text": "I look."},
            {"functionCall": {"name": "f", "args": {}, "id": "c"}, "thoughtSignature": "s2"},
        ),
        ("user", {"functionResponse": {"name": "f", "id": "c", "response": {"error": "no"}}}),
        ("user", {"text": "<system-reminder>x</system-reminder>"}, {"text": "go on"}),
        ("model", {"text": "done"}),
    )
    (run,) = read(tmp_path, log)
    assert kinds(run) == ["context", "reason", "reason", "act", "observation", "context", "observation", "act"]
    assert [len(s.opaque) for s in run.spans] == [0, 0, 1, 0, 1, 0, 0, 0, 0]
    assert run.spans[1].hidden
    assert run.spans[5].error is True
    assert [s.author for s in run.spans[-3:]] == ["user", "user", "agent"]


def test_gemini_code_and_media(tmp_path):
    image = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    log = gemini_log(
        ("user", {"text": "see"}, image),
        ("model", {"executableCode": {"language": "PYTHON", "code": "print(1)"}}),
        ("model", {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "1"}}),
        ("user", image),
        ("model", {"text": "ok"}),
        systemInstruction="Be brief.",
    )
    (run,) = read(tmp_path, log)
    assert bodies(run)[0] == "Be brief."
    assert "[image: image/png]" in run.text
    assert run.text.count("image/png") == 1
    assert [s.kind for s in run.spans] == [
        "context",
        "context",
        "context",
        "act",
        "observation",
        "observation",
        "act",
    ]
    assert (run.spans[3].syntax, arguments(run, run.spans[3]), run.spans[4].error) == ("code", "print(1)", True)


def test_gemini_calls_keep_the_longest_path_with_its_reply(tmp_path):
    def logged_call(*contents, reply):
        request = gemini_log(*contents)
        content = {"role": "model", "parts": [reply]}
        return {"url": "u", "request": request, "response": {"candidates": [{"content": content}], "n": 1}}

    first = {"functionCall": {"name": "f", "args": {}}}
    again = {"functionCall": {"name": "f", "args": {}, "id": "given later"}}
    result = {"functionResponse": {"name": "f", "id": "given later", "response": {}}}
    (run,) = read(
        tmp_path,
        logged_call(("user", {"text": "q"}), reply=first),
        logged_call(("user", {"text": "q"}), ("model", again), ("user", result), reply={"text": "a"}),
    )
    assert kinds(run) == ["context", "act", "observation", "act"]
    assert run.source.record == "1"
    assert json.loads(bytes(run.extra["response"])) == {"candidates": [{}], "n": 1}


def qwen(uuid, parent, role, *parts, **more):
    message = {"role": role, "parts": list(parts)}
    return {"uuid": uuid, "parentUuid": parent, "sessionId": "s", "type": "x", "message": message, **more}


def test_qwen_code_takes_the_longest_branch_and_keeps_sessions_apart(tmp_path):
    lines = [
        qwen("1", None, "user", {"text": "q"}),
        qwen("2", "1", "model", {"text": "edited away"}),
        qwen("3", "1", "model", {"functionCall": {"name": "f", "args": {}, "id": "c"}}),
        qwen("4", None, "user", {"text": "other"}, sessionId="t"),
        qwen("5", "3", "user", {"functionResponse": {"name": "f", "id": "c", "response": {}}}),
        qwen("6", "4", "model", {"text": "hi"}, sessionId="t"),
    ]
    one, two = read(tmp_path, *lines)
    assert (one.id, kinds(one)) == ("s", ["context", "act", "observation"])
    assert (two.id, kinds(two)) == ("t", ["context", "act"])


def toolbench_log(*paths, **more):
    answer = {"train_messages": list(paths), "query": "q", "function": [], "valid_data": bool(paths), **more}
    return {"win": True, "answer_generation": answer}


def test_toolbench_takes_the_longest_path_and_keeps_others_that_are_no_part_of_it(tmp_path):
    begin = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    ask = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{ bad"}}
    got = {"role": "function", "name": "f", "content": "r"}
    end = {"role": "assistant", "content": "So.", "function_call": {"name": "Finish", "arguments": "{}"}}
    again = {"role": "user", "content": "try another way", "valid": False}
    answer = '{"return_type": "give_answer", "final_answer": "42"}'
    log = toolbench_log([*begin, ask], [*begin, ask, got, again, end], [*begin, end], final_answer=answer)
    (run,) = read(tmp_path, log)
    assert kinds(run) == ["context", "context", "act", "observation", "context", "reason", "act"]
    assert arguments(run, run.spans[2]) == "{ bad"
    assert (run.outcome.answer, run.outcome.ending) == ("42", "finished")
    assert json.loads(bytes(run.extra["answer_generation"]))["train_messages"] == [[*begin, end]]


def test_toolbench_that_failed_is_no_run_and_gave_up_is_aborted(tmp_path):
    give_up = toolbench_log(
        [{"role": "assistant", "content": "x"}], final_answer='{"return_type":"give_up_and_restart"}'
    )
    failed, gave_up = read(tmp_path, toolbench_log(), give_up)
    assert (kinds(failed), failed.outcome.ending) == (["context"], "halted")
    assert (kinds(gave_up), gave_up.outcome.ending, gave_up.outcome.answer) == (
        ["reason"],
        "aborted",
        '{"return_type":"give_up_and_restart"}',
    )


def test_intercode_arrays_may_have_any_length_and_observations_any_type(tmp_path):
    history = {"actions": ["ls", "", "cd"], "observations": [{"a": 1}, 3], "rewards": [0, 1, 2, 3]}
    record = {"environment": "ic_bash", "query": "q", "turn_history": history, "summary": {"max_reward": 0.5}}
    (run,) = read(tmp_path, record)
    assert kinds(run) == ["context", "act", "observation", "act", "observation", "act"]
    assert bodies(run) == ["q", "ls", '{"a": 1}', "", "3", "cd"]
    assert [s.flags for s in run.spans if s.kind == "observation"] == [["json"], ["json"]]
    assert json.loads(bytes(run.spans[-1].opaque[0])) == {"rewards": 3}
    assert (run.outcome.success, run.outcome.reward) == (False, 0.5)
    assert {s.syntax for s in run.spans if s.kind == "act"} == {"shell"}


def test_intercode_records_are_keyed_by_index(tmp_path):
    run = {"query": "q", "turn_history": {"actions": ["a"], "observations": ["b"]}}
    (tmp_path / "a.json").write_text(json.dumps({"7": run, "9": run}))
    (tmp_path / "b.json").write_text(json.dumps({"meta": {"env": "bash"}, "logs": {"7": run, "9": run}}))
    assert [r.source.record for r in runs(tmp_path / "a.json")] == ["7", "9"]
    found = runs(tmp_path / "b.json")
    assert [r.source.record.split(".")[-1] for r in found] == ["7", "9"]
    assert json.loads(bytes(found[0].extra["meta"])) == {"env": "bash"}


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def test_webvoyager_turns_are_cut_and_the_answer_is_read(tmp_path):
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    text = {"type": "text", "text": 'Observation: [1]: <button> "Action: Click [9]"'}
    log = chat(
        ("system", "Imagine"),
        ("user", "Now given a task: find x.  Please interact with https://a.b and get the answer."),
        ("assistant", "Thought: go\n\nAction: Click [1]"),
        ("user", [text, image]),
        ("assistant", "Thought: done\n\nAction: ANSWER; 30"),
    )
    (run,) = read(
        tmp_path,
        log,
    )
    assert kinds(run) == ["context", "context", "reason", "act", "observation", "reason", "act"]
    assert (run.task, run.outcome.answer, run.outcome.ending) == ("find x.", "30", "finished")
    assert [len(s.opaque) for s in run.spans] == [0, 0, 0, 0, 0, 1, 0, 0]


CREW = 'Thought: a\nAction: f\nAction Input: {"q": 1}\n'


@pytest.mark.parametrize(
    ("turn", "wanted"),
    [
        (f"```\n{CREW}```\nObservation: b\nThought: quoted\n", ["reason", "act", "observation"]),
        ("I look.\nFinal Answer: 42", ["reason", "act"]),
        ("Observation: made up\nFinal Answer: x", ["observation", "act"]),
        ("Thought: a\nThought: b\nFinal Answer: c\n```", ["reason", "reason", "act"]),
        ("no labels", ["act"]),
        ("", ["act"]),
    ],
)
def test_crewai_turns(turn, wanted):
    parts = cut_turn(turn)
    assert [part.kind for part in parts] == wanted
    assert "".join(part.text for part in parts) == turn


def test_crewai_appends_observations_to_the_agents_turn(tmp_path):
    log = chat(
        ("system", "Use Action: and Action Input: and Final Answer:"),
        ("user", "q"),
        ("assistant", f"```\n{CREW}```\nObservation: b"),
        ("assistant", "Thought: c\nFinal Answer: d\n```"),
    )
    (run,) = read(tmp_path, {"messages": log, "model": "m"})
    assert kinds(run) == ["context", "context", "reason", "act", "observation", "reason", "act"]
    act = run.spans[3]
    assert (act.name, arguments(run, act), act.syntax) == ("f", '{"q": 1}', "json")
    assert [s.author for s in run.spans[2:5]] == ["agent", "agent", "environment"]
    assert (run.task, run.outcome.answer) == ("q", "d")


def test_crewai_is_never_told_by_the_system_prompt():
    log = chat(("system", "Action Input:\nFinal Answer: x"), ("user", "Final Answer: x"), ("assistant", "hi"))
    assert not crewai.recognise(log)


def test_smolagents_memory_is_read_for_both_kinds_of_agent(tmp_path):
    code = "Thought: sum\n<code>\nprint(2**5)\n</code>"
    tool = {"id": "c", "type": "function", "function": {"name": "search", "arguments": {"q": 1}}}
    steps = [
        {"system_prompt": "s"},
        {"task": "q"},
        {"plan": "first this"},
        {"step_number": 1, "model_output": code, "code_action": "print(2**5)", "observations": "Execution logs:\n32"},
        {
            "step_number": 2,
            "model_output": None,
            "tool_calls": [tool],
            "observations": None,
            "error": {"message": "no"},
        },
        {
            "step_number": 3,
            "model_output": "Code:\n```py\nf()",
            "observations": "",
            "is_final_answer": True,
            "action_output": 7,
        },
    ]
    (run,) = read(tmp_path, {"steps": steps, "n": 1})
    assert run.source.format == "smolagents"
    assert kinds(run) == [
        *("context", "context", "reason"),
        *("reason", "act", "observation"),
        *("act", "observation"),
        *("act", "observation"),
    ]
    acts = [s for s in run.spans if s.kind == "act"]
    assert [arguments(run, s) for s in acts] == ["print(2**5)", '{"q": 1}', "f()"]
    assert (run.task, run.outcome.answer, run.outcome.ending) == ("q", "7", "finished")


def otel_span(number, name, parent="", trace="t", start=None, **attributes):
    return {
        "traceId": trace,
        "spanId": str(number),
        "parentSpanId": parent,
        "startTimeUnixNano": str(start if start is not None else number),
        "attributes": [{"key": f"gen_ai.{k}", "value": {"stringValue": v}} for k, v in attributes.items()]
        + [{"key": "gen_ai.operation.name", "value": {"stringValue": name}}],
    }


def parts_message(role, *parts):
    return json.dumps([{"role": role, "parts": list(parts)}])


def test_otlp_spans_are_sorted_and_histories_said_once(tmp_path):
    user = {"role": "user", "parts": [{"type": "text", "content": "q"}]}
    asked = {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": 1}}]}
    answer = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "r"}]}
    more = {"role": "user", "parts": [{"type": "text", "content": "more"}]}
    said = {"role": "assistant", "parts": [{"type": "text", "content": "done"}], "finish_reason": "stop"}
    spans = [
        otel_span(
            4,
            "chat",
            "1",
            **{"input.messages": json.dumps([user, asked, answer, more]), "output.messages": json.dumps([said])},
        ),
        otel_span(1, "invoke_agent", start=0),
        otel_span(2, "chat", "1", **{"input.messages": json.dumps([user]), "output.messages": json.dumps([asked])}),
        otel_span(3, "execute_tool", "1", **{"tool.name": "f", "tool.call.id": "c", "tool.call.result": "r"}),
    ]
    batches = [{"resourceSpans": [{"resource": {"r": 1}, "scopeSpans": [{"spans": spans[i : i + 2]}]}]} for i in (0, 2)]
    (run,) = read(tmp_path, *batches)
    assert bodies(run) == ["q", '{"a": 1}'.join(("f(", ")")), "r", "more", "done"]
    assert kinds(run) == ["context", "act", "observation", "observation", "act"]
    assert (run.id, run.spans[1].call_id, run.spans[2].call_id) == ("t", "c", "c")
    flat = read(tmp_path, *spans)
    assert [r.text for r in flat] == [run.text]


def test_otel_attributes_may_be_cut_and_tools_go_unannounced(tmp_path):
    spans = [
        otel_span(1, "invoke_agent"),
        otel_span(2, "chat", "1", **{"input.messages": '[{"role": "user", "content": "lo'}),
        otel_span(3, "execute_tool", "1", **{"tool.name": "f", "tool.call.arguments": "{}", "tool.call.result": "r"}),
    ]
    (run,) = read(tmp_path, {"spans": spans})
    assert kinds(run) == ["context", "act", "observation"]
    assert bodies(run)[0].endswith('"lo')


def test_otel_histories_stand_for_outputs_that_were_not_logged(tmp_path):
    user, tool = {"role": "user", "content": "q"}, {"role": "tool", "content": "r"}
    asked = {"role": "assistant", "content": "look", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    spans = [
        otel_span(1, "chat", **{"input.messages": json.dumps([user])}),
        otel_span(2, "chat", **{"input.messages": json.dumps([user, asked, tool])}),
    ]
    (run,) = read(tmp_path, {"spans": spans})
    assert kinds(run) == ["context", "reason", "act", "observation"]


def test_otel_traces_of_a_file_are_told_apart(tmp_path):
    spans = [otel_span(1, "chat", trace="a", output="x"), otel_span(2, "invoke_agent", trace="b")]
    spans += [otel_span(3, "chat", "2", trace="b", output="y"), otel_span(4, "chat", "lost", trace="b", output="z")]
    first, second = read(tmp_path, *spans)
    assert (first.id, bodies(first)) == ("a", ["x"])
    assert (second.id, bodies(second)) == ("b", ["y", "z"])


def test_otel_sub_agents_are_trajectories_of_their_own(tmp_path):
    spans = [
        otel_span(1, "invoke_agent"),
        otel_span(2, "chat", "1", output="outer"),
        otel_span(3, "invoke_agent", "1"),
        otel_span(4, "chat", "3", output="inner"),
    ]
    outer, inner = read(tmp_path, {"spans": spans})
    assert (bodies(outer), bodies(inner)) == (["outer"], ["inner"])
    assert (outer.parent_id, inner.parent_id) == (None, outer.id)


def flat_span(number, attributes, **about):
    return {"trace_id": "t", "span_id": str(number), "start_time": number, "attributes": attributes, **about}


FLAT = {
    "gen_ai.prompt": ("gen_ai.prompt.{}.{}", "gen_ai.completion.{}.{}", "tool_calls.0.name", "tool_calls.0.arguments"),
    "llm.input_messages": (
        "llm.input_messages.{}.message.{}",
        "llm.output_messages.{}.message.{}",
        "tool_calls.0.tool_call.function.name",
        "tool_calls.0.tool_call.function.arguments",
    ),
}


@pytest.mark.parametrize("convention", FLAT)
def test_messages_spread_over_indexed_attributes_are_read(tmp_path, convention):
    asked, said, name, arguments = FLAT[convention]
    first = {asked.format(0, "role"): "user", asked.format(0, "content"): "q"}
    call = {name: "look", arguments: '{"a":  1}'}
    history = {asked.format(1, field): value for field, value in {"role": "assistant", **call}.items()}
    # Ten messages and more: an index is a number, not a text.
    later = {asked.format(n, f): v for n in range(2, 12) for f, v in (("role", "tool"), ("content", f"r{n}"))}
    spans = [
        flat_span(1, {**first, said.format(0, "role"): "assistant", **{said.format(0, f): v for f, v in call.items()}}),
        flat_span(2, {**first, **history, **later, said.format(0, "content"): "done", "llm.x": 1}),
    ]
    (run,) = read(tmp_path, *spans)
    assert kinds(run) == ["context", "act", *["observation"] * 10, "act"]
    assert bodies(run)[1:] == ['look({"a":  1})', *(f"r{n}" for n in range(2, 12)), "done"]
    assert run.task == "q"
    assert "r5" not in msgspec.json.encode([s.extra for s in run.spans]).decode()


def test_openinference_kinds_are_operations_and_tools_answer(tmp_path):
    kind = "openinference.span.kind"
    spans = [
        flat_span(1, {kind: "AGENT", "input.value": "q"}),
        flat_span(
            2,
            {
                kind: "LLM",
                "llm.input_messages.0.message.role": "user",
                "llm.input_messages.0.message.contents.0.message_content.type": "text",
                "llm.input_messages.0.message.contents.0.message_content.text": "q",
                "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c",
                "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "f",
                "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": "{}",
                "llm.tools.0.tool.json_schema": '{"type": "function"}',
            },
            parent_id="1",
        ),
        flat_span(3, {kind: "TOOL", "tool.name": "f", "input.value": "{}", "output.value": "r"}, parent_id="1"),
    ]
    (run,) = read(tmp_path, {"spans": spans})
    assert (kinds(run), bodies(run)) == (["context", "act", "observation"], ["q", "f({})", "r"])
    assert [bytes(tool) for tool in run.tools] == [b'{"type": "function"}']


def test_messages_in_events_of_a_span_are_read(tmp_path):
    def event(name, **attributes):
        return {"name": f"gen_ai.{name}", "attributes": attributes}

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = json.dumps({"role": "assistant", "content": "I look.", "tool_calls": [call]})
    apart = [
        event("system.message", content="s"),
        event("user.message", content="q"),
        event("choice", index=0, message=choice),
    ]
    together = [
        event(
            "client.inference.operation.details",
            **{
                "gen_ai.input.messages": json.dumps([{"role": "user", "content": "q"}]),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "content": "done"}]),
            },
        )
    ]
    (run,) = read(tmp_path, flat_span(1, {"gen_ai.operation.name": "chat"}, events=apart))
    assert (kinds(run), bodies(run)) == (["context", "context", "reason", "act"], ["s", "q", "I look.", "f({})"])
    (run,) = read(tmp_path, flat_span(1, {"gen_ai.operation.name": "chat"}, events=together))
    assert (kinds(run), bodies(run)) == (["context", "act"], ["q", "done"])


CLI_CALL = {
    "id": "c",
    "name": "read_file",
    "args": {"path": "a"},
    "result": [{"functionResponse": {"id": "c", "name": "read_file", "response": {"output": "x"}}}],
    "status": "success",
}


def cli_message(name, kind, content, **about):
    return {"id": name, "timestamp": "t", "type": kind, "content": content, **about}


def test_gemini_cli_sessions_hold_thoughts_calls_and_results(tmp_path):
    thought = {"subject": "Look", "description": "Read it.", "timestamp": "t"}
    messages = [
        cli_message("a", "user", [{"text": "q"}]),
        cli_message("i", "info", "update available"),
        cli_message("b", "gemini", "I look.", thoughts=[thought], toolCalls=[CLI_CALL, {**CLI_CALL, "result": None}]),
        cli_message("d", "gemini", [{"text": "Done."}]),
        cli_message("e", "user", "thanks"),
    ]
    (run,) = read(tmp_path, {"sessionId": "s", "projectHash": "h", "messages": messages})
    assert kinds(run) == ["context", "reason", "reason", "act", "act", "observation", "act", "observation"]
    assert bodies(run)[1:4] == ["**Look**\n\nRead it.", "I look.", 'read_file({"path": "a"})']
    assert (run.id, run.task, run.source.format) == ("s", "q", "gemini-cli")
    assert "update available" in msgspec.json.encode(run.extra).decode()


def test_gemini_cli_logs_are_replayed(tmp_path):
    lines = [
        {"sessionId": "s", "projectHash": "h", "startTime": "t"},
        cli_message("a", "user", "q"),
        cli_message("b", "gemini", "I look."),
        {"$set": {"lastUpdated": "u"}},
        cli_message("b", "gemini", "I look.", toolCalls=[CLI_CALL]),
        cli_message("x", "user", "wrong"),
        cli_message("y", "gemini", "never"),
        {"$rewindTo": "x"},
        cli_message("d", "gemini", "Done."),
    ]
    (run,) = read(tmp_path, *lines)
    assert (kinds(run), bodies(run)[3:]) == (
        ["context", "reason", "act", "observation", "act"],
        ['{"output": "x"}', "Done."],
    )
    (gone,) = read(
        tmp_path, *lines, {"$rewindTo": "nobody"}, cli_message("z", "user", "q2"), cli_message("w", "gemini", "a")
    )
    assert bodies(gone) == ["q2", "a"]


SMOL_CODE = {"<code>": "Thought: sum\n<code>\nf()\n</code>", "```": "Thought: sum\nCode:\n```py\nf()\n```<end_code>"}


@pytest.mark.parametrize("mark", SMOL_CODE)
def test_smolagents_chats_act_by_code(tmp_path, mark):
    calling = "\nCalling tools:\n[{'id': 'call_1', 'function': {'name': 'python_interpreter', 'arguments': 'f()'}}]"
    log = chat(
        ("system", "s"),
        ("user", "New task:\nq"),
        ("assistant", SMOL_CODE[mark] + calling),
        ("user", "Observation:\nExecution logs:\n32"),
        ("assistant", SMOL_CODE[mark].replace("f()", "final_answer(32)")),
    )
    (run,) = read(tmp_path, log)
    assert run.source.format == "smolagents-chat"
    assert kinds(run) == ["context", "context", "reason", "act", "context", "observation", "reason", "act"]
    assert [arguments(run, s) for s in run.spans if s.kind == "act"] == ["f()", "final_answer(32)"]
    assert [s.author for s in run.spans][4] == "system"


def test_code_that_nobody_ran_is_no_smolagents_chat():
    shown = chat(("user", "how?"), ("assistant", "So:\n<code>\nf()\n</code>"), ("user", "thanks"))
    named = chat(("user", "how?"), ("assistant", "Use <code>f()</code>."), ("user", "Observation: it works"))
    assert not any(f.recognise(log) for f in smolagents.FORMATS for log in (shown, named))


# ---- whatever a record holds, it is read or refused


JUNK = [None, True, 0, -1.5, "", "x", [], {}, [None], {"a": None}, [[]], [{}], "[", '{"a":']


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def mutate(value, rng):
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 3])):
        path = rng.choice([p for p in places(value) if p and len(p) < 9] or [()])
        if not path:
            return copy.deepcopy(rng.choice(JUNK))
        at = value
        for key in path[:-1]:
            at = at[key]
        if rng.random() < 0.3:
            del at[path[-1]]
        else:
            at[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    return value


def small_records(shared_data):
    formats = shared_data / "formats"
    yield "gemini", load(formats / "gemini/crewai_conversations.jsonl")[0]
    yield "gemini", load(formats / "gemini/pydantic_ai_request_response_pairs.jsonl")[5]
    yield "gemini-cli", {"sessionId": "s", "messages": [cli_message("b", "gemini", "a", toolCalls=[CLI_CALL])]}
    yield "gemini-cli line", cli_message("b", "gemini", [{"text": "a"}], thoughts=[{"subject": "s"}])
    yield "smolagents chat", chat(("assistant", SMOL_CODE["<code>"]), ("user", "Observation: r"))
    first, second, *_ = FLAT["llm.input_messages"]
    flat = {first.format(0, "role"): "tool", second.format(0, "tool_calls.0.id"): "c"}
    yield "otel flat", flat_span(1, flat, events=[{"name": "gen_ai.choice", "attributes": {"message": "{}"}}])
    yield "qwen", load(formats / "qwen-code/qwen_code.jsonl")[3]
    yield "toolbench", load(formats / "toolbench/G1_answer_10_ChatGPT_DFS_woFilter_w2.json")
    yield "intercode", load(formats / "intercode/ic_bash_react_10_turns_fs_3.json")["0"]
    yield "webvoyager", load(formats / "webvoyager/ESPN--11.interact_messages.json")
    yield "crewai", load(formats / "crewai-react/crewai_react_text.jsonl")[3]
    yield "otel", load(formats / "otel-genai/AGNO_trace.json")
    yield "openclaw", load(formats / "otel-openclaw/sample-telemetry.jsonl")[2]
    step = {"step_number": 1, "model_output": "a", "observations": "b", "tool_calls": [{"id": "c", "function": {}}]}
    yield "smolagents", {"steps": [{"task": "q"}, step]}
    yield "otlp", {"resourceSpans": [{"scopeSpans": [{"spans": [otel_span(1, "chat", output="a")]}]}]}


def test_no_mutated_record_raises(shared_data, tmp_path):
    rng = random.Random(7)
    for name, record in small_records(shared_data):
        path = tmp_path / f"{name}.jsonl"
        # The first is whole, so that the file is known; each of the others may be anything.
        lines = [json.dumps(mutate(record, rng)) for _ in range(200)]
        path.write_text("\n".join([json.dumps(record), *lines]) + "\n")
        frame = segment(scan_logs(str(path), on_error="skip")).collect()
        assert frame.height
        for line in lines[:20]:
            path.write_text(f"{json.dumps(record)}\n{line}\n")
            segment(scan_logs(str(path), on_error="skip")).collect()
