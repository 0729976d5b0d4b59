"""Common functions of the adapters: the wrapped objective, and names of logged values."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness import FAM, FlatnessError, Terms


def objective_of(wrapped: object, where: str) -> FAM:
    """Return the objective passed to an adapter, which may be wrapped.

    Raises:
        FlatnessError: If it is not an objective.
    """
    inner = wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped
    if not isinstance(inner, FAM):
        raise FlatnessError(
            f"{where} takes the objective, FAM(model, layer=..., loss=..., weight=...), got a "
            f"{type(inner).__name__}."
        )
    return inner


def check_model_is_of(objective: FAM, model: Module | None, where: str) -> None:
    """Refuse a network other than the one that the objective trains."""
    if model is not objective.model:
        raise FlatnessError(
            f"{where} got another model, a {type(model).__name__}, than the objective's, a "
            f"{type(objective.model).__name__}: the penalty would belong to a network that is not "
            "trained. Pass the same model, model=objective.model."
        )


def processes() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def named(terms: Terms) -> dict[str, Tensor]:
    """Return the terms by their logged names, without a penalty on steps that have none."""
    values = {"train/loss": terms.loss, "train/total": terms.total}
    if terms.penalty is not None:
        values["train/penalty"] = terms.penalty
    return {name: value.detach() for name, value in values.items()}
