"""What docs/properties.md promises, held against logs of every format, whole and damaged.

Real ones; where none is at hand, made-up ones.
"""

import ast
import contextlib
import json
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import settings
from polars.testing import assert_frame_equal

from sadstream.containers import archive_members, json_records
from sadstream.errors import SadstreamError
from sadstream.formats import FORMATS, NAMES, TextFormat
from sadstream.logs import scan_logs
from sadstream.score import score
from sadstream.segment import segment
from sadstream.shards import encode_trajectory
from sadstream.streams import ignore, open_stream
from sadstream.testing import check_spans
from tests.strategies import damage

ROOT = Path(__file__).parent.parent
# A few by default, thousands with the thorough profile.
N_DAMAGED_FILES = max(2, settings().max_examples // 20)
N_DAMAGED_RECORDS = 10
OF_TEXT = [f.name for f in FORMATS if isinstance(f, TextFormat)]
OF_RECORDS = [f for f in FORMATS if not isinstance(f, TextFormat)]


def otel_line(number: int, **attributes: str) -> dict:
    values = {"gen_ai.operation.name": "chat", **{f"gen_ai.{name}": value for name, value in attributes.items()}}
    return {
        "traceId": "t",
        "spanId": str(number),
        "parentSpanId": "",
        "startTimeUnixNano": str(number),
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in values.items()],
    }


