"""Checks on what lies between the penalised layer and the loss."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from famseg.flatness._derivatives import gradient
from famseg.flatness._errors import LossError, UnsupportedTailError

_NORMS = {
    "NativeLayerNormBackward": "layer norm",
    "LayerNormBackward": "layer norm",
    "NativeBatchNormBackward": "batch or instance norm",
    "CudnnBatchNormBackward": "batch or instance norm",
    "MiopenBatchNormBackward": "batch or instance norm",
    "MkldnnBatchNormBackward": "batch or instance norm",
    "SyncBatchNorm": "synchronised batch norm",
}
_NORM_MODULES = (nn.modules.batchnorm._NormBase, nn.LayerNorm)


@contextmanager
def norms_noted(model: nn.Module, layer: nn.Module) -> Iterator[list[str]]:
    """Collect the names of the normalisation layers that run after a layer, for the messages."""
    seen: list[str] = []

    def note(name: str, module: nn.Module) -> None:
        if module.training or getattr(module, "running_mean", None) is None:
            seen.append(f"{name!r}, {type(module).__name__}")

    with ExitStack() as stack:
        stack.callback(layer.register_forward_pre_hook(lambda *_: seen.clear()).remove)
        for name, module in model.named_modules():
            if isinstance(module, _NORM_MODULES):
                hook = functools.partial(lambda name, module, _: note(name, module), name)
                stack.callback(module.register_forward_pre_hook(hook).remove)
        yield seen


def check_operations(loss: Tensor, leaf: Tensor, layer: str, norms: Sequence[str]) -> None:
    """Refuse operations between a leaf and a loss whose third derivatives are wrong in torch.

    Native batch, instance and layer normalisation have a right second derivative, but the gradient
    of it is off by 10 % to 400 %, in silence. The autograd graph shows them wherever they come
    from, functional calls included.

    Raises:
        UnsupportedTailError: Naming the operation, the modules that may hold it, and what to do.
        LossError: If nothing leads from the leaf to the loss.
    """
    path = _path(loss, leaf)
    if not path:
        raise LossError(f"the loss does not depend on layer {layer!r}: it has no flatness there.")
    for node in path:
        name = node.name()
        if "CheckpointFunctionBackward" in name:
            raise UnsupportedTailError(
                f"a reentrant checkpoint runs after layer {layer!r}: it has no second derivative. "
                "Call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )
        kind = next((text for key, text in _NORMS.items() if name.startswith(key)), None)
        # With stored statistics batch norm is a plain affine map, and right.
        if kind is None or getattr(node, "_saved_training", True) is False:
            continue
        among = f" (among those that ran: {', '.join(norms)})" if norms else ""
        raise UnsupportedTailError(
            f"{kind} runs after layer {layer!r}{among}: its third derivatives are wrong in torch, "
            "and so would be the penalty's gradient. Use nn.GroupNorm: GroupNorm(C, C) is instance "
            "norm, GroupNorm(1, C) layer norm over a volume; nn.RMSNorm is right too; or penalise "
            "a layer behind it."
        )


def samples_interact(loss: Tensor, shift: Tensor) -> bool | None:
    """Return whether the second derivative of a loss couples two samples.

    Every two samples differ in some bit of their index, so ``ceil(log2 n)`` products with the
    Hessian, each taken on the samples whose bit is one and read on the others, see every pair.

    Args:
        loss: The scalar loss.
        shift: A leaf of zeros that was added to the layer's outputs, shape ``(n, d)``.

    Returns:
        ``None`` where this batch cannot tell: one sample, no curvature at all, or not finite.
    """
    n, d = shift.shape
    slope = gradient(loss, shift, create_graph=True)
    # Any direction will do that is no accident of the network: fixed, and never a run's own probes.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(n, d, generator=generator, dtype=torch.float64).to(shift)
    index = torch.arange(n, device=shift.device)
    inside, outside = shift.new_zeros(()), shift.new_zeros(())
    for bit in range((n - 1).bit_length()):
        chosen = (index >> bit & 1).bool()
        row = gradient((slope * direction)[chosen].sum(), shift, create_graph=False).abs()
        inside = torch.maximum(inside, row[chosen].max())
        outside = torch.maximum(outside, row[~chosen].max())
    seen = torch.maximum(inside, outside)
    if not (seen > 0 and seen.isfinite()):
        return None
    # Samples that do not interact give zeros here, or rounding where a kernel mixes their sums.
    return bool(outside > 1e2 * torch.finfo(shift.dtype).eps * inside)


def _path(loss: Tensor, leaf: Tensor) -> list[Node]:
    """The operations on any way from ``loss`` back to ``leaf``."""
    if loss.grad_fn is None:
        return []
    leads: dict[Node, bool] = {get_gradient_edge(leaf).node: True}
    stack = [loss.grad_fn]
    while stack:  # depth first: a node is settled once all that it leads to is
        following = [f for f, _ in stack[-1].next_functions if f is not None]
        unsettled = [f for f in following if f not in leads]
        if unsettled:
            stack.extend(unsettled)
            continue
        node = stack.pop()
        if node not in leads:
            leads[node] = any(leads[f] for f in following)
    return [node for node, does in leads.items() if does]
