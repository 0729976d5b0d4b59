from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness import (
    FAM,
    FlatnessError,
    LayerError,
    NotApplicableError,
    cross_entropy_flatness,
    relative_flatness,
)
from famseg.flatness._estimators._closed_form import logistic_flatness, squared_error_flatness
from famseg.flatness._estimators._head import head_flatness
from famseg.flatness._tracing._loss_call import plain_call
from famseg.flatness._tracing._operator import Operator


def closed_form(loss):
    """The closed form of a loss, as a step takes it from the call of the loss."""

    def values(features, logits, targets, weight, **options):
        operator = Operator(nn.Linear(*weight.shape[::-1]), features, logits)
        call = plain_call(loss, logits, targets)
        return head_flatness(call, operator, features, logits, weight, **options)

    return values


WEIGHTS = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
HARD = torch.tensor([0, 2, 1, 1, 0])
SOFT = torch.softmax(torch.arange(15, dtype=torch.float64).reshape(5, 3).sin(), 1)
REAL = torch.arange(15, dtype=torch.float64).reshape(5, 3).cos()
YES_NO = (torch.arange(15, dtype=torch.float64).reshape(5, 3) % 2 == 0).double()
ELEMENTS = 1 + torch.arange(15, dtype=torch.float64).reshape(5, 3) / 10
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
    "squared": (nn.MSELoss(), REAL),
    "squared, sum": (nn.MSELoss(reduction="sum"), REAL),
    "squared, function": (F.mse_loss, REAL),
    "logistic": (nn.BCEWithLogitsLoss(), YES_NO),
    "logistic, sum": (nn.BCEWithLogitsLoss(reduction="sum"), SOFT),
    "logistic, positive": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), SOFT),
    "logistic, one positive": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), YES_NO),
    "logistic, outputs": (nn.BCEWithLogitsLoss(weight=WEIGHTS), YES_NO),
    "logistic, samples": (nn.BCEWithLogitsLoss(weight=ELEMENTS[:, :1]), YES_NO),
    "logistic, all": (nn.BCEWithLogitsLoss(ELEMENTS, pos_weight=WEIGHTS, reduction="sum"), SOFT),
    "logistic, function": (F.binary_cross_entropy_with_logits, YES_NO),
}
QUANTITIES = ["relative_flatness", "simplified"]


class Head:
    """A linear layer with a loss, and its measures by a dense Hessian."""

    def __init__(self, loss, targets):
        self.loss = loss
        self.targets = targets.clone()
        if targets.is_floating_point():
            self.targets.requires_grad_()
        self.features = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
        self.weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        self.bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    @property
    def leaves(self):
        soft = [self.targets] if self.targets.requires_grad else []
        return [self.features, self.weight, self.bias, *soft]

    def of_weight(self, weight):
        return self.loss(F.linear(self.features, weight, self.bias), self.targets)

    def samples(self, **options):
        logits = F.linear(self.features, self.weight, self.bias)
        return closed_form(self.loss)(self.features, logits, self.targets, self.weight, **options)

    def hessian(self):
        return torch.autograd.functional.hessian(self.of_weight, self.weight, create_graph=True)

    def dense(self, quantity):
        if quantity == "relative_flatness":
            return relative_flatness(self.of_weight, self.weight)
        return self.weight.square().sum() * torch.einsum("sksk->", self.hessian())


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(("loss", "targets"), LOSSES.values(), ids=LOSSES)
def test_is_what_the_dense_hessian_gives(loss, targets, quantity):
    head = Head(loss, targets)
    found, wanted = head.samples(quantity=quantity).mean(), head.dense(quantity)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, head.leaves, materialize_grads=True),
        torch.autograd.grad(wanted, head.leaves, materialize_grads=True),
    )


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(("loss", "targets"), LOSSES.values(), ids=LOSSES)
def test_weights_only_holds_the_curvature_constant(loss, targets, quantity):
    head = Head(loss, targets)
    hessian = head.hessian().detach()
    found = head.samples(quantity=quantity, gradient="weights_only")
    torch.testing.assert_close(found, head.samples(quantity=quantity), rtol=0, atol=0)
    gradients = torch.autograd.grad(found.mean(), head.leaves, allow_unused=True)
    assert [g is not None for g in gradients] == [leaf is head.weight for leaf in head.leaves]
    if quantity == "relative_flatness":
        wanted = 2 * torch.einsum("tj,sktk->sj", head.weight, hessian)
    else:
        wanted = 2 * head.weight * torch.einsum("sksk->", hessian)
    torch.testing.assert_close(gradients[1], wanted)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", ["weights, smoothing", "soft, all", "squared", "logistic, all"])
def test_gradient_of_each_sample(name, quantity):
    head = Head(*LOSSES[name])
    leaves = [head.features, F.linear(head.features, head.weight, head.bias).detach(), head.weight]
    if head.targets.requires_grad:
        leaves.append(head.targets)

    def values(features, logits, weight, targets=head.targets):
        form = closed_form(head.loss)
        return form(features, logits, targets, weight, quantity=quantity)

    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(values, leaves)
    assert torch.autograd.gradgradcheck(values, leaves)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0, 20.0, 40.0])
