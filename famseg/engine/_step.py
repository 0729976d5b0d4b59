"""One training step: forward, one backward on the total, optimizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from famseg.engine._batches import Batches
from famseg.engine._network import in_memory_format
from famseg.engine._processes import Processes
from famseg.engine._sharpness import Sharpness, buffers_kept
from famseg.engine._synced_norm import Share
from famseg.engine._weight_noise import WeightNoise
from famseg.flatness import Terms, UnsupportedTailError
from famseg.messages import InputError, RunError
from famseg.objectives import JacobianNorm, Objective, check_parts, divisor_of

if TYPE_CHECKING:
    from famseg.engine._config import TrainingConfig

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteError(RunError):
    """The total or its gradient is not finite; raised before the optimizer step.

    Args:
        step: Number of the optimizer step, starting at 1.
        terms: The terms of the batch.
        norm: Norm of the gradient, if this is not finite.
    """

    def __init__(self, step: int, terms: Terms, *, norm: float | None = None) -> None:
        loss = f"loss {terms.loss.item():.6g}"
        penalty = "none" if terms.penalty is None else f"{terms.penalty.item():.6g}"
        what = "the objective" if norm is None else f"the gradient (norm {norm})"
        super().__init__(
            f"step {step}: {what} is not finite ({loss}, penalty {penalty}). The weights are those "
            "before the step. Lower the learning rate or lambda, or set training.clip_norm."
        )


class TrainStep:
    """The ``iteration_update`` of MONAI's trainer.

    MONAI's own step has no penalty, no clipping and no autocast on a CPU. A step is a pure function
    of weights, optimizer state, batch and step number: torch's global generator is seeded in every
    step from seed, step and rank, so that dropout needs no saved state for exact resuming.

    With ``sharpness``, the batches of an optimizer step are run a second time at the perturbed
    weights, with the same dropout, probes and augmentation, and both gradients are combined. With
    ``noise``, each batch is run at several perturbed weights, but not at the weights themselves. In
    both cases, running statistics count each batch once, and the reported numbers are those of the
    first pass.

    If the loss is not a mean over samples, as with class weights, the gradient of each part of a
    step is weighted with the divisor of its loss, and their sum is divided by the sum of these
    divisors over the parts and ranks of the step: the result is the gradient of the whole batch.

    Args:
        objective: Maps a batch to terms; wrapped in DDP if there are several ranks.
        training: Contains the precision, the number of forward passes per optimizer step, and the
            largest norm of the gradient.
        optimizer: Optimizer of the parameters.
        scheduler: Learning-rate schedule, advanced once per optimizer step.
        batches: Order and sizes of the batches.
        processes: The ranks of the run.
        device: The device of the computation.
        seed: Seed of dropout and the like.
        sharpness: Computes a second gradient at perturbed weights and combines both (SAM), or None.
        noise: Noise around the weights, over which the gradient is averaged (NSO), or None.
        augment: Changes a batch on the device before it is used.
        memory_format: Memory format of a batch's images.
        norm_share: With synchronized batch normalization, the switch for whether this rank's
            samples count.

    Attributes:
        asked: Returns the numbers that this rank contributes to `agreed`.
        agreed: Sums over the ranks of the results of `asked` in the last pass, which need no
            separate exchange.

    Raises:
        InputError: If batches are split into parts that do not determine the loss or penalty of
            the whole.
    """

    # Many arguments: parts that `assemble` creates once and that depend on each other.
    def __init__(
        self,
        objective: Objective | DistributedDataParallel,
        training: TrainingConfig,
        *,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        batches: Batches,
        processes: Processes,
        device: torch.device,
        seed: int,
        sharpness: Sharpness | None,
        noise: WeightNoise | None,
        augment: Callable[[dict[str, Any]], dict[str, Any]],
        memory_format: torch.memory_format,
        norm_share: Share | None,
    ) -> None:
        self.wrapped: Objective | DistributedDataParallel = objective
        self.objective: Objective = (
            cast("Objective", objective.module)
            if isinstance(objective, DistributedDataParallel)
            else objective
        )
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.batches = batches
        self.processes = processes
        self.device = device
        self.seed = seed
        self.precision = training.precision
        self.clip_norm = training.clip_norm
        self.accumulate = training.accumulate
        self.sharpness = sharpness
        self.noise = noise
        self.augment = augment
        self.memory_format = memory_format
        self.norm_share = norm_share
        self.asked: Callable[[], Sequence[float]] = tuple
        self.agreed: Sequence[float] = ()
        self._divisor = divisor_of(self.objective.terms.loss)
        if processes.world > 1 or self.accumulate > 1:
            _check_parts(self.objective)
        self._window_batches: list[tuple[int, Mapping[str, Any]]] = []
        self._window_weight = 0.0  # of this rank's parts so far
        self._total_weight = 0.0  # of all ranks, known after the last pass
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def __call__(self, engine: Engine, batch: Mapping[str, Any]) -> dict[str, float]:
        """Run one iteration, leaving only numbers in ``engine.state.output``."""
        began = time.perf_counter()
        iteration = engine.state.iteration - 1
        first, last = self.window(iteration)
        if iteration == first:
            self.optimizer.zero_grad(set_to_none=True)
            self._window_batches.clear()
            self._window_weight = 0.0
        moved = self.on_device(batch)
        weight = self._weight(iteration, moved)
        self._window_weight += weight
        terms = self._passes(iteration, moved)
        if self.sharpness is not None and self.sharpness.due(self.optimizer_step(iteration)):
            self._window_batches.append((iteration, moved))
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        if iteration == last:
            self._normalize(iteration)
            self._sharpen(iteration, terms)
            self._move(iteration, terms)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        if self.device.type == "cuda" and self.objective.weight != 0:
            torch.cuda.synchronize(self.device)  # since times of steps are compared
        return {
            "samples": self._samples(iteration),
            "weight": weight,
            "loss": float(terms.loss.detach()),
            "penalty": float("nan") if terms.penalty is None else float(terms.penalty.detach()),
            "learning_rate": learning_rate,
            "seconds": time.perf_counter() - began,
        }

    def plain_seconds(self, batch: Mapping[str, Any], *, repeats: int = 3) -> float:
        """Return the minimum time in seconds of several passes without penalty, with backward.

        Measured in evaluation mode, in which an objective computes no penalty and running
        statistics do not change; gradients are discarded.
        """
        moved = self.on_device(batch)
        self.objective.eval()
        least = float("inf")
        for _ in range(repeats):
            began = time.perf_counter()
            with self._autocast():
                total = self.objective(moved).total
            total.backward()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            least = min(least, time.perf_counter() - began)
        self.optimizer.zero_grad(set_to_none=True)
        return least

    def on_device(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a training batch as the input of the network: on the device and augmented."""
        moved = self.augment(to_device(batch, self.device))
        return in_memory_format(moved, self.memory_format)

    def unwrap(self) -> None:
        """Release DDP, which must not outlive the process group."""
        self.wrapped = self.objective

    def window(self, iteration: int) -> tuple[int, int]:
        """Return the first and last iteration of the optimizer step that contains an iteration."""
        per_epoch = self.batches.per_epoch
        epoch, inside = divmod(iteration, per_epoch)
        first = inside // self.accumulate * self.accumulate
        last = min(first + self.accumulate, per_epoch) - 1
        return epoch * per_epoch + first, epoch * per_epoch + last

    def optimizer_step(self, iteration: int) -> int:
        """Return the number of the optimizer step that contains an iteration, starting at 0."""
        epoch, inside = divmod(iteration, self.batches.per_epoch)
        return epoch * self.steps_per_epoch + inside // self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.batches.per_epoch // self.accumulate)

    def _passes(self, iteration: int, batch: Mapping[str, Any]) -> Terms:
        """Run one batch at each of its perturbed weights; return the terms of the first pass."""
        if self.noise is None:
            return self._pass(iteration, batch)
        places = self.noise.places
        with self.noise.around(self.optimizer_step(iteration)) as moves:
            next(moves)
            terms = self._pass(iteration, batch, part=1 / places, complete=False)
            with buffers_kept(self.objective):
                for place in moves:
                    self._pass(iteration, batch, part=1 / places, complete=place == places - 1)
        return terms

    def _pass(
        self,
        iteration: int,
        batch: Mapping[str, Any],
        *,
        part: float = 1.0,
        complete: bool = True,
    ) -> Terms:
        """Run one batch forward and backward, adding its share to the step's gradient.

        Args:
            iteration: Number of the batch, starting at 0.
            batch: The batch.
            part: Factor of its gradient.
            complete: Whether this is the last pass over the batch.
        """
        first, last = self.window(iteration)
        # DDP averages over ranks, hence the factor.
        weight = self._weight(iteration, batch) * self.processes.world
        with self._synchronized(complete and iteration == last):
            terms = self._forward(iteration, first, batch)
            self._exchange(iteration, terms)
            factor = part * weight / self._window_samples(iteration)
            total = self.scaler.scale(terms.total * factor)
            total.backward()  # type: ignore[no-untyped-call]
        return terms

    def _samples(self, iteration: int) -> float:
        """Return the number of this rank's samples in a batch."""
        batches = self.batches
        return batches.size(iteration) * batches.share(iteration) / self.processes.world

    def _window_samples(self, iteration: int) -> int:
        """Return the number of samples in an optimizer step over all ranks."""
        first, last = self.window(iteration)
        return sum(self.batches.size(index) for index in range(first, last + 1))

    def _weight(self, iteration: int, batch: Mapping[str, Any]) -> float:
        """Return the weight of this rank's loss of a batch: samples, or the loss's divisor."""
        samples = self._samples(iteration)
        if self._divisor is None or not samples:
            return samples
        return float(self._divisor(batch[self.objective.targets]))

    def _normalize(self, iteration: int) -> None:
        """Divide the step's gradient by the total weight, if it is not known beforehand."""
        if self._divisor is None:
            return
        factor = self._window_samples(iteration) / self._total_weight
        for gradient in self._gradients():
            gradient.mul_(factor)

    def _sharpen(self, iteration: int, terms: Terms) -> None:
        """Compute the gradient of the step's batches again, at the perturbed weights."""
        sharpness, step = self.sharpness, self.optimizer_step(iteration)
        if sharpness is None or not self._finite_gradient(iteration, terms):
            return
        plain = sharpness.gradients()
        if sharpness.due(step):
            with sharpness.away(self._rate()), buffers_kept(self.objective):
                for number, batch in self._window_batches:
                    self._pass(number, batch)
                self._normalize(iteration)
            self._window_batches.clear()
            if not self._finite_gradient(iteration, terms):  # the scaler will skip the step
                return
        sharpness.mix(step, plain)

    def _rate(self) -> float:
        """Return the learning rate as a share of the base learning rate."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"]) / float(group["initial_lr"])

    def _finite_gradient(self, iteration: int, terms: Terms) -> bool:
        """Return whether the gradient is finite; only with fp16 may it occasionally overflow."""
        norm = nn.utils.get_total_norm(self._gradients())
        finite = bool(torch.isfinite(norm))
        if not finite and not self.scaler.is_enabled():
            raise NonFiniteError(self.optimizer_step(iteration) + 1, terms, norm=float(norm))
        return finite

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.objective.parameters() if p.grad is not None]

    def _forward(self, iteration: int, first: int, batch: Mapping[str, Any]) -> Terms:
        rank, world = self.processes.rank, self.processes.world
        self.objective.seek(
            self.optimizer_step(iteration), stream=(iteration - first) * world + rank
        )
        torch.manual_seed((self.seed << 32) + iteration * world + rank)
        self.wrapped.train()
        if self.norm_share is not None:
            self.norm_share.counts = self._samples(iteration) > 0
        with self._autocast(), _sync_refused(self.objective):
            terms: Terms = self.wrapped(batch)
        return terms

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])

    def _exchange(self, iteration: int, terms: Terms) -> None:
        """Exchange the numbers of a pass with the other ranks; stop if a total is not finite."""
        finite = bool(torch.isfinite(terms.total.detach()))
        own = [float(not finite), self._window_weight, *self.asked()]
        # All ranks stop together, because one that waits in an all-reduce for a stopped one hangs.
        bad, self._total_weight, *self.agreed = self.processes.sum(own)
        if bad:
            raise NonFiniteError(self.optimizer_step(iteration) + 1, terms)

    def _synchronized(self, last: bool) -> Any:  # noqa: ANN401  # a context manager of torch
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def _move(self, iteration: int, terms: Terms) -> None:
        parameters = list(self.objective.parameters())
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(self._gradients())
        # With fp16 occasional overflows are expected; the scaler skips such steps.
        if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            raise NonFiniteError(self.optimizer_step(iteration) + 1, terms, norm=float(norm))
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.scaler.step(self.optimizer)
        if self.sharpness is not None:
            self.sharpness.after_step(self.optimizer, scale=self.scaler.get_scale())
        self.scaler.update()
        self.scheduler.step()


@contextmanager
def _sync_refused(objective: Objective) -> Iterator[None]:
    """Name both keys in the error if a penalized layer precedes synchronized batch norm."""
    try:
        yield
    except UnsupportedTailError as error:
        if "synchronized batch norm" not in str(error):
            raise
        layers = " and ".join(map(repr, objective.penalized))
        raise InputError(
            f"penalty.layer: batch normalization runs after layer {layers}, and over several "
            "processes the penalty has no gradient through it. Set training.sync_batchnorm=false, "
            "or penalize a layer after it."
        ) from error


def _check_parts(objective: Objective) -> None:
    """Refuse losses and penalties that are not determined by the parts of a batch."""
    check_parts(objective.terms.loss)
    if isinstance(objective.terms, JacobianNorm) and divisor_of(objective.terms.loss) is not None:
        raise InputError(
            "penalty.kind: jacobian_norm is a mean over samples, and the loss, with class weights "
            "or ignored targets, is not: a batch cannot be split into parts. Set "
            "training.accumulate=1 and train in one process, or leave out loss.class_weights."
        )


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the batch with its tensors on a device, including those in nested mappings."""
    return {key: _on(value, device) for key, value in batch.items()}


def _on(value: Any, device: torch.device) -> Any:  # noqa: ANN401  # a batch may contain anything
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return to_device(value, device) if isinstance(value, Mapping) else value
