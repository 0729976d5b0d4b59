r"""Relative flatness by finite differences of the gradient, or of the loss itself.

Both rerun the network after the layer with its outputs shifted along a direction ``v``:

.. math:: H v \approx \frac{g(z + h v) - g(z - h v)}{2h}, \qquad
    E_v\, L(z + s v) = L(z) + \frac{s^2}{2} \kappa + O(s^4)

with ``g`` the gradient of the loss in the outputs. The first replaces :math:`H v` in the quadratic
form of a probe, which keeps its variance and introduces a small bias. The second needs only first
derivatives of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from famseg.flatness._errors import NotApplicableError
from famseg.flatness._tracing._derivatives import pullback
from famseg.flatness._tracing._pass import Recorded, Task, replay
from famseg.flatness._tracing._samples import Cut
from famseg.flatness._tracing._uses import Product
from famseg.flatness._tracing._watch import Edit, Site, add_shift


def difference(
    task: Task,
    recorded: Recorded,
    names: Sequence[str],
    *,
    part: Tensor | None,
    cut: Cut | None,
    create_graph: bool,
    reach: float = 1.0,
) -> Product:
    r"""Return the product with the Hessian by central differences of the gradient.

    .. math:: \frac{g(z + h v) - g(z - h v)}{2h} = H v + \frac{h^2}{6} D^3 g[v, v, v] + O(h^4)

    The cost is two more runs of the network after the layer, each differentiated once; the gradient
    of the result needs only second derivatives, whose correctness does not depend on torch's third
    ones. The bias is of order :math:`h^2` where the network is smooth, and rounding adds
    :math:`\epsilon / h` for a precision :math:`\epsilon`: both are smallest together at a step of
    :math:`\epsilon^{1/3}`, which is taken relative to the outputs and leaves an error of
    :math:`\epsilon^{2/3}` (Press et al., *Numerical Recipes*, section 5.7). For kinks within the
    step see `check_differences`.

    Worked value: :math:`g(z) = z^3` at :math:`z = 1` along :math:`v = 1` gives
    :math:`3 + h^2`, 3.0001 with a step of 0.01; the exact product is 3.

    Args:
        task: The model and loss to run.
        recorded: The pass to rerun.
        names: The layers of the directions.
        part: Indices of the samples to run; all by default.
        cut: Which tensors hold samples, for a part.
        create_graph: Whether the result can be differentiated.
        reach: Factor of the step size.
    """
    sites = [recorded.sites[name] for name in names]

    def gradient_at(moves: Sequence[Tensor]) -> Sequence[Tensor]:
        move = dict(zip(names, moves, strict=True))

        def moved(site: Site) -> Tensor:
            shifted = add_shift(site)
            return shifted + move[site.name] if site.name in move else shifted

        run = replay(task, recorded, part=part, cut=cut, edit=moved).run
        shifts = {use.name: use.shift for use in run.uses}
        one = torch.ones_like(run.loss)
        return pullback(
            [run.loss], [shifts[name] for name in names], [one], create_graph=create_graph
        )

    def product(directions: Sequence[Tensor]) -> Sequence[Tensor]:
        step = reach * _step([s.own if part is None else s.own[part] for s in sites], directions)
        ahead = gradient_at([step * v for v in directions])
        behind = gradient_at([-step * v for v in directions])
        return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]

    return product


def check_differences(task: Task, recorded: Recorded) -> None:
    """Reject a network whose differences depend on the step size because of kinks.

    If the input of a ReLU-like activation changes its sign within the step, the jump of the slope
    contributes in full. Shorter steps contain fewer kinks, but each has a larger effect, so that
    kinks dominate the result and it does not converge. In float32, halving the step changes the
    result by 1e-4 for a smooth network, and by half or more with kinks; in float64 the step is so
    short that it rarely contains a kink.

    Args:
        task: The model and loss to run.
        recorded: The pass to rerun.

    Raises:
        NotApplicableError: If halving the step changes the products by more than a tolerance.
    """
    names = list(recorded.sites)
    generator = torch.Generator().manual_seed(0)
    directions = [
        torch.randn(site.own.shape, generator=generator, dtype=torch.float64).to(
            site.own.device, site.layer.weight.dtype
        )
        for site in recorded.sites.values()
    ]
    whole, half = (
        difference(task, recorded, names, part=None, cut=None, create_graph=False, reach=reach)(
            directions
        )
        for reach in (1.0, 0.5)
    )
    size = _rms(half)
    change = _rms([a - b for a, b in zip(whole, half, strict=True)])
    if change > _SETTLED * size:  # False for NaN, which is reported elsewhere
        raise NotApplicableError(
            'estimator "finite_difference" does not converge on this network: half the step '
            f"changes it by {change / size:.0%}. Activations with kinks (ReLU, PReLU, max "
            "pooling) change "
            "sides within the step. Run the model in float64, which allows a far shorter step, "
            'or use estimator="hutchinson" or "noise".'
        )


_SETTLED = 0.05


def noisy(direction: Callable[[Site], Tensor], scale: float) -> Edit:
    """Return an edit that adds noise to the outputs: a direction and the distance along it.

    For its effect on the expected loss and the error, see `famseg.flatness._step`.
    """

    def edit(site: Site) -> Tensor:
        return site.own + scale * direction(site).to(site.own.dtype)

    return edit


def _step(outputs: Sequence[Tensor], directions: Sequence[Tensor]) -> float:
    """Return the step size: a change relative to the outputs by the cube root of the precision."""
    with torch.no_grad():
        size, change = _rms(outputs), _rms(directions)
    root: float = torch.finfo(directions[0].dtype).eps ** (1 / 3)
    if not change > 0:
        return root
    return root * (size if size > 0 else 1.0) / change


def _rms(tensors: Sequence[Tensor]) -> float:
    total: float = sum(t.double().square().sum().item() for t in tensors)
    return math.sqrt(total / sum(t.numel() for t in tensors))
