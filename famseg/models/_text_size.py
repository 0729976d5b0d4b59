"""Check of the size of a network in a folder before it is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from famseg.files import NotPlainError, check_file
from famseg.messages import InputError

_MOST_LAYERS = 1_000
# Bytes in float32 that a checkpoint may lack: a pooler and a head with a width of up to 4,096.
_MOST_NEW = 2**25


def check_size(transformers: ModuleType, config: Any, path: str, folder: Path | None) -> None:  # noqa: ANN401
    """Refuse a network whose weights do not match its configuration in size, or are packed.

    A network is built before its weights are read, so a wrong number in config.json could exhaust
    memory or build layers for hours. This check costs as much as building the layers without
    weights.

    Args:
        transformers: The package.
        config: The configuration, an object of this package.
        path: Name in messages.
        folder: Folder of the weights; None for weights on the hub, which must fit into memory.

    Raises:
        InputError: If there are too many layers, more weights than fit into the files, or
            compressed files.
    """
    for name, value in _numbers(config.to_dict()):
        if "layer" in name and value > _MOST_LAYERS:
            raise InputError(
                f"model.path: {path}: config.json has {name} {_short(value)}, more than "
                f"{_MOST_LAYERS}. Choose another network."
            )
    with torch.device("meta"):
        network = transformers.AutoModelForSequenceClassification.from_config(config)
    asked = sum(weight.numel() for weight in network.parameters())
    if folder is None:
        room, place = psutil.virtual_memory().available // 4, "the free memory"
    else:
        saved = list(folder.glob("pytorch_model*.bin"))
        for file in saved:
            try:
                check_file(file)
            except NotPlainError as error:
                raise InputError(f"model.path: {file}: {error}. Copy it again.") from error
        files = [*folder.glob("*.safetensors"), *saved]
        if not files:
            return  # transformers lists the files that it searched, and builds nothing
        # A weight takes at least one byte.
        room, place = sum(each.stat().st_size for each in files), "the files of weights"
    if asked > room + _MOST_NEW:
        raise InputError(
            f"model.path: {path}: config.json asks for {_short(asked)} weights, but there is "
            f"room for {room} in {place}. Put the files of one model together, or choose another "
            "network."
        )


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield name, value


def _short(number: int) -> str:
    return str(number) if number < 10**20 else "over 10^20"
