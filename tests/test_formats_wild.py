"""Ways in which logs of known kinds differ from the samples, each met in a public log and written anew here."""

import json

import pytest

from sadstream.frames import row_trajectory
from sadstream.logs import scan_logs
from sadstream.segment import segment


def rows(path, **options):
    return segment(scan_logs(str(path), **options)).collect().rows(named=True)


def runs(path, content, **options):
    """Trajectories of a file with this content: text, or a value that is written as JSON."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    found = rows(path, **options)
    assert [row["refused"] for row in found] == [None] * len(found), [row["detail"] for row in found]
    return [row_trajectory({k: v for k, v in row.items() if k not in ("refused", "detail")}) for row in found]


def cut(trajectory):
    """Kind and text of each span."""
    return [(span.kind, trajectory.text[span.start : span.stop]) for span in trajectory.spans]


def kinds(trajectory):
    return [span.kind for span in trajectory.spans]


CHAIN_OF_THOUGHT = """
########################################
BEGIN TRIAL 2
Trial summary: Correct: 1, Incorrect: 1
#######################################
------------- BEGIN CORRECT AGENTS -------------

Context: Gromit is a dog.

Wallace is a man.
Thought: A dog it is.
Action: Finish[dog]
Observation: Answer is CORRECT
Correct answer: dog

------------- BEGIN INCORRECT AGENTS -----------

Solve it. Below is the last trial you attempted.
Question: Who?
Thought: Hm.
Action: Finish[a]
Observation: Answer is INCORRECT
(END PREVIOUS TRIAL)

Reflections:
- Look again.

Question: Who?
Thought: Again.
Action: Finish[b]
Observation: Answer is INCORRECT
Reflections: I was wrong.
Thought: That was the last trial.
Correct answer: c

"""


def test_what_an_agent_was_told_before_its_question_is_its_runs_context(tmp_path):
    first, second = runs(tmp_path / "log.txt", CHAIN_OF_THOUGHT)
    assert cut(first)[0] == ("context", "Context: Gromit is a dog.\n\nWallace is a man.\n")
    assert kinds(first) == ["context", "reason", "act", "observation"]
    assert (first.outcome.success, first.outcome.gold) == (True, "dog")
    assert kinds(second) == ["context", "reason", "act", "observation", "context"]
    assert cut(second)[1] == ("reason", "Thought: Again.\n")
    assert cut(second)[-1] == ("context", "Reflections: I was wrong.\nThought: That was the last trial.\n")
    assert (second.outcome.success, second.outcome.gold, second.task) == (False, "c", "Who?")


REACT_STDOUT = """3687 Claim: Gromit is a cat.
Thought 1: Look.
Action 1: Search[Gromit]
Observation 1: A dog.

Thought 2: No cat.
Action 2: Finish[REFUTES]
Observation 2: Episode finished, reward = 1

{'steps': 2, 'answer': 'REFUTES', 'gt_answer': 'REFUTES', 'question_idx': 3687, 'em': 1, 'reward': 1, 'f1': 1}

1 1 1.0 3.5
-----------

12 Question: Who?
Thought 1: Look.
Action 1: Lookup[x]
Observation 1: No more results.

{'steps': 8, 'answer': '', 'gt_answer': 'Wallace', 'question_idx': 12, 'em': 0, 'reward': 0, 'f1': 0}

1 2 0.5 4.5
-----------

"""


@pytest.mark.parametrize("notebook", [False, True])
def test_react_prints_a_number_before_its_question_and_results_after_it(tmp_path, notebook):
    content = REACT_STDOUT
    if notebook:
        output = {"output_type": "stream", "name": "stdout", "text": REACT_STDOUT.splitlines(keepends=True)}
        content = {"nbformat": 4, "cells": [{"cell_type": "code", "outputs": [output]}]}
    claim, question = runs(tmp_path / "log", content)
    assert kinds(claim) == ["context", "reason", "act", "observation", "reason", "act", "observation"]
    assert claim.task == "Gromit is a cat."
    assert (claim.outcome.success, claim.outcome.answer, claim.outcome.ending) == (True, "REFUTES", "finished")
    assert question.text.endswith("Observation 1: No more results.\n\n")
    assert (question.outcome.success, question.outcome.gold, question.outcome.ending) == (False, "Wallace", "halted")


EXAMPLES_FIRST = """#####

