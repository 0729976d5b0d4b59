r"""Closed forms for a layer whose outputs at one or more positions are the input of the loss.

A head on tokens or a 1 x 1 convolution applies one weight at every position of a sample. Under
cross-entropy, squared error and binary cross-entropy no two positions interact, so that with
:math:`u` the weights of the positions in the loss

.. math:: \kappa = \sum_{i,t} u_{it}\, \lVert\phi_{it}\rVert^2 \operatorname{tr}(W^\top H_{it} W)

is a sum over positions of the closed form for a head on one vector. The loss may receive the
outputs flattened, with permuted dimensions, or without some positions, as a view or as a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from famseg.flatness._errors import NotApplicableError
from famseg.flatness._estimators._closed_form import (
    cross_entropy_flatness,
    logistic_flatness,
    squared_error_flatness,
)
from famseg.flatness._estimators._closed_form_checks import check_elements, over
from famseg.flatness._estimators._factor import Quantity
from famseg.flatness._estimators._products import Gradient
from famseg.flatness._tracing._loss_call import LossCall
from famseg.flatness._tracing._loss_copy import loss_copy
from famseg.flatness._tracing._loss_view import LossView, loss_view
from famseg.flatness._tracing._operator import Operator


def obstacle(call: LossCall, operator: Operator, output: Tensor) -> str | None:
    """Return why a layer has no closed form; ``None`` if it has one.

    Args:
        call: The call of the loss function.
        operator: The operator of the layer.
        output: Its output as the rest of the network received it.
    """
    if not operator.pointwise:
        return "an output of the layer combines several positions, or its neurons are in groups"
    return _obstacle(call, _view(call, operator, output))


def _obstacle(call: LossCall, view: LossView | None) -> str | None:
    seen, targets = call.input, call.targets
    if view is None:
        return (
            "the loss does not get the layer's output (reshaped, permuted, sliced or indexed at "
            "most) with its neurons as the classes"
        )
    if not isinstance(targets, Tensor):
        return f"the targets are a {type(targets).__name__}"
    if _computed(call):
        return "its targets or weights have a gradient, perhaps from the layer's output"
    fitting = [seen.shape]
    if call.function is F.cross_entropy:
        fitting.append(seen.shape[:1] + seen.shape[2:])
    if targets.shape not in fitting:
        return (
            f"targets of shape {tuple(targets.shape)} do not have the shape of the loss's input, "
            f"{tuple(seen.shape)}: they are broadcast"
        )
    for name in ("element_weights", "pos_weight"):
        weights = call.options.get(name)
        if weights is None:
            continue
        shape = torch.broadcast_shapes(weights.shape, seen.shape)  # type: ignore[no-untyped-call]
        if shape != seen.shape:
            return f"its {name} are broadcast beyond the outputs"
    return None


def head_flatness(
    call: LossCall,
    operator: Operator,
    features: Tensor,
    output: Tensor,
    weight: Tensor,
    *,
    quantity: Quantity = "relative_flatness",
    gradient: Gradient = "full",
) -> Tensor:
    """Return each sample's flatness of a layer whose outputs are the input of the loss.

    Time and memory are those of the closed form with one sample per position, plus a copy of
    features and outputs unless they are stored as rows already.

    Args:
        call: The call of the loss function.
        operator: The operator of the layer.
        features: Its inputs, shape ``(n, ..., m)``, of a convolution ``(n, m, ...)``.
        output: Its outputs, shape ``(n, ..., d)`` or ``(n, d, ...)``.
        weight: Its weight.
        quantity: ``"relative_flatness"`` or ``"simplified"``.
        gradient: ``"full"``, or ``"weights_only"``: all but ``weight`` is held constant.

    Returns:
        Shape ``(n,)``; the mean is the batch's value. It is differentiable in features, weight and
        the input of the loss. A sample is weighted by the weights of its positions in the loss.

    Raises:
        NotApplicableError: If there is no closed form, see `obstacle`.
        FlatnessError: If an option is none of those above.
    """
    matrix = operator.matrix(weight)
    if operator.single and call.input is output and not _computed(call):
        return _values(call, features, output, call.targets, matrix, quantity, gradient)
    view = _view(call, operator, output) if operator.pointwise else None
    reason = _obstacle(call, view) if operator.pointwise else obstacle(call, operator, output)
    if view is None or reason is not None:
        raise NotApplicableError(f"the flatness has no closed form here: {reason}.")
    rows = features.movedim(operator.channel, -1).reshape(-1, matrix.shape[1])
    if view.positions is not None:
        rows = rows[view.positions]
    targets = call.targets
    assert isinstance(targets, Tensor)  # noqa: S101 - checked by `obstacle`
    soft = targets.shape == call.input.shape
    values = _values(
        call,
        rows,
        view.rows(call.input),
        view.rows(targets) if soft else targets.flatten(),
        matrix,
        quantity,
        gradient,
        change=lambda x, name: None if x is None else view.rows(over(x, call.input, name)),
    )
    n = len(features)
    if view.positions is None:
        return values.reshape(n, -1).mean(1)
    each = values.new_zeros(output.numel() // len(matrix)).index_add(0, view.positions, values)
    return each.reshape(n, -1).sum(1) * (n / len(values))


def _computed(call: LossCall) -> bool:
    """Return whether the loss may depend on the layer other than through its input."""
    others = (call.targets, *call.options.values())
    return any(isinstance(x, Tensor) and x.grad_fn is not None for x in others)


def _view(call: LossCall, operator: Operator, output: Tensor) -> LossView | None:
    classes = call.function is F.cross_entropy
    view = loss_view(call.input, output, operator.channel, classes=classes)
    if view is None:
        view = loss_copy(call.input, output, operator.channel, classes=classes)
    return view


def _values(
    call: LossCall,
    features: Tensor,
    outputs: Tensor,
    targets: Any,  # noqa: ANN401 - the closed forms check them
    weight: Tensor,
    quantity: Quantity,
    gradient: Gradient,
    change: Callable[[Tensor | None, str], Tensor | None] = lambda x, _: x,
) -> Tensor:
    """Return the closed form of the loss on rows."""
    options = call.options
    if call.function is F.cross_entropy:
        return cross_entropy_flatness(
            features, outputs, targets, weight, quantity=quantity, gradient=gradient, **options
        )
    if call.function is F.mse_loss:
        check_elements(targets, outputs)
        return squared_error_flatness(
            features, weight, quantity=quantity, gradient=gradient, **options
        )
    return logistic_flatness(
        features,
        outputs,
        targets,
        weight,
        element_weights=change(options["element_weights"], "element_weights"),
        pos_weight=change(options["pos_weight"], "pos_weight"),
        reduction=options["reduction"],
        quantity=quantity,
        gradient=gradient,
    )
