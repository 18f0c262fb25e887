"""Several processes make the updates that one makes. They are real, and talk by gloo."""

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest
import torch

from sadstream.errors import ConfigError, TrainingError
from sadstream.progress import silent
from sadstream.ranks import ALONE, joined
from sadstream.train import TrainConfig, train
from tests.test_train import run, same

# A server that has imported torch once gives each process its start.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["sadstream.loop", "sadstream_cli.cli", "tests.test_ranks"])
# A small rate: AdamW turns rounding in a gradient that should be 0 into a step of that size.
OPTIONS = {"updates": 6, "batch_tokens": 600, "lr": 1e-4, "save_every": 2, "eval_every": 3, "lambda_act": 0.5}


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def be_rank(rank: int, size: int, port: int, out: Path, work) -> None:
    """In a process of its own: its exit code is that of the command line, and what it says lies beside the run."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with (out.parent / f"{out.name}-said-{rank}").open("wb") as said:
        os.dup2(said.fileno(), 2)
    with (out.parent / f"{out.name}-printed-{rank}").open("wb") as printed:
        os.dup2(printed.fileno(), 1)
    work(rank)


class Command:
    """`sadstream train`, as a command."""

    def __init__(self, config: TrainConfig, file: Path) -> None:
        from sadstream.train_config import to_toml

        file.write_text(to_toml(msgspec.to_builtins(config)))
        self._arguments = ["train", "--config", str(file), "--json"]

    def __call__(self, rank: int) -> None:
        from sadstream_cli import cli

        raise SystemExit(cli.run(self._arguments))


def start(size: int, out: Path, work) -> list:
    port = free_port()
    processes = [PROCESSES.Process(target=be_rank, args=(rank, size, port, out, work)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list) -> list[int]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def run_by(size: int, cache: Path, student: Path, out: Path, **options) -> list[int]:
    """A run's exit codes."""
    config = TrainConfig(shards=str(cache), student=str(student), out=str(out), **{**OPTIONS, **options})
    return finish(start(size, out, Command(config, out.parent / f"{out.name}.toml")))


def said(out: Path, rank: int) -> list[str]:
    lines = (out.parent / f"{out.name}-said-{rank}").read_text().splitlines()
    return [line for line in lines if not line.startswith("[W")]  # torch's own warnings


def printed(out: Path, rank: int) -> str:
    return (out.parent / f"{out.name}-printed-{rank}").read_text()


