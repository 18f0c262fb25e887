"""SWE-agent, mini-swe-agent, OpenHands and ATIF: counts, round trips from spans alone, traps, mutations."""

import contextlib
import copy
import gzip
import json
import random
from collections import Counter

import pytest

from sadstream.errors import FormatError
from sadstream.formats import beside
from sadstream.formats.atif import cut_commands
from sadstream.formats.content import content_of
from sadstream.formats.swe_agent import cut_response
from sadstream.frames import Draft
from sadstream.logs import scan_logs
from sadstream.segment import segment

FAMILIES = {
    "swe-agent": {"swe-agent"},
    "mini-swe-agent": {"mini-swe-agent"},
    "openhands": {"openhands", "openhands-sdk"},
    "atif": {"atif"},
}


def rows_of(path, **options):
    return segment(scan_logs(str(path), **options)).collect().rows(named=True)


def read(tmp_path, record, name="log.json"):
    path = tmp_path / name
    text = "\n".join(map(json.dumps, record)) if isinstance(record, tuple) else json.dumps(record)
    path.write_text(text)
    (row,) = rows_of(path)
    check_partition(row)
    return row


def check_partition(row):
    edges = [0] + [span["stop"] for span in row["spans"]]
    assert [span["start"] for span in row["spans"]] == edges[:-1]
    assert edges[-1] == len(row["text"])


def logged(row, span):
    start = span["start"] if span["logged_start"] is None else span["logged_start"]
    stop = span["stop"] if span["logged_stop"] is None else span["logged_stop"]
    return row["text"][start:stop]


def arguments(row, span):
    return row["text"][span["arguments_start"] : span["arguments_stop"]]


def of_kind(row, *kinds):
    return [span for span in row["spans"] if span["kind"] in kinds and span["stop"] > span["start"]]


def parts(row):
    return [(span["kind"], logged(row, span)) for span in row["spans"] if span["stop"] > span["start"]]


def n_kinds(rows):
    return Counter(s["kind"] for row in rows for s in row["spans"] if s["stop"] > s["start"])


def files(shared_data):
    for family in FAMILIES:
        for path in sorted((shared_data / "formats" / family).iterdir()):
            if ".report." not in path.name:
                yield family, path


