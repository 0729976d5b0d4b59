from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from famseg.flatness import FAM, FlatnessError
from famseg.flatness._estimators import _estimate
from famseg.flatness._estimators._factor import Factor
from famseg.flatness._jets import _penalty as _jets
from famseg.flatness._tracing._arguments import call_model, select

HERE = Path(__file__)
PAGE = HERE.parents[2] / "docs" / "flatness-tails.md"


def tails_module():
    """The module of the table next to this file, which is not on the path."""
    spec = importlib.util.spec_from_file_location("famseg_tails", HERE.with_name("tails.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tails = tails_module()


def parameters(rows):
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(row, id=row.name, marks=marks[row.slow]) for row in rows]


def fam_of(case):
    return FAM(
        case.model,
        layer=case.layer,
        loss=case.loss,
        weight=1,
        bound="none",
        every=1,
        samples="all",
        **case.options,
    )


def slope_at(loss, by):
    """The first derivative, by torch, of a loss of one number."""
    t = torch.tensor(by, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    return torch.autograd.grad(loss(t), t)[0].item()


def bend(loss, step):
    """The second derivative at 0, by differences of the first with Richardson extrapolation."""
    one, two = ((slope_at(loss, h) - slope_at(loss, -h)) / (2 * h) for h in (step, 2 * step))
    return (4 * one - two) / 3


def along_directions(case, directions, step):
    """The second derivative of the loss along directions in the outputs of the layers, by name."""

    def loss(t):
        def add(v):
            return lambda module, args, output: output + t * v

        hooks = [
            case.model.get_submodule(name).register_forward_hook(add(v))
            for name, v in directions.items()
        ]
        try:
            prediction = call_model(case.model, case.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return case.loss(select(prediction, case.options.get("output")), case.targets)

    return bend(loss, step)


def definition(case, step):
    """Kappa of a linear layer: the sum of second derivatives along W E_jk, E_jk unit matrices."""
    name = f"{case.layer}.weight"
    weight = case.model.get_submodule(case.layer).weight.detach()
    total = 0.0
    for j in range(weight.shape[1]):
        for k in range(weight.shape[1]):
            direction = torch.zeros_like(weight)
            direction[:, k] = weight[:, j]

            def loss(t, direction=direction):
                moved = {name: weight + t * direction}
                return case.loss(functional_call(case.model, moved, case.inputs), case.targets)

            total += bend(loss, step)
    return total


@pytest.fixture
def _one_basis(monkeypatch):
    """Make wide layers keep the basis of their first probe.

    Its choice does not change the expected value, so the gradient treats it as constant; finite
    differences with a new basis each time would not.
    """
    bases = {}

    def reduced(factor):
        if factor.shape[2] <= factor.shape[1]:
            return factor.matrix
        basis = bases.setdefault(factor.shape, torch.linalg.qr(factor.matrix.detach().mT).Q)
        return factor.matrix @ basis

    monkeypatch.setattr(Factor, "reduced", property(reduced))


@pytest.mark.usefixtures("_one_basis")
@pytest.mark.parametrize("row", parameters(r for r in tails.ROWS if r.refused is None))
def test_value_and_gradient(row, monkeypatch, check_gradient):
    if row.needs:
        pytest.importorskip(*row.needs.split())
    case = row.build()
    drawn = {}

    def directions(uses, factors, draw, original=_estimate.directions):
        found = original(uses, factors, draw)
        drawn.update({use.name: v.detach() for (_, use), v in zip(uses, found, strict=True)})
        return found

    for module in (_estimate, _jets):
        monkeypatch.setattr(module, "directions", directions)
    fam = fam_of(case)

    def penalty():
        torch.manual_seed(0)  # dropout masks
        fam.seek(0)  # probes
        return fam(case.inputs, case.targets).penalty

    value = penalty().item()
    assert f": {row.method}, " in fam.explain()
    if row.method == "closed_form":
        wanted = definition(case, row.step)
    else:
        wanted = along_directions(case, drawn, row.step)
    assert abs(value) > 1e-6, "nothing to see"
    assert value == pytest.approx(wanted, rel=row.rel)
    check_gradient(penalty, case.model, step=row.step, rel=row.rel, directions=2)


@pytest.mark.parametrize("row", parameters(r for r in tails.ROWS if r.refused is not None))
def test_refusal(row):
    case = row.build()
    with pytest.raises(FlatnessError) as error:
        fam_of(case)(case.inputs, case.targets).total.backward()
    assert row.refused in str(error.value)


def test_rows_have_names_of_their_own():
    names = [row.name for row in tails.ROWS]
    assert len(set(names)) == len(names)


def test_the_page_shows_the_rows():
    assert PAGE.read_text() == tails.markdown(tails.ROWS), (
        "run: python tests/flatness/tails.py > docs/flatness-tails.md"
    )
