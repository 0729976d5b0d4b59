"""The FAM objective as a module: the loss plus the weighted relative flatness of layers."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from famseg.flatness._check import check_ddp, check_model
from famseg.flatness._compiled import compiled_step, traceable
from famseg.flatness._errors import FlatnessError, NotApplicableError, UnsupportedTailError
from famseg.flatness._estimators._bound import BOUNDS, bounded
from famseg.flatness._estimators._choice import Level, Plan
from famseg.flatness._estimators._estimate import Rule
from famseg.flatness._estimators._free import FreeStep, free_step, penalty_of
from famseg.flatness._estimators._pace import Pace, can_run_ahead, in_parts, push, ratio, size_of
from famseg.flatness._estimators._probes import normals, part_of, position_generator, signs
from famseg.flatness._estimators._products import Draw
from famseg.flatness._options import Options
from famseg.flatness._planner import Known, Planner
from famseg.flatness._step import Penalized, noise_measured, noise_step, penalized_step
from famseg.flatness._terms import Measurement, Terms
from famseg.flatness._tracing._arguments import Inputs, Loss, differentiable_in
from famseg.flatness._tracing._layer_cache import LayerCache
from famseg.flatness._tracing._operator import Operator, matrix_shape
from famseg.flatness._tracing._pass import Noting, Recorded, Task, record
from famseg.flatness._tracing._state import evaluating, undone_on_error, untouched
from famseg.flatness._tracing._watch import IdleLayersError, autocast_on
from famseg.flatness._upkeep import Upkeep

_logger = logging.getLogger("famseg.flatness")

_UNUSED = 20  # penalized steps without a call after which a layer counts as unused


class _Free(NamedTuple):
    """The conditions under which a closed form holds, and when to check them again."""

    loss: Loss
    generation: int
    noting: Noting
    upkeep: Upkeep
    head: Operator | None  # the operator if it can be traced, see `traceable`


class FAM(nn.Module):
    r"""Loss plus relative flatness of one or more layers, for one forward and one ``backward``.

    .. math:: \mathrm{total} = L + \lambda\, b(\kappa)

    with :math:`\kappa` the relative flatness of the named layers (Adilova et al., *FAM*, 2023)
    under the very loss of the step, summed over them, and :math:`b` a bound that keeps the
    objective from running away where :math:`\kappa` is negative. The gradient is the full one, in
    every parameter of the model. The module holds the model: ``DistributedDataParallel(FAM(...))``
    trains on several processes.

    In evaluation mode, or where gradients are off, it returns the plain loss.

    Estimators, with the cost of a penalized step relative to a plain one
    (``benchmarks/flatness.py``):

    - ``"closed_form"``: exact, about free; the layer's outputs under cross-entropy, squared error
      or binary cross-entropy.
    - ``"columns"``: exact; ``min(d, m)`` Hessian-vector products; linear layers, samples that do
      not interact.
    - ``"hutchinson"``: unbiased; one product a probe; any layer and loss.
    - ``"exact"``: the definition; ``d * m`` products; a reference for small layers.
    - ``"gauss_newton"``: one product a probe with the Gauss-Newton curvature: never negative under
      a convex loss; another value where the network after the layer is not piecewise linear.
    - ``"finite_difference"``: two more runs of the network after the layer a probe; for operations
      without third derivatives. Its error is of second order in a small step.
    - ``"noise"``: relative noise on the outputs of the layer; the expected total is that of FAM up
      to terms of fourth order in its size ``sqrt(2 lambda)``; about a plain step. No penalty is
      computed, and the loss is that of the noisy network.
    - ``"auto"``: the cheapest of the first three that holds, never a biased one; see `explain`.

    A layer must be called once in a forward pass, and its weight must act through that call only.
    A layer that is not called because it has no input, such as an expert without tokens, counts as
    0.

    The behavior of a network is analyzed on the first batch, checked again at growing intervals and
    after changes, and planned again if it differs: a plan is never wrong for more than 128
    penalized steps. A penalized step leaves model, loss and random state as a plain step does. The
    loss is called once, or four times where a part of the batch is penalized (on the batch, on the
    part twice, on the rest), and some more where a plan is made or checked, or the strength of the
    penalty is compared with that of the loss.

    Args:
        model: The network; ``model(inputs)``, ``model(*inputs)`` for a tuple or list,
            ``model(**inputs)`` for a mapping.
        layer: Dotted name, as in ``model.named_modules()``, of a linear or convolution layer, or
            several of them.
        loss: ``loss(prediction, targets)``, a scalar.
        weight: Lambda. With 0 no penalty is computed: the step is the plain step. Below 0 training
            goes away from flatness (Han et al., arXiv 2509.17738), which needs a ``ceiling``.
        output: Key or attribute of the model's output that the loss takes, ``"logits"`` say.
        seed: Seed of the probes. They depend only on seed, step and stream (see `seek`).
        generator: Draws the probes in place of ``seed``; its state goes into ``state_dict``.
        **options: How the penalty is computed: `famseg.flatness.Options` has them all, by name.
            They are kept as ``options``, which may be replaced between steps.

    Raises:
        LayerNotFoundError: If there is no such layer.
        FlatnessError: If another argument is wrong, or, at the first penalized step, if the
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
        seed: int = 0,
        generator: torch.Generator | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        self._options = Options.of(options)
        check_model(model)
        self.layers = (layer,) if isinstance(layer, str) else tuple(layer)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise FlatnessError(f"layer must name one or more different layers, got {layer!r}.")
        self._cache = LayerCache(self.layers)
        self._cache.layers(model)
        self._wrapping_checked: tuple[type, int] | None = None
        self.model = model
        self.loss = loss
        self.output = output
        self.weight = weight
        self.seed = seed
        self._generator = generator
        self._position, self._stream = 0, 0
        self._pace = Pace()
        self._used: set[str] = set()
        self._unused = 0
        self._planner = Planner(self.explain)
        self._free: _Free | None = None

    @property
    def options(self) -> Options:
        """How the penalty is computed. It may be replaced between steps."""
        return self._options

    @options.setter
    def options(self, options: Options) -> None:
        self._check_ceiling(getattr(self, "_weight", 0.0), options)
        self._options = options
        self._free = None

    @property
    def weight(self) -> float:
        """Lambda: what the penalty is multiplied by. It may be changed between steps."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        if not math.isfinite(value):
            raise FlatnessError(f"weight must be a finite number, got {value}.")
        self._check_ceiling(value, self.options)
        self._weight = float(value)

    @staticmethod
    def _check_ceiling(weight: float, options: Options) -> None:
        if weight < 0 and options.ceiling is None:
            raise FlatnessError(
                f"weight is {weight}: training away from flatness never stops by itself. Give "
                "ceiling=, the largest flatness that counts, or a weight of at least 0."
            )

    @property
    def period(self) -> int:
        """Number of steps per penalized step; 1 until that is settled."""
        if self.options.every != "auto":
            return self.options.every
        plan = self._planner.plan
        return 1 if plan is None else self._level(plan).every

    def forward(self, inputs: Inputs, targets: object) -> Terms:
        """Return the terms of one step and, in training, advance the position by one.

        Args:
            inputs: What the model takes: a tensor, a tuple or list of arguments, or a mapping.
            targets: Further arguments of the loss after the model's output.

        Returns:
            The terms; the penalty is ``None`` on steps that carry none.

        Raises:
            LossError: If the loss is not a scalar, or does not depend on the layer.
            FlatnessError: If the penalty cannot be computed correctly; see its subclasses. Buffers,
                random state, Python state, generator and position are then restored.
        """
        if torch.compiler.is_compiling():  # the objective itself is compiled
            return compiled_step(self, inputs, targets)
        task = self._task()
        if not (self.training and torch.is_grad_enabled()):
            return _plain(task, inputs, targets)
        step, every = self._position, self.options.every
        if self.weight == 0 or (every != "auto" and step % every):
            terms = _plain(task, inputs, targets)
        else:
            check_ddp()
            self._check_wrapping()
            if self._free is None or torch.is_autocast_enabled(task.device.type):
                terms = self._step(task, inputs, targets, step)
            else:
                terms = self._free_step(task, inputs, targets, step)
        self._position = step + 1
        return terms

    def measure(self, inputs: Inputs, targets: object) -> Measurement:
        """Measure the flatness on a whole batch, in evaluation mode and without a trace.

        Parameters, their ``.grad``, buffers, training flags, random state, generator and position
        are restored. The result carries no graph and is not bounded. With ``estimator="noise"`` it
        is the difference that noise of the size in training makes, whose bias is of the order of
        lambda.

        Args:
            inputs: As in `forward`.
            targets: As in `forward`.

        Returns:
            The measurement, with the spread over the samples or the probes where there is one.

        Raises:
            FlatnessError: As in `forward`.
        """
        self._check_wrapping()
        task = self._task()
        draws = functools.partial(self._draw, "measure", self._position)
        with (
            evaluating(self),
            untouched(task.parts, task.device, self._generator),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            inputs, targets = differentiable_in(inputs), differentiable_in(targets)
            plan = self._known(task, inputs, targets).plan
            task = plan.applied_to(task)
            inputs, targets = task.fresh(inputs), task.fresh(targets)
            if plan.curvature == "noise":
                if self.weight == 0:
                    raise FlatnessError(
                        'measure with estimator="noise" needs a weight above 0: it '
                        "compares the loss with and without noise of size sqrt(2 weight)."
                    )
                size = math.sqrt(2 * self.weight)
                loss, found = noise_measured(
                    task, self._rule, plan, inputs, targets, draw=draws(), size=size
                )
            else:
                loss, found, *_ = penalized_step(
                    task,
                    self._rule,
                    plan,
                    inputs,
                    targets,
                    draws=draws,
                    choose=None,
                    create_graph=False,
                )
        values = found.values.detach()
        per_sample = values if values.ndim else None
        return Measurement(values.mean(), per_sample, loss.detach(), found.probes)

    def seek(self, step: int, *, stream: int = 0) -> None:
        """Set the position: the next forward in training is this step.

        Step and stream decide which steps carry a penalty and, with the seed, which probes and
        parts they draw, so that a resumed run continues as if it had not stopped.

        Args:
            step: Number of the next step, from 0.
            stream: Tells apart draws of one step: the rank of a process, a part of a batch.
        """
        self._position, self._stream = int(step), int(stream)

    def explain(self) -> str:
        """Say which estimator is at work for each layer, how often, on how much, and why."""
        plan = self._planner.plan
        lines = []
        for name, layer in self._cache.layers(self.model).items():
            d, m = matrix_shape(layer)
            head = f"layer {name!r} ({d} x {m})"
            if plan is None:
                lines.append(
                    f"{head}: {self.options.estimator}, chosen at the first penalized step"
                )
            elif name not in plan.names:
                lines.append(f"{head}: not called in the last batch, counts as 0")
            else:
                described = plan.describe(name, self._level(plan))
                lines.append(f"{head}: {described}{self._bound_in_words(plan)}")
        return "\n".join(lines)

    def _bound_in_words(self, plan: Plan) -> str:
        if plan.curvature == "noise":  # it has no value
            return ""
        ceiling = self.options.ceiling
        above = "" if ceiling is None else f"; values above {ceiling:g} count as {ceiling:g}"
        if plan.is_free or self.options.bound == "none":  # closed forms are never negative
            return above
        return f"; {BOUNDS[self.options.bound]}{above}"

    def get_extra_state(self) -> dict[str, Any]:
        """Return the position, the pace, and the state of a user-supplied generator."""
        state = None if self._generator is None else self._generator.get_state()
        return {
            "position": self._position,
            "stream": self._stream,
            "pace": (self._pace.level, self._pace.looked),
            "used": sorted(self._used),
            "generator": state,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state returned by `get_extra_state`."""
        self.seek(state["position"], stream=state["stream"])
        self._pace = Pace(*state.get("pace", (0, 0)))
        self._used = set(state.get("used", ()))
        if self._generator is not None and state["generator"] is not None:
            self._generator.set_state(state["generator"].cpu())

    @property
    def _rule(self) -> Rule:
        return Rule(self.options)

    def _task(self) -> Task:
        return Task(self.model, self._cache.layers(self.model), self.loss, self.output)

    def _check_wrapping(self) -> None:
        """Refuse a model or objective that has been wrapped since it was created."""
        now = type(self), self._cache.generation  # sharding changes the class
        if now != self._wrapping_checked:
            check_model(self)
            self._wrapping_checked = now

    def _free_step(self, task: Task, inputs: Inputs, targets: object, step: int) -> Terms:
        """Run a step in closed form, at the cost of a few operations, while the form holds."""
        free = self._free
        if free is None or free.loss is not self.loss or free.generation != self._cache.generation:
            self._free = None
            return self._step(task, inputs, targets, step)
        found = free_step(replace(task, noting=free.noting), self._rule, inputs, targets)
        if found.values is None:
            self._free = None
            return self._otherwise(found, inputs, targets, step)
        if free.upkeep.counted():
            found.check()
            free.upkeep.checked(same=True)
        penalty = penalty_of(found.values, self.options)
        strength = self.weight * self.period
        return Terms(found.loss + strength * penalty, found.loss, penalty)

    def _otherwise(self, found: FreeStep, inputs: Inputs, targets: object, step: int) -> Terms:
        """Complete a step for which the closed form does not hold, without repeating its pass."""
        if found.seen.calls == 0 or len(found.seen.features) == 0:
            return Terms(found.loss, found.loss, torch.zeros_like(found.loss.detach()))
        if self.options.estimator == "closed_form":
            raise NotApplicableError(
                f"layer {self.layers[0]!r} is penalized by closed_form, which worked on an "
                f"earlier batch: its input now has shape {tuple(found.seen.features.shape)}, or "
                "the loss "
                "no longer gets its output, or the loss is a different one. Use "
                'estimator="hutchinson", which works for all of these.'
            )
        self._planner.forget()
        recorded = found.recorded(inputs, targets)
        return self._penalized(found.task, inputs, targets, step, recorded=recorded)

    def _step(self, task: Task, inputs: Inputs, targets: object, step: int) -> Terms:
        """Run a training step without the layers that this batch does not use."""
        idle: set[str] = set()
        planned_anew = False
        while len(idle) < len(self.layers):
            used = {name: layer for name, layer in task.layers.items() if name not in idle}
            try:
                with (
                    undone_on_error(task.parts, task.device, self._generator),
                    self._pace.undone_on_error(),
                ):
                    terms = self._penalized(replace(task, layers=used), inputs, targets, step)
            except IdleLayersError as found:
                if self._planner.samples == 0 or self._never_runs(found.uncalled):
                    raise
                idle |= found.names
            except NotApplicableError:  # the plan held for earlier batches, but not for this one
                if planned_anew or self.options.estimator != "auto":
                    raise
                planned_anew = True
                self._planner.forget()
            else:
                self._used |= used.keys()
                return terms
        terms = _plain(task, inputs, targets)
        return Terms(terms.total, terms.loss, torch.zeros_like(terms.loss.detach()))

    def _never_runs(self, names: set[str]) -> bool:
        """Return whether layers will never be called, judged by the batches so far."""
        unknown = names - self._used
        inside = [self.model.get_submodule(name.rpartition(".")[0]) for name in unknown if name]
        if any(isinstance(module, nn.MultiheadAttention) for module in inside):
            return True
        self._unused = self._unused + 1 if unknown else 0
        if self._unused == 1:
            _logger.warning(
                "layer %s was not called in this batch and counts as 0. That may happen to an "
                "expert, but a layer that is not called in %d penalized steps is an error.",
                ", ".join(map(repr, sorted(unknown))),
                _UNUSED,
            )
        return self._unused >= _UNUSED

    def _penalized(
        self,
        task: Task,
        inputs: Inputs,
        targets: object,
        step: int,
        *,
        recorded: Recorded | None = None,
    ) -> Terms:
        known = self._known(task, inputs, targets, step=step)
        plan = known.plan
        level = self._level(plan)
        if step % level.every:
            if recorded is not None:
                return Terms(recorded.loss, recorded.loss, None)
            return _plain(task, inputs, targets)
        if not plan.twice and plan.curvature != "noise":
            raise UnsupportedTailError(
                "the penalty trains through second derivatives, and an operation after the layer "
                "has none. It can only be measured here. Train with "
                'estimator="noise", which needs no second derivatives.'
            )
        task = plan.applied_to(task)
        if plan.curvature == "noise":
            terms = self._noisy(task, plan, level, inputs, targets, step)
            known.upkeep.stepped(task.parts)
            return terms
        due = self._counted(level)
        if due and recorded is None and can_run_ahead(task, plan, level):
            pushed = self._pushed_ahead(task, plan, level, inputs, targets, step)
            if pushed is not None:
                level, due = self._thinned_less(plan, level, pushed), False
        found, penalty = self._taken(task, plan, level, inputs, targets, step, recorded)
        denser = level
        if due:
            pushed = push(task, found.loss, penalty, abs(self.weight) * level.every)
            denser = self._thinned_less(plan, level, pushed)
        if denser.share > level.share:  # this step itself would be too strong
            recorded = found.recorded
            found, penalty = self._taken(task, plan, denser, inputs, targets, step, recorded)
        if found.doubtful:
            known.upkeep.doubt()
        known.upkeep.stepped(task.parts)
        single = len(self.layers) == 1 and not plan.copies
        if plan.is_free and single and not self.options.standardize:
            head = traceable(found.run, plan.noting)
            self._free = _Free(self.loss, self._cache.generation, plan.noting, Upkeep(), head)
        return Terms(found.loss + self.weight * denser.every * penalty, found.loss, penalty)

    def _taken(
        self,
        task: Task,
        plan: Plan,
        level: Level,
        inputs: Inputs,
        targets: object,
        step: int,
        recorded: Recorded | None,
    ) -> tuple[Penalized, Tensor]:
        """Return the penalty of a step at a degree of thinning, and the pass that gave it."""
        sizes = {self._planner.samples}

        def choose(n: int) -> Tensor:
            self._check_rows(plan, dict.fromkeys(plan.names, n), sizes)
            part = self._chosen(n, level=level, step=step)
            sizes.add(len(part))
            return part

        found = penalized_step(
            task,
            self._rule,
            plan,
            inputs,
            targets,
            draws=functools.partial(self._draw, "train", step),
            choose=choose,
            create_graph=True,
            recorded=recorded,
        )
        options = self.options
        if options.estimator == "auto":
            rows = {use.name: len(use.features) for use in found.run.uses}
            self._check_rows(plan, rows, sizes)
        return found, bounded(found.found.values, options.bound, ceiling=options.ceiling)

    def _check_rows(self, plan: Plan, rows: Mapping[str, int], sizes: Container[int]) -> None:
        """Refuse rows that are not samples if the plan treats samples separately."""
        other = {name: count for name, count in rows.items() if count not in sizes}
        if not other or not self._planner.samples or plan.interact or plan.is_free:
            return
        self._planner.loose(other)
        name, count = next(iter(other.items()))
        raise NotApplicableError(
            f"layer {name!r} sees {count} rows for {self._planner.samples} samples, as an expert "
            'does, so a part of the batch is not a part of its rows. Use samples="all".'
        )

    def _noisy(
        self, task: Task, plan: Plan, level: Level, inputs: Inputs, targets: object, step: int
    ) -> Terms:
        if self.weight < 0:
            raise FlatnessError(
                'estimator="noise" adds noise, which trains towards flatness, so its weight '
                "cannot be below 0. Use another estimator."
            )
        return noise_step(
            task,
            self._rule,
            plan,
            inputs,
            targets,
            draw=self._draw("train", step),
            size=math.sqrt(2 * self.weight * level.every),
            antithetic=self.options.antithetic,
        )

    def _chosen(self, n: int, *, level: Level, step: int) -> Tensor:
        """Return the samples used for the penalty."""
        asked = self.options.samples
        size = math.ceil(n * level.share) if isinstance(asked, str) else min(asked, n)
        return part_of(n, size, self._source("part", step))

    def _level(self, plan: Plan) -> Level:
        automatic = self.options.estimator == "auto"
        return self._pace.of(
            plan,
            every=automatic and self.options.every == "auto",
            samples=automatic and self.options.samples == "auto",
        )

    def _counted(self, level: Level) -> bool:
        """Count a step if it is thinned, and return whether its strength is to be measured."""
        automatic = "auto" in (self.options.every, self.options.samples)
        return automatic and self.options.estimator == "auto" and self._pace.due(level)

    def _pushed_ahead(
        self, task: Task, plan: Plan, level: Level, inputs: Inputs, targets: object, step: int
    ) -> float | None:
        """Return the ratio of the gradients of penalty and loss, from passes without side effects.

        ``None`` if the part cannot replace the batch, or the model needs gradients to run.
        """
        if autocast_on(task.device.type):
            return None
        with untouched(task.parts, task.device, self._generator):
            given = task.fresh(inputs), task.fresh(targets)
            try:
                with torch.no_grad():
                    recorded = record(task, *given, body=plan.body)
            except RuntimeError:
                # What fails for another reason fails again in the pass that follows.
                return None
            found, penalty = self._taken(task, plan, level, *given, step, recorded)
            size = len(found.run.uses[0].features)
            if size == len(recorded.first.features):
                return None
            del found  # one graph at a time
            of_penalty = size_of(penalty, task, keep=False)
            del penalty
            of_loss = in_parts(task, plan, recorded, size)
        return ratio(of_penalty, of_loss, abs(self.weight) * level.every)

    def _thinned_less(self, plan: Plan, level: Level, pushed: float) -> Level:
        """The degree of thinning of a step: a lower one where the penalty would govern it."""
        self._pace.thin_less(pushed)
        denser = self._level(plan)
        if denser != level:
            _logger.info(
                "the penalty, taken every %d steps on %.0f %% of the batch, has a gradient in "
                "the layer's weight %.1f times as large as the loss has: from now on it is "
                "computed more often or on more samples (every %d steps, %.0f %% of the batch)",
                level.every,
                100 * level.share,
                pushed,
                denser.every,
                100 * denser.share,
            )
        return denser

    def _known(
        self, task: Task, inputs: Inputs, targets: object, *, step: int | None = None
    ) -> Known:
        """Return the plan for a batch, checked if a check is due at this training step."""

        def penalized(plan: Plan) -> bool:
            return step is not None and step % self._level(plan).every == 0

        loss = self.loss
        of_loss = loss.modules() if isinstance(loss, nn.Module) else ()
        modules = chain(self._cache.modules, of_loss)
        return self._planner.known(
            task, self.options, modules, inputs, targets, penalized=penalized
        )

    def _source(
        self, purpose: str, step: int, device: torch.device | str = "cpu"
    ) -> torch.Generator:
        if self._generator is not None:
            return self._generator
        return position_generator(self.seed, purpose, step, self._stream, device=device)

    def _draw(self, purpose: str, step: int) -> Draw:
        numbers = signs if self.options.distribution == "rademacher" else normals
        device = self._task().device
        return functools.partial(numbers, generator=self._source(purpose, step, device))


def _plain(task: Task, inputs: Inputs, targets: object) -> Terms:
    loss = task.plain(inputs, targets)
    return Terms(loss, loss, None)


def _signature() -> inspect.Signature:
    """Return the signature shown by `help`, with the options and their defaults."""
    own = inspect.signature(FAM.__init__)
    kept = [p for name, p in own.parameters.items() if name not in ("self", "options")]
    listed = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in fields(Options)
    ]
    return inspect.Signature([*kept, *listed])


FAM.__signature__ = _signature()  # type: ignore[attr-defined]
