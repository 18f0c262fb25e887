"""Jupyter notebooks whose cell outputs hold what a harness printed."""

import io
from collections.abc import Iterable
from typing import Any

import msgspec

from sadstream.formats import plain_text
from sadstream.formats.kinds import RecordFormat
from sadstream.frames import Draft


class _Output(msgspec.Struct):
    output_type: str = ""
    name: str = "stdout"
    text: str | list[str] = ""


class _Cell(msgspec.Struct):
    outputs: list[_Output] = []


class _Notebook(msgspec.Struct):
    cells: list[_Cell]


def recognise(record: Any) -> bool:
    """A notebook, with or without output."""
    return isinstance(record, dict) and isinstance(record.get("cells"), list) and "nbformat" in record


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """The runs printed by each cell. The log is cut at buffer ends, so a cell's stream outputs are joined first.

    Raises:
        msgspec.ValidationError: cells or outputs are not what a notebook holds.
    """
    number = 0
    for cell in msgspec.json.decode(raw, type=_Notebook).cells:
        text = "".join(
            "".join(output.text)
            for output in cell.outputs
            if output.output_type == "stream" and output.name == "stdout"
        )
        if not plain_text.recognise(text):
            continue
        for draft in plain_text.read(io.StringIO(text, newline="\n")):
            draft.record = str(number)
            number += 1
            yield draft


FORMATS = (
    RecordFormat("notebook", "Jupyter notebooks whose cell outputs hold runs (WebShop, ReAct)", recognise, read),
)
