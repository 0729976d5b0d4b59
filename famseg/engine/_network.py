"""Preparation of a network for training: hash, memory format, average, compilation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from famseg.messages import InputError

_DIMENSIONS = {torch.channels_last: 4, torch.channels_last_3d: 5}


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers with their names.

    Runs with the same hash started from the same weights, random or pretrained. Takes about a
    second for 100 million parameters.

    Example:
        >>> torch.manual_seed(0) and weights_hash(nn.Linear(2, 1))[:8]
        'b11a5770'
    """
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(values.view(torch.uint8).numpy())
    return found.hexdigest()


def order_channels_last(module: nn.Module) -> torch.memory_format:
    """Convert the weights to the channels-last format of images or volumes; return the format."""
    volumes = any(parameter.ndim == 5 for parameter in module.parameters())
    memory_format = torch.channels_last_3d if volumes else torch.channels_last
    module.to(memory_format=memory_format)  # type: ignore[call-overload]  # missing in torch's stub
    return memory_format


def in_memory_format(
    batch: Mapping[str, Any], memory_format: torch.memory_format
) -> Mapping[str, Any]:
    """Return the batch with its images (4 dimensions) or volumes (5) in a memory format."""
    dimensions = _DIMENSIONS.get(memory_format)
    if dimensions is None:
        return batch
    return {
        key: value.contiguous(memory_format=memory_format)
        if isinstance(value, Tensor) and value.ndim == dimensions
        else value
        for key, value in batch.items()
    }


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network that follows its weights and buffers by ``1 - decay`` per step."""
    mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=mean, use_buffers=True)


def compile_part(part: nn.Module | None, penalized: Mapping[str, nn.Module]) -> None:
    """Compile a part of a network in place, keeping its names.

    Args:
        part: The part; None if there is none.
        penalized: Layers by name that must not be compiled, because the penalty records their
            inputs and changes their weights, which compiled code would ignore.

    Raises:
        InputError: If there is no such part, or it contains a penalized layer.
    """
    if part is None:
        raise InputError(
            "training.compile: this pipeline has nothing that can be compiled. Set it to false."
        )
    inside = set(part.modules())
    for name, layer in penalized.items():
        if layer in inside:
            raise InputError(
                f"training.compile: penalty.layer {name} lies in the part that is compiled. Set "
                "training.compile to false, or penalize a layer after it."
            )
    part.compile()
