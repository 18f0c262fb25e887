"""Chats in the shapes of other makers and frameworks, each as their own writers write it."""

import json

import pytest

from tests.test_formats_wild import cut, kinds, rows, runs


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def calls(trajectory):
    """Name, arguments and id of each call."""
    acts = [s for s in trajectory.spans if s.kind == "act" and s.name]
    return [(s.name, trajectory.text[s.arguments_start : s.arguments_stop], s.call_id) for s in acts]


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "List."},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "a.py"},
    {"role": "assistant", "content": "One file."},
]


def test_a_message_a_line_is_read_as_the_list_of_them(tmp_path):
    (one,) = runs(tmp_path / "lines.jsonl", lines(*MESSAGES))
    (other,) = runs(tmp_path / "list.json", MESSAGES)
    assert (one.source.format, one.text, one.spans) == ("messages", other.text, other.spans)


def test_messages_of_several_conversations_are_told_apart_by_a_name_they_all_have(tmp_path):
    told = lines(*({"thread_id": t, **m} for m in MESSAGES for t in ("b", "a")))
    assert [(t.id, len(t.spans)) for t in runs(tmp_path / "a.jsonl", told)] == [("b", 6), ("a", 6)]


def test_a_system_message_opens_the_next_run_only_where_the_first_run_has_one(tmp_path):
    assert len(runs(tmp_path / "a.jsonl", lines(*MESSAGES, *MESSAGES))) == 2
    assert len(runs(tmp_path / "b.jsonl", lines(*MESSAGES[1:], *MESSAGES))) == 1


def test_message_lines_with_typed_blocks_or_tags_are_read_by_those_who_know_them(tmp_path):
    typed = lines(
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "ls", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a"}]},
    )
    (run,) = runs(tmp_path / "a.jsonl", typed)
    assert (kinds(run), calls(run)) == (["context", "act", "observation"], [("ls", "{}", "t")])
    tagged = lines(
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<think>Hm.</think>\n<search> x </search>"},
        {"role": "user", "content": "<information>y</information>"},
    )
    (run,) = runs(tmp_path / "b.jsonl", tagged)
    assert kinds(run) == ["context", "reason", "act", "observation"]


def test_messages_that_stand_in_something_else_are_no_run_of_their_own(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"notes": [{"role": "assistant", "content": "a"}, {"role": "x"}]}))
    (tmp_path / "b.jsonl").write_text(lines(*MESSAGES))
    found = {row["source"]["file"]: row["refused"] for row in rows(tmp_path)}
    assert found == {"a.json": "unrecognised", "b.jsonl": None}


def test_a_list_of_messages_may_be_json_text_in_its_record(tmp_path):
    record = {"uuid": "u", "messages": json.dumps(MESSAGES), "tools": '[{"name":  "ls"}]'}
    (run,) = runs(tmp_path / "a.jsonl", lines(record))
    (plain,) = runs(tmp_path / "b.json", MESSAGES)
    assert (run.text, [bytes(tool) for tool in run.tools]) == (plain.text, [b'{"name":  "ls"}'])


def test_a_tool_call_may_be_a_message_of_its_own(tmp_path):
    written = '{"name": "f", "arguments": {"a": 1}}'
    messages = [
        {"role": "user", "content": "q"},
        {"role": "tool_call", "content": written},
        {"role": "tool_call", "content": "{'name': 'g', 'arguments': ''}"},
        {"role": "tool_response", "content": "r"},
        {"role": "assistant", "content": "done"},
    ]
    (run,) = runs(tmp_path / "a.json", {"messages": messages})
    assert kinds(run) == ["context", "act", "act", "observation", "act"]
    assert [call[:2] for call in calls(run)] == [("f", '{"a": 1}'), ("g", "{'name': 'g', 'arguments': ''}")]


