"""Two processes give the gradient of one."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from famseg.flatness import FAM

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from famseg.flatness import FAM, FlatnessError

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt", weights_only=True)
layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
net = nn.Sequential(*layers).double()
net.load_state_dict(given["net"])
rows = slice(4 * rank, 4 * rank + 4)
batch = given["inputs"][rows], given["targets"][rows]
found = {}
for estimator in ("columns", "hutchinson"):
    fam = FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=0.5, estimator=estimator, every=2)
    ddp = DistributedDataParallel(fam)
    for step in range(3):  # the last one is penalised again, after one that is not
        fam.seek(step, stream=rank)
        net.zero_grad()
        ddp(*batch).total.backward()
    found[estimator] = [p.grad for p in net.parameters()]
static = DistributedDataParallel(FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=1),
                                 static_graph=True)
try:
    static(*batch)
except FlatnessError as error:
    found["static"] = str(error)
if rank == 0:
    torch.save(found, f"{folder}/found.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def given():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs, targets = torch.randn(8, 4, dtype=torch.float64), torch.randint(0, 3, (8,))
    return {"net": net.double().state_dict(), "inputs": inputs, "targets": targets}


@pytest.fixture(scope="module")
def found(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.save(given, folder / "given.pt")
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    return torch.load(folder / "found.pt", weights_only=True)


def one_process(given, parts, estimator):
    """Mean gradient over parts of the batch, each with the probes of its stream."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    net.double().load_state_dict(given["net"])
    fam = FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=0.5, estimator=estimator, every=2)
    batches = zip(given["inputs"].chunk(parts), given["targets"].chunk(parts), strict=True)
    for stream, batch in enumerate(batches):
        fam.seek(2, stream=stream)
        (fam(*batch).total / parts).backward()
    return [p.grad for p in net.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "parts"), [("columns", 1), ("hutchinson", 2)])
def test_gradients_are_those_of_one_process(given, found, estimator, parts):
    for two, one in zip(found[estimator], one_process(given, parts, estimator), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_static_graph_is_refused(found):
    assert "static_graph=True) gives wrong gradients" in found["static"]
