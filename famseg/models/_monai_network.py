"""Any two-dimensional MONAI classifier by the name of its class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from monai.networks import nets
from monai.networks.utils import eval_mode
from monai.utils import OptionalImportError
from torch import Tensor, nn

from famseg.messages import near
from famseg.models._classifier import Classifier, out_of_place

# Exceptions of a constructor for unknown or incompatible arguments.
_REFUSALS = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    OptionalImportError,
)


def monai_network(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    size: int = 32,
    arguments: Mapping[str, Any] | None = None,
    features: int | None = None,
) -> Classifier:
    """Return a network of ``monai.networks.nets`` whose last linear layer is the head.

    Arguments for two dimensions, channels, classes and edge, by any of MONAI's names, are filled in
    if they are missing, and ``pretrained`` is false. The network is run once on an empty image:
    its output must be that of its last linear layer. A head of the right shape keeps MONAI's
    initialization.

    Args:
        name: Name of a class of ``monai.networks.nets``, ``"DenseNet121"`` say.
        classes: How many classes there are.
        channels: Channels of the images.
        size: Their edge in pixels.
        arguments: Arguments of the class.
        features: Features of an extra linear layer before the head, see
            :class:`famseg.models.Classifier`.

    Raises:
        ValueError: If there is no such class, it refuses its arguments or the images, or it does
            not end in a linear layer.

    Example:
        >>> options = {"block_config": [1, 1], "init_features": 8, "growth_rate": 4}
        >>> net = monai_network("DenseNet", classes=7, size=32, arguments=options)
        >>> net.head
        Linear(in_features=10, out_features=7, bias=True)
    """
    network = out_of_place(_built(name, classes, channels, size, dict(arguments or {})))
    image = torch.zeros(1, channels, size, size)
    layer, seen = _last_linear(network, image, name)
    head = network.get_submodule(layer)
    assert isinstance(head, nn.Linear)  # noqa: S101 - found among the linear layers
    network.set_submodule(layer, nn.Identity())
    body = _Body(network)
    if not _gives(body, image, seen):
        raise ValueError(_not_last(name, layer))
    kept = head if features is None and head.out_features == classes else None
    return Classifier(body, width=head.in_features, classes=classes, features=features, head=kept)


class _Body(nn.Module):
    """A network without its last linear layer, and with only the first of several outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _first(self.network(images)).flatten(1)


def _first(output: Tensor | tuple[Any, ...] | list[Any]) -> Tensor:
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first


def _built(
    name: str, classes: int, channels: int, size: int, arguments: dict[str, Any]
) -> nn.Module:
    """Return the network, with one-line errors for invalid names and arguments."""
    known = {
        key: value
        for key, value in vars(nets).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and key == value.__name__
    }
    if name not in known:
        meant = near(name, known)
        advice = f"Did you mean {meant}?" if meant else "Its documentation lists them."
        raise ValueError(f"monai.networks.nets has no network class {name}. {advice}")
    takes = _parameters(known[name])
    known_values = {
        **dict.fromkeys(("spatial_dims", "dimensions"), 2),
        **dict.fromkeys(("in_channels", "n_input_channels"), channels),
        **dict.fromkeys(("num_classes", "classes", "out_channels"), classes),
        **dict.fromkeys(("img_size", "image_size"), size),
        "in_shape": (channels, size, size),
        "pretrained": False,
    }
    filled = {key: value for key, value in known_values.items() if key in takes}
    unknown = [key for key in arguments if key not in takes]
    if unknown:
        meant = near(unknown[0], takes)
        advice = f"did you mean {meant}?" if meant else f"it takes {', '.join(takes)}"
        raise ValueError(f"{name} takes no argument {unknown[0]} ({advice}).")
    try:
        network: nn.Module = known[name](**{**filled, **arguments})
    except _REFUSALS as error:
        raise ValueError(f"{name} rejects its arguments: {_line(error)}") from error
    return network


def _parameters(kind: type[nn.Module]) -> list[str]:
    """Return the parameter names of a class, including those of its base if it passes them on."""
    names: dict[str, None] = {}
    for each in kind.__mro__:
        if "__init__" not in vars(each) or each is nn.Module:
            continue
        parameters = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]
        names |= {p.name: None for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def _last_linear(network: nn.Module, image: Tensor, name: str) -> tuple[str, Tensor]:
    """Return the name of the linear layer whose output the network returns, and its input."""
    calls: list[tuple[str, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, output, key=key: calls.append((key, inputs[0], output))
        )
        for key, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with eval_mode(network):
            result = network(image)
    except _REFUSALS as error:
        shape = " x ".join(map(str, image.shape[1:]))
        raise ValueError(f"{name} takes no images of {shape}: {_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    last = _first(result)
    if not calls:
        raise ValueError(f"{name} has no linear layer that could be the head.")
    key, seen, output = calls[-1]
    same = isinstance(last, Tensor) and last.data_ptr() == output.data_ptr()
    if not same or seen.ndim != 2 or last.numel() != output.numel():
        raise ValueError(_not_last(name, key))
    return key, seen


def _gives(body: nn.Module, image: Tensor, features: Tensor) -> bool:
    """Return whether a body returns exactly these features for an image."""
    try:
        with eval_mode(body):
            return torch.equal(body(image), features)
    except _REFUSALS:  # an operation after the layer requires the number of classes
        return False


def _not_last(name: str, layer: str) -> str:
    return (
        f"{name} does not end in its last linear layer ({layer}), so that layer cannot be the "
        "head. Remove what follows it (ViT: classification: true, post_activation: none), or "
        "choose "
        "a network for classification."
    )


def _line(error: BaseException) -> str:
    """Return the first line of an error."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{text or type(error).__name__}."
