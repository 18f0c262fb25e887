"""The processes that make a run's updates together: `torchrun` starts them. Imports no torch where there is one."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from sadstream.errors import ConfigError, SadstreamError, TrainingError

T = TypeVar("T")

# A rank that ends closes its connections, and the others know at once; this is for a machine that falls silent.
_SILENCE = timedelta(hours=2)
_BUCKET_NUMBERS = 1 << 24


class Ranks(NamedTuple):
    """This process's place among those of a run; methods are to be called on all ranks, in the same order.

    Attributes:
        rank: from 0. size: how many there are. local: its number on this machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files and speaks."""
        return self.rank == 0

    def device(self, device: Any) -> Any:
        """The device of this rank, where one of several GPUs is meant: a torch.device."""
        import torch

        if self.size == 1 or device.type != "cuda":
            return device
        own = torch.device("cuda", self.local)
        torch.cuda.set_device(own)
        return own

    def add_up(self, numbers: Sequence[float]) -> list[float]:
        """Sums over the ranks, in float64; the same bits on each.

        Raises:
            TrainingError: another rank ended.
        """
        if self.size == 1:
            return list(numbers)
        import torch
        from torch import distributed

        total = torch.tensor(numbers, dtype=torch.float64)
        with self._listening():
            distributed.all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Iterable[Any]) -> None:
        """Put the sum of all ranks' gradients in place of each one's; what no rank has a gradient of keeps none.

        Raises:
            TrainingError: another rank ended.
        """
        if self.size == 1:
            return
        import torch
        from torch import distributed

        learning = [p for p in parameters if p.requires_grad]
        is_reached = self.add_up([p.grad is not None for p in learning])
        reached = [p for p, n_ranks in zip(learning, is_reached, strict=True) if n_ranks]
        for bucket in _buckets(reached):
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([part.reshape(-1) for part in parts])
            with self._listening():
                distributed.all_reduce(flat)
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p).clone() if p.grad is None else p.grad.copy_(part.view_as(p))

    def gathered(self, items: Sequence[str]) -> list[str]:
        """All ranks' strings.

        Raises:
            TrainingError: another rank ended.
        """
        if self.size == 1:
            return list(items)
        from torch import distributed

        found: list[list[str]] = [[]] * self.size
        with self._listening():
            distributed.all_gather_object(found, list(items))
        return [item for part in found for item in part]

    def first_does(self, make: Callable[[], T]) -> T | None:
        """What `make` gives on the first rank, which alone calls it; None on the others, which wait.

        Raises:
            SystemExit: on the others, when it fails on the first, which tells why.
        """
        if self.size == 1:
            return make()
        if not self.is_first:
            if self.add_up([0.0]) != [1.0]:
                raise SystemExit(1)
            return None
        try:
            made = make()
        except BaseException:
            with contextlib.suppress(TrainingError):
                self.add_up([0.0])
            raise
        self.add_up([1.0])
        return made

    @contextlib.contextmanager
    def said_once(self) -> Iterator[None]:
        """Around what fails on all ranks alike: the first one's error is enough, the others end without a word."""
        try:
            yield
        except SadstreamError:
            if self.is_first:
                raise
            raise SystemExit(1) from None

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise TrainingError(
                f"rank {self.rank} of {self.size}: another rank ended, or cannot be reached",
                hint="it may have said why; the same command continues from the last checkpoint",
            ) from error


ALONE = Ranks()


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started; alone where it didn't.

    Args:
        environment: with RANK and WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, where it did.
    Raises:
        ConfigError: the variables make no sense. TrainingError: the others cannot be reached.
    """
    try:
        rank, size, local = (int(environment.get(name) or alone) for name, alone in _VARIABLES.items())
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE, LOCAL_RANK: {error}", hint="let torchrun set them") from error
    if not 0 <= rank < size:
        raise ConfigError(f"RANK {rank} of WORLD_SIZE {size}", hint="let torchrun set them")
    ranks = Ranks(rank, size, local)
    if size == 1:
        yield ranks
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, rank=rank, world_size=size, timeout=_SILENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"rank {rank} of {size}: no way to the others: {reason}",
            hint="start with torchrun, which sets MASTER_ADDR and MASTER_PORT",
        ) from error
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def _buckets(parameters: Sequence[Any]) -> Iterator[list[Any]]:
    """Parameters in groups of at most so many numbers (or one): few messages, and little memory beside them."""
    bucket: list[Any] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > _BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