def rows_of(out: Path) -> list[dict]:
    return [msgspec.json.decode(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]


def wait_for_rows(out: Path, n: int, process) -> None:
    while process.is_alive() and (not (out / "metrics.jsonl").exists() or len(rows_of(out)) < n):
        time.sleep(0.005)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_cache, tiny_student):
    """A run by one process, and its summary."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, run(tiny_cache, tiny_student, out, **OPTIONS)


def check_equal(out: Path, alone: tuple[Path, dict]) -> None:
    whole, summary = alone
    # The sums of an update are the same numbers in another order.
    assert same(whole, out, tolerance=1e-6)
    found, wanted = rows_of(out), rows_of(whole)
    assert [row.keys() for row in found] == [row.keys() for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.pop("eval", {}) == pytest.approx(other.pop("eval", {}), rel=1e-5)
        assert one == pytest.approx(other, rel=1e-4)
    printed_summary = msgspec.json.decode(printed(out, 0))
    for name in ("eval_before", "eval_after", "eval_unigram"):
        assert printed_summary[name] == pytest.approx(summary[name], rel=1e-5), name
    assert printed_summary["n_tokens"] == summary["n_tokens"]


def test_two_processes_make_the_updates_that_one_makes(alone, tiny_cache, tiny_student, tmp_path):
    out = tmp_path / "run"
    assert run_by(2, tiny_cache, tiny_student, out) == [0, 0]
    check_equal(out, alone)
    assert printed(out, 1) == "" and said(out, 1) == []
    kept, wanted = ({p.name for p in (folder / "checkpoints").iterdir()} for folder in (out, alone[0]))
    assert kept == wanted
    assert msgspec.json.decode(printed(out, 0))["eval_best"] == pytest.approx(alone[1]["eval_best"], rel=1e-5)
    # A finished run is left as it is by any number of processes.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert run_by(2, tiny_cache, tiny_student, out) == [0, 0]
    assert msgspec.json.decode(printed(out, 0))["already_done"] and not printed(out, 1)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_a_rank_without_samples_takes_part(tiny_cache, tiny_student, tmp_path):
    options = {"batch_tokens": 1, "updates": 3, "reduction": "mean", "eval_every": 0}
    run(tiny_cache, tiny_student, tmp_path / "alone", **{**OPTIONS, **options})
    assert run_by(2, tiny_cache, tiny_student, tmp_path / "run", **options) == [0, 0]
    assert same(tmp_path / "alone", tmp_path / "run", tolerance=1e-6)


def test_a_killed_rank_ends_the_others_with_one_line_and_another_number_of_ranks_continues(
    tiny_cache, tiny_student, tmp_path
):
    out, options = tmp_path / "run", {**OPTIONS, "updates": 40, "eval_every": 0}
    config = TrainConfig(shards=str(tiny_cache), student=str(tiny_student), out=str(out), **options)
    command = Command(config, tmp_path / "run.toml")
    for size, killed, n_rows in ((3, 1, 3), (2, 0, 12)):
        processes = start(size, out, command)
        wait_for_rows(out, n_rows, processes[0])
        os.kill(processes[killed].pid, signal.SIGKILL)
        codes = finish(processes)
        assert codes.pop(killed) == -signal.SIGKILL and set(codes) == {1}
        for rank in {*range(size)} - {killed}:
            lines = [line for line in said(out, rank) if line.startswith(("Error", "Hint", "Traceback"))]
            assert lines[0] == f"Error: rank {rank} of {size}: another rank ended, or cannot be reached"
            assert len(lines) == 2 and "continues from the last checkpoint" in lines[1]
        assert not (out / "model").exists()
    assert finish(start(1, out, command)) == [0]
    check_equal(out, (tmp_path / "alone", run(tiny_cache, tiny_student, tmp_path / "alone", **options)))


def test_what_is_wrong_is_said_by_the_first_alone(tiny_cache, tiny_student, tmp_path):
    # Known before the first update; and found in one.
    for name, options, message in (
        ("early", {"student": str(tmp_path / "absent")}, "Error: "),
        ("late", {"spike": 1e-9, "updates": 40, "eval_every": 0}, "Error: update 33: the loss is"),
    ):
        out = tmp_path / name
        config = {"shards": str(tiny_cache), "student": str(tiny_student), "out": str(out), **OPTIONS, **options}
        assert finish(start(2, out, Command(TrainConfig(**config), tmp_path / f"{name}.toml"))) == [1, 1]
        assert next(line for line in said(out, 0) if line.startswith("Error")).startswith(message)
        assert said(out, 1) == []
    keys = next(line for line in said(out, 0) if line.startswith("Error")).split("samples ")[1].split(", ")
    assert len(keys) > 1  # of both ranks: there are two or three samples in an update


def test_ctrl_c_of_one_rank_saves_and_ends_all(alone, tiny_cache, tiny_student, tmp_path):
    out = tmp_path / "run"
    options = {**OPTIONS, "save_every": 1000, "eval_every": 0, "updates": 400}
    config = TrainConfig(shards=str(tiny_cache), student=str(tiny_student), out=str(out), **options)
    processes = start(2, out, Command(config, tmp_path / "run.toml"))
    wait_for_rows(out, 2, processes[0])
    os.kill(processes[1].pid, signal.SIGINT)
    assert finish(processes) == [130, 130]
    (saved,) = (out / "checkpoints").iterdir()
    assert saved.name == f"update-{len(rows_of(out)):08d}"
    assert any("continues where it stopped" in line for line in said(out, 0)) and not said(out, 1)


class Adds:
    """Sums gradients of which some are missing, and writes what came of it."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def __call__(self, rank: int) -> None:
        parameters = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(4)]
        parameters[3].requires_grad_(False)
        for number in [0, rank + 1][: rank + 1]:
            parameters[number].grad = torch.full((2, 3), 10.0 ** (rank + number))
        with joined() as ranks:
            ranks.sum_gradients(parameters)
            names = ranks.gathered([f"of {rank}"])
        found = [None if p.grad is None else p.grad.tolist() for p in parameters]
        (self._out / f"{rank}.json").write_bytes(msgspec.json.encode([found, names]))


def test_gradients_are_summed_and_none_is_made_up(tmp_path, monkeypatch):
    monkeypatch.setattr("sadstream.ranks._BUCKET_NUMBERS", 8)
    assert finish(start(2, tmp_path / "sum", Adds(tmp_path))) == [0, 0]
    for rank in (0, 1):
        found, names = msgspec.json.decode((tmp_path / f"{rank}.json").read_bytes())
        assert found == [[[11.0] * 3] * 2, None, [[1000.0] * 3] * 2, None]
        assert names == ["of 0", "of 1"]


def test_one_process_needs_no_others(monkeypatch):
    with joined({}) as ranks, joined({"RANK": "0", "WORLD_SIZE": "1"}) as one:
        assert ranks == one == ALONE
    assert ALONE.add_up([1.5]) == [1.5] and ALONE.gathered(["a"]) == ["a"] and ALONE.first_does(lambda: 3) == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2 of WORLD_SIZE 2"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK, WORLD_SIZE, LOCAL_RANK"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message), joined(environment):
        pass


def test_no_way_to_the_others_is_one_error(monkeypatch, tmp_path, tiny_cache, tiny_student):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = TrainConfig(shards=str(tiny_cache), student=str(tiny_student), out=str(tmp_path / "run"))
    with pytest.raises(TrainingError, match="rank 0 of 2: no way to the others") as error:
        train(config, silent)
    assert "torchrun" in error.value.hint
