"""Plans are checked again at growing intervals and after a change."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness import FAM, LayerError, SampleInteractionError, _planner
from famseg.flatness._upkeep import LONGEST, Upkeep


class Thing:
    def __init__(self):
        self.strength, self.steps = 0.0, 0


def steps_until(upkeep, parts, *, most=2000):
    """Penalized steps until a check is due."""
    for count in range(most):
        if upkeep.due(parts):
            return count
        upkeep.stepped(parts)
    return most


def test_intervals_double_up_to_the_longest():
    thing = Thing()
    upkeep, found = Upkeep([thing]), []
    for _ in range(7):
        found.append(steps_until(upkeep, [thing]))
        upkeep.checked(same=True)
    assert found == [8, 16, 32, 64, 128, 128, 128]
    assert max(found) == LONGEST


def test_an_attribute_that_is_changed_between_two_steps_is_noticed_at_once():
    thing = Thing()
    upkeep = Upkeep([thing])
    upkeep.due([thing])
    upkeep.stepped([thing])
    assert not upkeep.due([thing])
    thing.strength = 2.0
    assert upkeep.due([thing])


def test_a_change_of_a_module_deep_inside_is_noticed():
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.1)), nn.Linear(2, 2))
    upkeep = Upkeep([model])
    upkeep.due([model])
    upkeep.stepped([model])
    model[0][0].p = 0.2
    assert upkeep.due([model])


def test_what_every_pass_moves_is_no_change():
    thing = Thing()
    upkeep = Upkeep([thing])
    for _ in range(3):
        assert not upkeep.due([thing])
        thing.steps += 1
        upkeep.stepped([thing])
        thing.steps += 3  # plain steps between


def test_a_schedule_that_changes_nothing_is_not_checked_at_every_step():
    thing, checks = Thing(), 0
    upkeep = Upkeep([thing])
    for step in range(100):
        thing.strength = float(step)  # as set by a training loop
        if upkeep.due([thing]):
            checks += 1
            upkeep.checked(same=True)
        upkeep.stepped([thing])
    assert checks <= 5


def test_a_loss_that_never_shows_curvature_is_not_planned_anew_at_each_step(monkeypatch):
    plans = []
    settle = _planner.settle

    def counted(*args, **options):
        plans.append(1)
        return settle(*args, **options)

    monkeypatch.setattr(_planner, "settle", counted)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    fam = FAM(model, layer="2", loss=lambda z, y: (z.sum(1) - y).abs().mean(), weight=1e-3)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    for _ in range(100):
        fam(x, y)
    assert "it is not yet known" in fam.explain()
    assert len(plans) < 8


class Contrastive(nn.Module):
    """A loss whose samples interact with a strength set by an attribute or a counter."""

    def __init__(self, after=None):
        super().__init__()
        self.strength, self.after, self.calls = 0.0, after, 0

    def forward(self, logits, targets):
        self.calls += 1
        loss = F.cross_entropy(logits, targets)
        if self.strength or (self.after is not None and self.calls > self.after):
            unit = F.normalize(logits, dim=1)
            similar = unit @ unit.T / 0.2 - 1e9 * torch.eye(len(unit), dtype=unit.dtype)
            neighbor = (torch.arange(len(unit)) + 1) % len(unit)
            loss = loss + 2 * F.cross_entropy(similar, neighbor)
        return loss


def setting(net, loss, **options):
    data = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    fixed = {"layer": "2", "weight": 1e-3, "every": 1, "samples": "all", "bound": "none"}
    return data, FAM(net, loss=loss, **(fixed | options))


def test_a_loss_whose_samples_interact_later_is_planned_anew_and_told(net, caplog):
    loss = Contrastive()
    data, fam = setting(net, loss)
    fam(*data)
    assert "sample_probes" in fam.explain()
    loss.strength = 2.0
    with caplog.at_level(logging.INFO, "famseg.flatness"):
        draws = torch.stack([fam(*data).penalty.detach() for _ in range(400)])
    assert "the samples of a batch interact" in caplog.text
    _, exact = setting(net, loss, estimator="exact")
    wanted = exact(*data).penalty
    assert abs(draws.mean() - wanted) < 4 * draws.std() / 20


def test_an_estimator_that_needs_samples_apart_is_refused_then(net):
    loss = Contrastive()
    data, fam = setting(net, loss, estimator="columns")
    fam(*data)
    loss.strength = 2.0
    with pytest.raises(SampleInteractionError, match="influence each other's loss"):
        fam(*data)


@pytest.mark.parametrize("after", [0, 10, 150])
def test_a_loss_that_changes_by_itself_is_found_within_the_longest_interval(net, after):
    data, fam = setting(net, Contrastive(after=after))
    for _ in range(after):
        fam(*data)
    for _ in range(LONGEST):
        fam(*data)
    fam(*data)
    assert "interact" in fam.explain()


def test_a_weight_that_is_used_elsewhere_later_is_found_under_a_closed_form():
    class Reusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc, self.again = nn.Linear(4, 3), nn.Linear(3, 3), False

        def forward(self, x):
            h = self.body(x)
            return self.fc(h @ self.fc.weight if self.again else h)

    model = Reusing()
    fam = FAM(model, layer="fc", loss=nn.CrossEntropyLoss(), weight=0.1)
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    for _ in range(3):
        fam(x, y)
    model.again = True

    def train():
        for _ in range(LONGEST + 1):
            fam(x, y)

    with pytest.raises(LayerError, match="also reaches the loss"):
        train()
