"""Find out, once and without a trace, how a model can be penalized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from famseg.flatness._errors import UnsupportedTailError
from famseg.flatness._estimators._choice import Facts, LayerFacts, Plan, plan
from famseg.flatness._estimators._differences import check_differences
from famseg.flatness._estimators._estimate import Rule
from famseg.flatness._estimators._head import obstacle
from famseg.flatness._jets._check import jets_hold, may_carry
from famseg.flatness._options import Options
from famseg.flatness._tracing._arguments import Inputs, copied, versions
from famseg.flatness._tracing._loss_call import plain_call
from famseg.flatness._tracing._parts import FAULTS, PARTS, Found, find_parts
from famseg.flatness._tracing._pass import Noting, Task, checked, record
from famseg.flatness._tracing._samples import INPUTS, TARGETS, Cut
from famseg.flatness._tracing._state import untouched
from famseg.flatness._tracing._tail import check_slopes, samples_interact
from famseg.flatness._tracing._uses import Pass, Use
from famseg.flatness._tracing._watch import compiled_noted, without_autocast


# Long because each decision frees what the one before needed: the graph of the first pass is
# deleted before the model runs again, which decides how much memory the first step takes.
def settle(
    task: Task,
    options: Options,
    inputs: Inputs,
    targets: object,
    *,
    n: int,
    held: frozenset[str],
    loose: Callable[[Mapping[str, int]], bool],
) -> tuple[Plan, bool]:
    """Choose a plan by a pass on a batch that leaves no trace, and say whether it can be kept.

    Args:
        task: What to run.
        options: What was asked for.
        inputs: The model's arguments.
        targets: Those of the loss.
        n: Number of samples of the batch.
        held: Paths of the tensors that may hold samples.
        loose: Takes the numbers of rows of the layers, and returns whether these are other than
            samples, now or in an earlier batch.

    Returns:
        The plan, and whether later batches need no new one.

    Raises:
        FlatnessError: If the penalty cannot be computed as asked.
    """
    estimator = options.estimator
    rough = estimator in ("noise", "finite_difference")
    with compiled_noted(task.model, task.layers) as behind:
        looking = replace(task, eager=True, noting="model")
        given = copied(inputs), copied(targets)
        before = versions(given)
        run = checked(looking, *given, derivatives=not rough)
    # Compiled code has no second derivative and hides the layers in it; what only runs before them
    # may stay compiled.
    task = replace(task, eager=bool(behind), copies=versions(given) != before)
    layers = {
        use.name: LayerFacts(
            (use.operator.groups, *use.operator.rows(use.weight).shape[1:]),
            use.operator.single,
            _obstacle(options, run, use),
            tuple(use.features.shape),
        )
        for use in run.uses
    }
    noting = _noting(task, run)
    facts = Facts(layers, interact=False, parts=Found(None, ()), noting=noting)
    if _by_layer_alone(options, facts):
        return plan(options, facts, eager=task.eager, copies=task.copies), True
    samples, finite = run.samples, bool(run.loss.isfinite())
    # Rows that are not samples, an expert's tokens say, may belong to one sample another time.
    other = estimator == "auto" and loose({use.name: len(use.features) for use in run.uses})
    whole = ("all",) if estimator == "auto" else ("all", "auto")
    wanted = finite and not other and options.samples not in whole
    parts, twice = Found(None, ()), True
    if wanted and not rough:
        del run  # what follows runs the model again, and needs the memory
        parts = find_parts(task, inputs, targets, n, held, wanted=True)
        interact = _interact_in_parts(task, inputs, targets, n, parts.cut)
    else:
        with without_autocast(task.device.type):
            interact, twice = _interact(run, rough=rough)
        del run
    if samples == 1:
        interact = False
    if other:
        interact = True
    if not finite:  # such a batch shows nothing, and the training will say so
        options = options.with_(samples="all")
        facts = replace(facts, interact=interact, twice=twice)
        return plan(options, facts, eager=task.eager, copies=task.copies), False
    if rough:
        wanted = wanted and interact is not True
        parts = find_parts(task, inputs, targets, n, held, wanted=wanted)
        if estimator == "finite_difference":
            with untouched(task.parts, task.device):
                given = task.fresh(inputs), task.fresh(targets)
                recorded = record(task, *given, body=parts.body, draws=True)
            with without_autocast(task.device.type):
                check_differences(task, recorded)
    elif interact is True:
        parts = Found(None, ())
    facts = replace(facts, interact=interact, twice=twice, parts=parts)
    chosen = plan(options, facts, eager=task.eager, copies=task.copies)
    if may_carry(options, chosen):
        rule = Rule(options)
        chosen = replace(chosen, jets=jets_hold(task, rule, chosen, inputs, targets))
    return chosen, interact is not None


def _obstacle(options: Options, run: Pass, use: Use) -> str | None:
    """Return the reason why a layer has no closed form, in words."""
    if options.as_released:
        return "the closed form does not have the norms of the released code"
    if run.call is None:
        return (
            "the loss does not get its output, or is another function of it, or has "
            'reduction="none"'
        )
    return obstacle(run.call, use.operator, use.output)


def _noting(task: Task, run: Pass) -> Noting:
    """Where the call of the loss function was found, and will be looked for from now on."""
    call = run.call
    if call is None:
        return "nowhere"
    if plain_call(task.loss, call.input, call.targets) is not None:
        return "plain"
    return "model" if call.in_model else "loss"


def _by_layer_alone(options: Options, facts: Facts) -> bool:
    """Whether nothing but the layers themselves decides on the plan."""
    if options.estimator in ("exact", "closed_form"):
        return options.quantity != "max_eigenvalue"
    return (
        options.estimator == "auto"
        and options.quantity != "max_eigenvalue"
        and all(layer.obstacle is None for layer in facts.layers.values())
    )


def _interact(run: Pass, *, rough: bool) -> tuple[bool | None, bool]:
    """Whether samples interact, and whether there are second derivatives to tell it from."""
    try:
        if rough:
            check_slopes(run)
        return samples_interact(run), True
    except UnsupportedTailError:
        if not rough:
            raise
        return True, False  # nothing is known: what holds in any case


def _interact_in_parts(
    task: Task, inputs: Inputs, targets: object, n: int, cut: Cut | None
) -> bool | None:
    """Whether samples interact, found out on half of the batch at a time if that is enough.

    Where the loss of the batch is the mean of the losses of its parts, two samples of different
    parts do not interact. Every two others are in the same half, and half of the batch takes half
    of the memory.
    """

    def told(rows: Tensor | None) -> bool | None:
        given = task.fresh(inputs), task.fresh(targets)
        if rows is not None and cut is not None:
            given = cut.rows(given[0], rows, INPUTS), cut.rows(given[1], rows, TARGETS)
        run = checked(task, *given, derivatives=False)
        with without_autocast(task.device.type):
            return samples_interact(run)

    if cut is not None and n >= PARTS:
        try:
            halves = {told(torch.arange(first, n, 2)) for first in (0, 1)}
        except FAULTS:
            pass
        else:
            return True if True in halves else False if False in halves else None
    return told(None)
