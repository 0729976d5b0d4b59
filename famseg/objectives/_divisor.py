"""The divisor of a loss over a batch, for combining the parts of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from famseg.messages import InputError
from famseg.objectives._objective import Scaled

Divisor = Callable[[Tensor], Tensor]

_NO_CLASS = -100  # torch's default of ignore_index


def divisor_of(loss: object) -> Divisor | None:
    r"""Return the function from a batch's targets to the divisor of its loss, or None.

    Cross-entropy with class weights is :math:`\sum_i w_{y_i} \ell_i / \sum_i w_{y_i}`, and if some
    targets are ignored, it is divided by the number of the others. The loss of a batch is then not
    the mean of the losses of its parts weighted by samples, but weighted by these divisors.

    Your own loss can declare this by a method ``divisor(targets)`` that returns a scalar tensor.

    Args:
        loss: The loss called by the objective.

    Returns:
        The function, or None if the loss is a mean over samples or unknown.

    Example:
        >>> loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
        >>> divisor_of(loss)(torch.tensor([0, 1, 1]))
        tensor(7., dtype=torch.float64)
        >>> divisor_of(nn.CrossEntropyLoss()) is None
        True
    """
    if isinstance(loss, Scaled):
        return divisor_of(loss.loss)
    own: Divisor | None = getattr(loss, "divisor", None)
    if callable(own):
        return own
    if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) or loss.reduction != "mean":
        return None
    if loss.weight is None and loss.ignore_index == _NO_CLASS:
        return None
    return lambda targets: _of_classes(loss, targets)


def _of_classes(loss: nn.CrossEntropyLoss | nn.NLLLoss, targets: Tensor) -> Tensor:
    if targets.is_floating_point():  # with class probabilities, torch averages over samples
        return torch.tensor(float(targets.numel() // targets.shape[1]), dtype=torch.float64)
    counted = targets[targets != loss.ignore_index]
    if loss.weight is None:
        return torch.tensor(float(counted.numel()), dtype=torch.float64)
    return loss.weight.to(counted.device)[counted].double().sum()


def check_parts(loss: object) -> None:
    """Refuse a loss over the whole batch that is not determined by the losses of its parts.

    Args:
        loss: The loss called by the objective.

    Raises:
        InputError: If it is a known loss of this type.
    """
    if callable(getattr(loss, "divisor", None)) or not isinstance(loss, nn.Module):
        return
    for name, part in loss.named_modules():
        within = name != "" and not isinstance(loss, Scaled)
        if _whole_batch(part) or (within and divisor_of(part) is not None):
            raise InputError(
                f"loss: {type(loss).__name__} is defined over the whole "
                f"batch ({type(part).__name__}) and is not a mean over its parts. Set "
                "training.accumulate=1 and train in one process, or give the loss a method "
                "divisor(targets)."
            )


def _whole_batch(part: Any) -> bool:  # noqa: ANN401  # looks up an attribute of MONAI's losses
    return getattr(part, "batch", False) is True
