"""Results that name no call: match them with the calls by tool name and order."""

from collections.abc import Iterable

from sadstream.formats.pieces import Piece

MADE_ID = "made-id"


def match_by_order(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in which calls without an id, and the results that answer them, have one.

    A result answers the oldest open call of its name, else the oldest open call. Ids that the log does not hold are
    flagged `made-id`.

    >>> act, result = {"kind": "act", "name": "f"}, {"kind": "observation", "name": "f"}
    >>> [p["call_id"] for p in match_by_order([act, act, result, result])]
    ['#0', '#1', '#0', '#1']
    """
    matched: list[Piece] = []
    open_calls: list[Piece] = []
    n_made = 0
    for piece in pieces:
        if piece.get("name") is None or piece["kind"] not in ("act", "observation"):
            matched.append(piece)
        elif piece["kind"] == "act":
            if piece.get("call_id") is None:
                piece = _with_id(piece, f"#{n_made}")
                n_made += 1
            open_calls.append(piece)
            matched.append(piece)
        else:
            answered = _answered(open_calls, piece)
            if answered is not None:
                open_calls.remove(answered)
                if piece.get("call_id") is None:
                    piece = _with_id(piece, answered["call_id"])
            matched.append(piece)
    return matched


def _answered(open_calls: list[Piece], result: Piece) -> Piece | None:
    call_id = result.get("call_id")
    if call_id is not None:
        return next((c for c in open_calls if c["call_id"] == call_id), None)
    same = [c for c in open_calls if c["name"] == result["name"]]
    return next(iter(same or open_calls), None)


def _with_id(piece: Piece, call_id: str) -> Piece:
    return {**piece, "call_id": call_id, "flags": [*(piece.get("flags") or ()), MADE_ID]}
