"""The ranks of one run: a single process, or several started by torchrun.

All collectives of famseg are in this module. They mostly sum and send numbers and objects in host
memory, which NCCL does not support; without a group that does, every training on several GPUs would
fail.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from famseg.messages import InputError, RunError

# The other ranks wait while rank 0 draws, writes tables and logs to MLflow. A dead process is
# detected immediately by its connection; this limit is for one that hangs.
_LONGEST_WAIT = timedelta(hours=2)

# Gloo and NCCL have no specific exception for this.
_LOST = (
    "Broken pipe",
    "Connection closed by",
    "Connection refused",
    "Connection reset by",
    "NCCL communicator was aborted",
    "Read timeout",
    "Socket Timeout",
    "Timed out waiting",
    "ncclRemoteError",
    "remote process exited",
)


class LostProcessError(RunError):
    """Another rank of the run ended or cannot be reached.

    Every rank reports it, because rank 0, which usually writes messages, may be the lost one.
    """

    everyone = True

    def __init__(self) -> None:
        super().__init__(
            "another process of this run ended or cannot be reached any more. Its own message, or "
            "torchrun's report, says why; resume from the last checkpoint with --resume."
        )


@dataclass(frozen=True)
class Processes:
    """The rank of this process among those of the run.

    Every method that communicates must be called by all ranks, and raises `LostProcessError` if one
    of them does not answer.

    Args:
        rank: Number of this process, starting at 0.
        world: Number of ranks.
        local_rank: Number of this process on its machine, which is also its GPU.

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
        """Whether this is rank 0, which writes files and tracks."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401  # any picklable object
        """Return the values of all ranks, in order."""
        if self.world == 1:
            return [value]
        group = group_for("cpu")
        values: list[Any] = [None] * dist.get_world_size(group)
        with lost_named():
            dist.all_gather_object(values, value, group=group)
        return values

    def from_main(self, value: Any) -> Any:  # noqa: ANN401  # any picklable object
        """Return the value of rank 0."""
        if self.world == 1:
            return value
        box = [value]
        with lost_named():
            dist.broadcast_object_list(box, src=0, group=group_for("cpu"))
        return box[0]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return elementwise sums over all ranks, computed in float64 on the host."""
        if self.world == 1:
            return list(values)
        return [float(value) for value in self.add(torch.tensor(values, dtype=torch.float64))]

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; the tensor itself may be changed.

        Args:
            tensor: Tensor with the same shape in all ranks, on the CPU or on this rank's GPU.
        """
        if self.world == 1:
            return tensor
        with lost_named():
            dist.all_reduce(tensor, group=group_for(tensor.device.type))
        return tensor

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0, which must have the same number and shapes."""
        if self.world == 1:
            return
        with lost_named():
            for tensor in tensors:
                dist.broadcast(tensor, src=0, group=group_for(tensor.device.type))


# The default group and, if it has no backend for the CPU, an additional group for it.
_beside: tuple[dist.ProcessGroup, dist.ProcessGroup] | None = None


def group_for(device: str) -> dist.ProcessGroup:
    """Return a group of all ranks that can send tensors on a type of device.

    This is the default group, if possible. Otherwise, for example if another program has created
    its default group only with ``nccl``, a second group is created for the CPU, and all ranks must
    call this.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    global _beside  # like the default group, which is a global of torch
    default = dist.distributed_c10d._get_default_group()
    known = [pair.partition(":")[0] for pair in dist.get_backend_config(default).split(",")]
    if device in known or device != "cpu":
        return default
    if _beside is None or _beside[0] is not default:
        _beside = default, dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    return _beside[1]


@contextmanager
def processes(device: str = "auto", *, backend: str | None = None) -> Iterator[Processes]:
    """Join the processes started by torchrun; without torchrun there is only this one.

    Reads ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE``.

    Args:
        device: ``training.device``: with ``cpu`` no GPU is touched, even if the machine has one.
        backend: Backend of the process group, as torch takes it; by default gloo for the CPU and
            NCCL for the GPUs, where they are used.

    Raises:
        InputError: If more processes were started on this machine than it has GPUs.
        LostProcessError: If another process ended or cannot be reached.
    """
    global _beside  # see above
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    gpu = None
    if device != "cpu" and torch.cuda.is_available():
        gpu = _own_gpu(local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    usual = "gloo" if gpu is None else "cpu:gloo,cuda:nccl"
    with lost_named():
        dist.init_process_group(backend or usual, timeout=_LONGEST_WAIT, device_id=gpu)
    try:
        with lost_named():
            yield Processes(rank=dist.get_rank(), world=world, local_rank=local_rank)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # frames may hold a DDP module, see below
        raise
    finally:
        # A DDP module that outlives the group holds its last reference. The group is then destroyed
        # while holding the GIL, for which its threads may be waiting, and the process hangs.
        gc.collect()
        _beside = None
        dist.destroy_process_group()


def _own_gpu(local_rank: int, started: int) -> torch.device:
    """Make the GPU of this rank the current one and return it."""
    found = torch.cuda.device_count()
    # All processes on the machine raise the error, not only those without a GPU, so that rank 0
    # reports it.
    if max(started, local_rank + 1) > found:
        raise InputError(
            f"training.device: {max(started, local_rank + 1)} processes were started on a machine "
            f"with {found} {'GPU' if found == 1 else 'GPUs'}. Start torchrun with "
            f"--nproc-per-node {found}, or set training.device=cpu."
        )
    gpu = torch.device("cuda", local_rank)
    torch.cuda.set_device(gpu)
    return gpu


@contextmanager
def lost_named() -> Iterator[None]:
    """Raise `LostProcessError` instead of torch's errors when a rank does not answer."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistNetworkError) or any(mark in str(error) for mark in _LOST):
            raise LostProcessError from error
        raise