PLAIN = [
    {"type": "human", "content": "q", "additional_kwargs": {}, "id": "1"},
    {"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}]},
    {"type": "tool", "content": "r", "name": "f", "tool_call_id": "c", "status": "success"},
    {"type": "ai", "content": "done", "additional_kwargs": {"reasoning_content": "Hm."}, "tool_calls": []},
]


def test_langchain_messages_are_read_in_each_form_they_are_written_in(tmp_path):
    with_data = [{"type": m["type"], "data": m} for m in PLAIN]
    named = {"human": "HumanMessage", "ai": "AIMessage", "tool": "ToolMessage"}
    with_lc = [
        {"lc": 1, "type": "constructor", "id": ["langchain", "schema", named[m["type"]]], "kwargs": m} for m in PLAIN
    ]
    forms = [PLAIN, with_data, with_lc, {"messages": PLAIN}, {"values": {"messages": PLAIN}, "next": []}]
    read = [run for n, form in enumerate(forms) for run in runs(tmp_path / f"{n}.json", form)]
    read += runs(tmp_path / "lines.jsonl", lines(*PLAIN))
    assert len(read) == 6
    for run in read:
        assert kinds(run) == ["context", "act", "observation", "reason", "act"]
        assert [(name, json.loads(arguments), native) for name, arguments, native in calls(run)] == [
            ("f", {"a": 1}, "c")
        ]
        assert cut(run)[3:] == [("reason", "Thought: Hm.\n"), ("act", "Answer: done\n")]


CONVERSE = [
    {"role": "user", "content": [{"text": "Weather?"}, {"cachePoint": {"type": "default"}}]},
    {
        "role": "assistant",
        "content": [
            {"reasoningContent": {"reasoningText": {"text": "A tool.", "signature": "sig"}}},
            {"text": "I check."},
            {"toolUse": {"toolUseId": "t", "name": "weather", "input": {"city": "Ulm"}}},
        ],
    },
    {
        "role": "user",
        "content": [{"toolResult": {"toolUseId": "t", "content": [{"json": {"c": 12}}], "status": "error"}}],
    },
    {"role": "assistant", "content": [{"text": "12."}]},
]


def test_bedrocks_messages_are_read_alone_in_logged_calls_and_in_its_invocation_logs(tmp_path):
    calls_logged = [
        {
            "request": {"messages": CONVERSE[:n]},
            "response": {"output": {"message": CONVERSE[n]}, "stopReason": "end_turn"},
        }
        for n in (1, 3)
    ]
    invocations = [
        {"requestId": n, "input": {"inputBodyJson": c["request"]}, "output": {"outputBodyJson": c["response"]}}
        for n, c in enumerate(calls_logged)
    ]
    asked = {"messages": CONVERSE[:3], "output": {"message": CONVERSE[3]}}
    read = [*runs(tmp_path / "a.json", CONVERSE), *runs(tmp_path / "b.json", asked)]
    for name, logged in (("c", calls_logged), ("d", invocations), ("e", CONVERSE)):
        read += runs(tmp_path / f"{name}.jsonl", lines(*logged))
    assert len(read) == 5
    for run in read:
        spans = [s for s in run.spans if s.stop > s.start]
        assert [s.kind for s in spans] == ["context", "reason", "reason", "act", "observation", "act"]
        assert calls(run) == [("weather", '{"city": "Ulm"}', "t")]
        assert (len(spans[1].opaque), spans[4].error, spans[4].call_id) == (1, True, "t")
        assert cut(run)[-2:] == [("observation", 'Observation: {"c": 12}\n'), ("act", "Answer: 12.\n")]


def stream_event(kind, session="s", agent=None, **fields):
    return {"type": kind, "session_id": session, "parent_tool_use_id": agent, **fields}


def said(native, *blocks):
    return {"id": native, "role": "assistant", "content": list(blocks)}


def test_events_of_claudes_stream_are_a_run_a_session_and_one_a_sub_agent(tmp_path):
    use = {"type": "tool_use", "id": "t", "name": "Task", "input": {}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "found"}]}
    events = [
        {"type": "system", "subtype": "init", "session_id": "s", "tools": ["Task"]},
        stream_event("assistant", message=said("m1", {"type": "text", "text": "I look."})),
        {"type": "stream_event", "session_id": "s", "parent_tool_use_id": None, "event": {"type": "message_stop"}},
        stream_event("assistant", message=said("m1", use)),
        stream_event("user", agent="t", message={"role": "user", "content": "Find it."}),
        stream_event("assistant", agent="t", message=said("m2", {"type": "text", "text": "found"})),
        stream_event("user", message=result),
        stream_event("assistant", message=said("m3", {"type": "text", "text": "Done."})),
        {"type": "result", "subtype": "success", "is_error": False, "session_id": "s", "result": "Done."},
    ]
    for form in (lines(*events), events):
        whole, part = runs(tmp_path / "a.json", form)
        assert (whole.source.format, whole.id, part.id, part.parent_id) == ("claude-stream", "s", "s/t", "s")
        assert kinds(whole) == ["reason", "act", "observation", "act"]
        assert [s.step for s in whole.spans] == [0, 0, 0, 1]
        assert (whole.outcome.ending, whole.outcome.answer) == ("finished", "Done.")
        assert json.loads(bytes(whole.extra["n_stream_events"])) == 1
        assert (kinds(part), part.task) == (["context", "act"], "Find it.")


