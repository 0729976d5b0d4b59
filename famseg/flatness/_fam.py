"""The FAM objective as one module: loss plus weighted relative flatness of one layer."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness._bound import Bound, bounded
from famseg.flatness._check import check_choice, check_count, check_ddp
from famseg.flatness._choice import EstimatorName, Plan, ProbePer, plan
from famseg.flatness._closed_form import closed_form
from famseg.flatness._errors import FlatnessError
from famseg.flatness._estimators import Draw, Pass, batch_probes, columns, exact, sample_probes
from famseg.flatness._layer import find_layer
from famseg.flatness._pass import Inputs, Loss, call_model, evaluating, forward_pass, scalar
from famseg.flatness._probes import position_generator, signs
from famseg.flatness._tail import samples_interact
from famseg.flatness._terms import Measurement, Terms
from famseg.flatness._watch import without_autocast

_logger = logging.getLogger("famseg.flatness")


class FAM(nn.Module):
    r"""Loss plus relative flatness of one layer, in one forward pass and for one ``backward``.

    .. math:: \mathrm{total} = L + \lambda\, b(\kappa)

    with :math:`\kappa` the relative flatness of the named layer (Adilova et al., *FAM*, 2023) under
    the very loss of the step, and :math:`b` a bound that keeps the objective from running away
    where :math:`\kappa` is negative. The gradient is the full one, in every parameter of the model.
    The module holds the model: ``DistributedDataParallel(FAM(...))`` trains on several processes.

    Estimators: ``"closed_form"`` (cross-entropy on the outputs of the layer: exact, about free),
    ``"columns"`` (exact; ``min(d, m)`` Hessian-vector products; samples must not interact),
    ``"hutchinson"`` (unbiased; one product a probe), ``"exact"`` (``d * m`` products; a reference
    for small layers), ``"auto"``: the cheapest of them that holds, never a biased one; see
    `explain`.

    In evaluation mode, or where gradients are off, it returns the plain loss.

    The layer must be called once in a forward pass, and its weight must act through that call
    alone. Cost of a penalised step against a plain one, on the skull autoencoder at 64^3 and
    ``"expand"`` (64 x 8), one thread: hutchinson 3.9 times the time and 3.4 times the memory,
    columns 17 and 13; see ``every``.

    Args:
        model: The network; ``model(inputs)``, ``model(*inputs)`` for a tuple or list,
            ``model(**inputs)`` for a mapping.
        layer: Dotted name of an `nn.Linear` of the model, as in ``model.named_modules()``.
        loss: ``loss(prediction, targets)``, a scalar.
        weight: Lambda, at least 0. With 0 no penalty is computed: the step is the plain step.
        estimator: See above.
        probes: Probes of ``"hutchinson"``; their mean is taken.
        probe_per: ``"sample"``: probes for each sample, less noise, for samples that do not
            interact (this is checked); ``"batch"``: for the whole batch, always unbiased.
        every: Penalise each ``every``-th step alone, ``every`` times as strongly, so that the mean
            gradient stays.
        bound: What becomes of negative flatness, see `famseg.flatness.bounded`. The default keeps
            the objective at or above the loss.
        normalize: ``"features"`` divides by the number of features ``m``, the convention of the
            authors' code.
        seed: Seed of the probes. They depend on seed, step and stream alone (see `seek`).
        generator: Draws the probes in place of ``seed``; its state goes into ``state_dict``.

    Raises:
        LayerNotFoundError: If there is no such layer.
        FlatnessError: If another argument is wrong, or, at the first penalised step, if the
            penalty cannot be computed correctly for this model and loss.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> objective = FAM(model, layer="2", loss=nn.CrossEntropyLoss(), weight=0.1)
        >>> terms = objective(torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0]))
        >>> terms.total.backward()
        >>> bool(terms.total == terms.loss + 0.1 * terms.penalty)
        True
        >>> objective.explain()
        "layer '2' (3 x 8): closed_form, exact and free: cross-entropy on the outputs of the layer"
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: str,
        loss: Loss,
        weight: float,
        estimator: EstimatorName = "auto",
        probes: int = 1,
        probe_per: ProbePer = "sample",
        every: int = 1,
        bound: Bound = "positive",
        normalize: Literal["features"] | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("estimator", estimator, get_args(EstimatorName))
        check_choice("probe_per", probe_per, get_args(ProbePer))
        check_choice("bound", bound, get_args(Bound))
        check_choice("normalize", normalize, ("features", None))
        check_count("probes", probes)
        check_count("every", every)
        if isinstance(model, DistributedDataParallel):
            raise FlatnessError(
                "the model is a DistributedDataParallel: wrap the objective instead, "
                "DistributedDataParallel(FAM(model, ...)), so that one backward covers the penalty."
            )
        find_layer(model, layer)
        self.model = model
        self.loss = loss
        self.weight = weight
        self.layer = layer
        self.estimator = estimator
        self.probes = probes
        self.probe_per = probe_per
        self.every = every
        self.bound = bound
        self.normalize = normalize
        self.seed = seed
        self._generator = generator
        self._position, self._stream = 0, 0
        self._plan: Plan | None = None
        # What was found out about a tail, by the training flags of the modules it was found under.
        self._interacting: dict[tuple[bool, ...], bool] = {}
        self._checked: set[tuple[bool, ...]] = set()

    @property
    def weight(self) -> float:
        """Lambda: what the penalty is multiplied by. It may be changed between steps."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise FlatnessError(f"weight must be a finite number of at least 0, got {value}.")
        self._weight = float(value)

    def forward(self, inputs: Inputs, targets: object) -> Terms:
        """Return the terms of one step and, in training, advance the position by one.

        Args:
            inputs: What the model takes: a tensor, a tuple or list of arguments, or a mapping.
            targets: What the loss takes beside the model's output.

        Returns:
            The terms; the penalty is ``None`` on steps that carry none.

        Raises:
            LossError: If the loss is no scalar, or does not depend on the layer.
            FlatnessError: If the penalty cannot be computed correctly; see its subclasses.
        """
        if not (self.training and torch.is_grad_enabled()):
            return self._plain(inputs, targets)
        step, self._position = self._position, self._position + 1
        if self.weight == 0 or step % self.every:
            return self._plain(inputs, targets)
        check_ddp()
        draw = self._draw_at("train", step)
        loss, kappa = self._penalised(inputs, targets, draw, create_graph=True)
        penalty = bounded(kappa, self.bound)
        return Terms(loss + self.weight * self.every * penalty, loss, penalty)

    def measure(self, inputs: Inputs, targets: object) -> Measurement:
        """Measure the relative flatness on a batch, in evaluation mode and without a trace.

        Parameters, their ``.grad``, buffers, training flags, random state and position are what
        they were before. The result carries no graph and is not bounded.

        Args:
            inputs: As in `forward`.
            targets: As in `forward`.

        Returns:
            The measurement, with the spread over the samples where the estimator knows it.

        Raises:
            FlatnessError: As in `forward`.
        """
        draw = self._draw_at("measure", self._position)
        with evaluating(self), torch.inference_mode(False), torch.enable_grad():
            loss, kappa = self._penalised(inputs, targets, draw, create_graph=False)
        kappa = kappa.detach()
        return Measurement(kappa.mean(), kappa if kappa.ndim else None, loss.detach())

    def seek(self, step: int, *, stream: int = 0) -> None:
        """Set the position: the next forward in training is this step.

        Step and stream decide which steps carry a penalty and, with the seed, which probes they
        draw, so that a resumed run goes on as if it had not stopped.

        Args:
            step: Number of the next step, from 0.
            stream: Tells apart draws of one step: the rank of a process, a part of a batch.
        """
        self._position, self._stream = int(step), int(stream)

    def explain(self) -> str:
        """Say in one line which estimator is at work and why."""
        d, m = find_layer(self.model, self.layer).weight.shape
        head = f"layer {self.layer!r} ({d} x {m})"
        if self._plan is None:
            return f"{head}: {self.estimator}, not settled before the first penalised step"
        return f"{head}: {self._plan.method}, {self._plan.reason}"

    def get_extra_state(self) -> dict[str, Any]:
        """Return the position, and the state of a generator that was passed in."""
        state = None if self._generator is None else self._generator.get_state()
        return {"position": self._position, "stream": self._stream, "generator": state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a position that `get_extra_state` returned."""
        self.seek(state["position"], stream=state["stream"])
        if self._generator is not None and state["generator"] is not None:
            self._generator.set_state(state["generator"].cpu())

    def _plain(self, inputs: Inputs, targets: object) -> Terms:
        loss = scalar(self.loss(call_model(self.model, inputs), targets))
        return Terms(loss, loss, None)

    def _penalised(
        self, inputs: Inputs, targets: object, draw: Draw, *, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """Loss and relative flatness: the samples' values, or that of the batch."""
        layer = find_layer(self.model, self.layer)
        # Batch norm in evaluation mode is another tail than in training.
        state = tuple(module.training for module in self.model.modules())
        run = forward_pass(
            self.model,
            layer,
            self.layer,
            self.loss,
            inputs,
            targets,
            check=state not in self._checked,
        )
        self._checked.add(state)
        with without_autocast(layer.weight.device.type):
            kappa = self._kappa(run, targets, draw, state, create_graph=create_graph)
        return run.loss, kappa / run.weight.shape[1] if self.normalize else kappa

    def _kappa(
        self, run: Pass, targets: object, draw: Draw, state: tuple[bool, ...], *, create_graph: bool
    ) -> Tensor:
        formula = closed_form(self.loss)
        chosen = plan(
            self.estimator,
            run,
            layer=self.layer,
            closed_form=formula is not None,
            probes=self.probes,
            probe_per=self.probe_per,
            interact=lambda: self._interact(run, state),
        )
        if chosen != self._plan:
            self._plan = chosen
            _logger.info("%s", self.explain())
        if formula is not None and chosen.method == "closed_form":
            return formula(run.features, run.output, targets, run.weight)
        if chosen.method == "columns":
            return columns(run, create_graph=create_graph)
        if chosen.method == "sample_probes":
            return sample_probes(run, draw, probes=self.probes, create_graph=create_graph)
        if chosen.method == "batch_probes":
            return batch_probes(run, draw, probes=self.probes, create_graph=create_graph)
        return exact(run, create_graph=create_graph)

    def _interact(self, run: Pass, state: tuple[bool, ...]) -> bool:
        """Whether samples interact; found out once, on the first batch that can tell."""
        if state not in self._interacting:
            found = samples_interact(run.loss, run.shift)
            if found is None:
                return False  # nothing couples in this batch, whatever the next one shows
            self._interacting[state] = found
        return self._interacting[state]

    def _draw_at(self, purpose: str, step: int) -> Draw:
        generator = self._generator
        if generator is None:
            generator = position_generator(self.seed, purpose, step, self._stream)
        return functools.partial(signs, generator=generator)
