"""The FAM objective as one module: loss plus weighted relative flatness of its layers."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from famseg.flatness._arguments import Inputs, Loss, differentiable_in, has_several
from famseg.flatness._bound import BOUNDS, Bound, bounded
from famseg.flatness._check import (
    check_choice,
    check_count,
    check_ddp,
    check_model,
    check_together,
)
from famseg.flatness._choice import EstimatorName, Plan, ProbePer, Request
from famseg.flatness._closed_form import closed_form
from famseg.flatness._errors import FlatnessError, UnsupportedTailError
from famseg.flatness._estimate import Rule
from famseg.flatness._estimators import Draw, Gradient
from famseg.flatness._factor import Quantity
from famseg.flatness._layer import find_layer
from famseg.flatness._operator import matrix_shape
from famseg.flatness._pass import Task
from famseg.flatness._probes import Distribution, normals, part_of, position_generator, signs
from famseg.flatness._settle import settle
from famseg.flatness._state import evaluating, undone_on_error, untouched
from famseg.flatness._step import noise_measured, noise_step, penalised
from famseg.flatness._terms import Measurement, Terms
from famseg.flatness._watch import eagerly

_logger = logging.getLogger("famseg.flatness")


class FAM(nn.Module):
    r"""Loss plus relative flatness of one or more layers, for one forward and one ``backward``.

    .. math:: \mathrm{total} = L + \lambda\, b(\kappa)

    with :math:`\kappa` the relative flatness of the named layers (Adilova et al., *FAM*, 2023)
    under the very loss of the step, summed over them, and :math:`b` a bound that keeps the
    objective from running away where :math:`\kappa` is negative. The gradient is the full one, in
    every parameter of the model. The module holds the model: ``DistributedDataParallel(FAM(...))``
    trains on several processes.

    In evaluation mode, or where gradients are off, it returns the plain loss.

    Estimators, with what a penalised step costs beside a plain one (``benchmarks/flatness.py``):

    - ``"closed_form"``: exact, about free; the layer's outputs under cross-entropy, squared error
      or binary cross-entropy.
    - ``"columns"``: exact; ``min(d, m)`` Hessian-vector products; linear layers, samples that do
      not interact.
    - ``"hutchinson"``: unbiased; one product a probe; any layer and loss.
    - ``"exact"``: the definition; ``d * m`` products; a reference for small layers.
    - ``"gauss_newton"``: one product a probe with the Gauss-Newton curvature: never negative under
      a convex loss; another value where the network behind the layer is not piecewise linear.
    - ``"finite_difference"``: two more runs of the network behind the layer a probe; for operations
      without third derivatives. Its error is of second order in a small step.
    - ``"noise"``: relative noise on the outputs of the layer; the expected total is that of FAM up
      to terms of fourth order in its size ``sqrt(2 lambda)``; about a plain step. No penalty is
      computed, and the loss is that of the noisy network.
    - ``"auto"``: the cheapest of the first three that holds, never a biased one; see `explain`.

    A layer must be called once in a forward pass, and its weight must act through that call alone.

    Args:
        model: The network; ``model(inputs)``, ``model(*inputs)`` for a tuple or list,
            ``model(**inputs)`` for a mapping.
        layer: Dotted name, as in ``model.named_modules()``, of a linear or convolution layer, or
            several of them.
        loss: ``loss(prediction, targets)``, a scalar.
        weight: Lambda, at least 0. With 0 no penalty is computed: the step is the plain step.
        output: Key or attribute of the model's output that the loss takes, ``"logits"`` say.
        estimator: See above.
        quantity: ``"relative_flatness"``; ``"simplified"``: :math:`\lVert W\rVert^2` times the
            trace of ``H`` (Petzka et al. 2019); or ``"max_eigenvalue"``:
            :math:`\sum_s \lVert w_s\rVert^2 \lambda_{\max}(H_{ss})`, at ``d`` products and more.
        gradient: ``"full"``, or ``"weights_only"``: the curvature is held constant, so that the
            penalty moves its own layer alone, as in the authors' code (term I of the gradient).
        as_released: Do as the authors' code does: :math:`\kappa / m`, or :math:`\lVert W\rVert
            \operatorname{tr} H`, and term I of the gradient alone.
        standardize: Measure features in units of their standard deviation over the batch.
        probes: Probes of the estimators that draw them; their mean is taken.
        probe_per: ``"sample"``: probes for each sample, less noise, for samples that do not
            interact (this is checked); ``"batch"``: for the whole batch, always unbiased.
        distribution: Of the probes: ``"rademacher"`` (signs) or ``"gaussian"``.
        antithetic: Take the noise of ``"noise"`` both ways, for another run of the network.
        every: Penalise each ``every``-th step alone, ``every`` times as strongly, so that the mean
            gradient stays. A step is a forward pass in training, unless `seek` says otherwise.
            ``"auto"``: 1 where a step costs nothing, 4 where a part of the batch does, else 10.
        samples: How many samples, drawn anew each time, the penalty looks at, or ``"all"``.
            ``"auto"``: a quarter of the batch where their mean is unbiased, else all.
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
        >>> print(objective.explain())
        layer '2' (3 x 8): closed_form, exact and free: the loss has a closed form there
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: str | Sequence[str],
        loss: Loss,
        weight: float,
        output: str | None = None,
        estimator: EstimatorName = "auto",
        quantity: Quantity = "relative_flatness",
        gradient: Gradient = "full",
        as_released: bool = False,
        standardize: bool = False,
        probes: int = 1,
        probe_per: ProbePer = "sample",
        distribution: Distribution = "rademacher",
        antithetic: bool = False,
        every: int | Literal["auto"] = "auto",
        samples: int | Literal["auto", "all"] = "auto",
        bound: Bound = "positive",
        normalize: Literal["features"] | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("estimator", estimator, get_args(EstimatorName))
        check_choice("quantity", quantity, get_args(Quantity))
        check_choice("gradient", gradient, get_args(Gradient))
        check_choice("probe_per", probe_per, get_args(ProbePer))
        check_choice("distribution", distribution, get_args(Distribution))
        check_choice("bound", bound, get_args(Bound))
        check_choice("normalize", normalize, ("features", None))
        check_count("probes", probes)
        check_count("every", every, "auto")
        check_count("samples", samples, "auto", "all")
        check_model(model)
        check_together(
            estimator, quantity, gradient, as_released=as_released, antithetic=antithetic
        )
        self.layers = (layer,) if isinstance(layer, str) else tuple(layer)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise FlatnessError(f"layer must name one or more layers, each once, got {layer!r}.")
        for name in self.layers:
            find_layer(model, name)
        self.model = model
        self.loss = loss
        self.output = output
        self.weight = weight
        self.estimator = estimator
        self.quantity = quantity
        self.gradient: Gradient = "weights_only" if as_released else gradient
        self.as_released = as_released
        self.standardize = standardize
        self.probes = probes
        self.probe_per = probe_per
        self.distribution = distribution
        self.antithetic = antithetic
        self.every = every
        self.samples = samples
        self.bound = bound
        self.normalize = normalize
        self.seed = seed
        self._generator = generator
        self._position, self._stream = 0, 0
        self._plan: Plan | None = None
        self._planned: tuple[Request, Loss] | None = None
        # Plans, by the training flags of the modules and by whether a batch has several samples.
        self._plans: dict[tuple[bool, ...], Plan] = {}

    @property
    def weight(self) -> float:
        """Lambda: what the penalty is multiplied by. It may be changed between steps."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise FlatnessError(f"weight must be a finite number of at least 0, got {value}.")
        self._weight = float(value)

    @property
    def period(self) -> int:
        """Each how manieth step is penalised; with ``every="auto"`` 1 until that is settled."""
        if self.every != "auto":
            return self.every
        return 1 if self._plan is None else self._plan.every

    def forward(self, inputs: Inputs, targets: object) -> Terms:
        """Return the terms of one step and, in training, advance the position by one.

        Args:
            inputs: What the model takes: a tensor, a tuple or list of arguments, or a mapping.
            targets: What the loss takes beside the model's output.

        Returns:
            The terms; the penalty is ``None`` on steps that carry none.

        Raises:
            LossError: If the loss is no scalar, or does not depend on the layer.
            FlatnessError: If the penalty cannot be computed correctly; see its subclasses. Buffers,
                random state, generator and position are then what they were before.
        """
        if torch.compiler.is_compiling():  # the objective itself: its passes cannot be traced
            terms: Terms = eagerly(self.forward, inputs, targets)
            return terms
        task = self._task()
        if not (self.training and torch.is_grad_enabled()):
            return _plain(task, inputs, targets)
        step = self._position
        if self.weight == 0 or (self.every != "auto" and step % self.every):
            terms = _plain(task, inputs, targets)
        else:
            check_ddp()
            check_model(self)  # it may have been wrapped since
            with undone_on_error(task.parts, task.device, self._generator):
                terms = self._step(task, inputs, targets, step)
        self._position = step + 1
        return terms

    def measure(self, inputs: Inputs, targets: object) -> Measurement:
        """Measure the flatness on a whole batch, in evaluation mode and without a trace.

        Parameters, their ``.grad``, buffers, training flags, random state, generator and position
        are what they were before. The result carries no graph and is not bounded. With
        ``estimator="noise"`` it is the difference that noise of the size in training makes, whose
        bias is of the order of lambda.

        Args:
            inputs: As in `forward`.
            targets: As in `forward`.

        Returns:
            The measurement, with the spread over the samples or the probes where there is one.

        Raises:
            FlatnessError: As in `forward`.
        """
        check_model(self)
        task = self._task()
        draw = self._draw("measure", self._position)
        with (
            evaluating(self),
            untouched(task.parts, task.device, self._generator),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            inputs, targets = differentiable_in(inputs), differentiable_in(targets)
            plan = self._settle(task, inputs, targets)
            task = replace(task, eager=plan.eager)
            if plan.curvature == "noise":
                if self.weight == 0:
                    raise FlatnessError(
                        'measure with estimator="noise" needs a weight: noise of size '
                        "sqrt(2 weight) is compared with none."
                    )
                size = math.sqrt(2 * self.weight)
                loss, found = noise_measured(
                    task, self._rule, plan, inputs, targets, draw=draw, size=size
                )
            else:
                loss, found = penalised(
                    task,
                    self._rule,
                    plan,
                    inputs,
                    targets,
                    draw=draw,
                    choose=None,
                    create_graph=False,
                )
        values = found.values.detach()
        per_sample = values if values.ndim else None
        return Measurement(values.mean(), per_sample, loss.detach(), found.probes)

    def seek(self, step: int, *, stream: int = 0) -> None:
        """Set the position: the next forward in training is this step.

        Step and stream decide which steps carry a penalty and, with the seed, which probes and
        parts they draw, so that a resumed run goes on as if it had not stopped.

        Args:
            step: Number of the next step, from 0.
            stream: Tells apart draws of one step: the rank of a process, a part of a batch.
        """
        self._position, self._stream = int(step), int(stream)

    def explain(self) -> str:
        """Say which estimator is at work for each layer, how often, on how much, and why."""
        lines = []
        for index, name in enumerate(self.layers):
            d, m = matrix_shape(find_layer(self.model, name))
            head = f"layer {name!r} ({d} x {m})"
            if self._plan is None:
                lines.append(
                    f"{head}: {self.estimator}, not settled before the first penalised step"
                )
            else:
                lines.append(f"{head}: {self._plan.describe(index)}{self._bound_in_words()}")
        return "\n".join(lines)

    def _bound_in_words(self) -> str:
        # A closed form is never negative, and noise knows no value.
        if self._plan is None or self._plan.is_free or self._plan.curvature == "noise":
            return ""
        return f"; {BOUNDS[self.bound]}" if self.bound != "none" else ""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the position, and the state of a generator that was passed in."""
        state = None if self._generator is None else self._generator.get_state()
        return {"position": self._position, "stream": self._stream, "generator": state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a position that `get_extra_state` returned."""
        self.seek(state["position"], stream=state["stream"])
        if self._generator is not None and state["generator"] is not None:
            self._generator.set_state(state["generator"].cpu())

    @property
    def _rule(self) -> Rule:
        return Rule(
            quantity=self.quantity,
            gradient=self.gradient,
            as_released=self.as_released,
            per_feature=self.normalize == "features"
            or (self.as_released and self.quantity == "relative_flatness"),
            standardize=self.standardize,
            probes=self.probes,
            # The authors' norm is not the one in the closed form of the simplified measure.
            closed_form=None if self.as_released else closed_form(self.loss),
        )

    def _task(self) -> Task:
        # Found anew each time, so that a weight that was tied or replaced meanwhile is noticed.
        layers = {name: find_layer(self.model, name) for name in self.layers}
        return Task(self.model, layers, self.loss, self.output)

    def _step(self, task: Task, inputs: Inputs, targets: object, step: int) -> Terms:
        plan = self._settle(task, inputs, targets)
        if step % plan.every:
            return _plain(task, inputs, targets)
        if not plan.twice and plan.curvature != "noise":
            raise UnsupportedTailError(
                'estimator "finite_difference" trains through second derivatives, and an operation '
                'after the layer has none: it can only measure here. Use estimator="noise", which '
                "needs none."
            )
        task, strength = replace(task, eager=plan.eager), self.weight * plan.every
        draw = self._draw("train", step)
        if plan.curvature == "noise":
            return noise_step(
                task,
                self._rule,
                plan,
                inputs,
                targets,
                draw=draw,
                size=math.sqrt(2 * strength),
                antithetic=self.antithetic,
            )
        loss, found = penalised(
            task,
            self._rule,
            plan,
            inputs,
            targets,
            draw=draw,
            choose=functools.partial(part_of, generator=self._source("part", step)),
            create_graph=True,
        )
        penalty = bounded(found.values, self.bound)
        return Terms(loss + strength * penalty, loss, penalty)

    def _settle(self, task: Task, inputs: Inputs, targets: object) -> Plan:
        """The plan: made once, on the first batch that can tell, for each state of the model."""
        request = Request(
            self.estimator,
            self.quantity,
            self._rule.closed_form is not None,
            self.probes,
            self.probe_per,
            self.every,
            self.samples,
        )
        # Batch norm in evaluation mode is another tail than in training.
        state = (*(module.training for module in self.modules()), has_several(inputs))
        if (request, self.loss) != self._planned:
            self._planned = request, self.loss
            self._plans.clear()
        if state in self._plans:
            chosen = self._plans[state]
        else:
            chosen, final = settle(task, request, inputs, targets)
            if final:
                self._plans[state] = chosen
        if chosen != self._plan:
            self._plan = chosen
            _logger.info("%s", self.explain())
        return chosen

    def _source(self, purpose: str, step: int) -> torch.Generator:
        if self._generator is not None:
            return self._generator
        return position_generator(self.seed, purpose, step, self._stream)

    def _draw(self, purpose: str, step: int) -> Draw:
        numbers = signs if self.distribution == "rademacher" else normals
        return functools.partial(numbers, generator=self._source(purpose, step))


def _plain(task: Task, inputs: Inputs, targets: object) -> Terms:
    loss = task.plain(inputs, targets)
    return Terms(loss, loss, None)