# ---- Vercel's AI SDK: what its versions 3, 4 and 5 store for the UI, and the model's own messages

ASKED = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "Weather?"}]}
INPUT, OUTPUT = {"city": "Ulm"}, {"c": 12}
TOLD = {"toolCallId": "t", "toolName": "weather"}
UI_5 = [
    ASKED,
    {
        "id": "2",
        "role": "assistant",
        "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "A tool.", "state": "done", "providerMetadata": {"p": {"signature": "s"}}},
            {"type": "text", "text": "I check.", "state": "done"},
            {
                "type": "tool-weather",
                "toolCallId": "t",
                "state": "output-available",
                "input": INPUT,
                "output": OUTPUT,
            },
            {"type": "step-start"},
            {"type": "text", "text": "12.", "state": "done"},
        ],
    },
]
INVOKED = {"state": "result", "step": 0, **TOLD, "args": INPUT, "result": OUTPUT}
UI_4 = [
    {**ASKED, "content": "Weather?"},
    {
        "id": "2",
        "role": "assistant",
        "content": "I check.12.",
        "reasoning": "A tool.",
        "parts": [
            {"type": "reasoning", "reasoning": "A tool.", "details": [{"type": "text", "text": "A tool."}]},
            {"type": "text", "text": "I check."},
            {"type": "tool-invocation", "toolInvocation": INVOKED},
            {"type": "text", "text": "12."},
        ],
        "toolInvocations": [INVOKED],
    },
]


def core(arguments, result):
    """Messages to and from the model; version 4 has `args` and `result`, 5 `input` and a typed `output`."""
    return [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "reasoning", "text": "A tool.", "signature": "s"},
                {"type": "text", "text": "I check."},
                {"type": "tool-call", **TOLD, **arguments},
            ],
        },
        {"role": "tool", "content": [{"type": "tool-result", **TOLD, **result}]},
        {"role": "assistant", "content": "12."},
    ]


def test_messages_of_vercels_sdk_are_read_in_each_form(tmp_path):
    dynamic = json.loads(json.dumps(UI_5).replace('"tool-weather"', '"dynamic-tool", "toolName": "weather"'))
    forms = [UI_5, {"id": "x", "messages": UI_5}, dynamic, UI_4]
    forms += [
        core({"args": INPUT}, {"result": OUTPUT}),
        core({"input": INPUT}, {"output": {"type": "json", "value": OUTPUT}}),
        core({"input": INPUT}, {"output": {"type": "text", "value": json.dumps(OUTPUT)}}),
        core({"input": INPUT}, {"output": {"type": "content", "value": [{"type": "text", "text": '{"c": 12}'}]}}),
    ]
    read = [run for n, form in enumerate(forms) for run in runs(tmp_path / f"{n}.json", form)]
    read += runs(tmp_path / "lines.jsonl", lines(*UI_5))
    assert [run.source.format for run in read] == ["vercel"] * len(forms) + ["messages"]
    for run in read:
        assert [text for _, text in cut(run)] == [
            "Weather?\n",
            "Thought: A tool.\n",
            "Thought: I check.\n",
            'Action: weather({"city": "Ulm"})\n',
            'Observation: {"c": 12}\n',
            "Answer: 12.\n",
        ]
        assert calls(run) == [("weather", '{"city": "Ulm"}', "t")]
        assert [span.step for span in run.spans] == [None, 0, 0, 0, 0, 1]
        assert len(run.spans[1].opaque) == 1


