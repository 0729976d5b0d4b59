"""Detection of the loss function call that computed a loss, regardless of the calling code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode

_FUNCTIONS: frozenset[Callable[..., Tensor]] = frozenset(
    {F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits}
)


@dataclass(frozen=True, eq=False)
class LossCall:
    """A call of `F.cross_entropy`, `F.mse_loss` or `F.binary_cross_entropy_with_logits`.

    Attributes:
        function: Which of them.
        input: Its input argument.
        targets: Its target argument.
        options: Its other arguments, by their names in the closed form of this loss.
        in_model: Whether the model made the call.
    """

    function: Callable[..., Tensor]
    input: Tensor
    targets: object
    options: Mapping[str, Any]
    in_model: bool = False


class _Noted(NamedTuple):
    call: LossCall
    result: Tensor
    version: int


class LossCalls(TorchFunctionMode):
    """Records calls of certain loss functions while it is active, without changing their results.

    A head's closed form needs the arguments of the function that computed a loss. Users may call it
    in a lambda, in their own module, or inside the model. Every torch function called in this
    context therefore passes through here, which takes about a microsecond each.

    Example:
        >>> import torch
        >>> z, y = torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.long)
        >>> with LossCalls() as calls:
        ...     loss = F.cross_entropy(z.flatten(0, 1), y.flatten())
        >>> calls.behind(loss).input.shape
        torch.Size([10, 3])
        >>> calls.behind(2 * loss)
    """

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[_Noted] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if func in _FUNCTIONS:
            # Torch passes the two tensors by position and all other arguments by name.
            call = _call(func, *args, **(kwargs or {}))
            if call is not None and not result.is_inference():
                self._noted.append(_Noted(call, result, result._version))
        return result

    def behind(self, loss: Tensor, *, in_model: bool = False) -> LossCall | None:
        """Return the call whose unchanged result is a loss; ``None`` if there is none.

        Args:
            loss: The loss.
            in_model: Whether the calls were recorded while the model ran.
        """
        for call, result, version in self._noted:
            if result is loss and result._version == version:
                return replace(call, in_model=in_model)
        return None


def plain_call(loss: object, prediction: object, targets: object) -> LossCall | None:
    """Return the call that one of torch's losses would make, without executing it.

    Args:
        loss: One of the three functions, or an instance of the corresponding class; a subclass may
            compute anything.
        prediction: First argument of the loss.
        targets: Second argument of the loss.
    """
    if not isinstance(prediction, Tensor) or (isinstance(loss, nn.Module) and _does_more(loss)):
        return None
    if type(loss) is nn.CrossEntropyLoss:
        return _call(
            F.cross_entropy,
            prediction,
            targets,
            weight=loss.weight,
            ignore_index=loss.ignore_index,
            reduction=loss.reduction,
            label_smoothing=loss.label_smoothing,
        )
    if type(loss) is nn.MSELoss:
        return _call(F.mse_loss, prediction, targets, reduction=loss.reduction)
    if type(loss) is nn.BCEWithLogitsLoss:
        return _call(
            F.binary_cross_entropy_with_logits,
            prediction,
            targets,
            weight=loss.weight,
            pos_weight=loss.pos_weight,
            reduction=loss.reduction,
        )
    for function in _FUNCTIONS:
        if loss is function:
            return _call(function, prediction, targets)
    return None


def _does_more(loss: nn.Module) -> bool:
    """Return whether hooks or an overridden forward may change one of torch's losses."""
    own = loss.__dict__
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    anywhere = module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks
    return "forward" in own or any(own.get(name) for name in hooks) or bool(anywhere)


# Many arguments: those of torch's losses, with the same names.
def _call(
    function: Callable[..., Tensor],
    input: Tensor,
    target: object,
    *,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    pos_weight: Tensor | None = None,
    **unknown: object,
) -> LossCall | None:
    """Return the call, unless no closed form is known for its arguments."""
    if (
        unknown
        or size_average is not None
        or reduce is not None
        or reduction not in ("mean", "sum")
    ):
        return None
    options: dict[str, Any] = {"reduction": reduction}
    if function is F.cross_entropy:
        options |= {
            "class_weights": weight,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
        }
    elif function is F.binary_cross_entropy_with_logits:
        options |= {"element_weights": weight, "pos_weight": pos_weight}
    elif weight is not None:  # squared error with weights
        return None
    return LossCall(function, input, target, options)