Environment #0:
Interact with a household to solve a task. Here are two examples.
You are in the middle of a room. You see a drawer 1.
Your task is to: put a pan.
> go to drawer 1
Nothing happens.

Here is the task:
You are in the middle of a room. You see a shelf 1.
Your task is to: look at a bowl.
> think: hm
OK.
> go to shelf 1
You see a bowl 1.

STATUS: FAIL

#####
"""


def test_examples_before_the_task_of_a_transcript_are_no_runs(tmp_path):
    (run,) = runs(tmp_path / "trial.log", EXAMPLES_FIRST)
    assert kinds(run) == ["context", "reason", "observation", "act", "observation"]
    assert run.task == "look at a bowl."
    assert (run.outcome.success, run.outcome.ending) == (False, "halted")


def test_instructions_before_the_first_question_belong_to_it(tmp_path):
    (run,) = runs(tmp_path / "log.txt", "Answer it.\nQuestion: Who?\nThought 1: I know.\nAction 1: Finish[x]\n")
    assert cut(run)[0] == ("context", "Answer it.\nQuestion: Who?\n")


def test_quotations_in_markdown_are_no_commands(tmp_path):
    (tmp_path / "notes.txt").write_text("# Notes\n\n> Note: read this.\n\nMore of it.\n")
    (tmp_path / "played.txt").write_text("# Zork\n> think: go\nOK.\n> go north\nA house.\n")
    assert [row["source"]["file"] for row in rows(tmp_path) if row["refused"] is None] == ["played.txt"]


REACT = [
    {"role": "system", "content": "Answer it."},
    {"role": "user", "content": "Question: Who?"},
    {"role": "assistant", "content": "Thought: I look.\nAction: search[x]"},
    {"role": "user", "content": "Observation: A dog."},
    {"role": "assistant", "content": "Thought: So it is.\nAction: finish[dog]"},
]
CUT = ["context", "context", "reason", "act", "observation", "reason", "act"]


def with_blocks(message):
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: {**m, "name": "x", "timestamp": 3},
        lambda m: {"tool_calls": None, "function_call": None, "refusal": None, **m},
        lambda m: {**m, "role": {"assistant": "agent", "user": "human"}.get(m["role"], m["role"])},
        lambda m: {**m, "role": "tool"} if m["content"].startswith("Observation") else m,
        with_blocks,
    ],
)
@pytest.mark.parametrize("name", ["messages", "history", "conversations", ""])
def test_react_in_chat_turns_is_cut_however_the_messages_are_dressed(tmp_path, change, name):
    messages = [change(message) for message in REACT]
    (run,) = runs(tmp_path / "log.json", {name: messages, "id": 7} if name else messages)
    assert kinds(run) == CUT
    assert [text.rstrip("\n") for _, text in cut(run)][2:4] == ["Thought: I look.", "Action: search[x]"]
    assert run.task == "Who?"


def test_a_tagged_chat_that_says_final_answer_is_no_crewai(tmp_path):
    said = "<think>Thought: hm</think>\n<answer>\nFinal Answer: a dog\n</answer>"
    (run,) = runs(tmp_path / "log.json", [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": said}])
    assert run.source.format == "tagged-chat"
    assert kinds(run) == ["context", "reason", "act"]


def test_calls_of_an_agent_that_writes_react_are_one_run_cut_by_labels(tmp_path):
    prompt = [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Who?"}]
    first = "Thought: I look.\nAction: search\nAction Input: {}"
    last = "Thought: I know.\nFinal Answer: a dog"
    history = [*prompt, {"role": "assistant", "content": first + "\nObservation: Gromit."}]
    calls = [
        {"request": {"messages": asked}, "response": {"choices": [{"message": {"role": "assistant", "content": said}}]}}
        for asked, said in ((prompt, first), (history, last))
    ]
    (run,) = runs(tmp_path / "log.jsonl", "".join(json.dumps(call) + "\n" for call in calls))
    assert kinds(run) == ["context", "context", "reason", "act", "observation", "reason", "act"]
    assert (run.outcome.answer, run.outcome.ending) == ("a dog", "finished")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda chats: {"model": "x", "n": 3, "config": {"lr": 0.1}, "results": chats},
        lambda chats: {"train": chats[:1], "test": chats[1:]},
        lambda chats: {"simulations": {f"task-{i}": chat for i, chat in enumerate(chats)}},
        lambda chats: [chats[:1], chats[1:]],
        lambda chats: [{"index": i, "data": chat} for i, chat in enumerate(chats)],
    ],
)
def test_runs_are_found_below_splits_and_beside_a_configuration(tmp_path, wrap):
    chats = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Yes."}]} for i in "abc"
    ]
    (tmp_path / "log.json").write_text(json.dumps(wrap(chats)))
    found = [row for row in rows(tmp_path / "log.json") if row["refused"] is None]
    assert [row["task"] for row in found] == ["a?", "b?", "c?"]
    assert len({row["id"] for row in found}) == 3


def test_tags_act_in_blocks_as_in_strings(tmp_path):
    said = 'I look.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    chat = [{"role": "user", "content": "Who?"}, with_blocks({"role": "assistant", "content": said})]
    (run,) = runs(tmp_path / "log.json", {"messages": chat})
    assert kinds(run) == ["context", "reason", "act"]


@pytest.mark.parametrize("change", [with_blocks, lambda m: {"tool_calls": None, **m}])
def test_webvoyager_and_mini_swe_agent_may_say_it_in_blocks_or_with_nulls(tmp_path, change):
    browsing = [
        {"role": "user", "content": "Now given a task: find it. Please interact with x"},
        {"role": "assistant", "content": "Thought: there.\n\nAction: Click [3]"},
        {"role": "user", "content": "Observation: a page"},
    ]
    coding = [
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": "I look.\n```bash\nls\n```"},
        {"role": "user", "content": "<returncode>0</returncode>\n<output>a</output>"},
    ]
    for messages, name in ((browsing, "webvoyager"), (coding, "mini-swe-agent")):
        (run,) = runs(tmp_path / "log.json", [change(message) for message in messages])
        assert (run.source.format, kinds(run)) == (name, ["context", "reason", "act", "observation"])


def test_a_prompt_full_of_labels_is_no_run(tmp_path):
    prompt = {"role": "system", "content": "Use this form:\nThought: think\nAction: act\nObservation: see"}
    record = {"model": "x", "stop": ["Observation:"], "messages": [prompt, {"role": "user", "content": "Who?"}]}
    (tmp_path / "log.jsonl").write_text(json.dumps(record) + "\n")
    (row,) = rows(tmp_path / "log.jsonl")
    assert (row["source"]["format"], row["refused"]) == ("openai-chat", None)
    assert [span["kind"] for span in row["spans"]] == ["context", "context"]


@pytest.mark.parametrize(
    ("prompt", "run"), [("input", "output"), ("prompt", "completion"), ("prompt", "response"), ("query", "response")]
)
def test_a_prompt_and_the_run_beside_it_are_told_apart(tmp_path, prompt, run):
    examples = "Question: a?\nThought 1: x\nAction 1: Finish[x]\n(END OF EXAMPLES)\nQuestion: Who?\n"
    said = "Thought 1: Look.\nAction 1: Search[b]\nObservation 1: A dog.\n"
    (found,) = runs(tmp_path / "log.json", [{prompt: examples, run: said}])
    assert kinds(found) == ["context", "reason", "act", "observation"]
    assert (found.task, found.text) == ("Who?", examples + said)


def test_calls_in_blocks_that_nobody_reads_are_not_taken_for_pictures(tmp_path):
    call = {"toolUse": {"toolUseId": "1", "name": "f", "input": {}}}
    mixed = [{"type": "text", "text": "I look."}, call]
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": mixed}]
    (tmp_path / "log.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    (tmp_path / "other.jsonl").write_text('{"text": "> go\\nOK\\n"}\n')
    refused = {row["source"]["file"]: row["refused"] for row in rows(tmp_path)}
    assert refused == {"log.jsonl": "unrecognised", "other.jsonl": None}