def test_calls_of_the_ui_may_have_failed_or_have_no_result_and_stand_beside_each_other(tmp_path):
    failed = {"type": "tool-a", "toolCallId": "1", "state": "output-error", "input": {}, "errorText": "no"}
    pending = {"type": "tool-b", "toolCallId": "2", "state": "input-available", "input": {"x": 1}}
    null = {"type": "tool-c", "toolCallId": "3", "state": "output-available", "input": {}, "output": None}
    said = {"id": "2", "role": "assistant", "parts": [failed, null, pending]}
    (run,) = runs(tmp_path / "a.json", [ASKED, said])
    assert kinds(run) == ["context", "act", "act", "act", "observation", "observation"]
    assert [(s.call_id, s.error) for s in run.spans[4:]] == [("1", True), ("3", None)]
    assert [name for name, _, _ in calls(run)] == ["a", "c", "b"]


def test_what_is_said_in_a_step_without_a_call_is_said_though_another_step_calls(tmp_path):
    step, text, tool = {"type": "step-start"}, UI_5[1]["parts"][2], UI_5[1]["parts"][3]
    said = {"id": "2", "role": "assistant", "parts": [step, text, step, text, tool]}
    (run,) = runs(tmp_path / "a.json", [ASKED, said])
    assert kinds(run) == ["context", "act", "reason", "act", "observation"]


def test_invocations_without_parts_stand_before_what_is_said_of_their_results(tmp_path):
    for state, expected in (
        ({"state": "result", "result": OUTPUT}, ["act", "observation", "act"]),
        ({"state": "call"}, ["reason", "act"]),
    ):
        invoked = {**TOLD, "args": INPUT, **state}
        said = {"id": "2", "role": "assistant", "content": "12.", "toolInvocations": [invoked]}
        (run,) = runs(tmp_path / "a.json", {"messages": [{"id": "1", "role": "user", "content": "q"}, said]})
        assert kinds(run) == ["context", *expected]


def test_media_of_the_ui_are_kept_beside_the_text_or_named(tmp_path):
    image = {"type": "file", "mediaType": "image/png", "url": "data:"}
    for parts, text in (([image, *ASKED["parts"]], "Weather?\n"), ([image], "[file: image/png]\n")):
        (run,) = runs(tmp_path / "a.json", [{**ASKED, "parts": parts}, UI_5[1]])
        assert (cut(run)[0], len(run.spans[0].opaque)) == (("context", text), 1)


# ---- LlamaIndex, in the form of its `ChatMessage`, with blocks and before it had them


def test_llamaindexs_messages_are_read_with_blocks_and_without(tmp_path):
    function = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    in_block = {"block_type": "tool_call", "tool_call_id": "c", "tool_name": "f", "tool_kwargs": {"a": 1}}
    of_claude = {"id": "c", "type": "tool_use", "name": "f", "input": {"a": 1}}

    def message(role, text, blocks=(), **more):
        said = [{"block_type": "text", "text": text}] if text else []
        return {"role": role, "additional_kwargs": more, "blocks": [*blocks, *said]}

    def run_of(call):
        answer = {"tool_call_id": "c", "name": "f"}
        return [message("user", "q"), call, message("tool", "r", **answer), message("assistant", "done")]

    thinking = {"block_type": "thinking", "content": "Hm.", "num_tokens": None, "additional_information": {"s": "x"}}
    forms = [
        run_of(message("assistant", "", [thinking, in_block])),
        run_of(message("assistant", "", [thinking, in_block], tool_calls=[function])),
        run_of(message("assistant", "", [thinking], tool_calls=[of_claude])),
        [
            {"role": "user", "content": "q", "additional_kwargs": {}},
            {
                "role": "assistant",
                "content": None,
                "reasoning": "Hm.",
                "additional_kwargs": {"tool_calls": [function]},
            },
            {"role": "tool", "content": "r", "additional_kwargs": {"tool_call_id": "c", "name": "f"}},
            {"role": "chatbot", "content": "done", "additional_kwargs": {}},
        ],
    ]
    forms.append({"messages": forms[0]})
    for form in forms:
        (run,) = runs(tmp_path / "a.json", form)
        assert run.source.format == "llamaindex"
        assert [text for _, text in cut(run)] == [
            "q\n",
            "Thought: Hm.\n",
            'Action: f({"a": 1})\n',
            "Observation: r\n",
            "Answer: done\n",
        ]
        assert (calls(run), run.spans[3].call_id) == ([("f", '{"a": 1}', "c")], "c")
    (run,) = runs(tmp_path / "lines.jsonl", lines(*forms[0]))
    assert kinds(run) == ["context", "reason", "act", "observation", "act"]


