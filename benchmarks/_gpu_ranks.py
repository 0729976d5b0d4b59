"""FAM on several processes, one per GPU: their mean gradient equals that of a single process.

torchrun --nproc-per-node N benchmarks/_gpu_ranks.py DEVICE

A part of ``benchmarks/gpu.sh``; with DEVICE ``cpu`` it runs on gloo in place of NCCL. The first
process prints a line of JSON; it exits with status 1 if anything differs.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness import FAM

_STEPS = 20
_EACH = 8  # samples per process


def network() -> nn.Sequential:
    """Return a small network in float64, the same in each process."""
    torch.manual_seed(0)
    layers = nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4)
    return nn.Sequential(*layers).double()


def objective(model: nn.Module, layer: str) -> FAM:
    """Return an objective without random parts: the mean over processes is exact."""
    estimator = "closed_form" if layer == "4" else "columns"
    options = {"estimator": estimator, "every": 1, "samples": "all", "bound": "none"}
    return FAM(model, layer=layer, loss=nn.CrossEntropyLoss(), weight=0.1, **options)


def gradients(model: nn.Module) -> list[Tensor]:
    """Return the gradients of a model's parameters."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def compared(layer: str, device: str) -> float:
    """Return the largest difference between the gradients of all processes and of one."""
    generator = torch.Generator().manual_seed(1)
    rank, total = dist.get_rank(), _EACH * dist.get_world_size()
    inputs = torch.randn(total, 10, generator=generator, dtype=torch.float64).to(device)
    targets = (torch.arange(total) % 4).to(device)
    alone = network().to(device)
    objective(alone, layer)(inputs, targets).total.backward()
    shared = copy.deepcopy(alone)
    shared.zero_grad()
    wrapped = DistributedDataParallel(objective(shared, layer))
    part = slice(_EACH * rank, _EACH * (rank + 1))
    wrapped(inputs[part], targets[part]).total.backward()
    pairs = zip(gradients(alone), gradients(shared), strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


def trained(device: str) -> tuple[float, float, float]:
    """Return the losses before and after a short training, and the seconds of a step."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    inputs = torch.randn(64, 10, generator=generator, dtype=torch.float64).to(device)
    targets = inputs[:, :4].argmax(1)
    model = network().to(device)
    wrapped = DistributedDataParallel(objective(model, "2"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses, began = [], 0.0
    for step in range(_STEPS):
        optimizer.zero_grad()
        terms = wrapped(inputs, targets)
        terms.total.backward()
        optimizer.step()
        losses.append(terms.loss.item())  # waits for the device
        if step == 0:
            began = time.perf_counter()
    return losses[0], losses[-1], (time.perf_counter() - began) / (_STEPS - 1)


def main() -> int:
    """Compare, train, and print the result."""
    device, local = sys.argv[1], int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        place = f"cuda:{local}" if device == "cuda" else "cpu"
        differences = {layer: compared(layer, place) for layer in ("2", "4")}
        before, after, seconds = trained(place)
        seen: list[object] = [None] * dist.get_world_size()
        dist.all_gather_object(seen, dist.get_rank())  # as famseg's trainer does
        fine = max(differences.values()) < 1e-10 and after < before
        if dist.get_rank() == 0:
            found = {
                "backend": dist.get_backend(),
                "processes": dist.get_world_size(),
                "ranks": seen,
                "largest difference of a gradient": differences,
                "loss": [before, after],
                "seconds a step": seconds,
            }
            print(json.dumps(found), flush=True)
        # All ranks exit together, without a DDP module: destroying one after the group aborts its
        # process.
        gc.collect()
        dist.barrier(device_ids=[local] if device == "cuda" else None)
    finally:
        dist.destroy_process_group()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
