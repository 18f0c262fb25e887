from itertools import pairwise

import numpy as np
import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from sadstream import segment
from sadstream.tokens import ACT, CONTEXT, KIND_CODES, OBSERVATION, REASON, cut_windows, supervised_tokens, token_kinds
from sadstream_schemas import Span
from tests import tiny

KINDS = ("context", "reason", "act", "observation")
AUTHORS = {"context": "user", "reason": "agent", "act": "agent", "observation": "environment"}


def span(kind: str, start: int, stop: int, step: int | None = None) -> Span:
    return Span(kind=kind, start=start, stop=stop, body_start=start, body_stop=stop, author=AUTHORS[kind], step=step)


def spans_of(pieces: list[tuple[str, str]]) -> tuple[str, list[Span]]:
    """A text and its spans from (kind, text) pairs, each but context a step of its own."""
    text, spans = "", []
    for number, (kind, piece) in enumerate(pieces):
        step = None if kind == "context" else number
        spans.append(span(kind, len(text), len(text) + len(piece), step))
        text += piece
    return text, spans


PIECES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.text(alphabet=" aé\n李🔎THo1:", min_size=1, max_size=6)),
    min_size=1,
    max_size=6,
)


@st.composite
def cut_tokens(draw):
    """Text length, spans and adjoining tokens that cover it."""
    text, spans = spans_of(draw(PIECES))
    inner = draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=len(text)))
    edges = [0, *sorted(edge for edge in inner if edge < len(text)), len(text)]
    return spans, np.array(list(pairwise(edges)))


@given(cut_tokens())
def test_a_token_has_kind_and_step_of_its_first_code_point(case):
    spans, offsets = case
    kinds, steps = token_kinds(offsets, np.zeros(len(offsets), bool), spans)
    for (start, _), kind, step in zip(offsets, kinds, steps, strict=True):
        holder = next(s for s in spans if s.start <= start < s.stop)
        assert kind == KIND_CODES[holder.kind]
        assert step == (-1 if holder.step is None else holder.step)


@given(cut_tokens(), st.data())
def test_special_tokens_are_context_and_leave_the_others_as_they_are(case, data):
    spans, offsets = case
    plain = token_kinds(offsets, np.zeros(len(offsets), bool), spans)
    place = data.draw(st.integers(0, len(offsets)))
    with_special = np.insert(offsets, place, [0, 0], axis=0)
    is_special = np.arange(len(with_special)) == place
    kinds, steps = token_kinds(with_special, is_special, spans)
    assert kinds[place] == CONTEXT and steps[place] == -1
    assert np.array_equal(np.delete(kinds, place), plain.kinds)
    assert np.array_equal(np.delete(steps, place), plain.steps)


@given(st.lists(st.integers(0, 3), max_size=20), st.booleans())
def test_masks_are_disjoint_and_the_first_token_is_never_supervised(kinds, everything):
    kinds = np.array(kinds, np.uint8)
    supervised = supervised_tokens(kinds, everything=everything)
    assert not supervised[:1].any()
    assert not ((kinds == REASON) & (kinds == ACT)).any()
    if everything:
        assert supervised[1:].all()
    else:
        assert not supervised[np.isin(kinds, [CONTEXT, OBSERVATION])].any()
        assert supervised[1:][np.isin(kinds[1:], [REASON, ACT])].all()


def test_a_blank_that_offsets_leave_out_belongs_to_the_token_after_it():
    spans = [span("reason", 0, 3, 0), span("act", 3, 7, 0)]
    trimmed = [(0, 3), (4, 7)]
    assert token_kinds(trimmed, [False, False], spans).kinds.tolist() == [REASON, ACT]
    earlier = [span("reason", 0, 4, 0), span("act", 4, 7, 0)]
    assert token_kinds(trimmed, [False, False], earlier).kinds.tolist() == [REASON, REASON]


def test_a_blank_that_begins_the_text_belongs_to_the_first_token():
    spans = [span("reason", 0, 1, 0), span("act", 1, 4, 1)]
    kinds, steps = token_kinds([(1, 4)], [False], spans)
    assert (kinds.tolist(), steps.tolist()) == ([REASON], [0])


def test_a_token_beyond_all_spans_is_context_of_no_step():
    kinds, steps = token_kinds([(0, 1), (1, 2)], [False, False], [span("act", 0, 1, 0)])
    assert (kinds.tolist(), steps.tolist()) == ([ACT, CONTEXT], [0, -1])
    assert kinds.dtype == np.uint8 and steps.dtype == np.int32


def test_all_bytes_of_a_code_point_have_its_kind():
    spans = [span("reason", 0, 1, 0), span("act", 1, 2, 0)]
    assert token_kinds([(0, 1), (0, 1), (1, 2), (1, 2)], [False] * 4, spans).kinds.tolist() == [REASON] * 2 + [ACT] * 2


def test_no_tokens_and_no_spans_are_no_trouble():
    assert len(token_kinds([], [], []).kinds) == 0
    assert token_kinds([(0, 0)], [True], []).kinds.tolist() == [CONTEXT]


TOKENIZER = tiny.make_tokenizer()


