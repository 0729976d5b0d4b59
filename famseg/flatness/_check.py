"""Checks of arguments and surroundings."""

from __future__ import annotations

from torch.nn.parallel import DistributedDataParallel

from famseg.flatness._errors import FlatnessError


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise FlatnessError(f"{name} must be one of {listed}, got {value!r}.")


def check_count(name: str, value: int) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FlatnessError(f"{name} must be a whole number of at least 1, got {value!r}.")


def check_ddp() -> None:
    """Refuse a DistributedDataParallel around the objective that is known to train wrongly."""
    wrapper = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if wrapper is not None and wrapper.static_graph:
        raise FlatnessError(
            "DistributedDataParallel(static_graph=True) gives wrong gradients with a penalty of "
            "second derivatives, in silence. Leave static_graph at False."
        )
