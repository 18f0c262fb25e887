"""The tokens that a log says its agent wrote, each with the probabilities it was drawn from, where a log holds them.

`segment` keeps a message's `logprobs` as the log has them, in the `extra` of the message's first span. Their tokens are
those of the model that wrote the log; which tokens of a window they are is told by bytes.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, AnyStr, NamedTuple

import msgspec

from sadstream_schemas import Trajectory

_TOKEN_ID = re.compile(r"token_id:(\d+)")
# Stands for a token whose bytes the log does not tell; no text in UTF-8 holds it, and no tokenizer has an id for it.
UNKNOWN = b"\xff\xfe\xff"
_WITHIN = ("message", "response_metadata")


class LoggedToken(NamedTuple):
    """A token that a model wrote.

    Attributes:
        data: its bytes; `UNKNOWN` where the log does not tell them.
        logprob: nats.
        others: the likeliest at its place, bytes or id and logprob each, in the log's order; the token itself may be
            among them.
    """

    data: bytes
    logprob: float
    others: tuple[tuple[bytes | int, float], ...]


class _Entry(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list["_Entry"] | None = None


class _Chat(msgspec.Struct):
    content: list[_Entry] | None = None
    refusal: list[_Entry] | None = None


class _Completion(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None


def logged_tokens(trajectory: Trajectory, vocabulary: Sequence[bytes]) -> dict[int, list[LoggedToken]]:
    """Of each message that has them the tokens its log holds, in order.

    Args:
        vocabulary: bytes of each id, for logs that name tokens by their ids.
    Returns:
        Messages without logprobs are left out; one whose logprobs cannot be read has an empty list.
    """
    found: dict[int, list[LoggedToken]] = {}
    for message, raw in raw_logprobs(trajectory).items():
        try:
            tokens = _tokens(raw, vocabulary)
        except (msgspec.DecodeError, ValueError):
            found[message] = []
        else:
            # A reply of calls alone has `{"content": null}`: nothing was logged of it.
            found |= {message: tokens} if tokens else {}
    return found


def raw_logprobs(trajectory: Trajectory) -> dict[int, bytes]:
    """The logprobs of each message that has them, as the log wrote them."""
    found: dict[int, bytes] = {}
    for span in trajectory.spans:
        raw = _raw_logprobs(span.extra) or _raw_logprobs_of_block(span.opaque)
        if raw is not None and span.message is not None:
            found[span.message] = raw
    return found


def _raw_logprobs(extra: Mapping[str, msgspec.Raw]) -> bytes | None:
    """Under its name, or as LangChain has it, within what it says of a message's response."""
    raw = extra.get("logprobs")
    if raw is not None:
        return None if bytes(raw) in (b"null", b"{}", b"[]") else bytes(raw)
    inner = next((extra[name] for name in _WITHIN if name in extra), None)
    if inner is None or bytes(inner).lstrip()[:1] != b"{":
        return None
    return _raw_logprobs(msgspec.json.decode(inner, type=dict[str, msgspec.Raw]))


def _raw_logprobs_of_block(opaque: Iterable[msgspec.Raw]) -> bytes | None:
    """The Responses API's, which stand in the block of the text."""
    block = next((raw for raw in opaque if b'"logprobs"' in bytes(raw) and b'"output_text"' in bytes(raw)), None)
    return None if block is None else _raw_logprobs(msgspec.json.decode(block, type=dict[str, msgspec.Raw]))


def _tokens(raw: bytes, vocabulary: Sequence[bytes]) -> list[LoggedToken]:
    """OpenAI's of the chat API (under `content`, or a bare list), or those of the older completions.

    Raises:
        msgspec.DecodeError, ValueError: none of these.
    """
    if raw.lstrip()[:1] == b"[":
        entries = msgspec.json.decode(raw, type=list[_Entry])
    elif "tokens" in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]):
        entries = list(_completion_entries(msgspec.json.decode(raw, type=_Completion)))
    else:
        chat = msgspec.json.decode(raw, type=_Chat)
        entries = chat.content or chat.refusal or []
    return [_logged_token(entry, vocabulary) for entry in entries]


