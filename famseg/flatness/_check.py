"""Checks of arguments and surroundings."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness._errors import FlatnessError


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise FlatnessError(f"{name} must be one of {listed}, got {value!r}.")


def check_count(name: str, value: object, *words: str) -> None:
    """Refuse what is neither a whole number of at least 1 nor one of some words."""
    if isinstance(value, str) and value in words:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        others = "".join(f" or {word!r}" for word in words)
        raise FlatnessError(f"{name} must be a whole number of at least 1{others}, got {value!r}.")


def check_model(model: nn.Module) -> None:
    """Refuse wrappers that must lie around the objective, and sharded parameters."""
    for name, module in model.named_modules():
        # By name: importing some takes a second, and whoever uses one has imported it.
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & {"DistributedDataParallel", "DataParallel"}:
            what = f"module {name!r} is a" if name else "the model is a"
            raise FlatnessError(
                f"{what} {type(module).__name__}: wrap the objective instead, "
                "DistributedDataParallel(FAM(model, ...)), so that one backward pass covers the "
                "penalty."
            )
        if kinds & {"FullyShardedDataParallel", "FSDPModule"}:
            raise FlatnessError(
                f"module {name!r} is sharded (FSDP): each process has only a part of the weight. "
                "Use DistributedDataParallel(FAM(model, ...))."
            )


def check_ddp() -> None:
    """Refuse a DistributedDataParallel around the objective that is known to train wrongly."""
    wrapper = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if wrapper is not None and wrapper.static_graph:
        raise FlatnessError(
            "DistributedDataParallel(static_graph=True) silently gives wrong gradients for a "
            "penalty with second derivatives. Leave static_graph at False."
        )
