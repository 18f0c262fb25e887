import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sadstream.score import KINDS, SCORES, score
from sadstream.segment import segment
from tests.strategies import transcripts


def scored(texts, **options):
    return score(segment(pl.LazyFrame({"text": texts}, schema={"text": pl.String})), **options).collect(
        engine="in-memory"
    )


@given(st.lists(transcripts(), min_size=1, max_size=3))
def test_scores_count_what_the_spans_hold(runs):
    for run, row in zip(runs, scored([run.text for run in runs]).iter_rows(named=True), strict=True):
        for kind in KINDS:
            of_kind = [span for span in run.spans if span.kind == kind]
            assert row[f"n_spans_{kind}"] == len(of_kind)
            assert row[f"n_chars_{kind}"] == sum(span.stop - span.start for span in of_kind)
        assert sum(row[f"n_chars_{kind}"] for kind in KINDS) == len(run.text)
        assert row["n_steps"] == max((span.step + 1 for span in run.spans if span.step is not None), default=0)
        acts = [run.text[span.body_start : span.body_stop] for span in run.spans if span.kind == "act"]
        assert row["repeated_action_share"] == (1 - len(set(acts)) / len(acts) if acts else 0)
        assert row["n_chars_reason_per_step"] == (row["n_chars_reason"] / row["n_steps"] if row["n_steps"] else 0)
        assert row["complexity"] == row["n_chars_reason"] + row["n_chars_act"]


def test_nothing_scores_nothing():
    row = scored([""]).select(list(SCORES)).row(0)
    assert row == (0,) * len(SCORES)
    assert scored([]).height == 0


def test_weights_and_entropy_make_the_complexity():
    frame = segment(pl.LazyFrame({"text": ["> think: ab\n> go\n"] * 2, "entropy": [0.5, None]}))
    assert score(frame, alpha=2, beta=3, gamma=10).collect()["complexity"].to_list() == [2 * 12 + 3 * 5 + 5.0, 39.0]
    assert score(frame, gamma=0).collect()["complexity"].to_list() == [17.0, 17.0]


def test_scoring_again_changes_nothing_and_other_columns_stay():
    once = score(segment(pl.LazyFrame({"text": ["> go\nOK\n> go\nOK\n"], "mine": [1]}))).collect()
    assert_frame_equal(score(once.lazy()).collect(), once)
    assert once["mine"].to_list() == [1]
    assert score(once.lazy()).collect_schema() == once.schema


def test_repeats_are_judged_by_the_body_and_not_by_the_label():
    assert scored(["Thought 1: t\nAction 1: x\nThought 2: t\nAction 2: x\n"])["repeated_action_share"].item() == 0.5
