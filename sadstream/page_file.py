"""The page as a file, of whatever a path holds. Imports torch only for a run."""

from pathlib import Path
from typing import Any

from sadstream.errors import ConfigError, InputError
from sadstream.manifest import MANIFEST, load_manifest, write_atomically
from sadstream.page import Page, render_page
from sadstream.page_source import read_page
from sadstream.progress import Progress

LIMIT = 200
# A student reads each of them twice, on a CPU perhaps.
RUN_LIMIT = 40


def is_artefact(path: str | Path) -> bool:
    """Whether a path is a folder that sadstream wrote, or a tar; else it is taken for raw logs."""
    path = Path(path)
    return (path / MANIFEST).is_file() or path.suffix == ".tar"


def write_page(
    path: str | Path, out: str | Path, progress: Progress, *, limit: int | None = None, split: str = ""
) -> dict[str, Any]:
    """Write a self-contained HTML page that shows the trajectories of an artefact or of raw logs.

    Args:
        path: a folder of span shards or teacher shards, a run, a shard, or raw logs as `segment` takes them.
        out: the file, written atomically.
        limit: trajectories (of teacher shards and runs: windows) at most, evenly spread over all; 0 is all. By default
            200, of a run 40.
        split: show those of this split only, `train` or `holdout`. Of a run, held-out windows come first anyway.
    Returns:
        `file`, `what`, `n_shown`, `n_all`, `n_refused`, `n_bytes`, `notes`.
    Raises:
        SadstreamError: nothing to show there, or damaged.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"--limit {limit}: at least 0", hint="0 is all")
    page = _page(Path(path), progress, limit, split)
    if not page.entries:
        hint = "leave out --split" if split else "`sadstream segment` tells why"
        raise InputError(f"{path}: no trajectory in it" + (f" of the split {split}" if split else ""), hint=hint)
    n_bytes = len(data := render_page(page))
    write_atomically(Path(out), data)
    return {
        "file": str(out),
        "what": page.what,
        "n_shown": len(page.entries),
        "n_all": page.n_all,
        "n_refused": page.n_refused,
        "n_bytes": n_bytes,
        "notes": page.notes,
    }


def _page(path: Path, progress: Progress, limit: int | None, split: str) -> Page:
    if (path / MANIFEST).is_file() and load_manifest(path).stage == "train":
        from sadstream.page_run import read_run_page

        return read_run_page(path, progress, limit=RUN_LIMIT if limit is None else limit, split=split)
    return read_page(path, progress, limit=LIMIT if limit is None else limit, split=split)
