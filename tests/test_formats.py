import contextlib
import gzip
import json

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadstream.errors import FormatError, InputError, RecordError
from sadstream.formats import FORMATS, SessionFormat, SessionRecord, TextFormat
from sadstream.formats.dialects import DIALECTS, dialect_of
from sadstream.formats.outcomes import as_bool, as_float
from sadstream.logs import scan_logs
from sadstream.progress import silent
from sadstream.segment import segment
from sadstream.spans import SegmentConfig, segment_logs
from tests.strategies import json_values, texts, trajectories

RUN = "Question: Who?\nThought: look\nAction: search[x]\nObservation: Ann\nThought: done\nAction: finish[Ann]\n"


def read(tmp_path, content, name="log"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return segment(scan_logs(str(path))).collect()


def read_record(tmp_path, record):
    return read(tmp_path, json.dumps(record)).row(0, named=True)


def kinds(row):
    return [span["kind"] for span in row["spans"]]


# ---- real logs against counts made by other code; the rules are in formats.md, section 5

RAW = {
    "alfworld/knowagent_llama13b_D0.jsonl": "transcript",
    "alfworld/react_3prompts.json": "transcript",
    "hotpotqa/fireact_alpaca_hotpotqa.json": "alpaca",
    "hotpotqa/fireact_gpt_format_multitask_multimethod.jsonl": "react-chat",
    "hotpotqa/fireact_trajs_gpt35_dev_0_500.json": "react-chat",
    "hotpotqa/knowagent_llama13b_D0.jsonl": "transcript",
    "hotpotqa/reflexion_react_base_5_trials.txt": "plain-text",
    "webshop/react_webshop.ipynb": "notebook",
}


@pytest.fixture(scope="session")
def real(shared_data, tmp_path_factory):
    """Summaries of `segment`, and its output folders, by file below data/raw."""
    made = {}
    for name in RAW:
        out = tmp_path_factory.mktemp("spans") / "out"
        made[name] = (segment_logs(SegmentConfig(logs=(str(shared_data / "raw" / name),), out=str(out)), silent), out)
    return made


@pytest.mark.parametrize("name", RAW)
def test_real_logs_give_the_counts_that_other_code_found(name, real, shared_data):
    expected = json.loads((shared_data / "counts.json").read_text())[f"raw/{name}"]
    found, _ = real[name]
    n_spans = {kind: found["n_spans"][kind] + found["n_rejected_spans"][kind] for kind in found["n_spans"]}
    assert found["n_trajectories"] + found["n_rejected"] == expected["trajectories"]
    assert n_spans["reason"] == expected["thoughts"] + expected.get("action_paths", 0)
    assert n_spans["act"] == expected["actions"]
    assert n_spans["observation"] == expected["observations"]
    # A context a run: the prompt. Nothing else in these logs is context.
    assert n_spans["context"] == expected["trajectories"]
    assert found["formats"] == {RAW[name]: found["n_trajectories"]}
    assert found["n_passed_over"] == {}


def test_every_raw_log_is_counted_or_has_nothing_in_it(shared_data):
    files = {p.relative_to(shared_data / "raw").as_posix() for p in (shared_data / "raw").rglob("*") if p.is_file()}
    assert files - RAW.keys() == {"SOURCES.md", "alfworld/react_alfworld.ipynb"}


def test_a_notebook_without_output_holds_no_trajectory(shared_data, tmp_path):
    # formats.md wants exit 0 here; contract.md, section 3, holds: no trajectory read at all is an error.
    notebook = str(shared_data / "raw" / "alfworld" / "react_alfworld.ipynb")
    with pytest.raises(InputError, match=r"no trajectory in it \(1 empty\)"):
        segment_logs(SegmentConfig(logs=(notebook,), out=str(tmp_path / "out")), silent)


def outcomes(real, name):
    from sadstream.shards import scan_shards

    return scan_shards(real[name][1]).unnest("outcome").collect()


def test_outcomes_of_real_logs_are_those_counted(real, shared_data):
    counts = json.loads((shared_data / "counts.json").read_text())
    reflexion = counts["raw/hotpotqa/reflexion_react_base_5_trials.txt"]
    runs = outcomes(real, "hotpotqa/reflexion_react_base_5_trials.txt")
    assert runs["success"].sum() == reflexion["trajectories_correct"]
    # Each run has an answer that would have been right, and the section or the last line tells how it ended.
    assert runs["gold"].null_count() == 0
    assert runs["success"].null_count() == 0
    # By the section 282 were wrong and 60 halted.
    assert (
        runs.filter(~pl.col("success")).height == reflexion["trajectories_incorrect"] + reflexion["trajectories_halted"]
    )
    assert runs["task"].null_count() == 0
    trials = runs["extra"].str.json_path_match("$.trial")
    assert trials.n_unique() == reflexion["trials"]

    knowagent = outcomes(real, "hotpotqa/knowagent_llama13b_D0.jsonl")
    expected = counts["raw/hotpotqa/knowagent_llama13b_D0.jsonl"]
    assert knowagent["success"].sum() == expected["correct"]
    assert (knowagent["ending"] == "halted").sum() == expected["halted"]
    alfworld = outcomes(real, "alfworld/knowagent_llama13b_D0.jsonl")
    assert alfworld["success"].sum() == counts["raw/alfworld/knowagent_llama13b_D0.jsonl"]["success"]
    gpt35 = outcomes(real, "hotpotqa/fireact_trajs_gpt35_dev_0_500.json")
    assert (gpt35["reward"] == 1).sum() == counts["raw/hotpotqa/fireact_trajs_gpt35_dev_0_500.json"]["reward_true"]
    webshop = outcomes(real, "webshop/react_webshop.ipynb")
    assert webshop["reward"].is_not_null().sum() == counts["raw/webshop/react_webshop.ipynb"]["trajectories_with_score"]
    assert (webshop["ending"] == "halted").sum() == 40


def test_runs_of_alfworld_that_end_in_a_thought_are_truncated(real, shared_data):
    counts = json.loads((shared_data / "counts.json").read_text())["raw/alfworld/knowagent_llama13b_D0.jsonl"]
    runs = outcomes(real, "alfworld/knowagent_llama13b_D0.jsonl")
    last = runs["spans"].list.last().struct.field("kind")
    assert (last != "observation").sum() == counts["trajectories_ending_without_observation"]


def test_the_two_runs_without_an_action_are_refused_by_name(real):
    _, out = real["hotpotqa/fireact_gpt_format_multitask_multimethod.jsonl"]
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_bytes().splitlines()]
    assert [reject["reason"] for reject in rejects] == ["not-a-run"] * 2
    assert [reject["n_spans"]["observation"] for reject in rejects] == [1, 1]


