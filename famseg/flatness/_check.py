"""Checks of arguments and of wrappers around the model."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness._errors import FlatnessError


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise an error if a value is not among the choices."""
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise FlatnessError(f"{name} must be one of {listed}, got {value!r}.")


def check_count(name: str, value: object, *words: str) -> None:
    """Raise an error unless a value is a positive integer or one of the given words."""
    if isinstance(value, str) and value in words:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        others = "".join(f" or {word!r}" for word in words)
        raise FlatnessError(f"{name} must be a whole number of at least 1{others}, got {value!r}.")


def check_model(model: nn.Module) -> None:
    """Refuse sharded parameters, and wrappers that must enclose the objective, not the model."""
    for name, module in model.named_modules():
        # Compared by name, since importing some of them takes a second.
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
    """Refuse settings of DistributedDataParallel around the objective that train wrongly."""
    wrapper = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if wrapper is not None and wrapper.static_graph:
        raise FlatnessError(
            "DistributedDataParallel(static_graph=True) silently gives wrong gradients for a "
            "penalty with second derivatives. Leave static_graph at False."
        )
