"""Flatness on a GPU: equality with the CPU, autocast, device of the probes. Needs only torch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from famseg.flatness import FAM, report

pytestmark = pytest.mark.cuda

LOSS = nn.CrossEntropyLoss()
PENALISED = {"every": 1, "samples": "all", "bound": "none", "weight": 0.1}


@pytest.fixture
def net() -> nn.Sequential:
    """Smooth layers: "0" is a convolution of 6 x 27, "5" is 12 x 24, "7" is the 5 x 12 head."""
    torch.manual_seed(0)
    body = nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.AdaptiveAvgPool2d(2)
    layers = *body, nn.Flatten(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 5)
    return nn.Sequential(*layers).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.arange(16) % 5


def penalized(net, batch, device, **options):
    """The terms of one step of a copy on a device, and the gradient of the total."""
    net = copy.deepcopy(net).to(device)
    terms = FAM(net, loss=LOSS, **PENALISED | options)(*(part.to(device) for part in batch))
    gradient = torch.autograd.grad(terms.total, list(net.parameters()))
    assert {value.device.type for value in (terms.total, terms.penalty, *gradient)} == {device}
    return [value.detach().cpu() for value in (terms.loss, terms.penalty, *gradient)]


@pytest.mark.parametrize(
    "options",
    [
        {"layer": "7", "estimator": "closed_form"},
        {"layer": "5", "estimator": "columns"},
        {"layer": "0", "estimator": "exact"},
        {"layer": ["5", "7"], "estimator": "columns"},
        {"layer": "7", "estimator": "columns", "quantity": "simplified"},
        {"layer": "7", "quantity": "max_eigenvalue"},
        {"layer": "5", "estimator": "columns", "standardize": True},
    ],
    ids=str,
)
def test_value_and_gradient_are_those_of_the_cpu(net, batch, device, options):
    found, wanted = (penalized(net, batch, where, **options) for where in (device, "cpu"))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("probe_per", ["sample", "batch"])
def test_the_mean_over_probes_is_the_exact_value(net, batch, device, probe_per):
    net.to(device)
    moved = [part.to(device) for part in batch]
    options = {"layer": "5", "loss": LOSS, "weight": 0.1}
    exact = FAM(net, estimator="exact", **options).measure(*moved).kappa.item()
    drawn = {"estimator": "hutchinson", "probe_per": probe_per, "probes": 400}
    found = FAM(net, **drawn, **options).measure(*moved).per_probe
    error = (found.std() / math.sqrt(len(found))).item()
    assert abs(found.mean().item() - exact) < 5 * error
    assert error < 0.1 * exact


def test_a_resumed_step_draws_what_it_drew(net, batch, device):
    net.to(device)
    moved = [part.to(device) for part in batch]
    fam = FAM(net, layer="5", loss=LOSS, estimator="hutchinson", **PENALISED)
    first, second = (fam(*moved).penalty.item() for _ in range(2))
    fam.seek(0)
    assert fam(*moved).penalty.item() == pytest.approx(first, rel=1e-9)
    assert second != pytest.approx(first, rel=1e-3)


def random_state(device: str) -> Tensor:
    return torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()


def test_the_random_state_of_the_device_moves_as_in_a_plain_step(net, batch, device):
    model = nn.Sequential(nn.Dropout(0.3), net, nn.Dropout(0.3)).to(device)
    moved = [part.to(device) for part in batch]
    states = []
    for options in ({"weight": 0}, {"estimator": "hutchinson"}, {"estimator": "noise"}):
        fam = FAM(model, layer="1.5", loss=LOSS, **PENALISED | options)
        torch.manual_seed(3)
        fam(*moved).total.backward()
        states.append(random_state(device))
    assert all(torch.equal(state, states[0]) for state in states)


class LargeOnTheCPU(TorchDispatchMode):
    """Records operations that create a tensor of more than a thousand numbers on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.device.type == "cpu" and value.numel() > 1000:
                self.found.append(str(func))
        return result


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("probe_per", ["sample", "batch"])
def test_probes_are_drawn_on_the_device(device, probe_per, distribution):
    """They are not copied: drawing 2^24 signs on a CPU takes longer than the rest of a step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(128, 256), nn.Tanh(), nn.Linear(256, 4)).to(device)
    inputs, targets = torch.randn(64, 128, device=device), torch.arange(64, device=device) % 4
    drawn = {"probe_per": probe_per, "distribution": distribution, "estimator": "hutchinson"}
    fam = FAM(net, layer="0", loss=LOSS, **PENALISED | drawn)
    fam(inputs, targets)  # the first step analyzes the network
    with LargeOnTheCPU() as large:
        fam(inputs, targets).total.backward()
    if device == "cuda":
        assert large.found == []
    else:
        assert large.found  # forbidden operations are detected


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("layer", ["7", "5"])
def test_a_network_trains_under_autocast(net, batch, device, half, layer):
    """With GradScaler for fp16; value and gradient are near those of float32."""
    net = net.float().to(device)
    images, targets = batch[0].float().to(device), batch[1].to(device)
    options = {"layer": layer, "loss": LOSS, **PENALISED, "weight": 0.01}
    exact = FAM(net, **options)(images, targets)
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact.total, net.parameters())])

    fam = FAM(net, **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=half is torch.float16, init_scale=1024.0)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=half):
            terms = fam(images, targets)
        scaler.scale(terms.total).backward()
        scaler.unscale_(optimizer)
        if step == 0:
            gradient = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
            assert terms.penalty.dtype == torch.float32
            assert terms.penalty.item() == pytest.approx(exact.penalty.item(), rel=0.05)
            assert torch.cosine_similarity(gradient, wanted, dim=0) > 0.995
        scaler.step(optimizer)
        scaler.update()
        losses.append(terms.loss.item())
    assert scaler.get_scale() == (1024.0 if half is torch.float16 else 1.0)  # no step was skipped
    assert losses[-1] < 0.7 * losses[0]


def test_a_report_of_a_model_on_the_device(net, batch, device):
    net.to(device)
    found = report(net, tuple(part.to(device) for part in batch), LOSS, probes=8)
    assert [row.name for row in found.rows] == ["0", "5", "7"]
    exact = FAM(net, layer="7", loss=LOSS, weight=1).measure(*(part.to(device) for part in batch))
    assert found["7"].kappa == pytest.approx(exact.kappa.item(), rel=1e-9)
    assert all(check.kappa_change < 1e-6 for check in found.rescaling)