def test_windows_line_breaks_change_no_count(real, shared_data, tmp_path):
    name = "hotpotqa/reflexion_react_base_5_trials.txt"
    frame = read(tmp_path, (shared_data / "raw" / name).read_bytes().replace(b"\n", b"\r\n"))
    assert frame.height == real[name][0]["n_trajectories"]
    assert frame["spans"].list.len().sum() == sum(real[name][0]["n_spans"].values())


# ---- recognising


@given(json_values())
def test_formats_recognise_any_json_value_without_a_crash(value):
    raw = msgspec.json.encode(value)
    value = msgspec.json.decode(raw)
    for format in FORMATS:
        if isinstance(format, TextFormat) or not format.recognise(value):
            continue
        with contextlib.suppress(RecordError, msgspec.DecodeError):
            session = isinstance(format, SessionFormat)
            list(format.read([SessionRecord("0", value, raw)]) if session else format.read(value, raw))


@given(texts(max_size=10), st.sampled_from(["", "Thought 1:", "Action: reset\n", "Thought:", "> x", "Final Answer:"]))
def test_rust_and_python_recognise_the_same_dialect(text, label):
    text = f"{text}\n{label}{text}"
    frame = pl.DataFrame({"text": [text]})
    found = [name for name, pattern in DIALECTS.items() if frame["text"].str.contains(pattern).item()]
    assert dialect_of(text) == (found[0] if found else None)


