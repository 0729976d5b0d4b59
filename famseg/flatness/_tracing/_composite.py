"""Replacement of functions whose derivatives are wrong or missing in torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from famseg.flatness._errors import UnsupportedTailError
from famseg.flatness._tracing import _composite_functions as own
from famseg.flatness._tracing._checkpoint import computed_again

_COMPOSITES: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (F.batch_norm, own.batch_norm),
    (torch.batch_norm, own.torch_batch_norm),
    (torch.native_batch_norm, own.native_batch_norm),
    (F.instance_norm, own.instance_norm),
    (torch.instance_norm, own.torch_instance_norm),
    (F.layer_norm, own.layer_norm),
    (torch.layer_norm, own.layer_norm),
    (torch.native_layer_norm, own.native_layer_norm),
    (F.rms_norm, own.rms_norm),
    (torch.rms_norm, own.rms_norm),
    (F.hardsigmoid, own.hardsigmoid),
    (torch._weight_norm, own.weight_norm),
    (torch.cdist, own.cdist),
    (torch.pdist, own.pdist),
)
_REPLACED = {native: (function, inspect.signature(function)) for native, function in _COMPOSITES}


def _grad(
    outputs: Any,  # noqa: ANN401
    inputs: Any,  # noqa: ANN401
    grad_outputs: Any = None,  # noqa: ANN401
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> None: ...


def _backward(
    outputs: Tensor,
    gradient: Any = None,  # noqa: ANN401
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> None: ...


_GRADIENTS = {
    torch.autograd.grad: inspect.signature(_grad),
    Tensor.backward: inspect.signature(_backward),
}


def _math_kernel() -> AbstractContextManager[None]:
    return sdpa_kernel(SDPBackend.MATH)


def _without_cudnn() -> AbstractContextManager[None]:
    return torch.backends.cudnn.flags(enabled=False)


# Functions with several kernels, some of which have no second derivative.
_CONTEXTS: dict[Any, Callable[[], AbstractContextManager[None]]] = {
    F.scaled_dot_product_attention: _math_kernel,
    F.multi_head_attention_forward: _math_kernel,
    torch.lstm: _without_cudnn,
    torch.gru: _without_cudnn,
    torch.rnn_tanh: _without_cudnn,
    torch.rnn_relu: _without_cudnn,
}


@contextmanager
def composites(
    active: Callable[[], bool], reaches: Callable[[Tensor], bool] = lambda _: False
) -> Iterator[None]:
    r"""Replace functions that torch differentiates incorrectly, while a condition holds.

    The third derivatives of torch's batch norm (with statistics of the batch), instance norm and
    layer norm are silently wrong, because their double backward treats the saved statistics as
    constants. Inside this context they are

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta

    composed of mean, difference, square, reciprocal root and product. The result is the same up to
    rounding, in the same dtype; running statistics are updated once by torch's own kernel, so they
    are bit-identical. Batch norm with stored statistics is an affine map, which torch
    differentiates correctly, and is not replaced. Neither are calls with arguments that torch
    rejects, so that the error message is torch's. The same applies to RMS norm (fused on
    accelerators), weight norm of computed weights, hard sigmoid and Euclidean ``cdist`` and
    ``pdist``. Attention and recurrent layers use the kernels that have second derivatives.
    Non-reentrant checkpoints that start here also recompute with these replacements, even after
    this context has ended.

    A normalization needs about three times the memory and time of the native one.

    Args:
        active: Called at each call of such a function; returns whether to replace it.
        reaches: Returns whether a tensor depends on the penalized layers; a differentiable gradient
            of it is then refused.

    Yields:
        Nothing; native functions are restored at the end of the context, also after exceptions.

    Example:
        >>> x = torch.randn(4, 3, requires_grad=True)
        >>> with composites(lambda: True):
        ...     y = F.layer_norm(x, (3,))
        >>> y.grad_fn.name(), F.layer_norm(x, (3,)).grad_fn.name()
        ('MulBackward0', 'NativeLayerNormBackward0')
    """
    mode = _Composites(active, reaches)

    def begin() -> Callable[[], AbstractContextManager[None]]:
        start = len(mode.asked)

        def answered_alike() -> AbstractContextManager[None]:
            answers = iter(mode.asked[start:])
            return composites(lambda: next(answers, True))

        return answered_alike

    with mode, computed_again(begin):
        yield


class _Composites(TorchFunctionMode):
    def __init__(
        self, active: Callable[[], bool], reaches: Callable[[Tensor], bool] = lambda _: False
    ) -> None:
        super().__init__()
        self._active = active
        self._reaches = reaches
        self.asked: list[bool] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func in _GRADIENTS and self._active() and self._is_penalty(func, args, kwargs):
            raise UnsupportedTailError(
                "a gradient is computed after the penalized layer, by the loss or by the model (a "
                "gradient penalty). There the layer's weight influences the loss a second time, "
                "which its flatness does not include. Remove one of the two penalties."
            )
        replaced, context = _REPLACED.get(func), _CONTEXTS.get(func)
        if (replaced is None and context is None) or not self._asks():
            return func(*args, **kwargs)
        if context is not None:
            with context():
                return func(*args, **kwargs)
        assert replaced is not None  # noqa: S101 - one of the two exists
        composite, signature = replaced
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # invalid arguments, for which torch has the better message
            return func(*args, **kwargs)
        result = composite(*bound.args, **bound.kwargs)
        return func(*args, **kwargs) if result is None else result

    def _is_penalty(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Return whether a gradient is differentiable and depends on the penalized layers."""
        bound = _GRADIENTS[func].bind(*args, **kwargs).arguments
        outputs = bound["outputs"]
        several = outputs if isinstance(outputs, tuple | list) else [outputs]
        return bool(bound.get("create_graph")) and any(map(self._reaches, several))

    def _asks(self) -> bool:
        self.asked.append(self._active())
        return self.asked[-1]
