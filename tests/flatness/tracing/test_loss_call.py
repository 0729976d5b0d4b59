from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness._tracing._loss_call import LossCalls, _call, plain_call

Z = torch.randn(4, 3, requires_grad=True)
Y = torch.tensor([0, 2, 1, 0])
REAL = torch.randn(4, 3)
WEIGHTS = torch.tensor([0.5, 2.0, 1.0])


class Own(nn.Module):
    """A custom loss that calls torch's."""

    def forward(self, z, y):
        z = z * 1
        return F.cross_entropy(input=z, target=y, label_smoothing=0.1)


SEEN = {
    "lambda": (lambda: F.cross_entropy(Z, Y), F.cross_entropy, {"ignore_index": -100}),
    "module": (
        lambda: nn.CrossEntropyLoss(WEIGHTS, ignore_index=1)(Z, Y),
        F.cross_entropy,
        {"class_weights": WEIGHTS, "ignore_index": 1, "label_smoothing": 0.0, "reduction": "mean"},
    ),
    "own module": (lambda: Own()(Z, Y), F.cross_entropy, {"label_smoothing": 0.1}),
    "sum": (lambda: F.mse_loss(Z, REAL, reduction="sum"), F.mse_loss, {"reduction": "sum"}),
    "logistic": (
        lambda: F.binary_cross_entropy_with_logits(Z, REAL, WEIGHTS, pos_weight=2 * WEIGHTS),
        F.binary_cross_entropy_with_logits,
        {"element_weights": WEIGHTS, "reduction": "mean"},
    ),
    "the second of two": (
        lambda: (F.mse_loss(Z, REAL), F.cross_entropy(Z, Y, reduction="sum"))[1],
        F.cross_entropy,
        {"reduction": "sum"},
    ),
    "in a context of its own": (
        lambda: with_device(lambda: F.cross_entropy(Z, Y)),
        F.cross_entropy,
        {"reduction": "mean"},
    ),
}


def with_device(function):
    with torch.device("cpu"):  # another mode
        return function()


@pytest.mark.parametrize(("compute", "function", "options"), SEEN.values(), ids=SEEN)
def test_the_call_behind_a_loss_is_seen(compute, function, options):
    with LossCalls() as calls:
        loss = compute()
    assert torch.equal(loss, compute())
    call = calls.behind(loss)
    assert call.function is function
    assert options.items() <= call.options.items()
    assert call.targets is (Y if function is F.cross_entropy else REAL)


UNSEEN = {
    "scaled": lambda: 2 * F.cross_entropy(Z, Y),
    "changed in place": lambda: F.cross_entropy(Z, Y).mul_(2),
    "added to": lambda: F.cross_entropy(Z, Y) + 0.1 * Z.square().mean(),
    "each sample": lambda: F.cross_entropy(Z, Y, reduction="none").mean(),
    "another": lambda: F.l1_loss(Z, REAL),
    "squared, weighted": lambda: F.mse_loss(Z, REAL, weight=REAL.abs()),
    "by its parts": lambda: F.nll_loss(Z.log_softmax(1), Y),
}


@pytest.mark.parametrize("compute", UNSEEN.values(), ids=UNSEEN)
def test_what_is_no_such_call_is_not(compute):
    with LossCalls() as calls:
        loss = compute()
    assert calls.behind(loss) is None


@pytest.mark.filterwarnings("ignore:.*size_average and reduce args will be deprecated")
def test_the_old_names_of_reductions_are_not_read():
    with LossCalls() as calls:
        loss = F.cross_entropy(Z, Y, size_average=False)
    assert calls.behind(loss) is None


def test_of_arguments_of_a_later_torch_nothing_is_known():
    assert _call(F.mse_loss, Z, REAL, delta=1.0) is None
    assert _call(F.mse_loss, Z, REAL) is not None


def test_only_calls_in_the_context_are_seen():
    before = F.cross_entropy(Z, Y)
    with LossCalls() as calls:
        pass
    after = F.cross_entropy(Z, Y)
    assert calls.behind(before) is calls.behind(after) is None


def test_inference_mode_does_not_disturb():
    with torch.inference_mode(), LossCalls() as calls:
        loss = F.cross_entropy(Z, Y)
    assert calls.behind(loss) is None


def test_an_error_of_the_loss_is_its_own():
    with pytest.raises(ValueError, match="batch_size"), LossCalls():
        F.cross_entropy(Z, Y[:2])
    assert not torch.overrides._get_current_function_mode_stack()


PLAIN = {
    "cross-entropy": (nn.CrossEntropyLoss(WEIGHTS, ignore_index=1, label_smoothing=0.1), Y),
    "cross-entropy, sum": (nn.CrossEntropyLoss(reduction="sum"), Y),
    "squared": (nn.MSELoss(), REAL),
    "logistic": (nn.BCEWithLogitsLoss(WEIGHTS, pos_weight=2 * WEIGHTS), REAL),
    "function": (F.cross_entropy, Y),
    "squared, function": (F.mse_loss, REAL),
    "logistic, function": (F.binary_cross_entropy_with_logits, REAL),
}


@pytest.mark.parametrize(("loss", "targets"), PLAIN.values(), ids=PLAIN)
def test_the_call_of_a_plain_loss_is_known_without_it(loss, targets):
    known = plain_call(loss, Z, targets)
    with LossCalls() as calls:
        value = loss(Z, targets)
    seen = calls.behind(value)
    assert (known.function, known.options) == (seen.function, seen.options)
    assert known.input is seen.input is Z
    assert known.targets is seen.targets is targets


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="none"),
        nn.L1Loss(),
        type("Other", (nn.CrossEntropyLoss,), {})(),
        lambda z, y: F.cross_entropy(z, y),
        F.l1_loss,
    ],
)
def test_of_any_other_loss_nothing_is_known_beforehand(loss):
    assert plain_call(loss, Z, Y) is None


def test_of_a_prediction_that_is_no_tensor_nothing_is_known_beforehand():
    assert plain_call(nn.CrossEntropyLoss(), {"logits": Z}, Y) is None
