"""Layers whose kernels in torch are slow on processors, with faster equivalents."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

_Layer = TypeVar("_Layer", bound=nn.Module)


def use_cpu_layers(module: nn.Module) -> nn.Module:
    """Replace layers of a new network whose kernels in torch are slow on processors.

    The new layers compute the same functions up to rounding, with the derivatives that torch has,
    and share the parameters, whose names they keep. With both, a step of the autoencoder takes
    0.8 to 0.9 of the time (``benchmarks/cpu_layers.py``):

    - ``PReLU`` with one parameter. Torch's backward pass does not use vector instructions: 9 ms for
      2 x 32 x 32^3 voxels on two cores, here 2 ms.
    - ``ConvTranspose3d`` to one channel. oneDNN computes a whole block of output channels: from 32
      channels at 32^3 to one at 64^3, 13 ms for two samples, as products and sums 3 ms.

    They use torch's kernels on other devices and for other dtypes, under autocast, while a network
    is traced, scripted or compiled, and where functions are intercepted or transformed, as by most
    estimators of `famseg.flatness` and by ``torch.func``.

    Args:
        module: The network, changed in place; its layers have no hooks yet.

    Returns:
        The same network.

    Example:
        >>> net = use_cpu_layers(nn.Sequential(nn.ConvTranspose3d(4, 1, 3), nn.PReLU()))
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '1.weight']
    """
    for name, child in module.named_children():
        if type(child) is nn.PReLU and child.num_parameters == 1:
            setattr(module, name, _as(child, PReLU))
        elif type(child) is nn.ConvTranspose3d and _to_one(child):
            setattr(module, name, _as(child, ConvTranspose3d))
        else:
            use_cpu_layers(child)
    return module


def _to_one(layer: nn.ConvTranspose3d) -> bool:
    return layer.out_channels == layer.groups == 1 and set(layer.dilation) == {1}


def _as(layer: nn.Module, kind: type[_Layer]) -> _Layer:
    """Return a layer with the same state as another class, without drawing random numbers."""
    other = copy.copy(layer)
    other.__class__ = kind
    assert isinstance(other, kind)  # noqa: S101 - for the type checker
    return other


def _own_kernel(x: Tensor, weight: Tensor) -> bool:
    """Return whether these are plain arrays of single precision that nothing but autograd sees."""
    return (
        type(x) is Tensor
        and x.layout is torch.strided
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and torch._C._len_torch_function_stack() == 0
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


class PReLU(nn.PReLU):
    # Named as torch's, as reports and error messages name layers.

    def forward(self, input: Tensor) -> Tensor:
        if _own_kernel(input, self.weight) and input.requires_grad and torch.is_grad_enabled():
            return _apply(_PReLUFunction, input, self.weight)
        return super().forward(input)

    def __prepare_scriptable__(self) -> nn.Module:
        return _as(self, nn.PReLU)


class _PReLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x, slope = ctx.saved_tensors
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(gradient):
            wide = slope.reshape((1,) * x.ndim)
            by_x, by_slope = torch.ops.aten._prelu_kernel_backward(gradient, x, wide)
            return by_x, by_slope.sum().reshape(slope.shape)
        by_x = torch.ops.aten.leaky_relu_backward(gradient, x, slope.item(), False)
        # Not by torch.dot, which loses digits over millions of voxels.
        return by_x, x.clamp(max=0).mul_(gradient).sum().reshape(slope.shape)


class ConvTranspose3d(nn.ConvTranspose3d):
    # To one channel.

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        own = _own_kernel(input, self.weight) and output_size is None and self._fits(input)
        if not own:
            return super().forward(input, output_size)
        geometry = (self.stride, self.padding, self.output_padding)
        output = _apply(_ToOneChannelFunction, input, self.weight, geometry)
        return output if self.bias is None else output + self.bias

    def _fits(self, x: Tensor) -> bool:
        """Return whether torch would accept the input, and there is something to compute."""
        if x.ndim != 5 or x.shape[1] != self.in_channels or not x.numel():
            return False
        padding: Any = self.padding  # in general it may be a word
        sizes = zip(x.shape[2:], self.stride, self.kernel_size, padding, strict=True)
        return (self.bias is None or self.bias.dtype == x.dtype) and all(
            (size - 1) * step + kernel > 2 * margin for size, step, kernel, margin in sizes
        )

    def __prepare_scriptable__(self) -> nn.Module:
        return _as(self, nn.ConvTranspose3d)


class _ToOneChannelFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Any) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _to_one_channel(x, weight, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        stride, padding, output_padding = ctx.geometry
        by_x, by_weight, _ = torch.ops.aten.convolution_backward(
            gradient,
            *ctx.saved_tensors,
            None,
            stride,
            padding,
            (1, 1, 1),
            True,  # transposed
            output_padding,
            1,
            [*ctx.needs_input_grad[:2], False],
        )
        return by_x, by_weight, None


def _to_one_channel(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
) -> Tensor:
    """Return the transposed convolution: what each voxel gives to each tap, added axis by axis."""
    kernel = weight.shape[2:]
    matrix = weight.reshape(len(weight), math.prod(kernel)).T
    samples = []
    for sample in x:  # one by one: the taps of a sample take nearly as much memory as its features
        parts = (matrix @ sample.flatten(1)).reshape(*kernel, *sample.shape[1:])
        for axis, (size, step) in enumerate(zip(sample.shape[1:], stride, strict=True)):
            each = parts.unbind(0)
            along = each[0].ndim - 3 + axis
            used = (size - 1) * step + 1
            shape = list(each[0].shape)
            shape[along] = used - 1 + kernel[axis] + output_padding[axis]
            added = x.new_zeros(shape)
            for tap, part in enumerate(each):
                added[(slice(None),) * along + (slice(tap, tap + used, step),)] += part
            parts = added.narrow(along, padding[axis], shape[along] - 2 * padding[axis])
        samples.append(parts[None])
    return torch.stack(samples)


def _apply(function: type[torch.autograd.Function], *inputs: object) -> Tensor:
    apply: Callable[..., Tensor] = function.apply
    return apply(*inputs)