@pytest.mark.parametrize(
    ("loss", "targets"),
    [(F.cross_entropy, HARD), (F.binary_cross_entropy_with_logits, YES_NO)],
    ids=["cross-entropy", "logistic"],
)
def test_float32_keeps_its_digits(loss, targets, size, quantity):
    logits = size * torch.tensor(
        [[1, -1, -1], [-1, 1, -0.9], [1, -1, 0.1], [1, 1, -1], [-1, -1, -0.5]]
    )
    features, weight = torch.randn(5, 4), torch.randn(3, 4)
    weight += 30  # what the rows share must not cost digits
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in (features, logits, weight)]
        y = targets.to(dtype) if targets.is_floating_point() else targets
        values = closed_form(loss)(leaves[0], leaves[1], y, leaves[2], quantity=quantity)
        found.append((values, *torch.autograd.grad(values.sum(), leaves)))
    (single, *slopes), (double, *wanted) = found
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)
    # d value / d logit is at most of the size of the value itself, however small that is.
    units = double[:, None], double[:, None], double.sum()
    for slope, expected, unit in zip(slopes, wanted, units, strict=True):
        error = (slope - expected).abs() / unit
        assert error.max() < 1e-5, error
    assert (found[0][0] > 0).all()


def test_all_samples_ignored_is_as_undefined_as_the_loss():
    targets = torch.full((5,), -100)
    head = Head(nn.CrossEntropyLoss(), targets)
    assert head.of_weight(head.weight).isnan()
    assert head.samples().isnan().all()
    assert Head(nn.CrossEntropyLoss(reduction="sum"), targets).samples().eq(0).all()


def test_class_indices_of_one_byte_are_indices():
    head = Head(nn.CrossEntropyLoss(weight=WEIGHTS), HARD)
    wanted = head.samples()
    head.targets = HARD.to(torch.uint8)
    torch.testing.assert_close(head.samples(), wanted, rtol=0, atol=0)


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
        NotApplicableError, match=r"layer '4': the loss does not get .* estimator=\"columns\""
    ):
        fam(*batch)


@pytest.mark.parametrize(
    "loss",
    [
        Scaled(),
        nn.CrossEntropyLoss(reduction="none"),
        nn.MSELoss(reduction="none"),
        nn.L1Loss(),
        nn.BCELoss(),
        type("Other", (nn.MSELoss,), {})(),
        type("Other", (nn.BCEWithLogitsLoss,), {})(),
        F.l1_loss,
    ],
)
def test_a_loss_without_a_closed_form_has_none(loss):
    assert plain_call(loss, torch.zeros(5, 3), HARD) is None


def test_a_layer_that_is_not_the_last_is_refused(net, batch):
    fam = FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=1, estimator="closed_form")
    with pytest.raises(
        NotApplicableError, match=r"layer '2': the loss does not get.*Name the last"
    ):
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


BAD_CALLS = {
    "squared, broadcast": (
        nn.MSELoss(),
        torch.zeros(5),
        r"targets with the shape of the outputs, \(5, 1\), got \(5,\): .*targets\.unsqueeze\(1\)",
    ),
    "squared, no tensor": (nn.MSELoss(), [0.0], r"of the outputs, \(5, 1\), got a list"),
    "logistic, broadcast": (nn.BCEWithLogitsLoss(), torch.zeros(1, 1), r"\(5, 1\), got \(1, 1\)"),
    "classes": (
        nn.CrossEntropyLoss(),
        torch.zeros(5, 2),
        r"shape \(5,\) \(class indices\) or \(5, 1\) \(class probabilities\), got \(5, 2\)",
    ),
    "positive weights": (
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)),
        torch.zeros(5, 1),
        r"pos_weight must broadcast to the outputs, shape \(5, 1\), got shape \(3,\)",
    ),
    "weights": (
        nn.BCEWithLogitsLoss(weight=torch.ones(2, 5, 1)),
        torch.zeros(5, 1),
        r"element_weights must broadcast to the outputs, shape \(5, 1\), got shape \(2, 5, 1\)",
    ),
}


@pytest.mark.parametrize(("loss", "targets", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_targets_and_weights_that_do_not_fit_are_refused(loss, targets, message):
    with pytest.raises(NotApplicableError, match=message):
        closed_form(loss)(torch.ones(5, 4), torch.ones(5, 1), targets, torch.ones(1, 4))


def test_features_that_do_not_fit_the_weight_are_refused():
    with pytest.raises(LayerError, match=r"features and weight .* got \(2, 3\) and \(1, 4\)"):
        squared_error_flatness(torch.ones(2, 3), torch.ones(1, 4))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"reduction": "none"}, "reduction must be"),
        ({"quantity": "max_eigenvalue"}, "quantity of a closed form must be one of"),
        ({"gradient": "half"}, "gradient must be one of"),
    ],
)
def test_an_unknown_option_is_refused(option, message):
    x, y = torch.ones(2, 3), torch.ones(2, 1)
    for call in (
        lambda: squared_error_flatness(x, torch.ones(1, 3), **option),
        lambda: logistic_flatness(x, y, y, torch.ones(1, 3), **option),
        lambda: cross_entropy_flatness(x, y, y, torch.ones(1, 3), **option),
    ):
        with pytest.raises(FlatnessError, match=message):
            call()