def values(path):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        return [json.loads(data)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture(scope="module")
def real(shared_data):
    return {path: (family, rows_of(path)) for family, path in files(shared_data)}


# ---- counts


def test_every_real_file_is_read_as_its_format_and_cut_without_a_gap(real):
    for path, (family, rows) in real.items():
        assert {row["source"]["format"] for row in rows} <= FAMILIES[family], path
        for row in rows:
            assert row["refused"] is None
            check_partition(row)


def test_counts_are_those_that_other_code_found(real, shared_data):
    counts = json.loads((shared_data / "counts.json").read_text())
    for path, (family, rows) in real.items():
        expected = counts[path.relative_to(shared_data).as_posix()]
        assert len(rows) == expected["trajectories"]
        found = n_kinds(rows)
        wanted = {"swe-agent": swe_counts, "mini-swe-agent": mini_counts, "openhands": openhands_counts}
        reason, act, observation = wanted.get(family, atif_counts)(path, expected)
        assert (found["reason"], found["act"], found["observation"]) == (reason, act, observation), path


def swe_counts(path, n):
    # Each step has an observation, empty ones included.
    steps = n.get("actions", n.get("tool_calls"))
    return n["thoughts"], steps, n.get("steps", n.get("tool_results"))


def mini_counts(path, n):
    # Bash blocks of a turn with several are acts, flagged `rejected`, and each cuts the thought around it once more;
    # a turn with none is one thought.
    odd = n.get("odd", {})
    several = [k for k in (2, 3) for _ in range(odd.get(f"rejected_turn_with_{k}_bash_blocks", 0))]
    return n["thoughts"] + sum(k - 1 for k in several), n["actions"] + sum(several), n["observations"]


def openhands_counts(path, n):
    if "tool_calls" in n:
        return n["thoughts"], n["tool_calls"], n["tool_results"]
    # `system` is the prompt and `think` a thought; recalls, states and `null` are the harness's own.
    acts = n["action_events_agent"] - n.get("agent_action:system", 0) - n.get("agent_action:think", 0)
    own = {"basic.json": (2, 0), "basic_gui_mode.json": (4, 7), "multi_swe_bench_output.jsonl.gz": (107, 3)}
    reasons, n_harness = own[path.name]
    return reasons, acts, n["observation_events"] - n_harness


def atif_counts(path, n):
    if "terminus" in path.name:
        # Analysis, plan and a command in each agent's message.
        return 2 * n["steps_agent"], n["steps_agent"], n["tool_results"]
    # Messages beside calls are thoughts; the one without a call is said.
    with_calls = {"openagents_regex-log.trajectory.json": 2, "openhands_hello-world.trajectory.json": 2}[path.name]
    return n["reasoning"] + with_calls, n["tool_calls"] + n["steps_agent"] - with_calls, n["tool_results"]


def test_no_other_file_is_read_as_one_of_these(shared_data):
    ours = set().union(*FAMILIES.values())
    for path in sorted([*shared_data.glob("raw/*/*"), *shared_data.glob("formats/*/*")]):
        if path.parent.name in FAMILIES or path.stat().st_size > 300_000 or path.suffix == ".md":
            continue
        with contextlib.suppress(FormatError):
            read_as = scan_logs(str(path), on_error="skip").collect()["source"].struct.field("format")
            assert not ours & set(read_as), path


# ---- round trips: what the spans hold is what the log says


def test_swe_agent_steps_come_back_from_spans(real):
    for path, (family, (row, *_)) in real.items():
        if family != "swe-agent":
            continue
        (record,) = values(path)
        history = record["history"]
        by_message = {}
        for span in row["spans"]:
            by_message.setdefault(span["message"], []).append(span)
        n_prompt = next(i for i, m in enumerate(history) if m["role"] == "assistant" and not m.get("is_demo"))
        for index in range(n_prompt):
            (span,) = by_message[index]
            assert (span["kind"], logged(row, span)) == ("context", history[index]["content"])
        if "trajectory" not in record:
            steps = [
                {"response": a["content"], "observation": o["content"]}
                for a, o in zip(history[n_prompt::2], history[n_prompt + 1 :: 2], strict=True)
            ]
        else:
            steps = record["trajectory"]
        # Ids come twice in one of these logs, so the calls are told by their order.
        calls = [c for m in history[n_prompt:] for c in m.get("tool_calls") or []]
        left = list(calls)
        for number, step in enumerate(steps):
            turn, (result,) = by_message[n_prompt + 2 * number], by_message[n_prompt + 2 * number + 1]
            assert (result["kind"], logged(row, result)) == ("observation", step["observation"])
            assert turn[-1]["kind"] == "act"
            if calls:
                (said, act) = turn
                assert logged(row, said) == step["response"]
                if act["name"]:
                    call = left.pop(0)
                    assert (act["name"], arguments(row, act)) == tuple(
                        call["function"][k] for k in ("name", "arguments")
                    )
                    assert act["call_id"] == result["call_id"] == call["id"]
                else:
                    assert arguments(row, act) == step["action"]
            else:
                assert "".join(logged(row, span) for span in turn) == step["response"]
                assert arguments(row, turn[-1]) == step["action"].strip()
                assert turn[-1]["syntax"] == "shell"
        assert not left
        info = record.get("info", {})
        assert row["outcome"]["answer"] == info.get("submission")


def test_mini_swe_agent_messages_come_back_from_spans(real):
    for path, (family, (row, *_)) in real.items():
        if family != "mini-swe-agent":
            continue
        (record,) = values(path)
        messages = record if isinstance(record, list) else record["messages"]
        found = [""] * len(messages)
        for span in row["spans"]:
            found[span["message"]] += logged(row, span)
            if span["message"] > 1:
                role = messages[span["message"]]["role"]
                assert (span["author"] == "agent") == (role == "assistant")
        assert found == [m["content"] for m in messages]
        for span in of_kind(row, "act"):
            block = logged(row, span).strip()
            assert block.startswith("```")
            assert block.split("\n", 1)[1].removesuffix("```").rstrip("\n") == arguments(row, span).rstrip("\n")
        extras = {s["message"]: json.loads(s["extra"]) for s in row["spans"] if s["extra"]}
        for index, message in enumerate(messages):
            assert extras.get(index, {}).get("extra") == message.get("extra")


def test_mini_swe_agent_blocks_that_did_not_run_are_flagged(real):
    for path, (family, (row, *_)) in real.items():
        if family != "mini-swe-agent":
            continue
        turns = Counter(s["message"] for s in of_kind(row, "act"))
        for span in of_kind(row, "act"):
            assert (span["flags"] == ["rejected"]) == (turns[span["message"]] > 1), path


def test_openhands_events_come_back_from_spans(real):
    for path, (family, rows) in real.items():
        if family != "openhands" or path.name.startswith("sdk"):
            continue
        for row, record in zip(rows, values(path), strict=True):
            events = record["history"] if isinstance(record, dict) else record
            spans = {}
            for span in row["spans"]:
                spans.setdefault(span["message"], []).append(span)
            assert sorted(spans) == list(range(len(events)))
            for number, event in enumerate(events):
                check_event(row, spans[number], event)


def check_event(row, spans, event):
    last = spans[-1]
    if "tool_call_metadata" in event and "action" in event:
        reply = event["tool_call_metadata"]["model_response"]["choices"][0]["message"]
        (call,) = reply["tool_calls"]
        assert (last["call_id"], last["name"]) == (call["id"], call["function"]["name"])
        assert arguments(row, last) == call["function"]["arguments"]
        assert last["kind"] == ("reason" if event["action"] == "think" else "act")
        assert [logged(row, s) for s in spans[:-1]] == [reply["content"]] * bool(reply["content"])
        kept = json.loads(last["extra"])
        assert kept["id"] == event["id"]
        assert kept["tool_call_metadata"]["model_response"]["id"] == event["tool_call_metadata"]["model_response"]["id"]
    elif event.get("action") in ("message", "system"):
        assert logged(row, last) == event["args"]["content"]
    elif event.get("observation") in ("run", "edit", "read", "think", "error"):
        assert (last["kind"], logged(row, last)) == ("observation", event["content"])
        assert last["call_id"] == event.get("tool_call_metadata", {}).get("tool_call_id")
    else:
        assert last["kind"] == "context"
        assert last["start"] < last["stop"] or json.loads(last["opaque"][0]) == event


def test_openhands_sdk_events_come_back_from_spans(real, shared_data):
    path = shared_data / "formats" / "openhands" / "sdk_events.jsonl"
    (row,) = real[path][1]
    for number, event in enumerate(values(path)):
        spans = [s for s in row["spans"] if s["message"] == number]
        if event["kind"] == "ActionEvent":
            said, act = spans
            # The words repeat `reasoning_content` within `<think>`: once is enough.
            assert logged(row, said) == event["thought"][0]["text"]
            assert arguments(row, act) == event["tool_call"]["arguments"]
            assert (act["name"], act["call_id"]) == (event["tool_name"], event["tool_call_id"])
        elif event["kind"] == "ObservationEvent":
            (span,) = spans
            assert logged(row, span) == event["observation"]["content"][0]["text"]
            assert span["error"] == event["observation"]["is_error"]
        else:
            (span,) = spans
            assert span["start"] == span["stop"]
            assert json.loads(span["opaque"][0]) == event


def test_atif_steps_come_back_from_spans(real):
    for path, (family, (row, *_)) in real.items():
        if family != "atif":
            continue
        (record,) = values(path)
        for index, step in enumerate(record["steps"]):
            spans = [s for s in row["spans"] if s["message"] == index]
            calls = [s for s in spans if s["name"]]
            logged_calls = step.get("tool_calls") or []
            assert [(s["call_id"], s["name"], json.loads(arguments(row, s))) for s in calls] == [
                (
                    c.get("tool_call_id") or c["id"],
                    c.get("function_name") or c["name"],
                    c["arguments"],
                )
                for c in logged_calls
            ]
            observed = [s for s in spans if s["kind"] == "observation"]
            whole = step.get("observation") or {"results": []}
            results = whole.get("results", [whole])
            assert [logged(row, s) for s in observed] == [r.get("content", "") for r in results]
            others = [s for s in spans if s not in calls and s not in observed]
            text = "".join(logged(row, s) for s in others)
            assert text == step["message"] or json.loads(observed[0]["extra"])["message"] == step["message"]


def test_atif_results_stand_after_the_calls_they_answer(real, shared_data):
    (row,) = real[shared_data / "formats" / "atif" / "openagents_regex-log.trajectory.json"][1]
    ids = [(s["kind"], s["call_id"]) for s in row["spans"] if s["call_id"]]
    calls = [i for kind, i in ids if kind == "act"]
    assert ids == [(k, i) for group in (calls[:4], calls[4:]) for k in ("act", "observation") for i in group]
    assert [s["error"] for s in of_kind(row, "observation")] == [True, False, True, False, False]
    assert row["outcome"]["success"] is True


# ---- traps


def test_a_result_has_the_step_of_the_call_before_it_though_ids_come_twice(real):
    for path, (family, (row, *_)) in real.items():
        if family == "swe-agent":
            steps = [span["step"] for span in of_kind(row, "act", "observation")]
            assert steps == [n for n in range(len(steps) // 2) for _ in range(2)], path


def test_a_response_is_cut_at_its_last_block_with_fence_and_tag():
    assert cut_response("a\n<command>\nls -l\n</command>", "a", "ls -l") == (2, 28)
    assert cut_response("use `ls`\n```bash\nls\n```\n", "use `ls`\n", "ls") == (9, 23)
    assert cut_response("I submit now.", "I submit now.", "submit") is None
    assert cut_response("", "", "") is None


def step(response, action, thought="", observation="done"):
    return {"response": response, "action": action, "thought": thought, "observation": observation}


def test_swe_agent_harness_steps_and_words_that_are_not_there(tmp_path):
    steps = [
        step("\n```\nls\n```", "ls\n", "\n", "a\r\n\x1b[0m"),
        step('{"thought": "x", "command": "y"}', "y z"),
        step("no block", ""),
        step("Exit due to cost limit", "exit_cost", "Exit due to cost limit", ""),
    ]
    record = {"trajectory": steps, "history": [], "info": {"exit_status": "submitted (exit_cost)", "submission": None}}
    row = read(tmp_path, record)
    assert parts(row) == [
        ("act", "\n```\nls\n```"),
        ("observation", "a\r\n\x1b[0m"),
        ("reason", '{"thought": "x", "command": "y"}'),
        ("act", "y z"),
        ("observation", "done"),
        ("reason", "no block"),
        ("observation", "done"),
        ("context", "Exit due to cost limit"),
        ("observation", ""),
    ]
    assert row["outcome"]["ending"] == "halted"


MINI = {"trajectory_format": "mini-swe-agent-1", "info": {"exit_status": "LimitsExceeded", "submission": "p"}}


def mini(tmp_path, *turns, **record):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "t"}, *turns]
    return read(tmp_path, {**MINI, "messages": messages, **record})


def test_mini_swe_agent_keeps_what_is_around_the_one_block(tmp_path):
    text = "x\n```python\ny\n```\n```bash\nls\n```\nafter"
    turns = [{"role": "assistant", "content": text}, {"role": "user", "content": "<returncode>2</returncode>\nno"}]
    row = mini(tmp_path, *turns)
    assert parts(row)[2:] == [
        ("reason", "x\n```python\ny\n```\n"),
        ("act", "```bash\nls\n```"),
        ("reason", "\nafter"),
        ("observation", "<returncode>2</returncode>\nno"),
    ]
    assert [s["error"] for s in of_kind(row, "observation")] == [True]
    assert row["outcome"] == {"success": None, "reward": None, "ending": "halted", "answer": "p", "gold": None}


def test_mini_swe_agent_reads_tool_calls_and_logged_commands(tmp_path):
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": '{"command":  "ls"}'}}
    said = {"role": "assistant", "content": "look", "tool_calls": [call], "extra": {"actions": [{"command": "ls"}]}}
    row = mini(tmp_path, said, {"role": "tool", "tool_call_id": "c", "content": "<returncode>0</returncode>"})
    assert parts(row)[2:] == [
        ("reason", "look"),
        ("act", '{"command":  "ls"}'),
        ("observation", "<returncode>0</returncode>"),
    ]
    assert [s["call_id"] for s in row["spans"]] == [None, None, None, "c", "c"]
    said = {"role": "assistant", "content": "a <act>ls</act>", "extra": {"actions": [{"command": "ls"}]}}
    assert parts(mini(tmp_path, said))[2:] == [("reason", "a "), ("act", "<act>ls</act>")]
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "e"},
        {"type": "function_call", "call_id": "k", "name": "bash", "arguments": "{}"},
    ]
    row = mini(
        tmp_path,
        {"object": "response", "output": items},
        {"type": "function_call_output", "call_id": "k", "output": "o"},
    )
    assert parts(row)[2:] == [("reason", "hm"), ("act", "{}"), ("observation", "o")]


