"""Replacements for torch functions, composed of operations with correct higher derivatives.

The double backward of torch's fused normalization layers treats the saved statistics as constants,
so their third derivatives are silently wrong. The gradient of a penalty on second derivatives needs
the third. Each function here takes the arguments of the function it replaces, under the same names,
and returns the same values up to rounding, in the same dtype. It returns ``None`` if the native
function is correct, or should reject the arguments with its own message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_Sizes = Sequence[int]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if input.numel() == input.shape[1:2].numel():
        return None  # one value per channel: F.batch_norm rejects it
    cudnn = torch.backends.cudnn.enabled
    return torch_batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn
    )


def torch_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor | None:
    result = native_batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps
    )
    return None if result is None else result[0]


def native_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    if not training or not _fits(input, 2, input.shape[1:2], weight, bias):
        return None
    if not _pair(input.shape[1:2], running_mean, running_var):
        return None
    if running_mean is not None:
        # The native function updates the running statistics, with its own momentum and unbiased
        # variance; its result is not used.
        with torch.no_grad():
            torch.native_batch_norm(
                input.detach(), None, None, running_mean, running_var, True, momentum, eps
            )
    dimensions = [d for d in range(input.ndim) if d != 1]
    shape = (-1, *[1] * (input.ndim - 2))
    result, mean, scale = _normalized(input, dimensions, weight, bias, shape, eps)
    return result.to(input.dtype), mean.flatten(), scale.flatten()


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if use_input_stats and input.shape[2:].numel() == 1:
        return None  # one value per channel and sample: F.instance_norm rejects it
    cudnn = torch.backends.cudnn.enabled
    return torch_instance_norm(
        input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn
    )


def torch_instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor | None:
    channels = input.shape[1:2]
    if not use_input_stats or not _fits(input, 3, channels, weight, bias):
        return None
    if not _pair(channels, running_mean, running_var):
        return None
    if running_mean is not None:
        with torch.no_grad():  # updates the running statistics, as in batch norm above
            values, cudnn = input.detach(), cudnn_enabled
            torch.instance_norm(
                values, None, None, running_mean, running_var, True, momentum, eps, cudnn
            )
    shape = (-1, *[1] * (input.ndim - 2))
    result, _, _ = _normalized(input, range(2, input.ndim), weight, bias, shape, eps)
    return result.to(input.dtype)


def layer_norm(
    input: Tensor,
    normalized_shape: _Sizes,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor | None:
    result = native_layer_norm(input, normalized_shape, weight, bias, eps)
    return None if result is None else result[0]


def native_layer_norm(
    input: Tensor,
    normalized_shape: _Sizes,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    shape = _last(input, normalized_shape)
    if shape is None or not _fits(input, len(shape), shape, weight, bias):
        return None
    dimensions = range(input.ndim - len(shape), input.ndim)
    result, mean, scale = _normalized(input, dimensions, weight, bias, shape, eps)
    return _cast(result, torch.layer_norm, input), mean, scale


def rms_norm(
    input: Tensor,
    normalized_shape: _Sizes,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor | None:
    # Torch is correct on the CPU. On accelerators it fuses the function and saves statistics like
    # layer norm.
    shape = _last(input, normalized_shape)
    if shape is None or not _fits(input, len(shape), shape, weight, None):
        return None
    dimensions = list(range(input.ndim - len(shape), input.ndim))
    with _as_given(input):
        wide = _widened(input)
        least = torch.finfo(wide.dtype).eps if eps is None else eps
        result = wide * (wide.square().mean(dimensions, keepdim=True) + least).rsqrt()
        result = result if weight is None else result * _widened(weight)
    return _cast(result, torch.rms_norm, input)


def _normalized(
    values: Tensor,
    dimensions: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    shape: _Sizes,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return standardized values, their mean and the reciprocal of their standard deviation.

    Mean and variance stay in the graph, which is the only difference from the fused function.
    """
    with _as_given(values):
        values = _widened(values)
        mean = values.mean(list(dimensions), keepdim=True)
        centered = values - mean
        scale = (centered.square().mean(list(dimensions), keepdim=True) + eps).rsqrt()
        result = centered * scale
        if weight is not None:
            result = result * _widened(weight).reshape(shape)
        if bias is not None:
            result = result + _widened(bias).reshape(shape)
    return result, mean, scale


