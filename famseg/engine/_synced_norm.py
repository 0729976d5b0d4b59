"""Batch normalization over the whole batch, across any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from famseg.engine._processes import Processes


class Share:
    """Switch, shared by all layers of a network, for whether this rank's samples count in a pass.

    A rank without a sample in a batch runs another sample, whose loss is weighted with 0.
    """

    counts = True


class SyncBatchNormSum(torch.autograd.Function):
    """The sum of a tensor over all ranks, and of its gradient; differentiable to any order.

    `famseg.flatness` recognizes synchronized batch normalization in the graph by this name. It
    refuses a penalty on a layer before it, because the curvature then also depends on the other
    ranks.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, processes: Processes) -> Tensor:  # noqa: ANN401
        """Return the sum."""
        ctx.processes = processes
        return processes.add(value.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # noqa: ANN401  # as in torch
        """Return the sum of the gradients."""
        return _sum(gradient.contiguous(), ctx.processes), None


def _sum(value: Tensor, processes: Processes) -> Tensor:
    result: Tensor = SyncBatchNormSum.apply(value, processes)  # type: ignore[no-untyped-call]
    return result


class SyncedBatchNorm(_BatchNorm):
    r"""Batch normalization with mean and variance over the samples of all ranks.

    .. math:: \mu = \tfrac1N \sum_r n_r \mu_r, \qquad
              \sigma^2 = \tfrac1N \sum_r n_r \big(\sigma_r^2 + (\mu_r - \mu)^2\big)

    with count, mean and variance of each rank :math:`r`: one exchange per layer and pass, and one
    more for the gradient. torch's ``SyncBatchNorm`` computes the same, but only on GPUs, and it
    includes every rank, even one that runs a sample that is not in the batch.

    Args:
        norm: The layer that it replaces; parameters and buffers are shared.
        processes: The ranks of the run.
        share: Whether this rank's samples count.
    """

    def __init__(self, norm: _BatchNorm, *, processes: Processes, share: Share) -> None:
        super().__init__(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
            device="meta",
        )
        self.processes = processes
        self.share = share
        for name, parameter in norm.named_parameters(recurse=False):
            setattr(self, name, parameter)
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:  # name given by torch
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:  # name given by torch
        """Return the normalized input with the same shape ``(n, channels, ...)`` and type."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        # As in torch, statistics are at least float32, also under autocast.
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count, mean, variance = self._statistics(values)
        self._follow(count, mean, variance)
        shape = (1, -1, *[1] * (input.dim() - 2))
        scale = (variance + self.eps).rsqrt()
        result = (values - mean.view(shape)) * scale.view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _statistics(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return count, mean and biased variance over all ranks."""
        over = [dimension for dimension in range(values.dim()) if dimension != 1]
        own_variance, own_mean = torch.var_mean(values, over, correction=0)
        number = values.numel() // values.shape[1] if self.share.counts else 0
        own = torch.cat([own_mean.new_full((1,), number), own_mean, own_variance])
        # One row per rank instead of sums of squares, which lose precision if the mean is far from
        # 0.
        rows = own.new_zeros(self.processes.world, len(own))
        rows = rows.index_put((torch.tensor([self.processes.rank], device=own.device),), own)
        total = _sum(rows, self.processes)
        counts, means, variances = torch.split(total, [1, *[values.shape[1]] * 2], dim=1)
        shares = counts / counts.sum()
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        return counts.detach().sum(), mean, variance

    @torch.no_grad()
    def _follow(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics."""
        if self.num_batches_tracked is None or self.running_mean is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # the mean over all batches
            momentum = 1.0 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            if running is not None:
                running.lerp_(new.to(running.dtype), momentum)


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch normalization layers of a network, by name."""
    return {name: each for name, each in model.named_modules() if isinstance(each, _BatchNorm)}


def synchronize(model: nn.Module, processes: Processes) -> Share:
    """Replace batch normalization in a network, in place, by one over all ranks.

    Args:
        model: The network, or a module that contains it; not a batch normalization layer itself.
        processes: The ranks of the run.

    Returns:
        The switch for whether this rank's samples count in the next pass.
    """
    share = Share()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncedBatchNorm):
                setattr(parent, name, SyncedBatchNorm(child, processes=processes, share=share))
    return share


def single_values(objective: nn.Module, batch: Mapping[str, Any]) -> list[str]:
    """Return the batch normalization layers that get a single value per channel from one sample.

    Costs a forward pass in evaluation mode.

    Args:
        objective: Maps a batch to terms.
        batch: A batch of one sample.
    """
    found: list[str] = []
    hooks = []
    for name, norm in batch_norms(objective).items():

        def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:
                found.append(name.removeprefix("terms.model."))

        hooks.append(norm.register_forward_pre_hook(note))
    training = objective.training
    try:
        with torch.no_grad():
            objective.eval()(batch)
    finally:
        objective.train(training)
        for hook in hooks:
            hook.remove()
    return found
