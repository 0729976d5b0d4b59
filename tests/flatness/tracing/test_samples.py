"""Tensors of samples are recognized from batches of several sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.flatness import FAM, FlatnessError
from famseg.flatness._tracing._samples import Cut, Lengths, leaves


def batch(n, positions=4):
    return (torch.zeros(n, 3), torch.zeros(positions)), {"y": torch.zeros(n), "w": torch.zeros(4)}


def test_paths_name_whatever_holds_tensors():
    inputs, targets = batch(2)
    assert [path for path, _ in leaves(inputs, "inputs")] == ["inputs.0", "inputs.1"]
    assert [path for path, _ in leaves(targets, "targets")] == ["targets.y", "targets.w"]
    assert [path for path, _ in leaves(torch.ones(1), "inputs")] == ["inputs"]


def test_what_was_shorter_than_a_batch_once_holds_no_samples():
    lengths = Lengths()
    n, layout = lengths.layout(*batch(4))
    assert n == 4
    assert lengths.held(layout) == {"inputs.0", "inputs.1", "targets.y", "targets.w"}
    n, layout = lengths.layout(*batch(8))
    assert n == 8
    assert lengths.held(layout) == {"inputs.0", "targets.y"}
    _, layout = lengths.layout(*batch(4))
    assert lengths.held(layout) == {"inputs.0", "targets.y"}


def test_named_paths_settle_the_question_at_once():
    lengths = Lengths(("inputs.0", "targets.y"))
    _, layout = lengths.layout(*batch(4))
    assert lengths.held(layout) == {"inputs.0", "targets.y"}
    whole = Lengths(("inputs", "targets"))
    _, layout = whole.layout(*batch(4))
    assert len(whole.held(layout)) == 4


def test_rows_that_were_no_samples_once_are_none_later():
    lengths = Lengths()
    assert not lengths.loose({"expert": 8, "layer": 8}, 8)
    assert lengths.loose({"expert": 5, "layer": 8}, 8)
    assert lengths.loose({"expert": 8}, 8)
    assert not lengths.loose({"layer": 8}, 8)


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(FlatnessError, match=r"samples_in names 'inputs\.mask'.*'inputs\.0', 'inp"):
        Lengths(("inputs.mask",)).layout(*batch(4))


def test_only_what_holds_samples_is_cut():
    value = {"x": torch.arange(6).reshape(3, 2), "mask": torch.arange(3), "scale": 2.0}
    cut = Cut(frozenset({"inputs.x"}))
    found = cut.rows(value, torch.tensor([0, 2]), "inputs")
    assert torch.equal(found["x"], value["x"][[0, 2]])
    assert found["mask"] is value["mask"]
    assert found["scale"] == 2.0
    assert cut.rows(value, None, "inputs") is value


class Weighted(nn.Module):
    """A network with an argument that has one number per position, not one row per sample."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x, w):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))) * w[:, None]).mean(1)


@pytest.mark.parametrize("first", [32, 8], ids=["another length first", "this length first"])
def test_an_argument_that_is_as_long_as_a_batch_by_accident_is_not_cut(first):
    torch.manual_seed(0)
    n = 8
    model, w = Weighted().double(), torch.arange(1.0, n + 1).double()
    options = {"layer": "b", "loss": nn.CrossEntropyLoss(), "weight": 1e-4, "bound": "none"}
    fam = FAM(model, every=1, **options)
    fam((torch.randn(first, n, 4).double(), w), torch.arange(first) % 3)
    x, y = torch.randn(n, n, 4).double(), torch.arange(n) % 3
    draws = []
    for step in range(1, 1200):
        fam.seek(step)
        draws.append(fam((x, w), y).penalty.item())
    draws = torch.tensor(draws)
    wanted = FAM(model, estimator="exact", **options)((x, w), y).penalty.item()
    assert abs(draws.mean() - wanted) < 4 * draws.std() / len(draws) ** 0.5
    # After a batch of another length it is recognized, and the penalty uses a part.
    assert ("a quarter" in fam.explain()) == (first == 32)


def test_naming_what_holds_samples_allows_a_part_where_a_trial_must_refuse():
    torch.manual_seed(0)
    model, w = Weighted().double(), torch.arange(1.0, 9).double()
    data = (torch.randn(8, 8, 4).double(), w), torch.arange(8) % 3
    options = {"layer": "b", "loss": nn.CrossEntropyLoss(), "weight": 1e-4}
    fam = FAM(model, samples_in=["inputs.0", "targets"], **options)
    fam(*data)
    assert "a quarter" in fam.explain()
    with pytest.raises(FlatnessError, match="a path begins with inputs or targets"):
        FAM(model, samples_in=["x"], **options)