@pytest.mark.parametrize(
    "text",
    [" Thought: a", "x Action: b", "thought: a", "Thought 1 : a", "Question: q", ">x", "\u2028> x", "Thought １: a"],
)
def test_what_is_not_at_a_line_start_or_not_spelt_so_is_no_label(text):
    assert dialect_of(text) is None


# ---- one small record of each format


def test_a_simple_record_is_read_field_by_field(tmp_path):
    row = read_record(tmp_path, {"text": RUN, "id": "mine", "task": "Who?", "success": True, "reward": 0.5})
    assert (row["id"], row["task"], row["text"], row["extra"]) == ("mine", "Who?", RUN, "{}")
    assert row["outcome"]["success"] is True
    assert row["outcome"]["reward"] == 0.5
    assert kinds(row) == ["context", "reason", "act", "observation", "reason", "act"]


@pytest.mark.parametrize(
    ("native", "expected"), [(7, "7"), ("é/#", "é/#"), ("", "log#0"), (None, "log#0"), (True, "log#0")]
)
def test_an_id_that_is_none_is_made_of_file_and_record(tmp_path, native, expected):
    assert read_record(tmp_path, {"text": RUN, "id": native})["id"] == expected


def test_a_task_that_is_not_named_is_read_from_the_text(tmp_path):
    examples = "Question: shown\nThought 1: a\n(END OF EXAMPLES)\n"
    rows = read(tmp_path, "".join(json.dumps({"text": t}) + "\n" for t in (RUN, examples + RUN)))
    assert rows["task"].to_list() == ["Who?", "Who?"]


def test_a_record_with_a_run_under_any_name_keeps_the_other_fields_verbatim(tmp_path):
    raw = (
        f'{{"question": "Who?", "answer": "Ann", "prompt": {json.dumps(RUN)}, "correct": "True", "halted": false, '
        '"n": 1.50, "deep": {"b":  [1,2 ], "a": "\\u00e9"}, "name": 12}'
    )
    row = read(tmp_path, raw).row(0, named=True)
    assert row["task"] == "Who?"
    assert row["task_id"] == "12"
    assert row["outcome"] == {"success": True, "reward": None, "ending": "finished", "answer": None, "gold": "Ann"}
    assert row["extra"] == '{"halted":false,"n":1.50,"deep":{"b":  [1,2 ], "a": "\\u00e9"}}'


@given(record=st.dictionaries(texts(max_size=2).map("x".__add__), json_values(), max_size=4))
def test_what_is_not_mapped_is_kept(record):
    from sadstream.formats import transcript

    (draft,) = transcript.read({**record, "text": RUN, "x": 0}, msgspec.json.encode({**record, "text": RUN, "x": 0}))
    assert msgspec.json.decode(draft.extra) == {**record, "x": 0}


def test_a_value_that_means_nothing_is_kept_and_not_mapped(tmp_path):
    raw = '{{"text": {}, "reward": 1{}, "success": "maybe"}}'.format(json.dumps(RUN), "0" * 400)
    row = read(tmp_path, raw).row(0, named=True)
    assert (row["outcome"]["reward"], row["outcome"]["success"]) == (None, None)
    assert row["extra"] == '{"reward":1%s,"success":"maybe"}' % ("0" * 400)


