"""Normalisation made of operations whose derivatives of all orders are right."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_Sizes = Sequence[int]


@contextmanager
def composite_norms(active: Callable[[], bool]) -> Iterator[None]:
    r"""Replace normalisation by composite versions while a condition holds.

    The third derivatives of torch's batch norm (with statistics of the batch), instance norm and
    layer norm are wrong without a word: their double backward treats the saved statistics as
    constants. Inside this context they are

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta

    written out with mean, difference, square, reciprocal root and product. What comes out is the
    same to rounding, in the same dtype; running statistics are updated once, by torch's own kernel
    and hence bit by bit as without this context. Batch norm that uses stored statistics is an
    affine map, which torch has right, and stays native; so does every call with arguments that
    torch refuses, so that its message is torch's.

    A call costs the memory of about three tensors of the input's size instead of one, and about
    three times the time.

    Args:
        active: Asked at each call of a normalisation function: whether to replace it.

    Yields:
        Nothing; the mode ends with the context, exceptions included.

    Example:
        >>> x = torch.randn(4, 3, requires_grad=True)
        >>> with composite_norms(lambda: True):
        ...     y = F.layer_norm(x, (3,))
        >>> y.grad_fn.name(), F.layer_norm(x, (3,)).grad_fn.name()
        ('MulBackward0', 'NativeLayerNormBackward0')
    """
    with _CompositeNorms(active):
        yield


class _CompositeNorms(TorchFunctionMode):
    def __init__(self, active: Callable[[], bool]) -> None:
        super().__init__()
        self._active = active

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        known = _REPLACED.get(func)
        if known is not None and self._active():
            replacement, signature = known
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:  # a wrong call: torch's message says it better
                return func(*args, **kwargs)
            result = replacement(*bound.args, **bound.kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


def _batch_norm(
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
        return None  # one value a channel: F.batch_norm refuses it
    cudnn = torch.backends.cudnn.enabled
    return _torch_batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn
    )


def _torch_batch_norm(
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
    result = _native_batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps
    )
    return None if result is None else result[0]


def _native_batch_norm(
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
        with torch.no_grad():
            torch.native_batch_norm(
                input.detach(), None, None, running_mean, running_var, True, momentum, eps
            )
    dimensions = [d for d in range(input.ndim) if d != 1]
    shape = (-1, *[1] * (input.ndim - 2))
    result, mean, scale = _normalised(input, dimensions, weight, bias, shape, eps)
    return _cast(result, torch.batch_norm, input), mean.flatten(), scale.flatten()


def _instance_norm(
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
        return None  # one value a channel and sample: F.instance_norm refuses it
    cudnn = torch.backends.cudnn.enabled
    return _torch_instance_norm(
        input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn
    )


def _torch_instance_norm(
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
        with torch.no_grad():
            torch.instance_norm(
                input.detach(),
                None,
                None,
                running_mean,
                running_var,
                True,
                momentum,
                eps,
                cudnn_enabled,
            )
    shape = (-1, *[1] * (input.ndim - 2))
    result, _, _ = _normalised(input, range(2, input.ndim), weight, bias, shape, eps)
    return _cast(result, torch.instance_norm, input)


def _layer_norm(
    input: Tensor,
    normalized_shape: _Sizes,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor | None:
    result = _native_layer_norm(input, normalized_shape, weight, bias, eps)
    return None if result is None else result[0]


def _native_layer_norm(
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
    result, mean, scale = _normalised(input, dimensions, weight, bias, shape, eps)
    return _cast(result, torch.layer_norm, input), mean, scale


def _rms_norm(
    input: Tensor,
    normalized_shape: _Sizes,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor | None:
    # Right on the processor; fused on accelerators, with statistics saved as layer norm has them.
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


def _normalised(
    values: Tensor,
    dimensions: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    shape: _Sizes,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values less their mean over some dimensions and over their deviation; mean; 1 / deviation."""
    with _as_given(values):
        values = _widened(values)
        mean = values.mean(list(dimensions), keepdim=True)
        centred = values - mean
        scale = (centred.square().mean(list(dimensions), keepdim=True) + eps).rsqrt()
        result = centred * scale
        if weight is not None:
            result = result * _widened(weight).reshape(shape)
        if bias is not None:
            result = result + _widened(bias).reshape(shape)
    return result, mean, scale


def _widened(values: Tensor) -> Tensor:
    """Torch accumulates half precision in float32."""
    return values.float() if _is_half(values.dtype) else values


def _is_half(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)


def _cast(result: Tensor, func: Callable[..., Any], input: Tensor) -> Tensor:
    """Give a result the dtype that torch's function would have given it."""
    dtype = input.dtype
    if _autocasts(input) and func in (torch.layer_norm, torch.rms_norm):
        # Which of them autocast widens depends on the device: asked with one number.
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
    """Whether torch would take these; what it would not take is left to it and its message."""
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
    """The normalised shape, if it is that of the last dimensions."""
    if isinstance(normalized_shape, int):
        normalized_shape = (normalized_shape,)
    shape = tuple(normalized_shape)
    return shape if shape and tuple(input.shape[-len(shape) :]) == shape else None


_COMPOSITES: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (F.batch_norm, _batch_norm),
    (torch.batch_norm, _torch_batch_norm),
    (torch.native_batch_norm, _native_batch_norm),
    (F.instance_norm, _instance_norm),
    (torch.instance_norm, _torch_instance_norm),
    (F.layer_norm, _layer_norm),
    (torch.layer_norm, _layer_norm),
    (torch.native_layer_norm, _native_layer_norm),
    (F.rms_norm, _rms_norm),
    (torch.rms_norm, _rms_norm),
)
_REPLACED = {native: (own, inspect.signature(own)) for native, own in _COMPOSITES}
