"""Reparametrizations that preserve a network's function, and so must preserve relative flatness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from famseg.flatness._errors import FlatnessError
from famseg.flatness._tracing._layer import find_layer
from famseg.flatness._tracing._operator import Layer


@contextmanager
def rescaled_layer(model: nn.Module, layer: str, factor: float) -> Iterator[None]:
    r"""Multiply a layer's weight by a factor and divide its inputs by it, inside this context.

    .. math:: (cW)(\phi / c) = W\phi

    so any network computes the same function. Where the layer before is followed by a positively
    homogeneous activation (ReLU), dividing its weight and bias by the factor does the same (see
    `rescaled`). :math:`H` becomes :math:`H / c^2`: relative flatness (Petzka et al., NeurIPS 2021)
    and the simplified measure are unchanged, the plain trace and the largest eigenvalue are
    multiplied by :math:`1 / c^2`.

    On exit, also after exceptions, the layer has its own, unmodified parameter object again.

    Args:
        model: The network.
        layer: Dotted name of a linear or convolution layer.
        factor: A finite number above 0.

    Raises:
        FlatnessError: If there is no such layer, or the factor is not such a number.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> x = torch.ones(1, 2)
        >>> before = net(x)
        >>> with rescaled_layer(net, "", 4.0):
        ...     bool((net(x) - before).abs() < 1e-6), bool(net.weight.norm() > 1)
        (True, True)
    """
    check_factor(factor)
    found = find_layer(model, layer)

    def divide(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0] / factor, *args[1:]), kwargs
        return args, {**kwargs, "input": kwargs["input"] / factor}

    with _scaled(found, ("weight",), factor):
        hook = found.register_forward_pre_hook(divide, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def rescaled(model: nn.Module, first: str, second: str, factor: float) -> Iterator[None]:
    r"""Multiply a layer by a factor and divide the next one by it, inside this context.

    .. math:: \frac{W_2}{c}\, \sigma(cW_1 x + cb_1) + b_2 = W_2\, \sigma(W_1 x + b_1) + b_2

    for a positively homogeneous :math:`\sigma` (ReLU, LeakyReLU, PReLU, max and average pooling,
    flatten; not tanh, sigmoid, GELU or an activation with a normalization of fixed epsilon): this
    rescaling makes plain sharpness arbitrarily large or small (Dinh et al., ICML 2017) and does not
    change relative flatness. Whether the network has this form is not checked here: compare its
    outputs. On exit, also after exceptions, the layers have their own parameters again.

    Args:
        model: The network.
        first: Dotted name of the layer whose weight and bias are multiplied.
        second: Dotted name of the next one, whose weight is divided.
        factor: A finite number above 0.

    Raises:
        FlatnessError: If there is no such layer, the two are the same, or the factor is not such a
            number.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> x = torch.ones(1, 2)
        >>> before = net(x)
        >>> with rescaled(net, "0", "2", 8.0):
        ...     bool((net(x) - before).abs() < 1e-6)
        True
    """
    check_factor(factor)
    one, other = find_layer(model, first), find_layer(model, second)
    if one is other:
        raise FlatnessError(
            f"first and second are both layer {first!r}. Name two different layers."
        )
    with _scaled(one, ("weight", "bias"), factor), _scaled(other, ("weight",), 1 / factor):
        yield


def check_factor(factor: float) -> None:
    """Reject a factor that is not a finite number above 0."""
    if not (math.isfinite(factor) and factor > 0):
        raise FlatnessError(
            f"the factor of a rescaling must be a finite number above 0, got {factor!r}."
        )


@contextmanager
def _scaled(layer: Layer, names: Sequence[str], factor: float) -> Iterator[None]:
    """Replace parameters by scaled copies, so that the parameters themselves are not modified."""
    own = {name: p for name in names if (p := layer._parameters[name]) is not None}
    try:
        for name, parameter in own.items():
            copy = parameter.detach() * factor
            layer._parameters[name] = nn.Parameter(copy, requires_grad=parameter.requires_grad)
        yield
    finally:
        layer._parameters.update(own)
