"""Loss plus lambda times a penalty, as one module that DDP can wrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from famseg.flatness import FAM, Inputs, Terms, call_model, find_layer

if TYPE_CHECKING:
    from famseg.objectives._jacobian import JacobianNorm

Loss = Callable[[Tensor, Tensor], Tensor]


class PlainLoss(nn.Module):
    """Only the loss: the baseline of every comparison.

    Args:
        model: The network.
        loss: Maps (outputs, targets) to a scalar.
    """

    def __init__(self, model: nn.Module, *, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, inputs: Inputs, targets: Tensor) -> Terms:
        """Return the loss as the total, without a penalty.

        Args:
            inputs: The network's input: a tensor, a tuple or list of arguments, or a mapping of
                keywords, as `FAM` takes it.
            targets: The targets of the loss.
        """
        loss = _plain(self.model, self.loss, inputs, targets)
        return Terms(total=loss, loss=loss, penalty=None)


class LayerDecay(nn.Module):
    """Loss plus lambda times the squared Frobenius norm of one layer's weight.

    The control for relative flatness: in the released code of the FAM paper, no gradient passes
    through the curvature, which makes its penalty an adaptive weight decay on that layer. Only a
    gain of FAM beyond this control counts.

    Args:
        model: The network.
        layer: Dotted name of the linear layer.
        loss: Maps (outputs, targets) to a scalar.
        weight: lambda, the factor of ``||W||^2``.
    """

    def __init__(self, model: nn.Module, *, layer: str, loss: Loss, weight: float) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.weight = weight
        self._layer = find_layer(model, layer)

    def forward(self, inputs: Inputs, targets: Tensor) -> Terms:
        """Return total, loss and ``||W||^2``; arguments as in `PlainLoss`."""
        loss = _plain(self.model, self.loss, inputs, targets)
        penalty = self._layer.weight.square().sum()
        return Terms(total=loss + self.weight * penalty, loss=loss, penalty=penalty)


class Objective(nn.Module):
    """The objective of a training step, which maps a batch to ``Terms(total, loss, penalty)``.

    Wrap this module in ``DistributedDataParallel`` instead of the network: loss and penalty are
    then computed in one forward pass and need one backward pass, as DDP requires.

    Args:
        terms: Maps (inputs, targets) to terms, with the network as attribute ``model``.
        inputs: Key of the network's input in a batch: a tensor, a tuple or list of arguments, or a
            mapping of keywords.
        targets: Key of the target in a batch.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> objective = Objective(PlainLoss(net, loss=nn.functional.mse_loss))
        >>> batch = {"image": torch.ones(3, 2), "label": torch.zeros(3, 1)}
        >>> objective(batch).penalty is None
        True
    """

    def __init__(
        self,
        terms: PlainLoss | LayerDecay | JacobianNorm | FAM,
        *,
        inputs: str = "image",
        targets: str = "label",
    ) -> None:
        super().__init__()
        self.terms = terms
        self.inputs = inputs
        self.targets = targets

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""
        return self.terms.model

    @property
    def weight(self) -> float:
        """Lambda, the factor of the penalty in the total; 0 if there is none."""
        return 0.0 if isinstance(self.terms, PlainLoss) else self.terms.weight

    @property
    def penalized(self) -> dict[str, nn.Module]:
        """The layers whose flatness is part of the total, by name."""
        if not isinstance(self.terms, FAM) or not self.weight:
            return {}
        return {name: find_layer(self.model, name) for name in self.terms.layers}

    @property
    def period(self) -> int:
        """The penalty is computed on every ``period``-th step."""
        return self.terms.period if isinstance(self.terms, FAM) else 1

    def seek(self, step: int, *, stream: int = 0) -> None:
        """Set the optimizer step, which alone determines penalty and probes.

        Args:
            step: Number of the optimizer step, starting at 0.
            stream: Number of the part of the batch within the step (rank, accumulation).
        """
        if not isinstance(self.terms, PlainLoss | LayerDecay):
            self.terms.seek(step, stream=stream)

    def learned(self) -> dict[str, Any]:
        """Return the state of the terms from earlier steps, as plain data for a checkpoint.

        `FAM` computes a strong penalty on more steps, which a resumed run must continue.
        """
        return self.terms.get_extra_state() if isinstance(self.terms, FAM) else {}

    def recall(self, learned: Mapping[str, Any]) -> None:
        """Restore a state from `learned`; older checkpoints contain none."""
        if isinstance(self.terms, FAM) and learned:
            self.terms.set_extra_state(dict(learned))

    def forward(self, batch: Mapping[str, Any]) -> Terms:
        """Return the terms of one batch; call ``backward()`` once, on the total."""
        terms: Terms = self.terms(batch[self.inputs], batch[self.targets])
        return terms


class Scaled(nn.Module):
    """A loss times a constant.

    Args:
        loss: Maps (outputs, targets) to a scalar.
        scale: The constant.
    """

    def __init__(self, loss: nn.Module, scale: float) -> None:
        super().__init__()
        self.loss = loss
        self.scale = scale

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``scale * loss(outputs, targets)``."""
        value: Tensor = self.loss(outputs, targets)
        return self.scale * value


def _plain(model: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor) -> Tensor:
    # A loss accepts whatever its network returns.
    return loss(call_model(model, inputs), targets)  # type: ignore[arg-type]
