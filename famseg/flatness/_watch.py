"""One forward pass with the penalised layer under observation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from famseg.flatness._errors import LayerError


class Site:
    """What the layer saw and gave during one pass: `features`, `output`, and the added `shift`."""

    features: Tensor
    output: Tensor
    shift: Tensor

    def __init__(self, name: str) -> None:
        self._name = name
        self.calls = 0

    def record(self, features: Tensor, output: Tensor) -> Tensor:
        """Keep the tensors of a call; return its output with a leaf of zeros added."""
        self.features = features
        self.shift = torch.zeros_like(output, requires_grad=True)
        self.output = output + self.shift
        self._version = self.output._version
        return self.output

    def is_output(self, prediction: object) -> bool:
        """Return whether the model returned the layer's output itself, unchanged."""
        return prediction is self.output and self.output._version == self._version

    def check_called_once(self) -> None:
        """Refuse a pass that used the layer never or more than once."""
        if self.calls == 1:
            return
        if self.calls == 0:
            raise LayerError(
                f"layer {self._name!r} was not called in the forward pass: penalise one that is "
                "(layers inside nn.MultiheadAttention or a compiled block are never called)."
            )
        raise LayerError(
            f"layer {self._name!r} was called {self.calls} times in one forward pass: its flatness "
            "would have to count every use. Penalise a layer that is called once."
        )


@contextmanager
def watched(layer: nn.Linear, name: str) -> Iterator[Site]:
    """Run a forward pass, loss included, inside this context.

    Within it the layer's output gets a leaf of zeros added, the network from the layer on
    runs in the precision of its weight (autocast ends there), and attention uses the one kernel
    that has second derivatives. All of it is undone on leaving, exceptions included.
    """
    site = Site(name)
    device = layer.weight.device.type
    autocast = torch.amp.is_autocast_available(device)

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        site.calls += 1
        # Asked here and not before the pass: a network may enter autocast by itself.
        if not (autocast and torch.is_autocast_enabled(device)):
            return None
        torch.set_autocast_enabled(device, False)
        dtype = layer.weight.dtype
        return tuple(a.to(dtype) for a in args), {k: a.to(dtype) for k, a in kwargs.items()}

    def after(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        if site.calls > 1:
            return None  # refused as soon as the pass is over
        features: Tensor = args[0] if args else kwargs["input"]
        _check_features(features, name)
        return site.record(features, output)

    with ExitStack() as stack:
        if autocast:
            # Restores the caller's autocast state whatever the hook and the network did to it.
            enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(layer.register_forward_hook(after, with_kwargs=True).remove)
        yield site


@contextmanager
def without_autocast(device: str) -> Iterator[None]:
    """Leave autocast where it exists; a network may have re-entered it by itself."""
    if not torch.amp.is_autocast_available(device):
        yield
        return
    with torch.autocast(device, enabled=False):
        yield


def _check_features(features: Tensor, name: str) -> None:
    if features.ndim < 2:
        raise LayerError(
            f"layer {name!r} got an input of shape {tuple(features.shape)}: it needs a batch "
            "dimension. Feed a batch of one as inputs[None]."
        )
    if features.shape[0] == 0:
        raise LayerError(f"layer {name!r} got an empty batch: flatness is a mean over samples.")
    if features.numel() == 0:
        raise LayerError(f"layer {name!r} got an empty input of shape {tuple(features.shape)}.")