# ---- rows of nebius/SWE-agent-trajectories


def test_turns_of_swe_agent_are_cut_at_their_last_fenced_block(tmp_path):
    def turn(role, text, prompt=""):
        return {"cutoff_date": "", "mask": role == "ai", "role": role, "system_prompt": prompt, "text": text}

    record = {
        "instance_id": "a__b-1",
        "model_name": "m",
        "target": False,
        "trajectory": [
            turn("system", "", "SETTING"),
            turn("user", "Fix it."),
            turn("ai", "So:\n```python\nx = 1\n```\nI look.\n```\nls\n```"),
            turn("user", "a.py"),
            turn("ai", "I know no command."),
            turn("user", "Your output was not formatted correctly."),
            turn("ai", "```\ncat <<E\n```python\ny\n```\nE\n```"),
            turn("user", ""),
            turn("ai", "```\nsubmit\n```\n"),
        ],
        "exit_status": "submitted (exit_context)",
        "generated_patch": "diff",
        "eval_logs": "log",
    }
    (run,) = runs(tmp_path / "a.jsonl", lines(record))
    assert cut(run) == [
        ("context", "SETTING\n"),
        ("context", "Fix it.\n"),
        ("reason", "So:\n```python\nx = 1\n```\nI look.\n"),
        ("act", "```\nls\n```\n"),
        ("observation", "a.py\n"),
        ("reason", "I know no command.\n"),
        ("observation", "Your output was not formatted correctly.\n"),
        ("act", "```\ncat <<E\n```python\ny\n```\nE\n```\n"),
        ("observation", "\n"),
        ("act", "```\nsubmit\n```\n"),
    ]
    commands = [run.text[s.arguments_start : s.arguments_stop] for s in run.spans if s.kind == "act"]
    assert commands == ["ls", "cat <<E\n```python\ny\n```\nE", "submit"]
    assert (run.task_id, run.task, run.outcome.success) == ("a__b-1", "Fix it.", False)
    assert (run.outcome.ending, run.outcome.answer) == ("truncated", "diff")
    assert set(run.extra) == {"model_name", "eval_logs"}


# ---- Cohere's chat, version 2


def test_coheres_plan_is_a_thought_and_its_documents_are_what_came_back(tmp_path):
    documents = [
        {"type": "document", "document": {"id": "d", "data": '{"c": 12}'}},
        {"type": "document", "document": {"data": {"c": 13}}},
    ]
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_plan": "I will ask.", "tool_calls": MESSAGES[2]["tool_calls"]},
        {"role": "tool", "tool_call_id": "c1", "content": documents},
        {"role": "assistant", "content": [{"type": "text", "text": "12."}], "citations": []},
    ]
    (run,) = runs(tmp_path / "a.json", {"messages": messages})
    assert cut(run)[1:] == [
        ("reason", "Thought: I will ask.\n"),
        ("act", "Action: ls({})\n"),
        ("observation", 'Observation: {"c": 12}\n'),
        ("observation", 'Observation: {"c": 13}\n'),
        ("act", "Answer: 12.\n"),
    ]
    assert not run.spans[1].hidden


def test_messages_whose_words_stand_where_nobody_looks_are_refused(tmp_path):
    for said in ({"text": "a"}, {"text": "a", "content": ""}, {"blocks": ["a"], "content": None}, {"words": "a"}):
        unread = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", **said}]}
        (tmp_path / "a.jsonl").write_text(lines(unread, {"messages": MESSAGES}))
        assert [row["refused"] for row in rows(tmp_path / "a.jsonl")] == ["unrecognised", None]