TURN = "<|im_start|>{}\n{}<|im_end|>\n"
CONVERSE = [
    {"role": "user", "content": [{"text": "q"}, {"image": {"format": "png"}}]},
    {
        "role": "assistant",
        "content": [
            {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "x"}}},
            {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1}}},
        ],
    },
    {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"json": 1}], "status": "error"}}]},
    {"role": "assistant", "content": [{"text": "a"}]},
]
MADE_UP = {
    "smolagents": [
        {
            "steps": [
                {"system_prompt": "s"},
                {"task": "q"},
                {"step_number": 1, "model_output": "Thought: sum\n<code>\nprint(2)\n</code>", "observations": "2"},
                {
                    "step_number": 2,
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {"q": 1}}}],
                    "error": {"message": "no"},
                },
            ]
        }
    ],
    "verifiers": [
        {
            "prompt": [{"role": "user", "content": "1+1?"}],
            "completion": [{"role": "assistant", "content": "<think>x</think>4"}, {"role": "user", "content": "Sure?"}],
            "answer": "4",
            "reward": 0.5,
        }
    ],
    "chatml": [
        {
            "text": TURN.format("user", "Q")
            + TURN.format("assistant", '<think>\nHm\n</think>\n<tool_call>\n{"name": "f"}\n</tool_call>')
            + TURN.format("user", "<tool_response>\nR\n</tool_response>")
        }
    ],
    "otel-lines": [
        otel_line(1, **{"input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "q"}]}]'}),
        otel_line(2, **{"output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "a"}]}]'}),
    ],
    "smolagents-chat": [
        {
            "messages": [
                {"role": "user", "content": "New task:\nq"},
                {"role": "assistant", "content": "Thought: sum\n<code>\nprint(2)\n</code>"},
                {"role": "user", "content": "Observation:\nExecution logs:\n2"},
            ]
        }
    ],
    "preferences": [
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        },
        {"instruction": "q", "input": "i", "chosen": "Thought: x\nAction: f[y]\n", "rejected": "Action: g[]\n"},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
            "system": "s",
        },
    ],
    "vercel": [
        {
            "id": "chat",
            "messages": [
                {"id": "1", "role": "user", "parts": [{"type": "text", "text": "q"}, {"type": "file", "url": "u"}]},
                {
                    "id": "2",
                    "role": "assistant",
                    "parts": [
                        {"type": "step-start"},
                        {"type": "reasoning", "text": "Hm.", "providerMetadata": {"p": {"signature": "x"}}},
                        {"type": "tool-f", "toolCallId": "c", "state": "output-error", "input": {}, "errorText": "no"},
                        {"type": "text", "text": "a"},
                    ],
                },
            ],
        },
        [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": [{"type": "tool-call", "toolCallId": "c", "toolName": "f", "args": {"a": 1}}],
            },
            {
                "role": "tool",
                "content": [
                    {
                        "type": "tool-result",
                        "toolCallId": "c",
                        "toolName": "f",
                        "output": {"type": "content", "value": [{"type": "text", "text": "r"}]},
                    }
                ],
            },
            {
                "role": "assistant",
                "content": "a",
                "toolInvocations": [{"state": "result", "toolCallId": "d", "toolName": "g", "args": {}, "result": 1}],
            },
        ],
    ],
    "llamaindex": [
        {
            "messages": [
                {"role": "user", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": "q"}]},
                {
                    "role": "assistant",
                    "additional_kwargs": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
                    "blocks": [
                        {"block_type": "thinking", "content": "Hm.", "additional_information": {"signature": "x"}},
                        {"block_type": "tool_call", "tool_call_id": "d", "tool_name": "g", "tool_kwargs": {"a": 1}},
                        {"block_type": "image", "url": "u"},
                    ],
                },
                {"role": "tool", "content": "r", "additional_kwargs": {"tool_call_id": "c", "name": "f"}},
                {"role": "chatbot", "blocks": [{"block_type": "text", "text": "a"}]},
            ]
        }
    ],
    "pydantic-ai": [
        [
            {
                "kind": "request",
                "instructions": "i",
                "parts": [
                    {"part_kind": "system-prompt", "content": "s", "timestamp": "t"},
                    {"part_kind": "user-prompt", "content": ["q", {"kind": "image-url", "url": "u"}]},
                ],
            },
            {
                "kind": "response",
                "model_name": "m",
                "parts": [
                    {"part_kind": "thinking", "content": "Hm.", "signature": "x", "id": None},
                    {"part_kind": "tool-call", "tool_name": "f", "args": {"a": 1}, "tool_call_id": "c"},
                ],
            },
            {
                "kind": "request",
                "parts": [{"part_kind": "retry-prompt", "content": [1], "tool_name": "f", "tool_call_id": "c"}],
            },
            {"kind": "response", "parts": [{"part_kind": "text", "content": "a"}]},
        ]
    ],
    "swe-agent-turns": [
        {
            "instance_id": "i",
            "target": True,
            "trajectory": [
                {"role": "system", "system_prompt": "s", "text": "", "mask": False},
                {"role": "user", "system_prompt": "", "text": "q", "mask": False},
                {"role": "ai", "system_prompt": "", "text": "Look.\n```\nls\n```\n", "mask": True},
                {"role": "user", "text": "r"},
                {"role": "ai", "text": None},
            ],
            "exit_status": "submitted",
            "generated_patch": "p",
        }
    ],
    "cline": [
        [
            {"role": "user", "content": [{"type": "text", "text": "<task>\nq\n</task>"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "text", "text": "I look.\n<read_file>\n<path>a</path>\n</read_file>"},
                ],
            },
            {"role": "user", "content": [{"type": "text", "text": "[read_file for 'a'] Result:"}, {"type": "image"}]},
            {"role": "assistant", "content": "<attempt_completion>\n<result>a</result>\n</attempt_completion>\n"},
        ]
    ],
    "chat-calls": [
        {
            "request": {"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "f"}]},
            "response": {"message": {"role": "assistant", "content": "Hm."}, "done_reason": "length"},
        },
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "Hm."},
                {"role": "user", "content": [{"type": "text", "text": "r"}]},
            ],
            "response": {"choices": [{"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]},
            "model": "m",
        },
        {"messages": [{"role": "user", "content": "p"}], "output": "b"},
    ],
    "messages": [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "Hm.",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "r"},
        {"role": "assistant", "content": "a"},
    ],
    "langchain": [
        {
            "messages": [
                {"type": "human", "content": "q"},
                {"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {"a": 1}, "id": "c"}]},
                {"type": "tool", "data": {"content": "r", "tool_call_id": "c", "status": "error"}},
                {"lc": 1, "id": ["langchain", "AIMessage"], "kwargs": {"content": [{"type": "text", "text": "a"}]}},
            ]
        }
    ],
    "converse": [{"messages": CONVERSE, "system": [{"text": "s"}], "toolConfig": {"tools": []}}],
    "converse-calls": [
        {"request": {"messages": CONVERSE[:1]}, "response": {"output": {"message": CONVERSE[1]}}},
        {
            "input": {"inputBodyJson": {"messages": CONVERSE[:3]}},
            "output": {"outputBodyJson": {"output": {"message": CONVERSE[3]}, "stopReason": "end_turn"}},
        },
    ],
    "claude-stream": [
        {"type": "system", "subtype": "init", "session_id": "s"},
        {
            "type": "assistant",
            "session_id": "s",
            "message": {"id": "m", "role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f"}]},
        },
        {
            "type": "user",
            "session_id": "s",
            "message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
        },
        {"type": "result", "subtype": "success", "session_id": "s", "result": "a"},
    ],
    "gemini-cli": [
        {
            "sessionId": "s",
            "messages": [
                {"id": "a", "type": "user", "content": [{"text": "Fix it"}]},
                {
                    "id": "b",
                    "type": "gemini",
                    "content": "I look.",
                    "thoughts": [{"subject": "Look", "description": "Read it."}],
                    "toolCalls": [{"id": "c", "name": "read_file", "args": {"path": "a"}, "result": "x"}],
                },
            ],
        }
    ],
    "gemini-cli-lines": [
        {"sessionId": "s", "projectHash": "h"},
        {"id": "a", "timestamp": "t", "type": "user", "content": "Fix it"},
        {"id": "b", "timestamp": "t", "type": "gemini", "content": "Done."},
    ],
    "notebook": [
        {
            "nbformat": 4,
            "cells": [
                {
                    "cell_type": "code",
                    "outputs": [
                        {
                            "output_type": "stream",
                            "name": "stdout",
                            "text": [
                                "-----------------\n0\nAction: reset\nObservation: \nWebShop\n\n",
                                "Action: think[a]\nObservation: OK.\n\nAction: click[Buy Now]\n",
                                "Observation: Your score (min 0.0, max 1.0): 0.5\n\n",
                            ],
                        }
                    ],
                }
            ],
        }
    ],
}


