"""Determine once, without side effects, how a model can be penalized."""

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


# Long because each decision frees the memory of the previous one: the graph of the first pass is
# deleted before the model runs again, which limits the peak memory of the first step.
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
    """Choose a plan by a pass on a batch without side effects, and return whether to keep it.

    Args:
        task: The model and loss to run.
        options: The options of the objective.
        inputs: The model's arguments.
        targets: The targets of the loss.
        n: Number of samples of the batch.
        held: Paths of the tensors that may hold samples.
        loose: Takes the number of rows of each layer, and returns whether rows differ from samples,
            in this or an earlier batch.

    Returns:
        The plan, and whether it can be used for later batches.

    Raises:
        FlatnessError: If the penalty cannot be computed with these options.
    """
    estimator = options.estimator
    rough = estimator in ("noise", "finite_difference")
    with compiled_noted(task.model, task.layers) as behind:
        looking = replace(task, eager=True, noting="model")
        given = copied(inputs), copied(targets)
        before = versions(given)
        run = checked(looking, *given, derivatives=not rough)
    # Compiled code has no second derivatives and hides the layers inside it. Code that runs only
    # before the layers may stay compiled.
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
    # Rows that are not samples, such as an expert's tokens, may later belong to the same sample.
    other = estimator == "auto" and loose({use.name: len(use.features) for use in run.uses})
    whole = ("all",) if estimator == "auto" else ("all", "auto")
    wanted = finite and not other and options.samples not in whole
    parts, twice = Found(None, ()), True
    if wanted and not rough:
        del run  # frees memory, because the model runs again
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
    if not finite:  # such a batch reveals nothing, and the training reports it
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
    """Return the reason why a layer has no closed form."""
    if options.as_released:
        return "the closed form does not have the norms of the released code"
    if run.call is None:
        return (
            "the loss does not get its output, or is another function of it, or has "
            'reduction="none"'
        )
    return obstacle(run.call, use.operator, use.output)


def _noting(task: Task, run: Pass) -> Noting:
    """Return where the call of the loss function was found, to search there from now on."""
    call = run.call
    if call is None:
        return "nowhere"
    if plain_call(task.loss, call.input, call.targets) is not None:
        return "plain"
    return "model" if call.in_model else "loss"


def _by_layer_alone(options: Options, facts: Facts) -> bool:
    """Return whether the plan depends only on the layers themselves."""
    if options.estimator in ("exact", "closed_form"):
        return options.quantity != "max_eigenvalue"
    return (
        options.estimator == "auto"
        and options.quantity != "max_eigenvalue"
        and all(layer.obstacle is None for layer in facts.layers.values())
    )


def _interact(run: Pass, *, rough: bool) -> tuple[bool | None, bool]:
    """Return whether samples interact, and whether second derivatives exist to determine it."""
    try:
        if rough:
            check_slopes(run)
        return samples_interact(run), True
    except UnsupportedTailError:
        if not rough:
            raise
        return True, False  # unknown, so the result that is always valid


def _interact_in_parts(
    task: Task, inputs: Inputs, targets: object, n: int, cut: Cut | None
) -> bool | None:
    """Return whether samples interact, tested on half of the batch at a time if that suffices.

    If the loss of the batch is the mean of the losses of its parts, samples of different parts do
    not interact. Any other two samples are in the same half, and half of the batch needs half of
    the memory.
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