def event(name, **fields):
    return {"action": name, "args": fields}


def test_openhands_pairs_of_the_old_form_have_no_source(tmp_path):
    history = [
        [event("message", content="Task"), {"observation": "null", "content": "", "extras": {}}],
        [event("run", command="ls", thought="Look."), {"observation": "run", "content": "a.py", "extras": {}}],
        [event("think", thought="Hm."), {"observation": "null", "content": ""}],
        [event("finish", outputs={"a": 1}, thought=""), {"observation": "null", "content": ""}],
    ]
    row = read(tmp_path, {"instance_id": "i", "history": history, "test_result": {"resolved": True, "git_patch": "p"}})
    assert parts(row) == [
        ("context", "Task"),
        ("reason", "Look."),
        ("act", "ls"),
        ("observation", "a.py"),
        ("reason", "Hm."),
        ("act", '{"outputs":{"a": 1}}'),
    ]
    assert (row["task_id"], row["task"]) == ("i", "Task")
    assert row["outcome"] == {"success": True, "reward": None, "ending": "finished", "answer": "p", "gold": None}


def sdk(kind, number, **fields):
    source = "agent" if kind == "ActionEvent" else "environment"
    return {"id": str(number), "timestamp": "t", "source": source, "kind": kind, **fields}


def action(number, thought, call_id):
    call = {"id": call_id, "name": "t", "arguments": '{"a" : 1}'}
    thought = [{"type": "text", "text": thought}] if thought else []
    return sdk("ActionEvent", number, thought=thought, tool_call=call, tool_call_id=call_id, llm_response_id="r",
               reasoning_content="why" if thought else None, action={"kind": "x"})  # fmt: skip