@pytest.fixture(scope="session")
def logs(shared_data, tmp_path_factory):
    """Paths of logs, of every format some."""
    folder = tmp_path_factory.mktemp("made-up")
    paths = []
    for name, records in MADE_UP.items():
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(record) + "\n" for record in records))
    return [str(shared_data / "formats"), str(shared_data / "raw"), *map(str, paths)]


@pytest.fixture(scope="session")
def read(logs):
    """What is read of all logs, refused rows left out, uncut."""
    return scan_logs(logs, on_error="skip").filter(pl.col("refused").is_null()).collect()


@pytest.fixture(scope="session")
def cut(read):
    return segment(read.lazy()).collect()


def shortest(frame: pl.DataFrame, n: int) -> pl.DataFrame:
    """At most n trajectories of each format, those with the least to cut, in the order that they came in."""
    size = pl.coalesce(pl.col("pieces").list.len(), pl.col("text").str.len_bytes())
    of_format = pl.col("source").struct.field("format")
    order = frame.with_row_index("order").with_columns(size=size, of=of_format).sort("of", "size", "order")
    chosen = order.group_by("of", maintain_order=True).head(n).sort("order")
    return chosen.select(frame.columns)


@pytest.fixture(scope="session")
def few(read):
    """Some short trajectories of each format, uncut."""
    return shortest(read, 6)


def formats_in(frame: pl.DataFrame) -> set[str]:
    return set(frame["source"].struct.field("format"))


KEPT = ("id", "task", "task_id", "outcome", "parent_id", "text", "spans")


# ---- the properties


def test_every_format_is_here(cut, few):
    assert formats_in(cut) == formats_in(few) == set(NAMES) - {"trajectory"}


def test_logs_of_every_format_are_cut_as_they_must_be(cut):
    assert cut.height > 6000
    for row in cut.iter_rows(named=True):
        try:
            check_spans(row["text"], row["spans"])
        except AssertionError as error:
            raise AssertionError(f"{row['source']}: {error}") from error


def test_the_text_of_a_log_that_is_text_is_the_source_slice(read, cut):
    of_text = read["text"].is_not_null() & read["pieces"].is_null()
    assert of_text.sum() > 2000
    assert read.filter(of_text)["text"].equals(cut.filter(of_text)["text"])


def test_the_text_of_messages_is_their_pieces_one_after_another(few):
    rendered = segment(few.lazy()).collect()["text"]
    for row, text in zip(few.iter_rows(named=True), rendered, strict=True):
        if row["pieces"] is not None:
            parts = ((p["prefix"] or "") + p["text"] + (p["suffix"] or "") for p in row["pieces"])
            assert "".join(parts) == text


def test_every_format_is_cut_alike_in_any_chunks_by_either_engine(few):
    whole = score(segment(few.lazy())).collect(engine="in-memory")
    assert_frame_equal(score(segment(few.lazy())).collect(engine="streaming"), whole)
    shuffled = few.sample(fraction=1, shuffle=True, seed=3)
    parts = [score(segment(shuffled[at : at + 7].lazy())).collect() for at in range(0, few.height, 7)]
    assert_frame_equal(pl.concat(parts).sort("id", "source"), whole.sort("id", "source"))


def test_what_is_cut_and_cut_again_stays_as_it_is(few):
    once = segment(few.lazy()).collect()
    assert_frame_equal(segment(once.lazy()).collect(), once)


def test_trajectories_written_and_read_again_have_the_same_spans(few, tmp_path):
    once = segment(few.lazy()).collect()
    path = tmp_path / "trajectories.jsonl"
    # What no reader maps stands as the log wrote it, line breaks and all.
    lines = [msgspec.json.format(encode_trajectory(row), indent=-1) for row in once.iter_rows(named=True)]
    path.write_bytes(b"\n".join(lines))
    again = segment(scan_logs(str(path))).collect()
    assert formats_in(again) == {"trajectory"}
    for one, other in zip(once.iter_rows(named=True), again.iter_rows(named=True), strict=True):
        for span in (*one["spans"], *other["spans"]):
            span["opaque"], span["extra"] = len(span["opaque"]), json.loads(span["extra"] or "{}")
        assert {name: one[name] for name in KEPT} == {name: other[name] for name in KEPT}