# Servers round: logits in bfloat16 give probabilities that sum to a percent more than 1.
_MOST_MASS = 1.05


def _logged_token(entry: _Entry, vocabulary: Sequence[bytes]) -> LoggedToken:
    """What an entry says of its token.

    Raises:
        ValueError: what is told is no part of a distribution: logarithms to another base, or scores.
    """
    logprob = _checked(entry.logprob)
    others = tuple((_named(other), _checked(other.logprob)) for other in entry.top_logprobs or ())
    # Of one that is told twice the last counts here: the token itself is mostly among the others.
    mass = math.fsum(map(math.exp, dict([*others, (_named(entry), logprob)]).values()))
    if mass > _MOST_MASS:
        raise ValueError(f"probabilities of {entry.token!r} and the others sum to {mass:.3g}")
    return LoggedToken(_token_bytes(entry, vocabulary), logprob, others)


def _completion_entries(said: _Completion) -> Iterator[_Entry]:
    likeliest = said.top_logprobs or [None] * len(said.tokens)
    for token, logprob, others in zip(said.tokens, said.token_logprobs, likeliest, strict=True):
        # The first token of an echoed prompt has none.
        known = -math.inf if logprob is None else logprob
        yield _Entry(token, known, None, [_Entry(other, value) for other, value in (others or {}).items()])


def _checked(logprob: float) -> float:
    """The logprob in nats, 0 at most: rounding may leave it just above.

    Raises:
        ValueError: it is none.
    """
    if math.isnan(logprob) or logprob > 1e-3:
        raise ValueError(f"{logprob} is no logprob")
    return min(0.0, logprob)


def _named(entry: _Entry) -> bytes | int:
    by_id = _TOKEN_ID.fullmatch(entry.token)
    return int(by_id[1]) if by_id else _bytes_of(entry)


def _token_bytes(entry: _Entry, vocabulary: Sequence[bytes]) -> bytes:
    named = _named(entry)
    if isinstance(named, int):
        return vocabulary[named] if named < len(vocabulary) else UNKNOWN
    return named or b""


def _bytes_of(entry: _Entry) -> bytes:
    """Bytes of a token; a replacement character stands for some that the server could not show."""
    data = entry.token.encode("utf-8", "replace") if entry.bytes is None else bytes(entry.bytes)
    return UNKNOWN if "\ufffd".encode() in data else data


class Written(NamedTuple):
    """A piece of a text that the agent wrote.

    Attributes:
        message: which of the log's messages it came from. start, stop: code points of the text.
        words: what the log holds of it; the rest was added in rendering.
    """

    message: int
    start: int
    stop: int
    words: str


class Placed(NamedTuple):
    """A logged token in a text.

    Attributes:
        start, stop: bytes of the text.
    """

    start: int
    stop: int
    token: LoggedToken


def place_tokens(text: str, written: Iterable[Written], tokens: Mapping[int, Sequence[LoggedToken]]) -> list[Placed]:
    """Where logged tokens stand in a text that holds the messages they are of, in any rendering.

    A server's tokens cover all that the model wrote, a template's marks included, or the words alone. So each piece's
    words are looked for among the tokens of its message, in order, and from there both are followed as far as they are
    alike. Words that stand in several places, equally alike, are not placed.
    """
    starts = byte_places(text)
    data = text.encode("utf-8", "surrogatepass")
    placed: list[Placed] = []
    by_message: dict[int, list[Written]] = {}
    for piece in written:
        if tokens.get(piece.message):
            by_message.setdefault(piece.message, []).append(piece)
    for message, pieces in by_message.items():
        begin, end = starts[pieces[0].start], starts[pieces[-1].stop]
        anchors = [
            (starts[p.start] - begin, starts[p.stop] - begin, words.encode("utf-8", "surrogatepass"))
            for p in pieces
            if (words := p.words.strip())
        ]
        said = tokens[message]
        blocks = _alike(data[begin:end], b"".join(token.data for token in said), anchors)
        placed += _placed(said, blocks, begin)
    return sorted(placed, key=lambda one: one.start)


