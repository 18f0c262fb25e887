"""A stage's output folder: atomic files, checksums, and whether there is anything left to do."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from sadstream.errors import ManifestError
from sadstream.version import VERSION
from sadstream_schemas import MANIFEST_VERSION, InputFile, Manifest, Shard, decode_json

Stage = Literal["segment", "prune-student", "cache-teacher", "train", "evaluate", "collect"]
Growth = Literal["no", "by-input", "by-key"]
MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"
_JOURNAL = "journal.jsonl"
_TEMPORARY = ".tmp-"
_LOCK = ".lock"
# What a stage leaves before it has made anything that would be lost: a later try with other options may take over.
_PASSING = {MANIFEST, REJECTS, "config.toml", "metrics.jsonl", "tokenizer"}
_MADE_BY = {stage: f"sadstream {stage}" for stage in get_args(Stage)}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write (a full disk, no permission) into one line.

    Raises:
        ManifestError: names the path and why.
    """
    try:
        yield
    except Exception as error:
        # Tokenizers are saved by code in Rust, which has no other class for it.
        of_rust = type(error) is Exception and "(os error " in str(error)
        if not isinstance(error, OSError) and not of_rust:
            raise
        raise ManifestError(
            f"{path}: cannot write: {getattr(error, 'strerror', None) or error}",
            hint="make room or mend permissions, then run the same command again: what is finished stays",
        ) from error


def write_atomically(path: Path, data: bytes) -> str:
    """Write a file so that it is either whole or absent, also after a power cut. Returns its sha256."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)  # half a page beside a full disk helps nobody
            raise
        temporary.replace(path)
        _sync_folder(path.parent)
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the block ends well; a folder there before is replaced."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Checksum of a file, read once in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_hash(config: dict[str, Any]) -> str:
    """A hash of options that decide a stage's content; the order in which they are given does not matter."""
    return hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()[:16]


class Input(NamedTuple):
    """A file that a stage is to read: how the manifest calls it, and where it is."""

    name: str
    path: Path


def describe_inputs(inputs: Sequence[Input], out: Path) -> list[InputFile]:
    """Size and checksum of input files.

    A file whose size is the one that `out`'s manifest names, and that has not changed since the manifest was
    written, is not read again.
    """
    known: dict[str, InputFile] = {}
    written_at = 0.0
    manifest = out / MANIFEST
    if manifest.exists():
        known = {file.path: file for file in _read(manifest).inputs}
        written_at = manifest.stat().st_mtime
    described = []
    for item in inputs:
        status = item.path.stat()
        before = known.get(item.name)
        unchanged = before and before.n_bytes == status.st_size and max(status.st_mtime, status.st_ctime) < written_at
        described.append(
            before
            if before and unchanged
            else InputFile(path=item.name, n_bytes=status.st_size, sha256=sha256_of(item.path))
        )
    return described


def load_manifest(folder: Path) -> Manifest:
    """The manifest of any stage's folder, finished or not.

    Raises:
        ManifestError: none there, not a manifest, or of a newer version.
    """
    return _read(folder / MANIFEST)


def _read(path: Path) -> Manifest:
    try:
        return decode_json(path.read_bytes(), Manifest)
    except msgspec.DecodeError as error:
        raise ManifestError(f"{path}: {error}", hint="delete the folder and run again") from error
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error


