"""Jupyter notebooks whose cell outputs hold what a harness printed."""

from collections.abc import Iterable
from typing import Any

from sadstream.formats import plain_text
from sadstream.frames import Draft


def recognise(record: Any) -> bool:
    """A notebook, with or without output."""
    return isinstance(record, dict) and isinstance(record.get("cells"), list) and "nbformat" in record


def read(record: Any, raw: bytes) -> Iterable[Draft]:
    """The runs printed by each cell. The log is cut at buffer ends, so a cell's stream outputs are joined first."""
    number = 0
    for cell in record["cells"]:
        text = "".join(
            _text(output.get("text", ""))
            for output in cell.get("outputs", ())
            if output.get("output_type") == "stream" and output.get("name", "stdout") == "stdout"
        )
        if not plain_text.recognise(text):
            continue
        for draft in plain_text.read(line + "\n" for line in text.removesuffix("\n").split("\n")):
            draft.record = str(number)
            number += 1
            yield draft


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(value)
