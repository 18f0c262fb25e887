"""Outcomes that lie beside a run: an evaluator's report, a trial's result, a reward in a text file."""

from pathlib import PurePath
from typing import Any

from sadstream.formats.outcomes import as_bool, as_float
from sadstream.frames import Draft

_REPORTED = ("swe-agent", "mini-swe-agent", "openhands")
_ENDINGS = (".gz", ".zst", ".json", ".jsonl", ".traj", ".trajectory")
_REPORT_SIGNS = {"patch_successfully_applied", "tests_status", "resolved_ids", "unresolved_ids"}


def candidates(path: str, draft: Draft) -> list[str]:
    """Paths of files that may hold a run's outcome, the most specific first; none where the run has it itself.

    >>> candidates("runs/a.traj.json", Draft(format="mini-swe-agent"))
    ['runs/a.report.json', 'runs/report.json']
    """
    if draft.success is not None and draft.reward is not None:
        return []
    folder, stem = PurePath(path).parent, _stem(path)
    if draft.format in _REPORTED and draft.success is None:
        names = dict.fromkeys(name for name in (stem, draft.task_id) if name and "/" not in name)
        return [str(folder / f"{name}.report.json") for name in names] + [str(folder / "report.json")]
    if draft.format == "atif":
        # Harbor puts the agent's files into a folder of their own within the trial's.
        trial = folder.parent if folder.name == "agent" else folder
        return [str(trial / "result.json"), str(trial / "verifier" / "reward.txt")]
    return []


def outcome_in(path: str, content: Any, run: str, draft: Draft) -> dict[str, Any]:
    """`success` and `reward` of a run, from a file beside it; only those that the draft lacks.

    Args:
        path: of the file beside. content: its decoded JSON, or its text where it is none.
        run: path of the run.
    """
    if path.endswith("reward.txt"):
        reward = as_float(content)
        found = {} if reward is None else {"reward": reward}
    elif path.endswith("result.json"):
        found = _trial(content)
    else:
        found = _report(content, {_stem(run), draft.task_id}, named=PurePath(path).name != "report.json")
    return {name: value for name, value in found.items() if getattr(draft, name) is None}


def is_report(value: Any) -> bool:
    """Whether a JSON value is an evaluation report, of one instance, keyed by instance, or of all.

    >>> is_report({"a__b-1": {"resolved": True, "tests_status": {}}})
    True
    """
    if not isinstance(value, dict) or not value:
        return False
    if value.keys() & _REPORT_SIGNS:
        return True
    return all(isinstance(v, dict) and "resolved" in v and v.keys() & _REPORT_SIGNS for v in value.values())


def _stem(path: str) -> str:
    """A file's name without the endings of logs; `report` and the like stay."""
    name = PurePath(path).name
    while any(name.endswith(ending) for ending in _ENDINGS):
        name = name[: name.rindex(".")]
    return name


def _report(content: Any, ids: set[str | None], *, named: bool) -> dict[str, Any]:
    """`resolved` under one of the run's ids, or of the report itself if its file is named after the run."""
    if not isinstance(content, dict):
        return {}
    own = next((content[i] for i in ids if i is not None and isinstance(content.get(i), dict)), None)
    resolved = as_bool(own.get("resolved")) if own is not None else None
    if own is None and named:
        resolved = as_bool(content.get("resolved"))
    for name, truth in (("resolved_ids", True), ("unresolved_ids", False)):
        listed = content.get(name)
        if resolved is None and isinstance(listed, list) and any(i in listed for i in ids if i is not None):
            resolved = truth
    return {} if resolved is None else {"success": resolved}


def _trial(content: Any) -> dict[str, Any]:
    """Reward of a Harbor trial, `success` or `resolved` of others."""
    if not isinstance(content, dict):
        return {}
    verifier = content.get("verifier_result")
    rewards = verifier.get("rewards") if isinstance(verifier, dict) else None
    places = (rewards, verifier, content)
    reward = next((as_float(p["reward"]) for p in places if isinstance(p, dict) and "reward" in p), None)
    truths = (as_bool(content[name]) for name in ("is_resolved", "resolved", "success") if name in content)
    success = next((truth for truth in truths if truth is not None), None)
    found = {"reward": reward, "success": success}
    return {name: value for name, value in found.items() if value is not None}