def byte_places(text: str) -> Sequence[int]:
    """Where each code point begins in UTF-8, and where the text ends. int [N + 1]."""
    if text.isascii():
        return range(len(text) + 1)
    places, at = [], 0
    for char in text:
        places.append(at)
        code = ord(char)
        at += 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
    return [*places, at]


class _Block(NamedTuple):
    """So many bytes that are the same in a text and in what was said."""

    text: int
    said: int
    size: int


# Words that occur more often than this are not told apart.
_MOST_PLACES = 32
_WIDE = re.compile(rb"[\x80-\xff]+")


def _alike(text: bytes, said: bytes, anchors: Sequence[tuple[int, int, bytes]]) -> list[_Block]:
    blocks: list[_Block] = []
    text_from = said_from = 0
    for start, stop, whole in anchors:
        # Part of a character is what a server cannot show: then the words are looked for between their wide characters.
        is_told = UNKNOWN not in said or whole in said
        for words in [whole] if is_told else filter(None, map(bytes.strip, _WIDE.split(whole))):
            candidates = {
                _extended(text, said, at, there, text_from, said_from)
                for at in _places(text, words, max(start, text_from), stop)
                for there in _places(said, words, said_from, len(said))
            }
            # A blank alone, as stands after any label, tells nothing.
            sizes = {block: len(text[block.text : block.text + block.size].strip()) for block in candidates}
            best = [block for block, size in sizes.items() if size == max(sizes.values())]
            if len(best) == 1:
                blocks += best
                text_from, said_from = best[0].text + best[0].size, best[0].said + best[0].size
    return blocks


def _places(data: bytes, words: bytes, start: int, stop: int) -> list[int]:
    places: list[int] = []
    at = data.find(words, start, stop)
    while at >= 0 and len(places) < _MOST_PLACES:
        places.append(at)
        at = data.find(words, at + 1, stop)
    return places


def _extended(text: bytes, said: bytes, at: int, there: int, text_from: int, said_from: int) -> _Block:
    """The longest stretch alike around a place in each."""
    after = n_alike(text[at:], said[there:])
    before = n_alike(text[text_from:at][::-1], said[said_from:there][::-1])
    return _Block(at - before, there - before, before + after)


def n_alike(left: AnyStr, right: AnyStr) -> int:
    """How many characters, or bytes, two strings begin with alike."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
    return low


def _placed(said: Sequence[LoggedToken], blocks: Sequence[_Block], begin: int) -> Iterator[Placed]:
    at = number = 0
    for block in blocks:
        while number < len(said) and at + len(said[number].data) <= block.said + block.size:
            size = len(said[number].data)
            if at >= block.said and size:
                start = begin + block.text + at - block.said
                yield Placed(start, start + size, said[number])
            at, number = at + size, number + 1


def vocabulary_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes that each id of a fast tokenizer stands for.

    Known of byte-level tokenizers and SentencePiece's; of added tokens, and of other kinds, it is the token's text.
    """
    named = tokenizer.get_vocab()
    tokens = [""] * (max(named.values()) + 1)
    for token, number in named.items():
        tokens[number] = token
    decoder = str(msgspec.json.decode(tokenizer.backend_tokenizer.to_str()).get("decoder"))
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    alphabet = _byte_alphabet() if "ByteLevel" in decoder else None

    def data_of(number: int, token: str) -> bytes:
        if number in added:
            return added[number].encode()
        if alphabet is not None:
            known = [alphabet.get(char) for char in token]
            return bytes(code for code in known if code is not None) if None not in known else token.encode()
        by_value = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
        if by_value and "ByteFallback" in decoder:
            return bytes([int(by_value[1], 16)])
        return token.replace("\u2581", " ").encode()

    return [data_of(number, token) for number, token in enumerate(tokens)]


def _byte_alphabet() -> dict[str, int]:
    """Byte-level tokenizers write each byte as a character that can be seen: GPT-2's table."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [code for code in range(256) if code not in seen]
    return {**{chr(code): code for code in seen}, **{chr(256 + n): code for n, code in enumerate(hidden)}}