def read_manifest(folder: Path, stage: Stage) -> Manifest:
    """The manifest of a finished stage's folder.

    Raises:
        ManifestError: no such folder, another stage's, or unfinished; the hint names the command that mends it.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder", hint=f"`{_MADE_BY[stage]} ... --out {folder}` makes it")
    path = folder / MANIFEST
    if not path.exists():
        raise ManifestError(
            f"{folder}: not a folder that sadstream wrote (no {MANIFEST})",
            hint=f"give the --out folder of `{_MADE_BY[stage]}`",
        )
    manifest = _read(path)
    if manifest.stage != stage:
        raise ManifestError(
            f"{folder}: made by `{_MADE_BY[manifest.stage]}`, and the output of `{_MADE_BY[stage]}` is wanted here",
            hint=_next_command(manifest.stage, folder),
        )
    if not manifest.complete:
        raise ManifestError(
            f"{folder}: unfinished", hint=f"run the `{_MADE_BY[stage]}` that made it again; it continues"
        )
    return manifest


def _next_command(stage: str, folder: Path) -> str:
    after = {
        "prune-student": f"sadstream train TEACHER_SHARDS --student {folder} --out RUN",
        "segment": f"sadstream cache-teacher {folder} --teacher MODEL --out DIR",
        "cache-teacher": f"sadstream train {folder} --student MODEL --out RUN",
        "train": f"sadstream inspect {folder}",
        "evaluate": f"sadstream inspect {folder}",
        "collect": f"sadstream segment {folder} --out DIR",
    }
    return f"what takes this folder: `{after[stage]}`"


class StageFolder:
    """A stage's output folder while the stage runs. Finished shards are journalled; the manifest closes it.

    Attributes:
        path: the folder.
        shards: those committed so far, in order; also by an earlier run that was interrupted.
        done: the manifest, if an earlier run with the same options and inputs finished.
        extends: what a finished run had made before inputs were added: `inputs` (names), `n_shards`, `totals`, and
            `n_rejects_bytes`; empty where nothing was. `was_unfinished`: inputs changed before a run was finished.
    """

    def __init__(
        self,
        path: Path,
        stage: Stage,
        config: dict[str, Any],
        inputs: Sequence[InputFile],
        *,
        may_grow: Growth = "no",
    ) -> None:
        """Open or create the folder.

        Args:
            may_grow: whether a finished folder takes further inputs in further shards: `no`; `by-input`, beside those
                it was made from; `by-key`: any, for the stage itself knows what of them it has.
        Raises:
            ManifestError: it holds something else, or the result of other options or inputs (which are named).
        """
        self.path = path
        self.shards: list[Shard] = []
        self.done: Manifest | None = None
        self.extends: dict[str, Any] = {}
        self._manifest = Manifest(
            format_version=MANIFEST_VERSION,
            stage=stage,
            sadstream_version=VERSION,
            config=config,
            config_hash=config_hash(config),
            inputs=list(inputs),
            complete=False,
        )
        if path.exists() and not path.is_dir():
            raise ManifestError(f"{path}: a file, not a folder", hint="choose another --out")
        if (path / MANIFEST).exists():
            before = _read(path / MANIFEST)
            if not before.complete:
                self._lock()
                before = _read(path / MANIFEST)
            if self._is_to_grow(before, may_grow):
                self._lock()
                before = self._grow(before)
            self._resume(before)
            return
        if path.is_dir() and any(not _is_ours(p.name) for p in path.iterdir()):
            raise ManifestError(
                f"{path}: holds something that sadstream did not write", hint="choose an empty or new folder for --out"
            )
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock()
        write_atomically(path / MANIFEST, _encode(self._manifest))

    def _lock(self) -> None:
        """Keep the folder to this process until it ends: two writers would spoil each other's files."""
        with writing(self.path):
            handle = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR)
        self._unlock = weakref.finalize(self, os.close, handle)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ManifestError(
                f"{self.path}: another sadstream is writing here", hint="wait for it, or choose another --out"
            ) from error
        except OSError:
            pass  # a file system without locks

    def _is_to_grow(self, before: Manifest, may_grow: Growth) -> bool:
        mine = self._manifest
        if may_grow == "no" or before.config_hash != mine.config_hash or before.stage != mine.stage:
            return False
        if may_grow == "by-key":
            # Also one that was interrupted: its shards stay, and the rest is asked of what there is now.
            return before.inputs != mine.inputs and (before.complete or self._holds_results())
        known = {(file.path, file.sha256) for file in mine.inputs}
        return (
            before.complete
            and len(before.inputs) < len(mine.inputs)
            and all((file.path, file.sha256) in known for file in before.inputs)
        )

    def _grow(self, before: Manifest) -> Manifest:
        """Open a folder for further inputs. Returns its manifest as an unfinished one."""
        if not before.complete:
            grown = msgspec.structs.replace(
                self._manifest, resolved=before.resolved, extends={**before.extends, "was_unfinished": True}
            )
            write_atomically(self.path / MANIFEST, _encode(grown))
            return grown
        rejects = self.path / REJECTS
        extends = {
            "inputs": [file.path for file in before.inputs],
            "n_shards": len(before.shards),
            "totals": before.totals,
            "n_rejects_bytes": rejects.stat().st_size if rejects.exists() else 0,
        }
        journal = b"".join(msgspec.json.encode(shard) + b"\n" for shard in before.shards)
        write_atomically(self.path / _JOURNAL, journal)
        grown = msgspec.structs.replace(self._manifest, resolved=before.resolved, extends=extends)
        write_atomically(self.path / MANIFEST, _encode(grown))
        return grown

    def _resume(self, before: Manifest) -> None:
        mine = self._manifest
        if before.stage != mine.stage:
            raise ManifestError(
                f"{self.path}: holds the output of `{_MADE_BY[before.stage]}`", hint="choose another --out"
            )
        if before != mine and not before.complete and not self._holds_results():
            # Stopped before it had made anything, by a malformed log say: nothing here to keep or to mistake.
            for leftover in _PASSING - {MANIFEST}:
                _remove(self.path / leftover)
            write_atomically(self.path / MANIFEST, _encode(mine))
            before = mine
        if before.config_hash != mine.config_hash:
            changed = [
                f"{key} was {before.config.get(key)!r} and is now {mine.config.get(key)!r}"
                for key in sorted({*before.config, *mine.config})
                # What was read back is JSON's: a tuple is a list there.
                if before.config.get(key) != msgspec.json.decode(msgspec.json.encode(mine.config.get(key)))
            ]
            raise ManifestError(
                f"{self.path}: made with other options: {'; '.join(changed)}",
                hint="choose another --out, or delete this folder",
            )
        if before.inputs != mine.inputs:
            raise ManifestError(
                f"{self.path}: made from other inputs: {_first_difference(before.inputs, mine.inputs)}",
                hint="choose another --out, or delete this folder",
            )
        if before.complete:
            missing = next((name for name in _named_files(before) if not (self.path / name).exists()), None)
            if missing is not None:
                raise ManifestError(
                    f"{self.path}: finished, but {missing} is missing", hint="delete the folder and run again"
                )
            self.done = before
            for leftover in (_JOURNAL, _LOCK):
                (self.path / leftover).unlink(missing_ok=True)
            return
        self._manifest = msgspec.structs.replace(mine, resolved=before.resolved, extends=before.extends)
        self.extends = before.extends
        self.shards = self._read_journal()
        named = {name for shard in self.shards for name in (shard.name, index_name(shard.name))}
        for file in self.path.iterdir():
            # What the journal does not name was being written when the run stopped.
            if file.name.startswith(("shard-", _TEMPORARY)) and file.name not in named and file.is_file():
                file.unlink()

    def _holds_results(self) -> bool:
        return any(p.name not in _PASSING and not _is_ours(p.name) for p in self.path.iterdir())

    def _read_journal(self) -> list[Shard]:
        journal = self.path / _JOURNAL
        shards = []
        for line in journal.read_bytes().split(b"\n") if journal.exists() else ():
            with contextlib.suppress(msgspec.DecodeError):  # the line that was being written when the run stopped
                shards.append(msgspec.json.decode(line, type=Shard))
        return shards

    def resolve(self, facts: dict[str, Any]) -> None:
        """Record what options such as `auto` came to mean here; a run that continues must find the same.

        Raises:
            ManifestError: an earlier run found otherwise, as on another machine.
        """
        before = self._manifest.resolved
        if before and before != facts:
            raise ManifestError(
                f"{self.path}: begun with {_shown(before)}, and here it is {_shown(facts)}",
                hint="name what was found by itself (device, dtype, data) as it was, or choose another --out",
            )
        if not before:
            self._manifest = msgspec.structs.replace(self._manifest, resolved=facts)
            write_atomically(self.path / MANIFEST, _encode(self._manifest))

    def resolve_more(self, facts: dict[str, Any]) -> None:
        """As `resolve`, where facts come to be known one after the other; those known before must be the same.

        Raises:
            ManifestError: an earlier run found otherwise.
        """
        before = self._manifest.resolved
        shared = before.keys() & facts.keys()
        self._manifest = msgspec.structs.replace(self._manifest, resolved={name: before[name] for name in shared})
        self.resolve({name: facts[name] for name in shared})
        self._manifest = msgspec.structs.replace(self._manifest, resolved={**before, **facts})
        write_atomically(self.path / MANIFEST, _encode(self._manifest))

    def commit(self, shard: Shard) -> None:
        """Make a written shard part of the folder. Costs the same however many there are."""
        with writing(self.path), (self.path / _JOURNAL).open("ab") as journal:
            if journal.tell() and not _ends_line(self.path / _JOURNAL):
                journal.write(b"\n")
            journal.write(msgspec.json.encode(shard) + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.shards.append(shard)

    def finish(self, totals: dict[str, Any], files: Sequence[str] = ()) -> Manifest:
        """Close the folder: from now on it counts as finished.

        Args:
            totals: the stage's summary.
            files: names of further files that belong to it, relative to the folder.
        """
        manifest = msgspec.structs.replace(
            self._manifest,
            shards=self.shards,
            files={name: sha256_of(self.path / name) for name in files},
            totals=totals,
            extends={},
            complete=True,
        )
        write_atomically(self.path / MANIFEST, _encode(manifest))
        (self.path / _JOURNAL).unlink(missing_ok=True)
        (self.path / _LOCK).unlink(missing_ok=True)
        self._unlock()
        return manifest


def _is_ours(name: str) -> bool:
    return name == _LOCK or name.startswith(_TEMPORARY)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _named_files(manifest: Manifest) -> dict[str, str]:
    """All files that a manifest names, with their checksums."""
    return {
        **{shard.name: shard.sha256 for shard in manifest.shards},
        **{index_name(shard.name): shard.index_sha256 for shard in manifest.shards},
        **manifest.files,
    }


def _shown(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def _first_difference(before: list[InputFile], now: list[InputFile]) -> str:
    old, new = ({file.path: file.sha256 for file in files} for files in (before, now))
    for name in sorted({*old, *new}):
        if name not in old:
            return f"{name} is new"
        if name not in new:
            return f"{name} is gone"
        if old[name] != new[name]:
            return f"{name} has changed"
    return "their order has changed"


def index_name(shard: str) -> str:
    """Name of the index beside a tar."""
    return shard.removesuffix(".tar") + ".parquet"


def verify(folder: Path, manifest: Manifest, on_file: Callable[[str], None]) -> list[str]:
    """Compare each file of a folder with its checksum.

    Returns:
        What is wrong, a line a file; empty if nothing is.
    """
    wrong = []
    for name, checksum in _named_files(manifest).items():
        on_file(name)
        path = folder / name
        if not path.exists():
            wrong.append(f"{name}: missing")
        elif sha256_of(path) != checksum:
            wrong.append(f"{name}: its content is not what was written")
    return wrong


def verify_without_reading_shards(folder: Path, manifest: Manifest) -> list[str]:
    """As `verify`, in time that does not grow with the data: whoever reads a sample or an index compares it then.

    Returns:
        Which shards or indexes are missing, which shards have another size, and which other files differ.
    """
    wrong = []
    for shard in manifest.shards:
        path = folder / shard.name
        if not path.exists() or not (folder / index_name(shard.name)).exists():
            wrong.append(f"{shard.name if not path.exists() else index_name(shard.name)}: missing")
        elif path.stat().st_size != shard.n_bytes:
            wrong.append(f"{shard.name}: {path.stat().st_size} bytes, and {shard.n_bytes} were written")
    return wrong + verify(folder, msgspec.structs.replace(manifest, shards=[]), lambda name: None)
