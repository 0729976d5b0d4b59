"""The processes of one run: one alone, or several started by torchrun."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process's place among the processes of the run.

    Every method that talks to the others must be called by all of them.

    Args:
        rank: Number of this process, from 0.
        world: How many there are.
        local_rank: Number of this process on its machine: its GPU.

    Example:
        >>> alone = Processes()
        >>> alone.main, alone.gather("x"), alone.sum([1.0, 2.0])
        (True, ['x'], [1.0, 2.0])
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """True in the one process that writes files and tracks."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401  # any picklable object
        """Return the values of all processes, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:  # noqa: ANN401  # any picklable object
        """Return the value that rank 0 holds."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, values: Sequence[float], device: torch.device | None = None) -> list[float]:
        """Return the element-wise sums over all processes, added up in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that torchrun started, or stand alone without it.

    Reads ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``; NCCL where there are GPUs, gloo elsewhere.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(rank=dist.get_rank(), world=world, local_rank=local_rank)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # what they hold may be DDP's, see below
        raise
    finally:
        # A DDP module that outlives the group holds its last reference. It is then taken down under
        # Python's lock, for which the group's threads may be waiting: the process hangs.
        gc.collect()
        dist.destroy_process_group()
