"""What lies in a stage's output folder."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field


class InputFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that the stage read."""

    path: Annotated[str, Meta(description="Relative to the argument that named it.")]
    n_bytes: Annotated[int, Meta(ge=0)]
    sha256: str


class Shard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tar of samples and the Parquet index beside it, committed together."""

    name: Annotated[str, Meta(description="The tar; its index has the suffix `.parquet`.")]
    n_samples: Annotated[int, Meta(ge=1)]
    n_bytes: Annotated[int, Meta(ge=1)]
    sha256: str
    index_sha256: str


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies in a stage's output folder. A file that it does not name does not exist."""

    format_version: Annotated[int, Meta(ge=1)]
    stage: Literal["segment", "prune-student", "cache-teacher", "train", "evaluate", "collect"]
    sadstream_version: str
    config: Annotated[dict[str, Any], Meta(description="The options that decide the content.")]
    config_hash: str
    resolved: Annotated[dict[str, Any], Meta(description="What options such as `auto` came to mean.")] = field(
        default_factory=dict
    )
    extends: Annotated[
        dict[str, Any],
        Meta(description="Of a folder that grows: what was there before inputs were added, until that is finished."),
    ] = field(default_factory=dict)
    inputs: list[InputFile]
    shards: list[Shard] = field(default_factory=list)
    files: Annotated[dict[str, str], Meta(description="Other files that belong to the stage: name to sha256.")] = field(
        default_factory=dict
    )
    totals: Annotated[dict[str, Any], Meta(description="The stage's summary, as `--json` prints it.")] = field(
        default_factory=dict
    )
    complete: bool