@given(PIECES)
def test_supervised_tokens_decode_to_what_the_agent_wrote(pieces):
    text, spans = spans_of(pieces)
    encoded = TOKENIZER(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    kinds, _ = token_kinds(encoded["offset_mapping"], encoded["special_tokens_mask"], spans)
    ids = np.array(encoded["input_ids"])
    assert ids[0] == TOKENIZER.bos_token_id and kinds[0] == CONTEXT
    # The tokenizer leaves a token's leading blank out of its offsets: a token begins where the one before it ended.
    stops = [stop for _, stop in encoded["offset_mapping"]]
    tokens = [
        (min(start, before), stop)
        for (start, stop), before in zip(encoded["offset_mapping"], [0, *stops], strict=False)
    ]
    # A token across a boundary goes whole to the span that it begins in.
    straddling = any(not any(s.start <= start and stop <= s.stop for s in spans) for start, stop in tokens)
    for code in (REASON, ACT):
        wanted = "".join(text[s.start : s.stop] for s in spans if KIND_CODES[s.kind] == code)
        got = TOKENIZER.decode(ids[kinds == code])
        assert got == wanted or straddling


def test_supervised_tokens_of_a_run_are_its_thoughts_and_actions_word_for_word():
    for number in range(6):
        text = tiny.react_text(number)
        rows = segment(pl.LazyFrame({"text": [text]})).collect()["spans"][0].to_list()
        spans = [span(row["kind"], row["start"], row["stop"], row["step"]) for row in rows]
        encoded = TOKENIZER(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        kinds, _ = token_kinds(encoded["offset_mapping"], encoded["special_tokens_mask"], spans)
        ids = np.array(encoded["input_ids"])
        agent = "".join(line for line in text.splitlines(keepends=True) if line.startswith(("Thought", "Action")))
        assert TOKENIZER.decode(ids[supervised_tokens(kinds)]) == agent


def test_an_end_of_turn_token_that_stands_in_the_text_is_trained():
    text, spans = spans_of([("context", "Where?"), ("act", f"Rome{tiny.END}"), ("observation", "yes")])
    encoded = TOKENIZER(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    kinds, _ = token_kinds(encoded["offset_mapping"], encoded["special_tokens_mask"], spans)
    ids = np.array(encoded["input_ids"])
    assert ids[supervised_tokens(kinds)][-1] == TOKENIZER.convert_tokens_to_ids(tiny.END)


def prompt_of(supervised):
    return int(np.argmax(supervised))


@st.composite
def supervisions(draw):
    """A trajectory's mask and steps, and a window's length."""
    runs = draw(st.lists(st.tuples(st.booleans(), st.integers(1, 7), st.booleans()), min_size=1, max_size=10))
    n_prompt = draw(st.integers(1, 12))
    supervised, steps, step = [False] * n_prompt, [-1] * n_prompt, 0
    for learnt, length, opens in runs:
        step += opens
        supervised += [learnt] * length
        steps += [step] * length
    return np.array(supervised), np.array(steps, np.int32), draw(st.integers(2, 30))


@given(supervisions())
def test_each_supervised_token_is_supervised_in_exactly_one_window(case):
    supervised, steps, max_length = case
    windows = cut_windows(supervised, steps, max_length, prompt_stop=prompt_of(supervised))
    learnt = [token for w in windows for token in w.tokens[w.supervised].tolist()]
    assert learnt == np.flatnonzero(supervised).tolist()


@given(supervisions())
def test_windows_fit_rise_and_begin_with_what_precedes_the_first_supervised_token(case):
    supervised, steps, max_length = case
    windows = cut_windows(supervised, steps, max_length, prompt_stop=prompt_of(supervised))
    first = int(np.argmax(supervised))
    for window in windows:
        assert len(window.tokens) == len(window.supervised) <= max_length
        assert (np.diff(window.tokens) > 0).all()
        assert window.supervised[-1] and not window.supervised[0]
        prompt = window.tokens[window.tokens < first]
        kept = first if len(windows) == 1 and not window.cut_prompt else min(first, max(1, max_length // 2))
        assert prompt.tolist() == list(range(first - kept, first))
        assert window.cut_prompt == (len(prompt) < first)
        rest = window.tokens[window.tokens >= first]
        assert (np.diff(rest) == 1).all(), "between its prompt and its end a window has no hole"


@given(supervisions())
@example((np.array([False, *[True] * 6]), np.array([-1, 0, 0, 1, 1, 1, 1], np.int32), 5))  # fits to the token
def test_a_step_is_cut_only_if_it_is_longer_than_a_window(case):
    supervised, steps, max_length = case
    windows = cut_windows(supervised, steps, max_length, prompt_stop=prompt_of(supervised))
    learnt = np.flatnonzero(supervised)
    if not len(learnt):
        assert windows == []
        return
    room = max_length - min(int(learnt[0]), max(1, max_length // 2))
    number_of = np.cumsum(np.append(0, np.diff(steps[learnt]) != 0))
    for number in range(number_of[-1] + 1):
        tokens = learnt[number_of == number]
        holding = [w for w in windows if np.isin(w.tokens[w.supervised], tokens).any()]
        length = tokens[-1] - tokens[0] + 1
        if length <= room:
            assert len(holding) == 1
        elif len(windows) > 1:
            assert len(holding) > 1 and any(w.cut_step for w in holding)


@given(supervisions())
@example((np.array([False, *[True] * 18]), np.repeat([-1, 0, 1, 2, 3, 4, 5], [1, *[3] * 6]), 8))  # two fit in each
def test_a_window_is_closed_only_if_the_next_step_does_not_fit(case):
    supervised, steps, max_length = case
    windows = cut_windows(supervised, steps, max_length, prompt_stop=prompt_of(supervised))
    for window, after in pairwise(windows):
        first = np.flatnonzero(supervised)[0]
        begin, opening = window.tokens[window.tokens >= first][0], after.tokens[after.supervised]
        # The next window's first step ends where the step changes.
        step_stop = opening[np.append(np.flatnonzero(np.diff(steps[opening])), len(opening) - 1)[0]] + 1
        room = max_length - int((window.tokens < first).sum())
        assert step_stop - begin > room or window.cut_step or after.cut_step


@given(supervisions())
def test_a_window_s_first_step_comes_with_what_it_reacts_to_as_far_as_that_fits(case):
    supervised, steps, max_length = case
    windows = cut_windows(supervised, steps, max_length, prompt_stop=prompt_of(supervised))
    for before, window in pairwise(windows):
        if window.cut_step:
            continue
        first = np.flatnonzero(supervised)[0]
        learnt = window.tokens[window.supervised]
        step_stop = learnt[np.append(np.flatnonzero(np.diff(steps[learnt])), len(learnt) - 1)[0]] + 1
        room = max_length - int((window.tokens < first).sum())
        wanted = min(before.tokens[-1] + 1, learnt[0] - room // 4)
        assert window.tokens[window.tokens >= first][0] == max(first, wanted, step_stop - room)


@given(supervisions(), st.integers(0, 40))
def test_with_everything_supervised_windows_still_repeat_the_prompt(case, n_prompt):
    supervised, steps, max_length = case
    prompt_stop = min(n_prompt, len(supervised))
    steps = np.where(np.arange(len(steps)) < prompt_stop, -1, steps).astype(np.int32)
    everything = np.arange(len(supervised)) > 0
    windows = cut_windows(everything, steps, max_length, prompt_stop=max(1, prompt_stop))
    assert [t for w in windows for t in w.tokens[w.supervised].tolist()] == list(range(1, len(supervised)))
    kept = min(max(1, prompt_stop), max(1, max_length // 2))
    for window in windows:
        assert len(window.tokens) <= max_length and not window.supervised[0]
        learnt = window.tokens[window.supervised][0]
        if 1 < learnt < prompt_stop:
            # A prompt that is itself learnt and too long for one window goes on with a quarter of what was there.
            assert window.tokens[0] == max(0, learnt - max(1, max_length // 4))
        if len(windows) > 1 and learnt > prompt_stop:
            repeated = range(max(1, prompt_stop) - kept, max(1, prompt_stop))
            assert set(repeated) <= set(window.tokens.tolist())


@given(supervisions())
def test_a_step_that_goes_on_in_another_window_begins_with_what_was_there_before(case):
    supervised, steps, max_length = case
    windows = cut_windows(supervised, steps, max_length, prompt_stop=prompt_of(supervised))
    room = max_length - min(prompt_of(supervised), max(1, max_length // 2))
    for before, window in pairwise(windows):
        learnt = window.tokens[window.supervised][0]
        if (
            window.cut_step
            and before.tokens[before.supervised][-1] == learnt - 1
            and steps[learnt] == steps[learnt - 1]
        ):
            assert learnt - room // 4 in window.tokens


@given(supervisions())
def test_a_window_says_whether_it_begins_or_ends_inside_a_step(case):
    supervised, steps, max_length = case
    learnt = np.flatnonzero(supervised)
    # Steps by their learnt tokens: a number each, also where one number comes twice.
    number_of = dict(zip(learnt.tolist(), np.cumsum(np.append(0, np.diff(steps[learnt]) != 0)).tolist(), strict=False))
    windows = cut_windows(supervised, steps, max_length, prompt_stop=prompt_of(supervised))
    numbers = [[number_of[token] for token in w.tokens[w.supervised].tolist()] for w in windows]
    for place, window in enumerate(windows):
        shared = [numbers[place][0] in numbers[place - 1]] if place else []
        shared += [numbers[place][-1] in numbers[place + 1]] if place + 1 < len(windows) else []
        assert window.cut_step == any(shared)


@given(supervisions())
def test_one_window_is_enough_where_all_fits(case):
    supervised, steps, _ = case
    windows = cut_windows(supervised, steps, len(supervised), prompt_stop=prompt_of(supervised))
    assert len(windows) == int(supervised.any())
    for window in windows:
        assert window.tokens.tolist() == list(range(int(np.flatnonzero(supervised)[-1]) + 1))
        assert not window.cut_prompt and not window.cut_step
