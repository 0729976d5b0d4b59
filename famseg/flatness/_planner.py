"""The plans of one objective, which are made on its batches, cached and checked again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from famseg.flatness._estimators._choice import LayerPlan, Plan
from famseg.flatness._options import Options
from famseg.flatness._settle import settle
from famseg.flatness._tracing._arguments import Inputs
from famseg.flatness._tracing._pass import Task
from famseg.flatness._tracing._samples import Layout, Lengths
from famseg.flatness._upkeep import Upkeep

_logger = logging.getLogger("famseg.flatness")

_Key = tuple[tuple[str, ...], tuple[bool, ...], bool, Layout]


@dataclass
class Known:
    """A plan, and when to check it."""

    plan: Plan
    upkeep: Upkeep


class Planner:
    """Makes a plan for each state of a model, and checks it at intervals.

    A state consists of the layers used, the training flags of all modules, and the tensors of a
    batch that are as long as the batch. Changing options or the loss discards all plans.

    Args:
        explain: Describes the current plan for the log.

    Attributes:
        plan: The plan of the last batch; ``None`` before the first.
        samples: Number of samples in the last batch; 0 if it is unknown.
    """

    plan: Plan | None
    samples: int

    def __init__(self, explain: Callable[[], str]) -> None:
        self._explain = explain
        self._options: Options | None = None
        self._loss: object = None
        self._said: set[tuple[LayerPlan, ...]] = set()
        self._begin_anew(None)

    def known(
        self,
        task: Task,
        options: Options,
        modules: Iterable[nn.Module],
        inputs: Inputs,
        targets: object,
        *,
        penalized: Callable[[Plan], bool],
    ) -> Known:
        """Return the plan for a batch, made on the first suitable batch in each state of the model.

        Args:
            task: The model and loss to run.
            options: The options of the objective.
            modules: Modules whose training flags belong to the state.
            inputs: The model's arguments.
            targets: The targets of the loss.
            penalized: Returns whether the step is penalized under a plan, which is then checked if
                a check is due.

        Raises:
            FlatnessError: If the penalty cannot be computed with these options.
        """
        if options != self._options or task.loss is not self._loss:
            self._begin_anew(options.samples_in)
            self._options, self._loss = options, task.loss
        n, layout = self._lengths.layout(inputs, targets)
        self.samples = n
        # Batch norm in evaluation mode is a different tail than in training.
        flags = tuple([module.training for module in modules])
        key = (tuple(task.layers), flags, n > 1, layout)
        known = self._plans.get(key)
        if known is None or (penalized(known.plan) and known.upkeep.due(task.parts)):
            held = self._lengths.held(layout)
            chosen, final = settle(task, options, inputs, targets, n=n, held=held, loose=self.loose)
            if known is None:
                known = self._plans[key] = Known(chosen, Upkeep(task.parts))
            elif final:
                chosen = chosen.unless_thinner_than(known.plan)
                known.upkeep.checked(same=chosen == known.plan)
                known.plan = chosen
            if not final:  # this batch did not suffice for a final plan
                known.upkeep.try_again()
        if known.plan != self.plan:
            self.plan = known.plan
            self._say(known.plan)
        return known

    def loose(self, rows: Mapping[str, int]) -> bool:
        """Return whether layers have rows that are not samples, in this batch or an earlier one.

        Args:
            rows: Number of rows in the input of each layer, by name.
        """
        return self._lengths.loose(rows, self.samples)

    def forget(self) -> None:
        """Discard all plans."""
        self._plans.clear()

    def _begin_anew(self, samples_in: tuple[str, ...] | None) -> None:
        self.plan = None
        self.samples = 0
        self._plans: dict[_Key, Known] = {}
        self._lengths = Lengths(samples_in)

    def _say(self, plan: Plan) -> None:
        # Batches of different states may alternate, and smaller batches are not thinned. Each
        # method is logged only once, regardless of interval and part of the batch.
        if plan.layers not in self._said:
            self._said.add(plan.layers)
            _logger.info("%s", self._explain())
