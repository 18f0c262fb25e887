"""Numbers about a trajectory, to filter and to order by: LazyFrame -> LazyFrame, row-local.

docs/scores.md has the formulas and units.
"""

import numpy as np
import polars as pl

from sadstream_schemas import Kind

KINDS: tuple[Kind, ...] = ("context", "reason", "act", "observation")

SCORES: dict[str, pl.DataType] = {
    "n_steps": pl.Int64(),
    **{f"n_spans_{kind}": pl.Int64() for kind in KINDS},
    **{f"n_chars_{kind}": pl.Int64() for kind in KINDS},
    "n_chars_reason_per_step": pl.Float64(),
    "n_calls": pl.Int64(),
    "n_steps_without_reason": pl.Int64(),
    "n_steps_rejected": pl.Int64(),
    "n_steps_loop": pl.Int64(),
    "repeated_action_share": pl.Float64(),
    "is_truncated": pl.Boolean(),
    "complexity": pl.Float64(),
}

# What an environment answers to an action that it did not carry out: a pattern of the observation's whole body, by the
# environment that says so. A search that finds nothing was carried out.
REJECTIONS: dict[str, str] = {
    "ALFWorld": r"^Nothing happens\.$",
    "HotpotQA": r"^Invalid Action\. Valid Actions are ",
    "WebShop": r"^Invalid action!$",
    "InterCode": r"^Error executing (?:query|action): ",
    "mini-swe-agent": r"^Please always provide EXACTLY ONE action",
}
_REJECTION = "|".join(f"(?:{pattern})" for pattern in REJECTIONS.values())
_LONGEST_CYCLE = 4


def score(spans: pl.LazyFrame, *, alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.0) -> pl.LazyFrame:
    """Trajectories with score columns.

    complexity = alpha * n_chars_reason + beta * n_chars_act + gamma * entropy, the paper's C(tau) with characters
    as the unit of length; the entropy term needs a teacher and is left out where the column is absent.

    Needs: `text` (String), `spans` (List of Struct, fields as `sadstream.Span`). Optional: `outcome` (Struct with
        `ending`), `entropy` (Float64, the teacher's mean over the trajectory's supervised tokens, in nats; see
        `with_teacher_entropy`).
    Adds: `n_steps`; `n_spans_KIND` (those with text), `n_chars_KIND` (labels included) for each of the four kinds;
        `n_chars_reason_per_step`; `n_calls` (acts that call a tool by name); `n_steps_without_reason` (no thought that
        can be read); `n_steps_rejected` (an action flagged `rejected`, an observation with `error`, or one that a
        pattern of `REJECTIONS` matches); `n_steps_loop` (the longest stretch of steps that goes in a circle);
        `repeated_action_share` (share of acts whose body another act before it has); `is_truncated` (ends in a
        thought, in something unclosed, or by its outcome); `complexity`.
    Source: Structured Agent Distillation, arXiv 2505.13820, curriculum.

    >>> from sadstream import segment
    >>> logs = pl.LazyFrame({"text": ["> go\\nOK\\n> go\\nOK\\n"]})
    >>> score(segment(logs)).select("n_steps", "repeated_action_share", "n_steps_loop").collect().row(0)
    (2, 0.5, 2)
    """
    schema = spans.collect_schema()
    kept = {name: dtype for name, dtype in schema.items() if name not in SCORES}
    scored = spans.map_batches(_score_block, schema={**kept, **SCORES}, streamable=True)
    entropy = pl.col("entropy").fill_null(0.0) if "entropy" in kept else pl.lit(0.0)
    complexity = alpha * pl.col("n_chars_reason") + beta * pl.col("n_chars_act") + gamma * entropy
    return scored.with_columns(complexity=complexity.cast(pl.Float64))


def with_teacher_entropy(spans: pl.LazyFrame, teacher_index: pl.LazyFrame) -> pl.LazyFrame:
    """Trajectories with the entropy that a teacher had on them; null where it was not asked.

    A trajectory's entropy is the mean over its supervised tokens, which its windows share out.

    Args:
        teacher_index: what `scan_index` gives of a teacher's folder: `id`, `entropy` (mean of a window, in nats) and
            `n_supervised_reason`, `n_supervised_act`, `n_supervised_other`, a row a window.
    Needs: `id`. Adds: `entropy` (Float64, nats), in place of such a column.

    >>> spans = pl.LazyFrame({"id": ["a", "b"]})
    >>> counts = {"n_supervised_reason": [3, 1], "n_supervised_act": [0, 0], "n_supervised_other": [0, 0]}
    >>> index = pl.LazyFrame({"id": ["a", "a"], "entropy": [1.0, 2.0], **counts})
    >>> with_teacher_entropy(spans, index).collect()["entropy"].to_list()
    [1.25, None]
    """
    n_tokens = pl.sum_horizontal("n_supervised_reason", "n_supervised_act", "n_supervised_other")
    mean = (pl.col("entropy") * n_tokens).sum() / n_tokens.sum()
    asked = teacher_index.group_by("id").agg(entropy=mean.cast(pl.Float64))
    return spans.drop("entropy", strict=False).join(asked, on="id", how="left", maintain_order="left")


