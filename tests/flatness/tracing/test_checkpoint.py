"""Non-reentrant checkpoints recompute operations that were observed."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

from famseg.flatness import FAM
from famseg.flatness._tracing._checkpoint import _RUNS, computed_again

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 2, 1, 1, 0, 2])


class Net(nn.Module):
    """Layers, some of which run inside a checkpoint, and a path around the penalized one."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(
            nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        )
        self.skip, self.inside = skip, slice(0)

    def forward(self, x):
        first, last = self.inside.start or 0, self.inside.stop
        hidden = self.parts[:2](x)
        x = self.parts[:first](x)
        if last:
            x = checkpoint.checkpoint(self.parts[first:last], x, use_reentrant=False)
        x = self.parts[max(first, last) :](x)
        return x + hidden[:, :3] if self.skip else x


ESTIMATORS = {
    "columns": {"estimator": "columns"},
    "part": {"estimator": "hutchinson", "samples": 6},
    "finite difference": {"estimator": "finite_difference"},
    "noise": {"estimator": "noise"},
    "antithetic": {"estimator": "noise", "antithetic": True},
}


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("options", ESTIMATORS.values(), ids=ESTIMATORS)
def test_a_checkpoint_changes_nothing(options, skip, precision):
    model = Net(skip).to(torch.float64 if precision == torch.float64 else torch.float32)
    inputs = INPUTS.to(next(model.parameters()).dtype)
    fam = FAM(
        model,
        layer="parts.2",
        loss=nn.CrossEntropyLoss(),
        **({"weight": 0.1, "every": 1, "samples": "all"} | options),
    )

    def gradients(inside):
        model.inside = inside
        model.zero_grad()
        fam.seek(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            total = fam(inputs, TARGETS).total
        total.backward()
        return [total.detach(), *(p.grad for p in model.parameters())]

    wanted = gradients(slice(0))
    for inside in (slice(0, 2), slice(2, 3), slice(2, 5), slice(0, 5), slice(3, 5)):
        for found, same in zip(gradients(inside), wanted, strict=True):
            if precision == torch.float64:
                torch.testing.assert_close(found, same)
            else:
                # What a checkpoint holds is not given back but run again: its gradient is then
                # rounded in two parts, not in their sum, and a difference has large parts.
                coarse = 0.2 if options["estimator"] == "finite_difference" else 0.03
                assert (found - same).norm() < coarse * same.norm()


def test_a_frozen_layer_may_be_checkpointed():
    model = Net(skip=False)
    model.parts[:3].requires_grad_(False)
    model.inside = slice(2, 4)
    FAM(model, layer="parts.2", loss=nn.CrossEntropyLoss(), weight=1, estimator="columns", every=1)(
        INPUTS, TARGETS
    ).total.backward()
    assert model.parts[4].weight.grad.any()


def test_contexts_nest_and_are_gone_afterwards():
    native, entered = getattr(checkpoint, _RUNS), []

    def begin(name):
        @contextlib.contextmanager
        def context():
            entered.append(name)
            yield

        return lambda: context

    x = torch.ones(2, requires_grad=True)
    with computed_again(begin("outer")), computed_again(begin("inner")):
        y = checkpoint.checkpoint(torch.sin, x, use_reentrant=False)
    assert getattr(checkpoint, _RUNS) is native
    assert entered == []  # nothing has been recomputed yet
    y.sum().backward()
    assert entered == ["outer", "inner"]
