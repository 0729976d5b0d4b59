"""Relative flatness in MONAI's ``SupervisedTrainer``.

objective = FAM(network, layer="fc", loss=loss, weight=0.1)
trainer = SupervisedTrainer(
    ..., network=network, loss_function=loss, iteration_update=FAMStep(objective)
)
trainer.run()
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from famseg.adapters._objective import check_model_is_of, named, objective_of, processes
from famseg.adapters._prediction import Predictions
from famseg.flatness import FAM, FlatnessError, Terms

__all__ = ["FAMStep", "train_terms"]


class FAMStep:
    """One iteration of a ``SupervisedTrainer`` with the objective in place of the loss.

    It does what MONAI's own iteration does, with its settings: ``prepare_batch``, ``amp`` and
    ``amp_kwargs`` (on a CPU too), ``accumulation_steps``, ``optim_set_to_none``, the events and
    the output (image, label, pred, loss). Added to the output are ``"total"`` and ``"penalty"``,
    NaN where a step carries none; see `train_terms`. All of it is detached. The events
    ``FORWARD_COMPLETED`` and ``LOSS_COMPLETED`` occur in direct succession, since prediction, loss
    and penalty are computed in one pass.

    Which steps carry a penalty, and which probes, follows from the trainer's iteration: a run that
    MONAI's ``CheckpointLoader`` resumed continues as one that was never stopped. Save the objective
    as well where it has a ``generator``.

    Args:
        objective: The objective, or ``DistributedDataParallel(objective)``. Its model is the
            trainer's ``network``, its loss the trainer's ``loss_function``.
        clip_norm: Largest norm of the gradient of an optimizer step.
        scaler: Scales the total where the trainer has ``amp``; the trainer's own by default,
            which is for CUDA.

    Raises:
        FlatnessError: If the objective is none, or, at the first iteration, if the trainer's
            settings do not fit.
    """

    def __init__(
        self,
        objective: FAM | DistributedDataParallel,
        *,
        clip_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise FlatnessError(f"clip_norm must be above 0, got {clip_norm}.")
        self.wrapped = objective
        self.objective = objective_of(objective, "FAMStep")
        self.clip_norm = clip_norm
        self.scaler = scaler
        self._checked: SupervisedTrainer | None = None

    def __call__(self, engine: SupervisedTrainer, batch: object) -> dict[str, Any]:
        """Run one iteration and return the engine's output.

        Args:
            engine: The trainer.
            batch: What its loader gave.

        Returns:
            Image, label, pred, loss, total and penalty.
        """
        if engine is not self._checked:
            self._check(engine)
            self._checked = engine
        step, part, size, last = _position(engine)
        inputs, targets, arguments = _prepared(engine, self.objective.model, batch)
        engine.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets}
        rank, world = processes()
        self.objective.seek(step, stream=part * world + rank)
        self.wrapped.train()
        if part == 0:
            engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        scaler = self.scaler or (engine.scaler if engine.amp else None)
        with self._synchronized(last):
            terms = self._terms(engine, arguments, targets)
            total = terms.total / size
            (total if scaler is None else scaler.scale(total)).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if last:
            self._move(engine, scaler)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        output: dict[str, Any] = engine.state.output
        return output

    def _terms(self, engine: SupervisedTrainer, arguments: Any, targets: Any) -> Terms:  # noqa: ANN401
        predictions, output = Predictions(), engine.state.output
        autocast: AbstractContextManager[object] = nullcontext()
        if engine.amp:
            autocast = torch.autocast(torch.device(engine.state.device).type, **engine.amp_kwargs)
        with predictions.of(self.objective.model), autocast:
            terms: Terms = self.wrapped(arguments, _plain(targets))
        image = output[CommonKeys.IMAGE]
        output[CommonKeys.PRED] = _like(_detached(predictions.behind(terms.loss)), image)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        output[CommonKeys.LOSS] = terms.loss.detach()
        output["total"] = terms.total.detach()
        output["penalty"] = (
            terms.loss.new_full((), math.nan) if terms.penalty is None else terms.penalty.detach()
        )
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        return terms

    def _move(self, engine: SupervisedTrainer, scaler: torch.amp.GradScaler | None) -> None:
        if self.clip_norm is not None:
            if scaler is not None:
                scaler.unscale_(engine.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_norm)
        if scaler is None:
            engine.optimizer.step()
        else:
            scaler.step(engine.optimizer)
            scaler.update()

    def _synchronized(self, last: bool) -> AbstractContextManager[object]:
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def _check(self, engine: SupervisedTrainer) -> None:
        network = engine.network
        if engine.compile:
            raise FlatnessError(
                "SupervisedTrainer(compile=True) compiles the whole network, and compiled "
                "modules have no second derivatives. Leave it at False and compile the part "
                "before the layer: network.body = torch.compile(network.body)."
            )
        if isinstance(network, DistributedDataParallel) and network is not self.wrapped:
            raise FlatnessError(
                "the trainer's network is a DistributedDataParallel around only the model, whose "
                "gradients are wrong with a penalty. Wrap the objective: "
                "FAMStep(DistributedDataParallel(objective)), network=objective.model."
            )
        if network is not self.wrapped and network is not self.objective:
            check_model_is_of(self.objective, network, "SupervisedTrainer(network=...)")
        if engine.loss_function is not self.objective.loss:
            raise FlatnessError(
                "the trainer's loss_function is not the objective's, which is the loss that is "
                "minimized. Pass the same loss, loss_function=objective.loss."
            )
        if type(engine.inferer) is not SimpleInferer:
            raise FlatnessError(
                f"the trainer has a {type(engine.inferer).__name__}: the penalty belongs to a "
                "single pass of the network. Remove inferer."
            )


def train_terms(output: Any) -> dict[str, float]:  # noqa: ANN401
    """Return the terms in a step's output by the names under which they are logged.

    For the ``output_transform`` of MONAI's ``StatsHandler``, ``TensorBoardStatsHandler`` and
    ``MLFlowHandler``.

    Args:
        output: ``engine.state.output``, decollated or not.

    Returns:
        ``train/loss``, ``train/total`` and, on steps that carry one, ``train/penalty``.

    Example:
        >>> train_terms({"loss": torch.tensor(1.0), "total": 1.5, "penalty": float("nan")})
        {'train/loss': 1.0, 'train/total': 1.5}
    """
    first = output[0] if isinstance(output, list) else output
    loss, total, penalty = (
        torch.as_tensor(first[key]) for key in (CommonKeys.LOSS, "total", "penalty")
    )
    terms = Terms(total, loss, None if penalty.isnan() else penalty)
    return {name: value.item() for name, value in named(terms).items()}


def _position(engine: SupervisedTrainer) -> tuple[int, int, int, bool]:
    """Return the number of the step, of the pass in it, the divisor, and whether it is the last.

    They are counted as in `SupervisedTrainer`, where a window ends with its epoch.
    """
    size, length = engine.accumulation_steps, engine.state.epoch_length
    iteration = engine.state.iteration - 1
    if length is None:
        step, part = divmod(iteration, size)
        return step, part, size, part + 1 == size
    epoch, inside = divmod(iteration, length)
    step, part = divmod(inside, size)
    last = part + 1 == size or inside + 1 == length
    return epoch * math.ceil(length / size) + step, part, size, last


def _prepared(
    engine: SupervisedTrainer, model: nn.Module, batch: object
) -> tuple[Any, Any, tuple[Any, ...] | dict[str, Any]]:
    """Return image and label for the output, and the model's arguments."""
    if batch is None:
        raise ValueError("Must provide batch data for current iteration.")
    prepared = engine.prepare_batch(
        batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
    )
    inputs, targets, args, kwargs = (*prepared, (), {}) if len(prepared) == 2 else prepared
    positional = (_plain(inputs), *map(_plain, args))
    if not kwargs:
        return inputs, targets, positional
    return inputs, targets, _by_name(model, positional, kwargs)


def _by_name(
    model: nn.Module, positional: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all arguments by name, since an objective accepts positions or names, but not both."""
    signature = inspect.signature(model.forward)
    bound = signature.bind(*positional, **{key: _plain(value) for key, value in kwargs.items()})
    names: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise FlatnessError(
                f"prepare_batch returned keyword arguments, and {type(model).__name__}.forward "
                f"takes {name!r} only by position. Return all arguments by position."
            )
        names.update(value if kind is inspect.Parameter.VAR_KEYWORD else {name: value})
    return names


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a tensor without MONAI's metadata, which each operation would copy."""
    return value.as_tensor() if isinstance(value, MetaTensor) else value


def _like(value: object, image: object) -> object:
    if not (isinstance(value, Tensor) and isinstance(image, MetaTensor)):
        return value
    return MetaTensor(value, meta=image.meta, applied_operations=image.applied_operations)


def _detached(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: _detached(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_detached(item) for item in value]
    return value
