"""Two processes compute the gradient of one process."""

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
for name, options in given["options"].items():
    fam = FAM(net, loss=nn.CrossEntropyLoss(), weight=1e-3, every=2, **options)
    ddp = DistributedDataParallel(fam)
    for step in range(3):  # the last one is penalized again, after one that is not
        fam.seek(step, stream=rank)
        net.zero_grad()
        ddp(*batch).total.backward()
    found[name] = [p.grad for p in net.parameters()]
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


OPTIONS = {
    "closed form": {"layer": "4"},
    "columns": {"layer": "2", "estimator": "columns", "samples": "all"},
    "hutchinson": {"layer": "2", "estimator": "hutchinson", "samples": "all"},
    "batch": {"layer": "2", "estimator": "hutchinson", "probe_per": "batch"},
    "part": {"layer": "2", "samples": 1},
    "gauss newton": {"layer": "2", "estimator": "gauss_newton"},
    "finite difference": {"layer": "2", "estimator": "finite_difference"},
    "noise": {"layer": "2", "estimator": "noise"},
    "several": {"layer": ["0", "2", "4"]},
    "simplified": {"layer": "4", "quantity": "simplified"},
}
EXACT = ("closed form", "columns", "simplified")


def net():
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


@pytest.fixture(scope="module")
def given():
    model = net()
    inputs, targets = torch.randn(8, 4, dtype=torch.float64), torch.randint(0, 3, (8,))
    data = {"inputs": inputs, "targets": targets}
    return {"net": model.state_dict(), "options": OPTIONS, **data}


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


def one_process(given, parts, options):
    """Mean gradient over parts of the batch, each with probes from its own stream."""
    model = net()
    fam = FAM(model, loss=nn.CrossEntropyLoss(), weight=1e-3, every=2, **options)
    batches = zip(given["inputs"].chunk(parts), given["targets"].chunk(parts), strict=True)
    for stream, batch in enumerate(batches):
        fam.seek(2, stream=stream)
        (fam(*batch).total / parts).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_those_of_the_streams_in_one_process(given, found, name):
    for two, one in zip(found[name], one_process(given, 2, OPTIONS[name]), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_exact_gradients_are_those_of_the_whole_batch_in_one_process(given, found, name):
    for two, one in zip(found[name], one_process(given, 1, OPTIONS[name]), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_static_graph_is_refused(found):
    assert "static_graph=True) silently gives wrong gradients" in found["static"]