# ---- Cline's and Roo Code's conversation histories


def cline(*turns, task="<task>\nFix it.\n</task>"):
    details = {"type": "text", "text": "<environment_details>\n# Files\n</environment_details>"}
    messages = [{"role": "user", "content": [{"type": "text", "text": task}, details]}]
    for number, texts in enumerate(turns):
        role = "user" if number % 2 else "assistant"
        messages.append({"role": role, "content": [{"type": "text", "text": text} for text in texts], "ts": number})
    return messages


READ = "<read_file>\n<path>a.py</path>\n</read_file>"
RESULT = "[read_file for 'a.py'] Result:"
DONE = "<attempt_completion>\n<result>\nDone.\n</result>\n</attempt_completion>"


def test_xml_elements_that_the_harness_ran_are_calls(tmp_path):
    quoting = "<write_to_file>\n<path>b</path>\n<content>\nsee </write_to_file> here\n</content>\n</write_to_file>\n"
    history = cline(
        [f"<thinking>\n{READ}\n</thinking>\n\nI read.\n\n{READ}"],
        [RESULT, "x = 1"],
        [f"{quoting}\nThat is it."],
        ["[write_to_file for 'b'] Result:\nSaved."],
        [DONE],
    )
    for form in (history, {"messages": history}, lines(*history)):
        (run,) = runs(tmp_path / "a.json", form)
        assert cut(run)[2:] == [
            ("reason", f"<thinking>\n{READ}\n</thinking>\n\nI read.\n\n"),
            ("act", f"{READ}\n"),
            ("observation", f"{RESULT}\n"),
            ("observation", "x = 1\n"),
            ("act", quoting[:-1]),
            ("reason", "\n\nThat is it.\n"),
            ("observation", "[write_to_file for 'b'] Result:\nSaved.\n"),
            ("act", f"{DONE}\n"),
        ]
        assert [name for name, _, _ in calls(run)] == ["read_file", "write_to_file", "attempt_completion"]
        assert calls(run)[0][1] == "\n<path>a.py</path>\n"
        assert run.task == "Fix it."


def test_the_tools_of_xml_calls_may_stand_in_the_system_prompt_or_in_results_alone(tmp_path):
    prompt = "## peek\nLooks.\nUsage:\n<peek>\n<at>x</at>\n</peek>\n\n# Rules\nUse <plan></plan>."
    said = "<plan>\nGo.\n</plan>\n<peek>\n<at>x</at>\n</peek>"
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}]
    reply = {"role": "user", "content": "[peek for 'x'] Result:\ny"}
    told = [
        [{"role": "system", "content": prompt}, *chat],
        {"system": prompt, "messages": chat},
        [*chat, reply],
    ]
    for messages in told:
        (run,) = runs(tmp_path / "a.json", messages)
        assert (run.source.format, [name for name, _, _ in calls(run)]) == ("cline", ["peek"])
        assert ("reason", "<plan>\nGo.\n</plan>\n") in cut(run)


def test_elements_that_the_log_does_not_name_as_tools_are_text(tmp_path):
    said = "<read_file>\n<path>a</path>\n</read_file>"
    for content in (said, f"Write `{said}` so.", "<b>x</b>"):
        messages = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": content}]
        (run,) = runs(tmp_path / "a.json", messages)
        assert (run.source.format, kinds(run)) == ("openai-chat", ["context", "act"])
    quoted = cline(["As in `<read_file>x</read_file>`.\n<read_file> is open"])
    (run,) = runs(tmp_path / "a.json", quoted)
    assert kinds(run) == ["context", "context", "act"]


# ---- calls and results in blocks: LangChain's standard blocks, Azure's evaluators, Haystack, OpenAI's threads