def _widened(values: Tensor) -> Tensor:
    """Return half-precision values as float32, in which torch accumulates them."""
    return values.float() if _is_half(values.dtype) else values


def _is_half(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)


def _cast(result: Tensor, func: Callable[..., Any], input: Tensor) -> Tensor:
    """Return a result in the dtype that torch's function would return."""
    dtype = input.dtype
    # Which functions autocast widens depends on the device and the version of torch, so this is
    # tested with one number.
    if _autocasts(input):
        dtype = func(torch.zeros(1, dtype=dtype, device=input.device), (1,)).dtype
    return result.to(dtype)


def _autocasts(values: Tensor) -> bool:
    device = values.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


@contextmanager
def _as_given(values: Tensor) -> Iterator[None]:
    if not _autocasts(values):
        yield
        return
    with torch.autocast(values.device.type, enabled=False):
        yield


def _fits(
    input: Tensor,
    ndim: int,
    shape: _Sizes,
    *parameters: Tensor | None,
) -> bool:
    """Return whether torch accepts these arguments; otherwise torch raises its own error."""
    return (
        isinstance(input, Tensor)
        and input.is_floating_point()
        and input.ndim >= ndim
        and input.numel() > 0
        and all(
            p is None
            or (
                tuple(p.shape) == tuple(shape)
                and (p.dtype == input.dtype or (_is_half(input.dtype) and p.dtype == torch.float32))
            )
            for p in parameters
        )
    )


def _pair(channels: _Sizes, mean: Tensor | None, var: Tensor | None) -> bool:
    if mean is None or var is None:
        return mean is var
    return mean.shape == var.shape == torch.Size(channels)


def _last(input: Tensor, normalized_shape: _Sizes) -> tuple[int, ...] | None:
    """Return the normalized shape if it matches the last dimensions, else ``None``."""
    if isinstance(normalized_shape, int):
        normalized_shape = (normalized_shape,)
    shape = tuple(normalized_shape)
    return shape if shape and tuple(input.shape[-len(shape) :]) == shape else None


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor | None:
    """Replace hard sigmoid, whose backward pass torch cannot differentiate."""
    if not input.is_floating_point():
        return None
    result = torch.nn.functional.relu6(input + 3) / 6
    return input.copy_(result) if inplace else result


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Replace weight norm, whose double backward treats the saved norms as constants."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str | None = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor | None:
    """Replace Euclidean distances between few points, which have no third derivative in torch."""
    if min(x1.ndim, x2.ndim) < 2 or x1.shape[-1] != x2.shape[-1]:
        return None
    # Above 25 points torch computes distances by a matrix product, whose derivatives are correct.
    few = max(x1.shape[-2], x2.shape[-2]) <= 25
    by_product = compute_mode == "use_mm_for_euclid_dist"
    if p != 2 or by_product or not (few or compute_mode == "donot_use_mm_for_euclid_dist"):
        return None
    return _length(x1.unsqueeze(-2) - x2.unsqueeze(-3))


def pdist(input: Tensor, p: float = 2.0) -> Tensor | None:
    """Replace Euclidean distances within one set of points."""
    if p != 2 or input.ndim != 2:
        return None
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return _length(input[first] - input[second])


def _length(vectors: Tensor) -> Tensor:
    squared = vectors.square().sum(-1)
    # The root is not differentiable at 0. Masking it twice makes all derivatives 0 there instead of
    # NaN, consistent with the first derivative in torch.
    at_zero = squared == 0
    return squared.masked_fill(at_zero, 1).sqrt().masked_fill(at_zero, 0)
