"""Write schemas/v1 from the types: `python -m tests.golden`. A test compares what lies there with what this gives."""

import json
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from sadstream.codec import TeacherArrays, encode_teacher_sample
from sadstream.formats import FORMATS
from sadstream.frames import row_trajectory
from sadstream.segment import segment
from sadstream_schemas import MANIFEST_VERSION, RECORDS, InputFile, Manifest, Shard, json_schema

FOLDER = Path(__file__).parent.parent / "schemas" / "v1"

_TEXT = "Question: Who made Gromit?\nThought 1: Look him up.\nAction 1: Search[Gromit]\nObservation 1: A clay dog.\n"


def schemas() -> dict[str, bytes]:
    """Name below schemas/v1 to content, of all JSON Schemas."""
    return {
        f"{name}.schema.json": json.dumps(json_schema(name), indent=2, ensure_ascii=False).encode() + b"\n"
        for name in RECORDS
    }


def examples() -> dict[str, bytes]:
    """Name below schemas/v1 to content, of all golden examples."""
    cut = segment(pl.LazyFrame({"text": [_TEXT]})).collect().row(0, named=True)
    trajectory = row_trajectory(
        {
            **cut,
            "id": "gromit.txt#0",
            "source": {"file": "gromit.txt", "record": "0", "format": "plain-text", "format_version": None},
            "task_id": None,
            "task": "Who made Gromit?",
            "tools": ['{"name": "Search"}'],
            "outcome": {"success": None, "reward": None, "ending": "unknown", "answer": None, "gold": "Nick Park"},
            "parent_id": None,
            "extra": '{"trial":1}',
        }
    )
    logprobs = np.log(np.array([[0.6, 0.25, 0.1], [0.9, 0.05, 0.02]], np.float32))
    sample, _ = encode_teacher_sample(
        TeacherArrays(
            token_ids=np.array([5, 7, 9]),
            kinds=np.array([0, 1, 2], np.uint8),
            steps=np.array([-1, 0, 0], np.int32),
            positions=np.array([1, 2]),
            topk_ids=np.array([[7, 3, 1], [9, 8, 2]]),
            topk_logprobs=logprobs,
            log_tail=np.log(np.array([0.05, 0.03], np.float32)),
            entropy=np.array([1.1, 0.5], np.float32),
            token_logprobs=logprobs[:, 0],
        ),
        trajectory_id="gromit.txt#0",
        window=0,
        vocab_size=10,
    )
    manifest = Manifest(
        format_version=MANIFEST_VERSION,
        stage="segment",
        sadstream_version="0.1.0",
        config={"format": "auto", "holdout": 0.05},
        config_hash="0" * 16,
        inputs=[InputFile(path="gromit.txt", n_bytes=len(_TEXT), sha256="0" * 64)],
        shards=[
            Shard(name="shard-000000.tar", n_samples=1, n_bytes=2560, sha256="0" * 64, index_sha256="0" * 64),
        ],
        totals={"n_trajectories": 1},
        complete=True,
    )
    return {
        "examples/trajectory.json": _pretty(trajectory),
        "examples/span.json": _pretty(trajectory.spans[1]),
        "examples/manifest.json": _pretty(manifest),
        "examples/teacher-sample.msgpack": sample,
    }


def format_table() -> str:
    """Content of the module that `segment --help` prints: the formats, without importing the library."""
    rows = "".join(f"    ({f.name!r}, {f.about!r}),\n" for f in FORMATS)
    about = '"""The formats read, for help to print at once. Written by `python -m tests.golden`."""'
    return f"{about}\n\nTABLE = (\n{rows})\n"


def _pretty(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


FORMAT_TABLE = FOLDER.parent.parent / "cli" / "sadstream_cli" / "format_table.py"

if __name__ == "__main__":
    FORMAT_TABLE.write_text(format_table(), encoding="utf-8")
    for name, content in {**schemas(), **examples()}.items():
        target = FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
