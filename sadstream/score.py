"""Numbers about a trajectory, to filter and to order by: LazyFrame -> LazyFrame, row-local."""

import polars as pl

from sadstream_schemas import Kind

KINDS: tuple[Kind, ...] = ("context", "reason", "act", "observation")

SCORES: dict[str, pl.DataType] = {
    "n_steps": pl.Int64(),
    **{f"n_spans_{kind}": pl.Int64() for kind in KINDS},
    **{f"n_chars_{kind}": pl.Int64() for kind in KINDS},
    "n_chars_reason_per_step": pl.Float64(),
    "repeated_action_share": pl.Float64(),
    "complexity": pl.Float64(),
}


def score(spans: pl.LazyFrame, *, alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.0) -> pl.LazyFrame:
    """Trajectories with score columns.

    complexity = alpha * n_chars_reason + beta * n_chars_act + gamma * entropy, the paper's C(tau) with characters
    as the unit of length; the entropy term needs a teacher and is left out where the column is absent.

    Needs: `text` (String), `spans` (List of Struct). Optional: `entropy` (Float64, the teacher's mean over the
        trajectory's supervised tokens, in nats).
    Adds: `n_steps`; `n_spans_KIND` (those with text), `n_chars_KIND` (labels included) for each of the four kinds;
        `n_chars_reason_per_step`; `repeated_action_share` (share of acts whose body another act before it has);
        `complexity`.
    Source: Structured Agent Distillation, arXiv 2505.13820, curriculum.

    >>> from sadstream import segment
    >>> logs = pl.LazyFrame({"text": ["> go\\nOK\\n> go\\nOK\\n"]})
    >>> score(segment(logs)).select("n_steps", "repeated_action_share").collect().row(0)
    (2, 0.5)
    """
    schema = spans.collect_schema()
    kept = {name: dtype for name, dtype in schema.items() if name not in SCORES}
    scored = spans.map_batches(_score_block, schema={**kept, **SCORES}, streamable=True)
    entropy = pl.col("entropy").fill_null(0.0) if "entropy" in kept else pl.lit(0.0)
    complexity = alpha * pl.col("n_chars_reason") + beta * pl.col("n_chars_act") + gamma * entropy
    return scored.with_columns(complexity=complexity.cast(pl.Float64))


def _score_block(block: pl.DataFrame) -> pl.DataFrame:
    rows = block.select("text", "spans").with_row_index("row")
    spans = (
        rows.explode("spans", empty_as_null=False)
        .unnest("spans")
        .select("row", "kind", "step", "text", "body_start", "body_stop", n_chars=pl.col("stop") - pl.col("start"))
    )
    counts = spans.group_by("row").agg(
        (pl.col("step").max() + 1).fill_null(0).alias("n_steps"),
        *(
            ((pl.col("kind") == kind) & (pl.col("n_chars") > 0)).sum().cast(pl.Int64).alias(f"n_spans_{kind}")
            for kind in KINDS
        ),
        *(pl.col("n_chars").filter(pl.col("kind") == kind).sum().alias(f"n_chars_{kind}") for kind in KINDS),
    )
    body = pl.col("text").str.slice(pl.col("body_start"), pl.col("body_stop") - pl.col("body_start"))
    acts = spans.filter(pl.col("kind") == "act").select("row", body=body)
    repeated = acts.group_by("row").agg(repeated_action_share=1 - pl.col("body").n_unique() / pl.len())
    scores = (
        rows.select("row")
        .join(counts, on="row", how="left", maintain_order="left")
        .join(repeated, on="row", how="left", maintain_order="left")
        .drop("row")
        .fill_null(0)
        .with_columns(
            n_chars_reason_per_step=pl.when(pl.col("n_steps") > 0)
            .then(pl.col("n_chars_reason") / pl.col("n_steps"))
            .otherwise(0.0),
            complexity=pl.lit(0.0),
        )
    )
    return block.drop(SCORES, strict=False).with_columns(
        scores.select(pl.col(name).cast(t) for name, t in SCORES.items())
    )


def _count(true: pl.Expr) -> pl.Expr:
    return true.sum().cast(pl.Int64)