def _score_block(block: pl.DataFrame) -> pl.DataFrame:
    rows = block.select("text", "spans").with_row_index("row")
    spans = (
        rows.select("row", "spans")
        .explode("spans", empty_as_null=False)
        .unnest("spans")
        .with_columns(
            n_chars=pl.col("stop") - pl.col("start"),
            has_body=pl.col("body_stop") > pl.col("body_start"),
        )
    )
    kind, flags = pl.col("kind"), pl.col("flags")
    has_text = pl.col("n_chars") > 0
    thinks = (kind == "reason") & pl.col("has_body")
    counts = spans.group_by("row").agg(
        n_steps=(pl.col("step").max() + 1).fill_null(0),
        **{f"n_spans_{name}": ((kind == name) & has_text).sum() for name in KINDS},
        **{f"n_chars_{name}": pl.col("n_chars").filter(kind == name).sum() for name in KINDS},
        n_calls=((kind == "act") & pl.col("name").is_not_null()).sum(),
        n_steps_with_reason=pl.col("step").filter(thinks).n_unique(),
        is_truncated=(kind.last() == "reason") | flags.list.contains("unclosed").any(),
    )
    bodies = _bodies(spans, rows)
    scores = rows.select("row")
    for more in (counts, _repeats(bodies), _rejected(spans, bodies), _loops(bodies)):
        scores = scores.join(more, on="row", how="left", maintain_order="left")
    n_steps = pl.col("n_steps")
    scores = scores.with_columns(
        n_chars_reason_per_step=pl.when(n_steps > 0).then(pl.col("n_chars_reason") / n_steps),
        n_steps_without_reason=n_steps - pl.col("n_steps_with_reason"),
        is_truncated=pl.col("is_truncated").fill_null(False) | _says_truncated(block),
        complexity=0.0,
    )
    return block.drop(SCORES, strict=False).with_columns(
        scores.select(pl.col(name).cast(dtype).fill_null(pl.lit(0, dtype)) for name, dtype in SCORES.items())
    )


def _bodies(spans: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Acts and observations as the trajectory has them, without their labels: `row`, `kind`, `step`, `body`."""
    told = spans.filter(pl.col("kind").is_in(["act", "observation"]))
    text = rows["text"].gather(told["row"])
    body = text.str.slice(told["body_start"], told["body_stop"] - told["body_start"])
    return told.select("row", "kind", "step", body=body)


def _repeats(bodies: pl.DataFrame) -> pl.DataFrame:
    acts = bodies.filter(pl.col("kind") == "act")
    return acts.group_by("row").agg(repeated_action_share=1 - pl.col("body").n_unique() / pl.len())


def _rejected(spans: pl.DataFrame, bodies: pl.DataFrame) -> pl.DataFrame:
    """Steps of which an action was not carried out, `n_steps_rejected` a row that has any."""
    refused = bodies.filter((pl.col("kind") == "observation") & pl.col("body").str.contains(_REJECTION))
    flagged = spans.filter(
        ((pl.col("kind") == "observation") & pl.col("error")) | pl.col("flags").list.contains("rejected")
    )
    steps = pl.concat([frame.select("row", "step") for frame in (refused, flagged)])
    return steps.drop_nulls().group_by("row").agg(n_steps_rejected=pl.col("step").n_unique())


def _loops(bodies: pl.DataFrame) -> pl.DataFrame:
    """The longest stretch of each row's steps that goes in a circle, `n_steps_loop`.

    For some period of 1 to `_LONGEST_CYCLE` steps, each step of the stretch but the first period does and sees what
    the step a period before it did and saw, and the stretch holds two periods or more.
    """
    parts = bodies.drop_nulls("step").sort("row", "step", maintain_order=True)
    if parts.is_empty():
        return pl.DataFrame(schema={"row": pl.get_index_type(), "n_steps_loop": pl.Int64()})
    row, step = parts["row"].to_numpy(), parts["step"].to_numpy()
    first = np.flatnonzero(np.append(True, (row[1:] != row[:-1]) | (step[1:] != step[:-1])))
    place = np.arange(len(parts)) - np.repeat(first, np.diff(np.append(first, len(parts))))
    # What a step does and sees as one number: hashes of its parts, weighted by their places so that order counts.
    told = parts.select(pl.struct("kind", "body").hash()).to_series().to_numpy() * (2 * place.astype(np.uint64) + 1)
    steps, row = np.add.reduceat(told, first), row[first]
    longest = np.zeros(len(steps), np.int64)
    for period in range(1, min(_LONGEST_CYCLE, len(steps) - 1) + 1):
        same = np.zeros(len(steps), bool)
        same[period:] = (steps[period:] == steps[:-period]) & (row[period:] == row[:-period])
        # How many steps up to this one are as the step a period before them.
        number = np.arange(len(steps))
        run = number - np.maximum.accumulate(np.where(same, -1, number))
        longest = np.maximum(longest, np.where(run >= period, run + period, 0))
    return pl.DataFrame({"row": row, "n_steps_loop": longest}).group_by("row").agg(pl.col("n_steps_loop").max())


def _says_truncated(block: pl.DataFrame) -> pl.Expr:
    if "outcome" not in block.columns:
        return pl.lit(False)
    return pl.lit((block["outcome"].struct.field("ending") == "truncated").fill_null(False))
