import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# Tiny tensors: threads cost more than they bring, and several workers may share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "fast",
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("thorough", parent=settings.get_profile("fast"), derandomize=False, max_examples=3000)
settings.register_profile("mutants", parent=settings.get_profile("fast"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("SADSTREAM_HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real logs with their expected counts, which lie beside the checkout and not in it."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real logs are not here: ../shared/data is no folder")
    return path


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 layers with a byte-level tokenizer."""
    from tests import tiny

    tokenizer = tiny.make_tokenizer()
    return tiny.save_model(tiny.llama_config(len(tokenizer)), tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random Llama, of 2 layers, with the teacher's tokenizer."""
    from tests import tiny

    config = tiny.llama_config(len(tiny.make_tokenizer()), num_hidden_layers=2)
    return tiny.save_model(config, tmp_path_factory.mktemp("models") / "student", seed=1)


@pytest.fixture(scope="session")
def tiny_spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Span shards of 24 hand-made runs; a quarter of the tasks is held out."""
    from sadstream import SegmentConfig, segment_logs
    from sadstream.progress import silent
    from tests import tiny

    folder = tmp_path_factory.mktemp("stages")
    logs = tiny.write_logs(folder / "runs.jsonl", 24)
    segment_logs(SegmentConfig(logs=(str(logs),), out=str(folder / "spans"), holdout=0.25, shard_size=20_000), silent)
    return folder / "spans"


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory, tiny_spans: Path, tiny_teacher: Path) -> Path:
    """Teacher shards of these runs, 8 ids a token."""
    from sadstream.progress import silent
    from sadstream.teacher import CacheConfig, cache_teacher

    out = tmp_path_factory.mktemp("stages") / "teacher"
    cache_teacher(CacheConfig(spans=str(tiny_spans), teacher=str(tiny_teacher), out=str(out), top_k=8), silent)
    return out


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> Path:
    """The samples of the tiny cache in shards of 4."""
    from sadstream import iter_samples
    from sadstream.manifest import StageFolder, load_manifest
    from sadstream.shards import PLACE, Sample, scan_index, write_shard
    from sadstream.teacher import TEACHER_INDEX

    folder = StageFolder(
        tmp_path_factory.mktemp("stages") / "shards", "cache-teacher", load_manifest(tiny_cache).config, []
    )
    rows = scan_index(tiny_cache).drop("shard", *PLACE).collect().to_dicts()
    samples = [Sample(k, "msgpack", data, row) for (k, data), row in zip(iter_samples(tiny_cache), rows, strict=True)]
    for begin in range(0, len(samples), 4):
        write_shard(folder, samples[begin : begin + 4], TEACHER_INDEX)
    folder.finish({"n_samples": len(samples)})
    return folder.path