def test_openhands_sdk_puts_the_calls_of_one_response_together(tmp_path):
    events = (
        sdk("SystemPromptEvent", 0, system_prompt={"text": "sys"}, tools=[{"n": 1}]),
        sdk("MessageEvent", 1, llm_message={"role": "user", "content": [{"type": "text", "text": "do"}]}),
        action(2, "go", "c1"),
        sdk("ObservationEvent", 3, tool_call_id="c1", observation={"content": "one", "is_error": False}),
        action(4, "", "c2"),
        sdk("AgentErrorEvent", 5, tool_call_id="c2", error="bad"),
        sdk("ConversationStateUpdateEvent", 6, key="execution_status", value="stuck"),
    )
    row = read(tmp_path, events, "events.jsonl")
    assert parts(row) == [
        ("context", "sys"),
        ("context", "do"),
        ("reason", "why"),
        ("reason", "go"),
        ("act", '{"a" : 1}'),
        ("act", '{"a" : 1}'),
        ("observation", "one"),
        ("observation", "bad"),
    ]
    assert [(s["message"], s["error"]) for s in of_kind(row, "observation")] == [(3, False), (5, True)]
    assert row["outcome"]["ending"] == "halted"
    assert row["tools"] == ['{"n": 1}']


TERMINUS = (
    '{"analysis": "a \\"plan\\": x",\n "plan": "p", "commands": [{"keystrokes": "ls\\n"}, {"keystrokes": "q"}], '
    '"task_complete": true}'
)


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("```json\n", "\n```"), ("Well. {x}\n", "\nDone."), ("\n", "\n")]
)
def test_terminus_messages_are_cut_inside_their_json(before, after):
    pieces = list(cut_commands(before + TERMINUS + after, 3))
    assert "".join(p["text"] for p in pieces) == before + TERMINUS + after
    prose = bool(before.strip("`json\n"))
    assert [p["kind"] for p in pieces] == ["reason"] * prose + ["reason"] * 2 + ["act"] * 2 + ["reason"] * prose
    commands = [p for p in pieces if p["kind"] == "act"]
    assert commands[0]["text"].startswith('"commands"')
    found = [p["text"][p["arguments_start"] : p["arguments_stop"]] for p in commands]
    assert found == ['{"keystrokes": "ls\\n"}', '{"keystrokes": "q"}']


