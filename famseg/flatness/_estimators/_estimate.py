"""Computation of the planned estimate for a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from famseg.flatness._errors import NotApplicableError
from famseg.flatness._estimators._choice import LayerPlan, Plan
from famseg.flatness._estimators._eigenvalue import max_eigenvalue
from famseg.flatness._estimators._factor import Factor, factor
from famseg.flatness._estimators._head import head_flatness
from famseg.flatness._estimators._products import (
    Draw,
    Gradient,
    batch_direction,
    columns,
    exact,
    quadratic,
    sample_direction,
)
from famseg.flatness._options import Options
from famseg.flatness._terms import Estimate
from famseg.flatness._tracing._loss_call import LossCall
from famseg.flatness._tracing._uses import Pass, Product, Use

ProductOf = Callable[[Sequence[Use]], Product]


@dataclass(frozen=True)
class Rule:
    """The quantity to compute, independent of the plan.

    Attributes:
        options: The options of the objective.
    """

    options: Options

    @property
    def gradient(self) -> Gradient:
        """The part of the gradient that is computed."""
        return "weights_only" if self.options.weights_only else "full"

    def factor(self, use: Use) -> Factor:
        """Return the factor of a layer."""
        plain = factor(
            use.weight,
            use.operator,
            quantity=self.options.quantity,
            as_released=self.options.as_released,
        )
        if not self.options.per_feature:
            return plain
        share = use.weight.new_tensor(1 / plain.shape[2])
        return Factor(plain.matrix, plain.scaled(share), plain.shape)


def estimate(
    rule: Rule,
    plan: Plan,
    run: Pass,
    draw: Draw,
    product_of: ProductOf,
    *,
    create_graph: bool,
) -> Estimate:
    """Return the sum of the layers' values.

    Args:
        rule: The quantity to compute.
        plan: The method.
        run: The pass.
        draw: Draws probes.
        product_of: Returns the product with the curvature for some of the layers.
        create_graph: Whether the curvature itself can be differentiated.
    """
    found: list[Estimate] = []
    probed: list[tuple[LayerPlan, Use]] = []
    uses = {use.name: use for use in run.uses}  # a recorded pass has them in the order of execution
    for one in plan.layers:
        use = uses[one.name]
        if rule.gradient == "weights_only":
            use = use.with_constant_features()
        if one.method == "columns" and not use.operator.single:
            raise NotApplicableError(
                f"layer {use.name!r} is penalized by columns, which worked on an earlier batch: "
                "its "
                f"input now has shape {tuple(use.features.shape)}. Use "
                'estimator="hutchinson", which works for both.'
            )
        if one.method in ("sample_probes", "batch_probes"):
            probed.append((one, use))
        elif one.method == "closed_form":
            found.append(Estimate(closed(rule, use, run.call)))
        elif one.method == "columns":
            product = product_of([use])
            found.append(Estimate(columns(run, use, rule.factor(use), product)))
        elif one.method == "exact":
            found.append(Estimate(exact(use, rule.factor(use), product_of([use]))))
        else:
            found.append(Estimate(_eigenvalues(rule, plan, run, use, create_graph=create_graph)))
    found += _probed(rule, probed, draw, product_of)
    return _sum(found)


def directions(
    uses: Sequence[tuple[LayerPlan, Use]], factors: Sequence[Factor], draw: Draw
) -> list[Tensor]:
    """Draw a direction for each layer, with the method in its plan."""
    return [
        (sample_direction if one.method == "sample_probes" else batch_direction)(use, f, draw)
        for (one, use), f in zip(uses, factors, strict=True)
    ]


def _probed(
    rule: Rule, uses: Sequence[tuple[LayerPlan, Use]], draw: Draw, product_of: ProductOf
) -> list[Estimate]:
    """Return the values of layers that share their Hessian-vector products.

    The terms that couple two layers have mean zero, since their probes are independent.
    """
    factors = [rule.factor(use) for _, use in uses]
    together = all(f.scale is None for f in factors)
    groups = [range(len(uses))] if together and uses else [[i] for i in range(len(uses))]
    found = []
    for group in groups:
        chosen, scales = [uses[i] for i in group], [factors[i] for i in group]
        product = product_of([use for _, use in chosen])
        per_sample = all(one.method == "sample_probes" for one, _ in chosen)
        values = [
            scales[0].scaled(
                quadratic(product, directions(chosen, scales, draw), per_sample=per_sample)
            )
            for _ in range(rule.options.probes)
        ]
        stacked = torch.stack(values)  # (probes, n) or (probes,)
        found.append(
            Estimate(
                stacked.mean(0),
                stacked.detach().flatten(1).mean(1) if per_sample else stacked.detach(),
            )
        )
    return found


def closed(rule: Rule, use: Use, call: LossCall | None) -> Tensor:
    """Return the samples' values in closed form.

    Args:
        rule: The quantity to compute.
        use: The layer.
        call: The call of the loss function that returned the loss.

    Raises:
        NotApplicableError: If this layer has no closed form.
    """
    if call is None:
        raise NotApplicableError(
            f"layer {use.name!r} is penalized by closed_form, which worked on an earlier batch: "
            "its output no longer goes directly into cross-entropy, squared error or binary "
            "cross-entropy. "
            'Use estimator="hutchinson", which works for both.'
        )
    values = head_flatness(
        call,
        use.operator,
        use.features,
        use.output,
        use.weight,
        quantity=rule.options.quantity,
        gradient=rule.gradient,
    )
    return values / rule.factor(use).shape[2] if rule.options.per_feature else values


def _eigenvalues(rule: Rule, plan: Plan, run: Pass, use: Use, *, create_graph: bool) -> Tensor:
    value: Tensor = max_eigenvalue(
        run,
        use,
        interact=plan.interact,
        gradient=rule.gradient,
        create_graph=create_graph,
    )
    return value / rule.factor(use).shape[2] if rule.options.per_feature else value


def _sum(found: Sequence[Estimate]) -> Estimate:
    if len(found) == 1:
        return found[0]
    values = [one.values for one in found]
    if len({v.shape for v in values}) > 1:
        values = [v.mean() for v in values]
    drawn = [one.probes for one in found if one.probes is not None]
    # If some layers are exact, the spread of the probes is that of the others.
    return Estimate(torch.stack(values).sum(0), torch.stack(drawn).sum(0) if drawn else None)