# ---- damage


@pytest.fixture(scope="session")
def records(logs, few, tmp_path_factory):
    """Records by format, of each file at most the five smallest, as they stand there."""

    def format_of(value):
        return next((f.name for f in OF_RECORDS if f.recognise(value)), None)

    def is_known(value):
        return format_of(value) is not None

    found = defaultdict(list)
    for path in sorted(p for log in logs for p in ([Path(log)] if Path(log).is_file() else Path(log).rglob("*"))):
        if path.is_dir() or path.suffix in (".md", ".txt"):
            continue
        of_file = defaultdict(list)
        with contextlib.ExitStack() as stack:
            if path.suffix == ".eval":
                streams = [stream for _, stream in archive_members(path.read_bytes())]
            else:
                streams = [stack.enter_context(open_stream(str(path), ignore))]
            for record in chain.from_iterable(json_records(s, is_known, is_known) for s in streams):
                if name := format_of(record.value):
                    of_file[name].append(record.raw)
        for name, raws in of_file.items():
            found[name] += sorted(raws, key=len)[:5]
    # Large ones are slow to damage: where a format has small ones, they do.
    for name, raws in found.items():
        small = [raw for raw in raws if len(raw) < 30_000]
        found[name] = MADE_UP.get(name) or [json.loads(raw) for raw in small or sorted(raws, key=len)[:1]]
    once = segment(few.lazy()).collect()
    found["trajectory"] = [json.loads(encode_trajectory(row)) for row in once[::9].iter_rows(named=True)]
    return found


def read_whatever_comes(path: Path, check: Callable[[str, list[dict]], None] = check_spans) -> int:
    """A reader may refuse, with an error that says where; what it reads is cut as it must be. Gives the number read."""
    rows = segment(scan_logs(str(path), on_error="skip")).collect()
    for row in rows.iter_rows(named=True):
        check(row["text"], row["spans"])
    try:
        scan_logs(str(path), on_error="stop").collect()
    except SadstreamError as error:
        assert str(path) in str(error)
    return rows["refused"].null_count()


def covers(text: str, spans: list[dict]) -> None:
    """What is asked of records that are cut already: their steps and bodies are taken as they stand."""
    assert [*(s["start"] for s in spans), len(text)] == [0, *(s["stop"] for s in spans)]
    for span in spans:
        inner = [
            (span[f"{name}_start"], span[f"{name}_stop"])
            for name in ("body", "logged", "arguments")
            if None not in (span[f"{name}_start"], span[f"{name}_stop"])
        ]
        assert all(span["start"] <= first <= last <= span["stop"] for first, last in inner)


@pytest.mark.parametrize("name", [f.name for f in OF_RECORDS])
def test_damaged_records_of_every_format_are_read_or_refused(name, records, tmp_path):
    whole = records[name]
    randomly = random.Random(zlib.crc32(name.encode()))
    n_read = 0
    for number in range(N_DAMAGED_FILES):
        path = tmp_path / f"{number}.jsonl"
        # The first ones are whole, so that the file is known.
        lines = [*whole[:2], *(damage(randomly.choice(whole), randomly) for _ in range(N_DAMAGED_RECORDS))]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        n_read += read_whatever_comes(path, covers if name == "trajectory" else check_spans)
    assert n_read


@pytest.mark.parametrize("name", OF_TEXT)
def test_damaged_texts_are_read_or_refused(name, cut, tmp_path):
    runs = cut.filter(pl.col("source").struct.field("format") == name)["text"].to_list()[:4]
    randomly = random.Random(zlib.crc32(name.encode()))
    for number in range(4 * N_DAMAGED_FILES):
        text = "".join(runs)[:20_000]
        for _ in range(randomly.randint(1, 5)):
            at, other = sorted(randomly.randrange(len(text) + 1) for _ in range(2))
            which = randomly.randrange(3)
            middle = ["", text[at:other] * 2, randomly.choice(["\n", "<|im_end|>", "Thought 3:", "\r", "\0", "\u2028"])]
            text = text[:at] + middle[which] + text[min(at + randomly.randrange(300), other) :]
        path = tmp_path / f"{number}.txt"
        path.write_text(text or "x", encoding="utf-8", newline="")
        try:
            read_whatever_comes(path)
        except SadstreamError as error:
            assert "not a log that sadstream knows" in str(error)


# ---- the page


def test_every_promise_names_tests_that_exist():
    page = (ROOT / "docs" / "properties.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    defined = {
        node.name
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    modules = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    assert len(named) > 30
    assert set(named) <= defined | modules, set(named) - defined - modules