def test_messages_that_only_look_like_terminus_are_left_whole():
    for text in (
        "",
        "{",
        '{"commands": [',
        '{"commands": 1}',
        'say "commands" {',
        "[" * 50_000 + '"commands"{"a":' * 50_000,
    ):
        assert list(cut_commands(text, 0)) == []
    (piece,) = cut_commands('{"commands": [], "task_complete": true}', 0)
    assert piece["kind"] == "act"


def test_atif_copied_steps_are_context_and_media_is_kept(tmp_path):
    image = {"type": "image", "source": {"media_type": "image/png", "path": "a.png"}}
    steps = [
        {"source": "user", "message": [{"type": "text", "text": "t"}, image]},
        {"source": "agent", "message": "old", "is_copied_context": True},
        {"source": "agent", "message": "", "reasoning_content": "why", "tool_calls": [
            {"tool_call_id": "1", "function_name": "f", "arguments": {"b":  [1]}}],
         "observation": {"results": [{"content": [image]}]}},
    ]  # fmt: skip
    row = read(tmp_path, {"schema_version": "ATIF-v1.6", "session_id": "s", "agent": {}, "steps": steps})
    assert parts(row) == [
        ("context", "t"),
        ("context", "old"),
        ("reason", "why"),
        ("act", '{"b": [1]}'),
        ("observation", "[image: image/png]"),
    ]
    assert [json.loads(o) for s in row["spans"] for o in s["opaque"]] == [image, image]


