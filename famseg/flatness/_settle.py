"""Find out, once and without a trace, how a model can be penalised."""

from __future__ import annotations

from dataclasses import replace

from famseg.flatness._arguments import Inputs, copied, versions
from famseg.flatness._choice import Facts, LayerFacts, Plan, plan
from famseg.flatness._differences import check_differences
from famseg.flatness._errors import UnsupportedTailError
from famseg.flatness._estimate import Rule
from famseg.flatness._estimators import Pass, Use
from famseg.flatness._head import obstacle
from famseg.flatness._jets_check import jets_hold, may_carry
from famseg.flatness._loss_call import plain_call
from famseg.flatness._options import Options
from famseg.flatness._parts import Found, find_parts
from famseg.flatness._pass import Noting, Task, checked, record
from famseg.flatness._state import untouched
from famseg.flatness._tail import check_slopes, samples_interact
from famseg.flatness._watch import compiled_noted, without_autocast


def settle(
    task: Task,
    options: Options,
    inputs: Inputs,
    targets: object,
    *,
    n: int,
    held: frozenset[str],
) -> tuple[Plan, bool]:
    """Choose a plan by a pass on a batch that leaves no trace, and say whether it can be kept.

    Args:
        task: What to run.
        options: What was asked for.
        inputs: The model's arguments.
        targets: Those of the loss.
        n: Number of samples of the batch.
        held: Paths of the tensors that may hold samples.

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
    with without_autocast(task.device.type):
        interact, twice = _interact(run, rough=rough)
    if run.samples == 1:
        interact = False
    if estimator == "auto" and n and any(len(use.features) != n for use in run.uses):
        # Rows that are not samples, an expert's tokens say, may belong to one sample another time.
        interact = True
    facts = replace(facts, interact=interact, twice=twice)
    whole = ("all",) if estimator == "auto" else ("all", "auto")
    wanted = interact is not True and options.samples not in whole
    if not run.loss.isfinite():  # such a batch shows nothing, and the training will say so
        options = options.with_(samples="all")
        return plan(options, facts, eager=task.eager, copies=task.copies), False
    if wanted or rough:
        parts = find_parts(task, inputs, targets, n, held, wanted=wanted)
        facts = replace(facts, parts=parts)
        if estimator == "finite_difference":
            with untouched(task.parts, task.device):
                given = task.fresh(inputs), task.fresh(targets)
                recorded = record(task, *given, body=parts.body, draws=True)
            with without_autocast(task.device.type):
                check_differences(task, recorded)
    chosen = plan(options, facts, eager=task.eager, copies=task.copies)
    if may_carry(options, chosen):
        rule = Rule(options)
        chosen = replace(chosen, jets=jets_hold(task, rule, chosen, inputs, targets))
    return chosen, interact is not None


def _obstacle(options: Options, run: Pass, use: Use) -> str | None:
    """Why there is no closed form at a layer, in words."""
    if options.as_released:
        return "the norms of the authors' code are not those of the closed form"
    if run.call is None:
        return (
            "what the loss gets is not its output, or the loss is another function of it or has "
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
