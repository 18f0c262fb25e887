import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sadstream import scan_index
from sadstream.errors import ConfigError, InputError, ManifestError, ModelError, SadstreamError, ShardError
from sadstream.page import Entry
from sadstream.page_file import RUN_LIMIT, write_page
from sadstream.page_run import read_run_page
from sadstream.progress import silent
from sadstream.teacher import CacheConfig, cache_teacher
from sadstream.train import TrainConfig, train
from sadstream_cli import cli

KINDS = {"reason": 1, "act": 2}


def trained(shards: Path, student: Path, out: Path, **options: Any) -> dict[str, Any]:
    wanted = {"batch_tokens": 600, "updates": 6, "lr": 1e-2, **options}
    return train(TrainConfig(shards=str(shards), student=str(student), out=str(out), **wanted), silent)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_cache, tiny_student) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("page") / "run"
    return out, trained(tiny_cache, tiny_student, out)


def values_of(entries: list[Entry], name: str, kind: str) -> list[float]:
    return [
        value
        for entry in entries
        if entry.tokens
        for value, token in zip(entry.tokens.values[name], entry.tokens.positions, strict=True)
        if entry.tokens.kinds[token] == KINDS[kind]
    ]


def check_means(entries: list[Entry], summary: dict[str, Any]) -> None:
    for kind in KINDS:
        for name, when, measure in (
            ("kl_before", "eval_before", "kl"),
            ("kl", "eval_after", "kl"),
            ("student_surprise", "eval_after", "ce"),
        ):
            assert np.mean(values_of(entries, name, kind)) == pytest.approx(
                summary[when][f"{kind}_{measure}"], abs=1e-4
            )


def test_the_student_s_tokens_average_to_what_the_run_reports(run):
    out, summary = run
    page = read_run_page(out, silent, limit=0, split="holdout")
    assert page.n_all == len(page.entries) == summary["n_holdout"]
    check_means(page.entries, summary)
    assert summary["eval_after"]["reason_kl"] < 0.9 * summary["eval_before"]["reason_kl"]
    for entry in page.entries:
        values = entry.tokens.values
        assert list(values) == ["kl", "kl_before", "kl_fell", "student_surprise", "entropy", "surprise", "tail"]
        assert {len(column) for column in values.values()} == {len(entry.tokens.positions)}
        np.testing.assert_allclose(values["kl_fell"], np.subtract(values["kl_before"], values["kl"]), atol=2e-4)
    assert [value.name for value in page.values] == list(values)
    assert f"after: REASON {summary['eval_after']['reason_kl']:.3f}" in page.notes[0]


def test_batches_give_what_single_windows_give(tiny_cache, tiny_student, run, tmp_path):
    one = read_run_page(run[0], silent, limit=8, split="")
    trained(tiny_cache, tiny_student, tmp_path / "run", micro_batch_tokens=1500)
    other = read_run_page(tmp_path / "run", silent, limit=8, split="")
    assert [entry.id for entry in one.entries] == [entry.id for entry in other.entries]
    for a, b in zip(one.entries, other.entries, strict=True):
        np.testing.assert_allclose(a.tokens.values["kl_before"], b.tokens.values["kl_before"], atol=3e-4)


@pytest.mark.parametrize(
    "options", [{"init": "random"}, {"lora_rank": 2}, {"objective": "token-kd", "kd_tokens": "all"}], ids=str
)
def test_other_students_and_objectives_average_to_it_too(
    tiny_spans, tiny_teacher, tiny_student, tiny_cache, tmp_path, options
):
    shards = tiny_cache
    if "lora_rank" in options:
        pytest.importorskip("peft", reason="adapters need peft")
    if "kd_tokens" in options:
        shards = tmp_path / "all"
        config = CacheConfig(
            spans=str(tiny_spans), teacher=str(tiny_teacher), out=str(shards), top_k=4, positions="all"
        )
        cache_teacher(config, silent)
    summary = trained(shards, tiny_student, tmp_path / "run", **options)
    page = read_run_page(tmp_path / "run", silent, limit=0, split="holdout")
    check_means(page.entries, summary)
    if "kd_tokens" in options:
        tokens = page.entries[0].tokens
        assert len(tokens.positions) == len(tokens.kinds) - 1