def in_blocks(call, result, **told):
    said = [{"role": "user", "content": [{"type": "text", "text": "q"}]}]
    said.append({"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]})
    return [*said, {"role": "tool", "content": result, **told}, {"role": "assistant", "content": "done"}]


AZURE_CALL = {"type": "tool_call", "tool_call_id": "c", "name": "f", "arguments": {"a": 1}}
AZURE_RESULT = [{"type": "tool_result", "tool_result": "r"}]


@pytest.mark.parametrize(
    "messages",
    [
        in_blocks({"type": "tool_call", "name": "f", "args": {"a": 1}, "id": "c"}, "r", tool_call_id="c"),
        in_blocks(AZURE_CALL, AZURE_RESULT, tool_call_id="c"),
        in_blocks(
            {"type": "tool_call", "tool_call": {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}},
            "r",
            tool_call_id="c",
        ),
        in_blocks(
            {"tool_call": {"id": "c", "tool_name": "f", "arguments": {"a": 1}}},
            [{"tool_call_result": {"result": "r", "origin": {"id": "c", "tool_name": "f"}, "error": False}}],
        ),
    ],
)
def test_calls_and_results_in_blocks_are_read_in_the_forms_of_several_makers(tmp_path, messages):
    (run,) = runs(tmp_path / "a.json", messages)
    assert [(kind, text) for kind, text in cut(run)] == [
        ("context", "q\n"),
        ("reason", "Thought: I look.\n"),
        ("act", 'Action: f({"a": 1})\n'),
        ("observation", "Observation: r\n"),
        ("act", "Answer: done\n"),
    ]
    assert (calls(run), run.spans[3].call_id) == ([("f", '{"a": 1}', "c")], "c")


def test_a_call_in_a_block_that_the_message_names_too_is_one(tmp_path):
    messages = in_blocks({"type": "tool_call", "name": "f", "args": {}, "id": "c1"}, "r", tool_call_id="c1")
    messages[1]["tool_calls"] = MESSAGES[2]["tool_calls"]
    (run,) = runs(tmp_path / "a.json", messages)
    assert calls(run) == [("ls", "{}", "c1")]


def test_haystacks_thoughts_and_failed_calls_are_told(tmp_path):
    failed = {"tool_call_result": {"result": "no", "origin": {"id": "c", "tool_name": "f"}, "error": True}}
    messages = in_blocks({"tool_call": {"id": "c", "tool_name": "f", "arguments": {}}}, [failed])
    messages[1]["content"].insert(0, {"reasoning": {"reasoning_text": "Hm.", "extra": {"k": 1}}})
    (run,) = runs(tmp_path / "a.json", {"messages": messages})
    assert cut(run)[1] == ("reason", "Thought: Hm.\n")
    assert [s.error for s in run.spans if s.kind == "observation"] == [True]


def test_pairs_of_a_query_and_the_messages_after_it_are_one_run(tmp_path):
    messages = in_blocks(AZURE_CALL, AZURE_RESULT, tool_call_id="c")
    record = {"query": messages[:1], "response": messages[1:], "tool_definitions": [{"name": "f"}]}
    (run,) = runs(tmp_path / "a.json", record)
    assert (run.source.format, kinds(run)) == ("chat-calls", ["context", "reason", "act", "observation", "act"])
    assert [json.loads(bytes(tool)) for tool in run.tools] == [{"name": "f"}]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "toolCall", "name": "f"},
        {"type": "client_tool_call", "id": 1},
        {"type": "tool_calls", "calls": []},
        {"toolInvocation": {}},
        {"tool_call": 1},
    ],
)
def test_blocks_that_may_be_calls_in_a_form_that_is_not_read_are_refused(tmp_path, block):
    unread = in_blocks(block, "r", tool_call_id="c")
    (tmp_path / "a.jsonl").write_text(lines({"messages": unread}, {"messages": MESSAGES}))
    assert [row["refused"] for row in rows(tmp_path / "a.jsonl")] == ["unrecognised", None]


def test_messages_of_a_thread_are_read_in_order_and_refused_newest_first(tmp_path):
    def message(role, text, at):
        content = [{"type": "text", "text": {"value": text, "annotations": []}}]
        return {"object": "thread.message", "created_at": at, "role": role, "content": content}

    thread = [message("user", "q", 1), message("assistant", "a", 2)]
    (run,) = runs(tmp_path / "a.json", thread)
    assert cut(run) == [("context", "q\n"), ("act", "Answer: a\n")]
    (tmp_path / "a.jsonl").write_text(lines({"messages": thread[::-1]}, {"messages": MESSAGES}))
    assert [row["refused"] for row in rows(tmp_path / "a.jsonl")] == ["unrecognised", None]