def test_content_of_any_shape():
    assert content_of(None) == ("", [])
    assert content_of(b"null") == ("", [])
    assert content_of(b'["a", {"text": "b"}, 1]') == ("ab", ["1"])
    assert content_of(b'{"a":  1}') == ('{"a":  1}', [])


# ---- outcomes beside the run


def test_resolved_is_read_from_the_report_beside_a_mini_swe_agent_run(real):
    for path, (family, (row, *_)) in real.items():
        if family != "mini-swe-agent":
            continue
        report = path.with_name(path.name.split(".")[0] + ".report.json")
        expected = json.loads(report.read_text())["resolved"] if report.exists() else None
        assert row["outcome"]["success"] is expected


def test_a_report_is_passed_over_in_a_folder_and_refused_alone(tmp_path):
    record = {**MINI, "instance_id": "a__b-1", "messages": [{"role": "assistant", "content": "```bash\nls\n```"}]}
    (tmp_path / "run.traj.json").write_text(json.dumps(record))
    report = tmp_path / "report.json"
    report.write_text(
        json.dumps({"a__b-1": {"resolved": False, "tests_status": {}}, "c": {"resolved": True, "tests_status": {}}})
    )
    refused, run = rows_of(tmp_path)
    assert refused["refused"] == "unrecognised"
    assert "evaluation report" in refused["detail"]
    assert run["outcome"]["success"] is False
    with pytest.raises(FormatError, match="evaluation report"):
        rows_of(report)