@pytest.mark.parametrize(
    ("value", "truth", "number"),
    [
        (True, True, 1.0),
        ("False", False, 0.0),
        (1, True, 1.0),
        (0.5, None, 0.5),
        ("0.25", None, 0.25),
        ("nan", None, None),
        ("inf", None, None),
        (10**400, None, None),
        ([1], None, None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_truth_and_numbers_are_read_as_logs_write_them(value, truth, number):
    assert as_bool(value) is truth
    assert as_float(value) == number


def test_chat_messages_are_read_bare_or_under_a_name(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question: Who?"},
        {"role": "assistant", "content": "Thought: look\nAction: search[x]"},
        {"role": "user", "content": "Observation: Episode finished, reward = True"},
    ]
    record = {"traj": messages, "gt": "Ann", "pred": "Bob", "em": False, "f1": 0.25, "reward": False}
    rows = read(tmp_path, f"{json.dumps(messages)}\n{json.dumps(record)}\n{json.dumps({'messages': messages})}\n")
    assert rows["source"].struct.field("format").to_list() == ["react-chat"] * 3
    assert rows["task"].to_list() == ["Who?"] * 3
    assert rows["text"].n_unique() == 1
    bare, named, _ = rows["outcome"].to_list()
    assert bare == {"success": True, "reward": 1.0, "ending": "finished", "answer": None, "gold": None}
    assert named == {"success": False, "reward": 0.0, "ending": "finished", "answer": "Bob", "gold": "Ann"}
    assert rows["extra"].to_list() == ["{}", '{"f1":0.25}', "{}"]
    assert [s["author"] for s in rows["spans"][0]] == ["system", "user", "agent", "agent", "user"]


def test_alpaca_records_have_instruction_and_input_as_prompt(tmp_path):
    run = RUN.split("\n", 1)[1]
    row = read_record(tmp_path, {"instruction": "Answer.", "input": "Who?", "output": run, "x": [1]})
    assert row["text"] == f"Answer.\nWho?\n{run}"
    assert kinds(row) == ["context", "context", "reason", "act", "observation", "reason", "act"]
    assert [s["author"] for s in row["spans"]] == ["user", "user", "agent", "agent", "environment", "agent", "agent"]
    assert row["task"] == "Answer."
    assert row["extra"] == '{"x":[1]}'


def test_alfworld_records_are_read_with_result_and_name(tmp_path):
    text = "You are in the middle of a room.\nYour task is to: cool a mug.\n> go\nOK\n"
    row = read_record(tmp_path, {"name": "game_1", "prompt": text, "result": True})
    assert (row["task"], row["task_id"], row["outcome"]["success"]) == ("cool a mug.", "game_1", True)


def test_an_object_of_runs_is_one_record_a_key(tmp_path):
    rows = read(tmp_path, json.dumps({"act_1": "You see.\n> go\nOK", "react_1": "You see.\n> think: x\nOK."}, indent=2))
    assert rows["id"].to_list() == ["log#act_1", "log#react_1"]


REFLEXION = """
########################################
BEGIN TRIAL 2
Trial summary: Correct: 1, Incorrect: 1, Halted: 1
########################################

------------- BEGIN CORRECT AGENTS -------------

Question: One?
Reflections:
- try harder
Thought 1: a
Action 1: Finish[x]
Observation 1: Answer is CORRECT

Correct answer: x

------------- BEGIN INCORRECT AGENTS -------------

Question: Two?
Thought 1: b
Action 1: Finish[y]
Observation 1: Answer is INCORRECT

Correct answer: Jonny" Craig

------------- BEGIN HALTED AGENTS -------------

Question: Three?
Thought 1: c
Action 1: Search[z]
Observation 1: page

==== Heading ====
more
Correct answer: z
Question: Four?
Correct answer: w
"""


def test_a_reflexion_log_is_split_and_its_banners_tell_the_outcome(tmp_path):
    rows = read(tmp_path, REFLEXION)
    assert rows["task"].to_list() == ["One?", "Two?", "Three?", "Four?"]
    assert rows["outcome"].to_list() == [
        {"success": True, "reward": None, "ending": "finished", "answer": None, "gold": "x"},
        {"success": False, "reward": None, "ending": "finished", "answer": None, "gold": 'Jonny" Craig'},
        {"success": False, "reward": None, "ending": "halted", "answer": None, "gold": "z"},
        {"success": False, "reward": None, "ending": "halted", "answer": None, "gold": "w"},
    ]
    assert rows["extra"].to_list()[0] == '{"trial":2,"section":"CORRECT"}'
    assert rows["text"][2].endswith("==== Heading ====\nmore\n")
    assert [kinds(row) for row in rows.iter_rows(named=True)][3] == ["context"]
    assert rows["source"].struct.field("record").to_list() == ["0", "1", "2", "3"]


WEBSHOP = (
    "-----------------\n7\nAction: reset\nObservation: \nWebShop \nInstruction: \nfind a mug [Search]\n\n"
    "Action: think[options 'a', 'b',\nObservation: OK.\n\nAction: click[Buy Now]\n"
    "Observation: \nYour score (min 0.0, max 1.0): 0.5\n\n1 0.5 0.0 0.0\n"
    "-----------------\n8\nAction: reset\nObservation: \nWebShop \nInstruction: \na red one\n\nAction: search[x]\n"
)


def notebook(*chunks):
    outputs = [{"output_type": "stream", "name": "stdout", "text": chunk} for chunk in chunks]
    return json.dumps({"cells": [{"source": "x"}, {"outputs": outputs}], "nbformat": 4})


@given(st.integers(0, len(WEBSHOP)), st.booleans())
def test_a_notebook_cut_at_any_buffer_end_reads_as_if_it_were_whole(at, as_lines):
    from sadstream.formats import notebook as format

    chunks = (WEBSHOP[:at], WEBSHOP[at:].splitlines(keepends=True) if as_lines else WEBSHOP[at:])
    raw = notebook(*chunks).encode()
    whole = notebook(WEBSHOP).encode()
    assert list(format.read(json.loads(raw), raw)) == list(format.read(json.loads(whole), whole))


def test_line_breaks_in_a_notebook_are_kept_as_they_are(tmp_path):
    text = "Thought: a\r\nAction: b\rc\u2028d"
    assert read(tmp_path, notebook(text))["text"].to_list() == [text]


def test_webshop_runs_are_read_with_instruction_score_and_number(tmp_path):
    for content in (WEBSHOP, notebook(WEBSHOP)):
        rows = read(tmp_path, content)
        assert rows["task"].to_list() == ["find a mug [Search]", "a red one"]
        assert rows["task_id"].to_list() == ["7", "8"]
        outcome = rows["outcome"].struct
        assert outcome.field("reward").to_list() == [0.5, None]
        assert outcome.field("success").to_list() == [False, None]
        assert outcome.field("ending").to_list() == ["finished", "halted"]
        assert [kinds(row) for row in rows.iter_rows(named=True)] == [
            ["context", "reason", "observation", "act", "observation"],
            ["context", "act"],
        ]
        assert "".join(rows["text"]) == WEBSHOP.replace("1 0.5 0.0 0.0\n", "")


@settings(max_examples=settings().max_examples // 4)
@given(trajectories())
def test_trajectory_records_are_read_as_they_stand(trajectory):
    from sadstream.formats import native
    from sadstream.frames import log_frame, row_trajectory

    raw = msgspec.json.encode(trajectory)
    record = msgspec.json.decode(raw)
    assert native.recognise(record)
    row = segment(log_frame(list(native.read(record, raw))).lazy()).collect().row(0, named=True)
    again = row_trajectory(row)
    assert msgspec.structs.replace(again, source=trajectory.source) == trajectory


def test_a_compressed_trajectory_file_is_read_back(tmp_path):
    line = {"format_version": 1, "id": "a", "source": {"file": "f", "record": "0", "format": "x"}, "text": "ab"}
    span = {"kind": "act", "start": 0, "stop": 2, "body_start": 0, "body_stop": 2, "author": "agent"}
    rows = read(tmp_path, gzip.compress(json.dumps({**line, "spans": [span]}).encode()))
    assert kinds(rows.row(0, named=True)) == ["act"]


@pytest.mark.parametrize("name", ["body", "logged", "arguments"])
@pytest.mark.parametrize(("first", "last"), [(0, 3), (2, 1), (1, 5)])
def test_a_trajectory_record_with_places_outside_their_span_is_refused(name, first, last, tmp_path):
    span = {"kind": "act", "start": 1, "stop": 4, "body_start": 1, "body_stop": 4, "author": "agent", "step": 0}
    prompt = {"kind": "context", "start": 0, "stop": 1, "body_start": 0, "body_stop": 1, "author": "user"}
    record = {"format_version": 1, "id": "a", "source": {"file": "", "record": "", "format": ""}, "text": "abcd"}
    right = {**record, "spans": [prompt, {**span, f"{name}_start": 1, f"{name}_stop": 4}]}
    assert read_record(tmp_path, right)["spans"][1][f"{name}_stop"] == 4
    wrong = {**record, "spans": [prompt, {**span, f"{name}_start": first, f"{name}_stop": last}]}
    with pytest.raises(FormatError, match="of span 1 leaves the span"):
        read_record(tmp_path, wrong)
