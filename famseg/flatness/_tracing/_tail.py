"""Checks of the network between the penalized layers and the loss."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from famseg.flatness._errors import LayerError, LossError, UnsupportedTailError
from famseg.flatness._tracing._derivatives import pullback
from famseg.flatness._tracing._uses import Pass, hessian

_NORMS = {
    "NativeLayerNormBackward": "layer norm",
    "LayerNormBackward": "layer norm",
    "NativeBatchNormBackward": "batch or instance norm",
    "CudnnBatchNormBackward": "batch or instance norm",
    "MiopenBatchNormBackward": "batch or instance norm",
    "MkldnnBatchNormBackward": "batch or instance norm",
    "SyncBatchNorm": "synchronized batch norm",
    "FusedRmsNormBackward": "fused RMS norm",
    "WeightNormInterfaceBackward": "weight norm of a computed weight",
}
_REENTRANT = "CheckpointFunctionBackward"
_ONCE = "torch::autograd::Error"
_NORM_MODULES = (nn.modules.batchnorm._NormBase, nn.LayerNorm)


@contextmanager
def norms_noted(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Collect the names of normalization layers that run after the first of the given layers."""
    seen: list[str] = []
    begun = False

    def begin(*_: object) -> None:
        nonlocal begun
        begun = True

    def note(name: str, module: nn.Module) -> None:
        if begun and (module.training or getattr(module, "running_mean", None) is None):
            seen.append(f"{name!r}, {type(module).__name__}")

    with ExitStack() as stack:
        for layer in layers.values():
            stack.callback(layer.register_forward_pre_hook(begin).remove)
        for name, module in model.named_modules():
            if isinstance(module, _NORM_MODULES):
                hook = functools.partial(lambda name, module, _: note(name, module), name)
                stack.callback(module.register_forward_pre_hook(hook).remove)
        yield seen