def test_a_report_that_names_no_run_says_nothing_of_its_neighbours():
    draft = Draft(format="mini-swe-agent", task_id="i")
    assert beside.outcome_in("report.json", {"resolved": True}, "x/i.traj.json", draft) == {}
    assert beside.outcome_in("i.report.json", {"resolved": True}, "x/i.traj.json", draft) == {"success": True}
    assert beside.outcome_in("report.json", {"unresolved_ids": ["i"]}, "x/i.traj.json", draft) == {"success": False}
    draft.success = True
    assert beside.outcome_in("i.report.json", {"resolved": False}, "x/i.traj.json", draft) == {}
    assert beside.candidates("x/i.jsonl", Draft(format="transcript")) == []


def test_reward_of_a_harbor_trial_is_read_from_the_folder_above(tmp_path):
    run = tmp_path / "agent" / "trajectory.json"
    run.parent.mkdir()
    run.write_text(json.dumps({"schema_version": "ATIF-v1.6", "steps": [{"source": "agent", "message": "hi"}]}))
    (tmp_path / "verifier").mkdir()
    (tmp_path / "verifier" / "reward.txt").write_text("0.5\n")
    assert rows_of(run)[0]["outcome"]["reward"] == 0.5
    (tmp_path / "result.json").write_text(json.dumps({"verifier_result": {"rewards": {"reward": 1.0}}}))
    assert rows_of(run)[0]["outcome"]["reward"] == 1.0
    (tmp_path / "result.json").write_text("{")
    (tmp_path / "verifier" / "reward.txt").write_bytes(b"\xff")
    assert rows_of(run)[0]["outcome"]["reward"] is None


# ---- mutations

ODD = (None, True, 0, -1.5, "", "x", [], {}, [None], [[]], {"a": None}, [{"role": 1}], {"role": []}, "\u2028")


def mutated(value, rng):
    value = copy.deepcopy(value)
    places = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    for _ in range(rng.choice((1, 1, 2, 5))):
        node, key = rng.choice(places)
        if isinstance(node, dict) and rng.random() < 0.4:
            node.pop(key, None)
        elif isinstance(node, list) and key >= len(node):
            continue
        else:
            node[key] = rng.choice(ODD)
    return value


def shortened(value):
    """A record's first few steps: the shape is what mutations are to break."""
    if isinstance(value, list):
        return [shortened(v) for v in value[:9]]
    if isinstance(value, dict):
        return {k: shortened(v) for k, v in value.items() if k not in ("replay_config", "config", "metadata")}
    return value[:200] if isinstance(value, str) else value


@pytest.mark.parametrize("family", FAMILIES)
def test_records_with_wrong_types_are_refused_and_never_crash(family, shared_data, tmp_path):
    rng = random.Random(family)
    whole = [values(path) for f, path in files(shared_data) if f == family]
    records = [shortened(v if len(v) > 3 else v[0]) for v in whole][:6]
    path = tmp_path / "log.jsonl"
    for number in range(60):
        value = mutated(records[number % len(records)], rng)
        lines = value if family == "openhands" and isinstance(value, list) and "kind" in str(value)[:600] else [value]
        path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
        with contextlib.suppress(FormatError):
            for row in rows_of(path, on_error="skip"):
                check_partition(row)
