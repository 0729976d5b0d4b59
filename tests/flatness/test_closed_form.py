from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness import FAM, LayerError, NotApplicableError, cross_entropy_flatness

WEIGHTS = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
HARD = torch.tensor([0, 2, 1, 1, 0])
SOFT = torch.softmax(torch.arange(15, dtype=torch.float64).reshape(5, 3).sin(), 1)
LOSSES = {
    "plain": (nn.CrossEntropyLoss(), HARD),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), HARD),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), HARD),
    "weights": (nn.CrossEntropyLoss(weight=WEIGHTS), HARD),
    "weights, sum": (nn.CrossEntropyLoss(weight=WEIGHTS, reduction="sum"), HARD),
    "weights, smoothing": (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.3), HARD),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), HARD),
    "ignored, outside": (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.tensor([0, -100, 1, 2, 2]),
    ),
    "all": (nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=2, label_smoothing=0.1), HARD),
    "soft": (nn.CrossEntropyLoss(), SOFT),
    "soft, all": (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1), SOFT),
    "soft, sum": (nn.CrossEntropyLoss(weight=WEIGHTS, reduction="sum"), SOFT),
    "function": (F.cross_entropy, HARD),
}


@pytest.mark.parametrize(("loss", "targets"), LOSSES.values(), ids=LOSSES)
def test_is_the_definition_for_every_option_of_the_loss(
    net, batch, oracle, check_gradient, loss, targets
):
    inputs = batch[0]
    fam = FAM(net, layer="4", loss=loss, weight=1, estimator="closed_form", bound="none")
    found = fam(inputs, targets).penalty.item()
    assert found == pytest.approx(oracle(net, "4", loss, inputs, targets), rel=1e-6)
    check_gradient(lambda: fam(inputs, targets).penalty, net)


@pytest.mark.parametrize(("loss", "targets"), LOSSES.values(), ids=LOSSES)
def test_gives_samples_the_values_that_columns_gives(net, batch, loss, targets):
    found, wanted = (
        FAM(net, layer="4", loss=loss, weight=1, estimator=estimator).measure(batch[0], targets)
        for estimator in ("closed_form", "columns")
    )
    torch.testing.assert_close(found.per_sample, wanted.per_sample)


def test_by_hand():
    # p = (1/2, 1/2), rows e1 and e2: the spread is 1 - |(1/2, 1/2)|^2 = 1/2, times |phi|^2 = 25.
    found = cross_entropy_flatness(
        torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([1]), torch.eye(2)
    )
    assert found.tolist() == [12.5]


def test_keeps_its_digits_where_the_network_is_sure():
    features, weight = torch.randn(6, 5), torch.randn(4, 5) + 10
    logits = torch.zeros(6, 4)
    logits[:, 1] = 14  # p of the others: about 1e-6
    targets = torch.zeros(6, dtype=torch.long)
    single = cross_entropy_flatness(features, logits, targets, weight)
    double = cross_entropy_flatness(features.double(), logits.double(), targets, weight.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=0)
    assert (single > 0).all()


def test_needs_no_hessian_of_a_wide_head():
    head = nn.Linear(2048, 1000)
    terms = FAM(head, layer="", loss=nn.CrossEntropyLoss(), weight=0.1)(
        torch.randn(16, 2048), torch.arange(16)
    )
    terms.total.backward()
    assert terms.penalty.isfinite()
    assert head.weight.grad.isfinite().all()


class Scaled(nn.CrossEntropyLoss):
    """A subclass that computes something else."""

    def forward(self, z, y):
        return super().forward(3 * z, y)


@pytest.mark.parametrize("loss", [Scaled(), lambda z, y: F.cross_entropy(3 * z, y)])
def test_another_loss_is_refused_with_advice(net, batch, loss):
    fam = FAM(net, layer="4", loss=loss, weight=1, estimator="closed_form")
    with pytest.raises(
        NotApplicableError, match=r'nn\.CrossEntropyLoss .* Use estimator="columns"'
    ):
        fam(*batch)


def test_a_layer_that_is_not_the_last_is_refused(net, batch):
    fam = FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=1, estimator="closed_form")
    with pytest.raises(NotApplicableError, match=r"'2' to be what the loss gets.*Name its last"):
        fam(*batch)


class Changed(nn.Module):
    """A head whose output is changed in place before it is returned."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x).mul_(2)


def test_an_output_changed_in_place_is_noticed(batch):
    fam = FAM(Changed().double(), layer="head", loss=nn.CrossEntropyLoss(), weight=1)
    fam(*batch)
    assert "closed_form" not in fam.explain()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(
        LayerError, match=r"\(n, m\), \(n, d\) and \(d, m\), got \(2, 3\), \(2, 4\)"
    ):
        cross_entropy_flatness(
            torch.ones(2, 3), torch.ones(2, 4), torch.zeros(2, dtype=torch.long), torch.ones(3, 4)
        )


def test_an_unknown_reduction_is_refused():
    with pytest.raises(NotApplicableError, match='reduction must be "mean" or "sum", got \'none\''):
        cross_entropy_flatness(
            torch.ones(1, 1),
            torch.ones(1, 1),
            torch.zeros(1, dtype=torch.long),
            torch.ones(1, 1),
            reduction="none",
        )
