"""Layers whose kernels in torch are slow on processors, with faster equivalents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F


def use_cpu_layers(module: nn.Module) -> nn.Module:
    """Replace layers of a 3D network whose kernels in torch are slow on processors.

    The new layers compute the same functions up to rounding, with derivatives of any order, and
    share the parameters, whose names they keep. With both, a step of the autoencoder takes about
    0.85 of the time (``benchmarks/cpu_layers.py``):

    - ``PReLU`` with one parameter. Torch's backward pass writes the derivative by the parameter for
      every voxel before it adds them up: 9 ms for 2 x 32 x 32^3 voxels on two cores, here 3 ms.
    - ``ConvTranspose3d`` to one channel. oneDNN computes a whole block of output channels: from 32
      channels at 32^3 to one at 64^3, 13 ms for two samples, as products and sums 3 ms.

    They use torch's kernels on other devices and for other dtypes, under autocast, while a network
    is traced or compiled, and wherever functions are intercepted or transformed (the estimators of
    `famseg.flatness`, ``torch.func``).

    Args:
        module: The network, changed in place.

    Returns:
        The same network.

    Example:
        >>> net = use_cpu_layers(nn.Sequential(nn.ConvTranspose3d(4, 1, 3), nn.PReLU()))
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '1.weight']
    """
    for name, child in module.named_children():
        if type(child) is nn.PReLU and child.num_parameters == 1:
            setattr(module, name, _same_state(PReLU(device="meta"), child))
        elif type(child) is nn.ConvTranspose3d and _suits(child):
            setattr(module, name, _same_state(ConvTranspose3d.like(child), child))
        else:
            use_cpu_layers(child)
    return module


def _suits(layer: nn.ConvTranspose3d) -> bool:
    return layer.out_channels == layer.groups == 1 and set(layer.dilation) == {1}


def _same_state(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give a layer the parameters of another one, without drawing random numbers."""
    for name, parameter in old.named_parameters():
        setattr(new, name, parameter)
    return new.train(old.training)


def _own_kernel(x: Tensor, weight: Tensor) -> bool:
    """Return whether nothing but autograd and a processor's single precision is involved."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and torch._C._len_torch_function_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


class PReLU(nn.PReLU):
    # Named as torch's, as reports and error messages name layers.

    def forward(self, input: Tensor) -> Tensor:
        if input.requires_grad and torch.is_grad_enabled() and _own_kernel(input, self.weight):
            return _apply(_PReLUFunction, input, self.weight)
        return super().forward(input)


class _PReLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, by the slope too
            by_x = torch.where(x > 0, gradient, slope * gradient)
            return by_x, (gradient * x.clamp(max=0)).sum().reshape(slope.shape)
        by_x = torch.ops.aten.leaky_relu_backward(gradient, x, slope.item(), False)
        by_slope = torch.dot(gradient.flatten(), x.clamp(max=0).flatten())
        return by_x, by_slope.reshape(slope.shape)


class ConvTranspose3d(nn.ConvTranspose3d):
    # To one channel.

    @classmethod
    def like(cls, layer: nn.ConvTranspose3d) -> ConvTranspose3d:
        """Return a layer of the same geometry without values."""
        return cls(
            layer.in_channels,
            1,
            layer.kernel_size,  # type: ignore[arg-type]  # a tuple of three
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.output_padding,  # type: ignore[arg-type]
            bias=layer.bias is not None,
            device="meta",
        )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _own_kernel(input, self.weight) or output_size is not None or not self._fits(input):
            return super().forward(input, output_size)
        geometry = (self.stride, self.padding, self.output_padding)
        output = _apply(_ToOneChannelFunction, input, self.weight, geometry)
        return output if self.bias is None else output + self.bias

    def _fits(self, x: Tensor) -> bool:
        return x.ndim == 5 and len(x) > 0 and x.shape[1] == self.in_channels


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
