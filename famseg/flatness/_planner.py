"""The plans of one objective: made on the batches it sees, kept, and checked again."""

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
    """Makes a plan for each state of a model that it meets, and checks it again in time.

    A state is which layers are used, the training flags of all modules, and what of a batch is as
    long as the batch. Other options, or another loss, begin anew.

    Args:
        explain: Says in words how the current plan works, for the log.

    Attributes:
        plan: The plan of the last batch; ``None`` before the first.
        samples: Number of samples of the last batch; 0 if nothing counts them.
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
        """Return the plan of a batch: made on the first that can tell, for each state of the model.

        Args:
            task: What is run.
            options: What was asked for.
            modules: Those whose training flags matter.
            inputs: The model's arguments.
            targets: Those of the loss.
            penalized: Whether the step is penalized under a plan, which is checked then if that is
                due.

        Raises:
            FlatnessError: If the penalty cannot be computed as asked.
        """
        if options != self._options or task.loss is not self._loss:
            self._begin_anew(options.samples_in)
            self._options, self._loss = options, task.loss
        n, layout = self._lengths.layout(inputs, targets)
        self.samples = n
        # Batch norm in evaluation mode is another tail than in training.
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
            if not final:  # a batch that could not tell
                known.upkeep.try_again()
        if known.plan != self.plan:
            self.plan = known.plan
            self._say(known.plan)
        return known

    def loose(self, rows: Mapping[str, int]) -> bool:
        """Return whether layers have other rows than samples, in this batch or an earlier one.

        Args:
            rows: How many rows each layer sees, by its name.
        """
        return self._lengths.loose(rows, self.samples)

    def forget(self) -> None:
        """Let every state be planned anew."""
        self._plans.clear()

    def _begin_anew(self, samples_in: tuple[str, ...] | None) -> None:
        self.plan = None
        self.samples = 0
        self._plans: dict[_Key, Known] = {}
        self._lengths = Lengths(samples_in)

    def _say(self, plan: Plan) -> None:
        # Batches of different states may take turns, and one that is smaller is not thinned out:
        # each way of computing is told once, however often and on how much of the batch it runs.
        if plan.layers not in self._said:
            self._said.add(plan.layers)
            _logger.info("%s", self._explain())