# ---- Pydantic AI, as `all_messages_json()` writes it


def test_pydantic_ais_messages_are_read_part_by_part(tmp_path):
    told = {"tool_name": "f", "tool_call_id": "c", "timestamp": "2026-01-02T03:04:05Z"}
    builtin = {"tool_name": "web_search", "tool_call_id": "w", "provider_name": "p"}
    messages = [
        {
            "parts": [
                {"part_kind": "system-prompt", "content": "Be brief.", "dynamic_ref": None},
                {"part_kind": "user-prompt", "content": "List.", "timestamp": "2026-01-02T03:04:05Z"},
            ],
            "instructions": "Use tools.",
            "kind": "request",
        },
        {
            "parts": [
                {"part_kind": "thinking", "content": "Hm.", "id": None, "signature": "s", "provider_name": None},
                {"part_kind": "text", "content": "I look.", "id": None},
                {"part_kind": "tool-call", **told, "args": '{"a":  1}'},
            ],
            "usage": {"input_tokens": 1},
            "kind": "response",
        },
        {
            "parts": [{"part_kind": "retry-prompt", **told, "content": "no"}],
            "instructions": "Use tools.",
            "kind": "request",
        },
        {"parts": [{"part_kind": "tool-call", **told, "args": {"a": 2}}], "kind": "response"},
        {"parts": [{"part_kind": "tool-return", **told, "content": {"n": 1}, "metadata": None}], "kind": "request"},
        {
            "parts": [
                {"part_kind": "builtin-tool-call", **builtin, "args": {"q": "x"}},
                {"part_kind": "builtin-tool-return", **builtin, "content": [{"url": "u"}], "outcome": "success"},
                {"part_kind": "text", "content": "One."},
            ],
            "kind": "response",
        },
        {"parts": [{"part_kind": "retry-prompt", "content": "Say more.", "tool_name": None}], "kind": "request"},
        {"parts": [{"part_kind": "text", "content": "One file."}], "kind": "response"},
    ]
    for form in (messages, {"messages": messages}, lines(*messages)):
        (run,) = runs(tmp_path / "a.json", form)
        assert [(kind, text) for kind, text in cut(run)] == [
            ("context", "Use tools.\n"),
            ("context", "Be brief.\n"),
            ("context", "List.\n"),
            ("reason", "Thought: Hm.\n"),
            ("reason", "Thought: I look.\n"),
            ("act", 'Action: f({"a":  1})\n'),
            ("observation", "Observation: no\n"),
            ("act", 'Action: f({"a": 2})\n'),
            ("observation", 'Observation: {"n": 1}\n'),
            ("act", 'Action: web_search({"q": "x"})\n'),
            ("observation", 'Observation: [{"url": "u"}]\n'),
            ("reason", "Thought: One.\n"),
            ("observation", "Observation: Say more.\n"),
            ("act", "Answer: One file.\n"),
        ]
        assert [s.error for s in run.spans if s.kind == "observation"] == [True, None, None, None]
        assert (run.task, [call[2] for call in calls(run)]) == ("List.", ["c", "c", "w"])


# ---- messages of AG-UI, and of Mistral's and Cohere's clients in TypeScript


def test_calls_under_names_in_camel_case_are_calls(tmp_path):
    renamed = json.dumps(MESSAGES).replace("tool_calls", "toolCalls").replace("tool_call_id", "toolCallId")
    (plain,) = runs(tmp_path / "a.json", MESSAGES)
    for form in (renamed, json.dumps({"messages": json.loads(renamed)}), lines(*json.loads(renamed))):
        (run,) = runs(tmp_path / "b.json", form)
        assert (run.text, calls(run)) == (plain.text, [("ls", "{}", "c1")])
    said = {"role": "assistant", "toolPlan": "I look.", "toolCalls": MESSAGES[2]["tool_calls"]}
    (run,) = runs(tmp_path / "c.json", [MESSAGES[1], said])
    assert kinds(run) == ["context", "reason", "act"]
