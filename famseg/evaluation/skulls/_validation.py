"""The fast metric for validation during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def dice_rows(prediction: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the Dice coefficient of each case of a batch, computed on the tensors' device.

    Args:
        prediction: Completed skulls, shape ``(B, 1, X, Y, Z)``: bool, or probabilities, which are
            thresholded at 0.5.
        batch: ``label`` of the same shape, 0 and 1; ``subject``, a sequence of B names.

    Returns:
        One dict for each case: ``subject`` and ``dsc``. Two empty masks score 1; if only one is
        empty, the score is 0.

    Raises:
        ValueError: If the shapes differ or the prediction is neither bool nor from 0 to 1.

    Example:
        >>> label = torch.ones(1, 1, 2, 2, 2)
        >>> dice_rows(label > 0, {"label": label, "subject": ["a"]})
        [{'subject': 'a', 'dsc': 1.0}]
    """
    label, subjects = batch["label"], batch["subject"]
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and label {tuple(label.shape)}. "
            "Give one channel: the probability of bone."
        )
    predicted = as_bool(prediction).flatten(1)
    truth = (label > 0.5).flatten(1)
    overlap = (predicted & truth).sum(1).tolist()
    total = (predicted.sum(1) + truth.sum(1)).tolist()
    return [
        {"subject": subject, "dsc": 2 * both / either if either else 1.0}
        for subject, both, either in zip(subjects, overlap, total, strict=True)
    ]


def with_loss(
    rows: Sequence[Mapping[str, Any]],
    loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor,
    targets: Tensor,
) -> list[dict[str, Any]]:
    """Return score rows with the column ``loss``: the loss of each case.

    It is the loss of the training without its penalty, computed from the scored outputs without
    another forward pass.

    Args:
        rows: One row per case.
        loss: Maps outputs and targets of a batch to a mean.
        outputs: The network's outputs, shape ``(B, ...)``.
        targets: The references, shape ``(B, ...)``.

    Example:
        >>> with_loss([{"dsc": 1.0}], torch.nn.MSELoss(), torch.zeros(1, 2), torch.ones(1, 2))
        [{'dsc': 1.0, 'loss': 1.0}]
    """
    with torch.no_grad():
        values = [
            loss(output[None].float(), target[None])
            for output, target in zip(outputs, targets, strict=True)
        ]
    losses = torch.stack(values).tolist() if values else []
    return [{**row, "loss": value} for row, value in zip(rows, losses, strict=True)]


def as_bool(prediction: Tensor, threshold: float = 0.5) -> Tensor:
    """Threshold probabilities; masks are unchanged. Logits, NaN and infinity raise ValueError."""
    if prediction.dtype == torch.bool:
        return prediction
    low, high = (float(value) for value in torch.aminmax(prediction))
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise ValueError(
            f"predictions must be masks or probabilities, found {low:.3g} to {high:.3g}. "
            "Put a sigmoid on logits."
        )
    return prediction > threshold