def test_held_out_windows_come_first_and_the_rest_is_spread(run, tiny_cache):
    index = scan_index(tiny_cache).collect()
    held_out = index.filter(split="holdout")["id"].to_list()
    page = read_run_page(run[0], silent, limit=len(held_out) + 2, split="")
    assert [entry.id for entry in page.entries[:-2]] == held_out
    assert [entry.split for entry in page.entries[-2:]] == ["train", "train"]
    assert page.n_all == index.height
    assert len(read_run_page(run[0], silent, limit=2, split="train").entries) == 2


def test_the_command_shows_a_run_with_its_own_limit(run, tmp_path, capsys, tiny_cache):
    out = tmp_path / "page.html"
    assert cli.run(["inspect", str(run[0]), "--html", str(out)]) == 0
    n_all = scan_index(tiny_cache).collect().height
    said = capsys.readouterr().out
    assert f"{min(RUN_LIMIT, n_all)} of {n_all} windows" in said and "The run's mean KL" in said
    asked = []
    write_page(run[0], out, lambda done, total, unit, note="": asked.append((done, total, note)), limit=3)
    (done, total, note) = asked[-1]
    assert done == total and note == "asking the student that it was"
    with pytest.raises(InputError, match="of the split nowhere"):
        write_page(run[0], out, silent, split="nowhere")
    with pytest.raises(ConfigError, match="knows no splits"):
        write_page(Path(__file__).parent.parent / "examples" / "logs", out, silent, split="train")


@pytest.fixture
def place(tmp_path, tiny_cache, tiny_student, monkeypatch) -> Path:
    """A folder with shards, a student and a run made from within it, all by relative paths."""
    there = tmp_path / "there"
    for name, folder in (("teacher", tiny_cache), ("student", tiny_student)):
        shutil.copytree(folder, there / "training" / name)
    monkeypatch.chdir(there)
    trained(Path("training/teacher"), Path("training/student"), Path("training/run"), updates=1)
    monkeypatch.chdir(tmp_path)
    return there


def test_shards_and_student_are_found_from_elsewhere_and_after_a_move(place, tmp_path):
    for where in ("there/training/run", "away/run", "moved/run"):
        if where == "away/run":
            (place / "training").rename(tmp_path / "away")
        if where == "moved/run":
            (tmp_path / "away").rename(tmp_path / "moved")
        page = read_run_page(Path(where), silent, limit=1, split="")
        assert "kl_before" in page.entries[0].tokens.values


def test_a_starting_student_that_is_gone_or_another_leaves_its_values_out(place):
    run = place / "training" / "run"
    config = place / "training" / "student" / "config.json"
    config.write_text(config.read_text() + "\n")
    page = read_run_page(run, silent, limit=1, split="")
    assert "kl" in page.entries[0].tokens.values and "kl_before" not in page.entries[0].tokens.values
    assert "before" not in {value.name for value in page.values}
    assert "not the student that" in page.notes[-1]
    shutil.rmtree(place / "training" / "student")
    os.environ["HF_HUB_OFFLINE"] = "1"
    assert "not shown: training/student" in read_run_page(run, silent, limit=1, split="").notes[-1]


def test_what_a_run_s_page_needs_and_is_not_there_is_named(place, tmp_path, capsys):
    run, shards = place / "training" / "run", place / "training" / "teacher"

    def refused(kind: type[SadstreamError], words: str) -> None:
        with pytest.raises(kind, match=words) as caught:
            write_page(run, tmp_path / "page.html", silent)
        assert caught.value.hint and "\n" not in str(caught.value)
        assert cli.run(["inspect", str(run), "--html", str(tmp_path / "page.html")]) == 1
        assert capsys.readouterr().err.count("Error: ") == 1

    weights = run / "model" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-9])
    refused(ModelError, "model: cannot be loaded")
    weights.write_bytes(kept)
    shutil.move(run / "model", run / "elsewhere")
    refused(ModelError, "no model in it")
    shutil.move(run / "elsewhere", run / "model")
    tar = next(shards.glob("*.tar"))
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 3])
    refused(ShardError, "shard-000000.tar")
    tar.write_bytes(data)
    manifest = shards / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    refused(ShardError, "not what .* was trained on any more")
    shutil.rmtree(shards)
    refused(ShardError, "are gone from training/teacher")
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    refused(ManifestError, "unfinished")
    assert not (tmp_path / "page.html").exists()
