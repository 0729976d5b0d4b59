"""What the adapters share: the objective inside a wrapper, and the names of what is logged."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness import FAM, FlatnessError, Terms


def objective_of(wrapped: object, where: str) -> FAM:
    """Return the objective that is handed to an adapter, wrapped or not.

    Raises:
        FlatnessError: If it is none.
    """
    inner = wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped
    if not isinstance(inner, FAM):
        raise FlatnessError(
            f"{where} takes the objective, FAM(model, layer=..., loss=..., weight=...), got a "
            f"{type(inner).__name__}."
        )
    return inner


def check_model_is_of(objective: FAM, model: Module | None, where: str) -> None:
    """Refuse another network than the one that the objective trains."""
    if model is not objective.model:
        raise FlatnessError(
            f"{where} got another model, a {type(model).__name__}, than the objective's, a "
            f"{type(objective.model).__name__}: the penalty would belong to a network that is not "
            "trained. Pass the same model, model=objective.model."
        )


def processes() -> tuple[int, int]:
    """Return the number of this process and that of all."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def named(terms: Terms) -> dict[str, Tensor]:
    """Return the terms as they are logged; no penalty on a step that carries none."""
    values = {"train/loss": terms.loss, "train/total": terms.total}
    if terms.penalty is not None:
        values["train/penalty"] = terms.penalty
    return {name: value.detach() for name, value in values.items()}
