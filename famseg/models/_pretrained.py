"""Loading of trained weights from a local file into a classifier."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from famseg.files import NotPlainError, load_plain
from famseg.messages import InputError
from famseg.models._classifier import Classifier

_logger = logging.getLogger("famseg")
# Keys of the state dict in checkpoints; the last is that of a famseg run.
_NESTED = ("state_dict", "model_state_dict", "model")
_NEW = ("features.", "head.")
_SHOWN = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return trained weights by name, without executing code in the file.

    Args:
        path: ``torch.save`` of a state dict, plain or under ``state_dict``, ``model_state_dict`` or
            ``model``; or, by the suffix ``.safetensors``, a file of that format. The prefix
            ``module.`` of DataParallel is removed from names.

    Raises:
        InputError: If the file is missing, unreadable or contains something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of weights. Check model.weights.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = isinstance(content, Mapping) and all(isinstance(x, Tensor) for x in content.values())
    if not tensors or not content:
        raise InputError(
            f"{path}: contains no named weights. Save model.state_dict() with torch.save."
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_weights(
    model: Classifier,
    weights: Mapping[str, Tensor],
    *,
    path: Path,
    network: str,
    rename: Mapping[str, str] | None = None,
) -> None:
    """Load trained weights; everything except the head must exist and fit.

    If the head has another shape or is missing, the new head and the layer of features before it
    are kept, with a line in the log.

    Args:
        model: The classifier, changed in place.
        weights: Weights from `read_weights`.
        path: The file of the weights, for messages.
        network: Name of the network, for messages.
        rename: Maps names of the weights to names in the model; others are unchanged.

    Raises:
        InputError: If they are weights of another network.
    """
    found = {(rename or {}).get(name, name): tensor for name, tensor in weights.items()}
    own = model.state_dict()
    new = [name for name in own if name.startswith(_NEW)]
    fits = all(name in found and found[name].shape == own[name].shape for name in new)
    if not fits:
        _logger.info("%s", _replaced(path, found.get("head.weight"), model))
        found = {name: x for name, x in found.items() if not name.startswith(_NEW)}
    wanted = [name for name in own if fits or name not in new]
    _check(found, own, wanted, path, network)
    model.load_state_dict({**own, **found})


def _read_torch(path: Path) -> Any:  # noqa: ANN401
    try:
        return load_plain(path)
    except (OSError, NotPlainError) as error:
        raise InputError(
            f"{path}: not readable as weights ({error}). Save a plain state dict with "
            "torch.save(model.state_dict(), path)."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise InputError(
            f"{path}: reading .safetensors needs a package: pip install safetensors."
        ) from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}).") from error


def _replaced(path: Path, had: Tensor | None, model: Classifier) -> str:
    head = model.head
    there = "no head" if had is None else f"a head of {had.shape[0]} x {had.shape[1]}"
    return (
        f"{path} has {there}: the head of {head.out_features} classes x {head.in_features} "
        "features is initialized randomly."
    )


def _check(
    found: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    wanted: Collection[str],
    path: Path,
    network: str,
) -> None:
    """Refuse weights of another network with a one-line error."""
    # Old files lack the count of batches, which has no effect with a momentum.
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    unknown = [key for key in found if key not in own]
    other = [
        f"{key} {tuple(found[key].shape)} for {tuple(own[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != own[key].shape
    ]
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", other))
        if keys
    ]
    if faults:
        raise InputError(
            f"{path}: not the weights of this {network}: of {len(wanted)} names "
            f"{'; '.join(faults)}. Use the file of the same variant and number of channels."
        )
