"""A penalty is thinned out less where its penalized steps would dominate the training."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from famseg.flatness import FAM
from famseg.flatness._estimators._choice import Level, Plan
from famseg.flatness._estimators._pace import Pace, can_run_ahead, levels, push


def plan(every, part):
    return Plan((), "hessian", every, part, None, (), False, False, True)


def test_first_more_steps_are_taken_then_more_samples():
    found = levels(plan(4, "quarter"), every=True, samples=True)
    assert found == [(4, 0.25), (2, 0.25), (1, 0.25), (1, 0.5), (1, 1.0)]
    assert levels(plan(10, "all"), every=True, samples=True) == [(10, 1), (5, 1), (2, 1), (1, 1)]
    assert levels(plan(4, "quarter"), every=False, samples=True) == [(4, 0.25), (4, 0.5), (4, 1)]
    assert levels(plan(4, "quarter"), every=False, samples=False) == [(4, 0.25)]


def test_a_ratio_of_eight_takes_three_levels_and_one_below_none():
    pace = Pace()
    pace.thin_less(0.9)
    pace.thin_less(float("nan"))
    assert pace.level == 0
    pace.thin_less(8.0)
    assert pace.level == 3
    assert pace.of(plan(4, "quarter"), every=True, samples=True) == (1, 0.5)
    pace.thin_less(1e30)
    assert pace.of(plan(4, "quarter"), every=True, samples=True) == (1, 1.0)


def test_it_looks_often_at_first_and_then_at_every_sixteenth_thinned_step():
    pace = Pace()
    due = [number for number in range(1, 70) if pace.due(Level(4, 0.25))]
    assert due == [1, 2, 4, 8, 16, 32, 48, 64]
    assert not Pace().due(Level(1, 1.0))


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(1000) % 10
    centers = torch.randn(10, 196, generator=generator)
    return centers[targets] + 2 * torch.randn(1000, 196, generator=generator), targets


def trained(seed, steps, **options):
    """A network of three layers whose first one is penalized, by SGD; its training accuracy."""
    torch.manual_seed(seed)
    inputs, targets = data(seed)
    layers = [nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    model = nn.Sequential(*layers)
    fam = FAM(model, layer="0", loss=nn.CrossEntropyLoss(), weight=0.5 / 196, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        part = torch.randperm(1000, generator=generator)[:64]
        optimizer.zero_grad()
        fam(inputs[part], targets[part]).total.backward()
        optimizer.step()
    with torch.no_grad():
        return (model(inputs).argmax(1) == targets).float().mean().item(), fam


@pytest.mark.slow
def test_thinning_does_not_kill_a_training_that_the_whole_penalty_lets_live(caplog):
    steps = 300
    whole, _ = trained(0, steps, every=1, samples="all")
    thinned, _ = trained(0, steps, every=4, samples=16)
    with caplog.at_level(logging.INFO, "famseg.flatness"):
        default, fam = trained(0, steps)
    assert whole > 0.9
    assert thinned < 0.2  # at chance: the result of the default before it controlled the strength
    assert default > 0.9
    assert "times as large as the loss has: from now on it is computed more often" in caplog.text
    assert fam.period == 1


def test_the_strong_step_itself_is_not_taken_thinned():
    inputs, targets = data(0)
    _, fam = trained(0, 0)
    terms = fam(inputs[:64], targets[:64])
    assert fam.period == 1
    torch.testing.assert_close(terms.total, terms.loss + 0.5 / 196 * terms.penalty)


def test_a_resumed_run_keeps_the_pace():
    inputs, targets = data(0)
    _, fam = trained(0, 0)
    fam(inputs[:64], targets[:64])
    _, again = trained(0, 0)
    again.load_state_dict(fam.state_dict())
    first, second = (f(inputs[64:128], targets[64:128]) for f in (fam, again))
    assert torch.equal(first.total, second.total)
    assert again.period == 1


def watched(**options):
    """An objective in double precision with a thinned penalty, and a batch for it."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)]
    model = nn.Sequential(*layers).double()
    x, y = torch.randn(10, 5).double(), torch.randn(10, 3).double()
    options = {"layer": "2", "loss": distance, "weight": 1e-4} | options
    return FAM(model, **options), x, y


def distance(prediction, targets):
    return (1 + (prediction - targets) ** 2).log().mean()


def test_what_is_told_from_parts_before_a_step_is_what_its_graphs_tell():
    fam, x, y = watched(layer=["0", "2"])
    fam(x, y)
    plan = fam._planner.plan
    task, level = plan.applied_to(fam._task()), fam._level(plan)
    assert level == (4, 0.25)
    assert can_run_ahead(task, plan, level)
    ahead = fam._pushed_ahead(task, plan, level, x, y, 4)
    found, penalty = fam._taken(task, plan, level, x, y, 4, None)
    behind = push(task, found.loss, penalty, 4 * fam.weight)
    assert 0 < ahead < 1
    assert ahead == pytest.approx(behind, rel=1e-9)


def test_a_look_at_the_pace_leaves_no_trace_in_a_step():
    totals, states = [], []
    for looked in (0, 2):  # looked at, and not
        generator = torch.Generator().manual_seed(1)
        fam, x, y = watched(generator=generator)
        fam._pace.looked = looked
        totals.append(fam(x, y).total)
        states.append(generator.get_state())
    assert torch.equal(*totals)
    assert torch.equal(*states)


def test_features_in_units_of_their_deviation_are_watched_at_the_weight_that_is_trained():
    fam, x, y = watched(standardize=True)
    fam(x, y)
    assert fam.period == 4  # a weight of 1e-4 is weak in any units


def test_a_step_that_fails_is_not_counted():
    pace = Pace()

    def step():
        with pace.undone_on_error():
            assert pace.due(Level(4, 0.25))
            pace.thin_less(4.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step()
    assert (pace.level, pace.looked) == (0, 0)