def check_operations(
    loss: Tensor, leaf: Tensor, layer: str, norms: Sequence[str], *, derivatives: bool = True
) -> None:
    """Refuse operations between a leaf and a loss whose third derivatives are wrong in torch.

    The second derivatives of native batch, instance and layer normalization are correct, but their
    gradients are silently wrong by 10 % to 400 %. The autograd graph reveals these operations
    regardless of their origin, including functional calls.

    Args:
        loss: The loss.
        leaf: The leaf of zeros that was added to the layer's output.
        layer: The layer's name.
        norms: Names of normalization layers that ran, for the message.
        derivatives: Whether third derivatives are needed.

    Raises:
        UnsupportedTailError: Stating the operation, the modules that may contain it, and what to
            do.
        LossError: If the loss does not depend on the leaf.
    """
    path = _path(loss, leaf)
    if not path:
        if any(node.name().startswith(_REENTRANT) for node in _reached(loss.grad_fn, but=None)):
            raise UnsupportedTailError(
                f"layer {layer!r} seems to run inside a reentrant checkpoint, which hides it from "
                "the penalty. "
                "Call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )
        raise LossError(
            f"the loss does not depend on layer {layer!r}, so the layer has no flatness."
        )
    for node in path if derivatives else ():
        name = node.name()
        if name.startswith(_REENTRANT):
            raise UnsupportedTailError(
                f"a reentrant checkpoint runs after layer {layer!r}: it has no second derivative. "
                "Call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )
        kind = next((text for key, text in _NORMS.items() if name.startswith(key)), None)
        # With stored statistics batch norm is an affine map, which torch differentiates correctly.
        if kind is None or getattr(node, "_saved_training", True) is False:
            continue
        among = f" (among those that ran: {', '.join(norms)})" if norms else ""
        raise UnsupportedTailError(
            f"{kind} runs after layer {layer!r}{among} in a form that cannot be replaced. Its "
            "third derivatives are wrong in torch, so the gradient of the penalty would be wrong. "
            "Use "
            "nn.GroupNorm: GroupNorm(C, C) is instance norm, GroupNorm(1, C) layer norm over a "
            "volume; or penalize a layer after it."
        )


def check_sole_use(
    loss: Tensor, output: Node | None, features: Node | None, weight: Tensor, layer: str
) -> None:
    """Refuse a weight that affects the loss other than through the call of its layer.

    Args:
        loss: The loss.
        output: The operation of the layer.
        features: The operation that computed the inputs of the layer.
        weight: Its weight.
        layer: Its name.

    Raises:
        LayerError: If it does.
    """
    if not (weight.is_leaf and weight.requires_grad):
        return
    own = get_gradient_edge(weight).node
    around = _reached(loss.grad_fn, but=output) | _reached(features, but=None)
    if any(following is own for node in around for following, _ in node.next_functions):
        raise LayerError(
            f"the weight of layer {layer!r} also reaches the loss outside the layer's own call (a "
            "functional call with it, or a term of the loss): its flatness would have to count "
            "every use. Penalize a layer whose weight is used once."
        )


def check_slopes(run: Pass) -> None:
    """Refuse operations that are marked as only once differentiable.

    In the graph of a first derivative, torch adds a node for them that raises an error. A second
    derivative with respect to selected leaves bypasses this node and is silently zero.

    Raises:
        UnsupportedTailError: If there is such an operation.
    """
    shifts = [use.shift for use in run.uses]
    slopes = pullback([run.loss], shifts, [torch.ones_like(run.loss)], create_graph=True)
    for use, slope in zip(run.uses, slopes, strict=True):
        if any(node.name() == _ONCE for node in _reached(slope.grad_fn, but=None)):
            raise UnsupportedTailError(
                f"an operation after layer {use.name!r} is marked once_differentiable. It has no "
                "second derivative and would count as zero. Give its autograd.Function a "
                "differentiable backward, or penalize a layer after it."
            )


def samples_interact(run: Pass) -> bool | None:
    """Return whether the second derivative of a loss couples two samples.

    Any two samples differ in at least one bit of their index. Therefore ``ceil(log2 n)`` products
    with the Hessian, each with a direction in the samples whose bit is 1 and evaluated at the
    others, cover every pair.

    Args:
        run: The pass; the shifts of its layers have shape ``(n, ...)``.

    Returns:
        ``None`` if this batch cannot decide it: one sample, no curvature, or not finite.
    """
    uses, n = run.uses, run.samples
    if any(len(use.shift) != n for use in uses):
        return True  # the layers have different numbers of rows
    # Any generic direction works; it is fixed and independent of the probes of the run.
    generator = torch.Generator().manual_seed(0)
    directions = [
        torch.randn(use.shift.shape, generator=generator, dtype=torch.float64).to(use.shift)
        for use in uses
    ]
    product = hessian(run, uses, create_graph=False)
    index = torch.arange(n, device=run.loss.device)
    inside, outside = run.loss.new_zeros(()), run.loss.new_zeros(())
    for bit in range((n - 1).bit_length()):
        chosen = (index >> bit & 1).bool()
        rows = product([_where(chosen, v) for v in directions])
        for row in rows:
            size = row.abs().flatten(1).amax(1)
            inside = torch.maximum(inside, size[chosen].max())
            outside = torch.maximum(outside, size[~chosen].max())
    seen = torch.maximum(inside, outside)
    if not (seen > 0 and seen.isfinite()):
        return None
    # Zero if samples do not interact, up to rounding if a kernel sums over samples.
    return bool(outside > 1e2 * torch.finfo(seen.dtype).eps * inside)


def _reached(start: Node | None, *, but: Node | None) -> set[Node]:
    """Return the operations that precede one; parameters may be used on both sides of a layer."""
    found: set[Node] = set()
    stack = [start]
    while stack:
        node = stack.pop()
        if node is None or node is but or node in found or node.name().endswith("AccumulateGrad"):
            continue
        found.add(node)
        stack.extend(following for following, _ in node.next_functions)
    return found


def _where(chosen: Tensor, values: Tensor) -> Tensor:
    return values * chosen.reshape(-1, *[1] * (values.ndim - 1))


def _path(loss: Tensor, leaf: Tensor) -> list[Node]:
    """Return the operations on any path from ``loss`` back to ``leaf``."""
    if loss.grad_fn is None:
        return []
    start = get_gradient_edge(leaf).node
    leads: dict[Node, bool] = {start: True}
    stack = [loss.grad_fn]
    while stack:  # depth first: a node is done once all its predecessors are
        following = [f for f, _ in stack[-1].next_functions if f is not None]
        unsettled = [f for f in following if f not in leads]
        if unsettled:
            stack.extend(unsettled)
            continue
        node = stack.pop()
        if node not in leads:
            leads[node] = any(leads[f] for f in following)
    return [node for node, does in leads.items() if does and node is not start]
