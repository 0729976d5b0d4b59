from __future__ import annotations

from collections.abc import Callable

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.optim import SGD

from famseg.engine._sharpness import Sharpness
from famseg.engine._sharpness_variants import ReusedSharpness, SurrogateGap, WeightedSharpness

RHO = 0.2


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in ((3, 2), (4,))
    ]


def with_gradients(weights: list[nn.Parameter], seed: int) -> Tensor:
    """Give the weights random gradients; return them as one vector."""
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return flat(weight.grad for weight in weights)


def flat(tensors: object) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def mixed(method: Sharpness, weights: list[nn.Parameter], step: int = 0) -> tuple[Tensor, ...]:
    """Return a plain gradient, the one at the worst place, and what a method makes of both."""
    plain = with_gradients(weights, 1 + step)
    before = method.gradients()
    sharp = with_gradients(weights, 100 + step)
    method.mix(step, before)
    return plain, sharp, flat(weight.grad for weight in weights)


def test_gsam_takes_the_orthogonal_part_off() -> None:
    weights = parameters()
    method = SurrogateGap(weights, rho=RHO, rho_min=0.0, alpha=0.3)
    plain, sharp, found = mixed(method, weights)
    unit = sharp / sharp.norm()
    orthogonal = plain - (plain @ unit) * unit
    torch.testing.assert_close(found, sharp - 0.3 * orthogonal, rtol=1e-12, atol=0)


def test_the_distance_of_gsam_follows_the_learning_rate() -> None:
    weights = parameters()
    method = SurrogateGap(weights, rho=0.5, rho_min=0.1, alpha=0.3)
    for rate, distance in ((1.0, 0.5), (0.25, 0.2), (0.0, 0.1)):
        with_gradients(weights, 1)
        before = flat(weights)
        with method.away(rate):
            assert float((flat(weights) - before).norm()) == pytest.approx(distance)


def test_wsam_weighs_the_sharpness() -> None:
    weights = parameters()
    method = WeightedSharpness(weights, rho=RHO, gamma=0.75, decoupled=False)
    plain, sharp, found = mixed(method, weights)
    torch.testing.assert_close(found, plain + 3 * (sharp - plain), rtol=1e-12, atol=0)


def test_wsam_takes_the_sharpness_off_after_the_step() -> None:
    weights = parameters()
    method = WeightedSharpness(weights, rho=RHO, gamma=0.75, decoupled=True)
    plain, sharp, found = mixed(method, weights)
    assert torch.equal(found, plain)
    before, optimizer = flat(weights), SGD(weights, lr=0.1)
    method.after_step(optimizer, scale=4.0)  # the gradients are those of a loss times four
    expected = before - 0.1 * 3 * (sharp - plain) / 4
    torch.testing.assert_close(flat(weights), expected, rtol=1e-12, atol=0)
    method.after_step(optimizer, scale=4.0)
    torch.testing.assert_close(flat(weights), expected, rtol=1e-12, atol=0)  # once


def test_looksam_reuses_what_sam_has_beside_the_plain_gradient() -> None:
    weights = parameters()
    method = ReusedSharpness(weights, rho=RHO, every=3, alpha=0.7)
    assert [method.due(step) for step in range(5)] == [True, False, False, True, False]
    plain, sharp, found = mixed(method, weights, step=0)
    assert torch.equal(found, sharp)
    unit = plain / plain.norm()
    direction = sharp - (sharp @ unit) * unit

    later = with_gradients(weights, 2)
    method.mix(1, method.gradients())
    expected = later + 0.7 * later.norm() * direction / direction.norm()
    torch.testing.assert_close(
        flat(weight.grad for weight in weights), expected, rtol=1e-12, atol=0
    )


def test_what_looksam_keeps_survives_a_checkpoint() -> None:
    weights = parameters()
    method = ReusedSharpness(weights, rho=RHO, every=3, alpha=0.7)
    mixed(method, weights)
    again = ReusedSharpness(weights, rho=RHO, every=3, alpha=0.7)
    again.load_state_dict(method.state_dict())
    results = []
    for each in (method, again):
        with_gradients(weights, 2)
        each.mix(1, each.gradients())
        results.append(flat(weight.grad for weight in weights))
    assert torch.equal(*results)


def test_looksam_without_a_kept_part_takes_the_plain_gradient() -> None:
    weights = parameters()
    method = ReusedSharpness(weights, rho=RHO, every=3, alpha=0.7)  # fp16 skipped the first step
    plain = with_gradients(weights, 1)
    method.mix(1, method.gradients())
    assert torch.equal(flat(weight.grad for weight in weights), plain)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_gradients_of_zero_stay_zero(alpha: float) -> None:
    weights = parameters()
    methods = [
        SurrogateGap(weights, rho=RHO, rho_min=0.0, alpha=alpha),
        ReusedSharpness(weights, rho=RHO, every=2, alpha=alpha),
    ]
    for method in methods:
        for step in (0, 1):
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            method.mix(step, method.gradients())
            assert float(flat(weight.grad for weight in weights).norm()) == 0


def test_a_gradient_that_is_there_only_once_counts_as_zero_elsewhere() -> None:
    weights = parameters()
    method = WeightedSharpness(weights, rho=RHO, gamma=0.75, decoupled=False)
    with_gradients(weights, 1)
    weights[1].grad = None
    before = method.gradients()
    with_gradients(weights, 2)
    sharp = weights[1].grad.clone()
    method.mix(0, before)
    torch.testing.assert_close(weights[1].grad, 3 * sharp)

    for weight in weights:
        weight.grad = None
    method.mix(0, method.gradients())
    assert all(weight.grad is None for weight in weights)  # nothing for an optimizer to move by


def problem(weight: nn.Parameter) -> Tensor:
    """A loss with a third derivative, so that every formula shows."""
    target = torch.arange(6, dtype=torch.float64).view(3, 2)
    return ((weight - target).square() * weight.sin()).sum() + weight.exp().sum()


def trained(method: Sharpness, weight: nn.Parameter, optimizer: SGD, steps: int) -> Tensor:
    """Train as the engine does."""
    for step in range(steps):
        optimizer.zero_grad()
        problem(weight).backward()
        plain = method.gradients()
        if method.due(step):
            with method.away():
                problem(weight).backward()
        method.mix(step, plain)
        optimizer.step()
        method.after_step(optimizer, scale=1.0)
    return weight.detach()


def gsam(weight: nn.Parameter, optimizer: SGD) -> pytorch_optimizer.GSAM:
    class Constant:
        def step(self) -> float:
            return RHO

    return pytorch_optimizer.GSAM(
        [weight], optimizer, nn.Module(), rho_scheduler=Constant(), alpha=0.3
    )


def wsam(weight: nn.Parameter, *, decouple: bool) -> pytorch_optimizer.WSAM:
    return pytorch_optimizer.WSAM(
        nn.Module(), [weight], SGD, rho=RHO, gamma=0.75, decouple=decouple, lr=0.01, momentum=0.9
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda w: SurrogateGap([w], rho=RHO, rho_min=RHO, alpha=0.3),
            lambda w: gsam(w, SGD([w], lr=0.01, momentum=0.9)),
        ),
        (
            lambda w: WeightedSharpness([w], rho=RHO, gamma=0.75, decoupled=True),
            lambda w: wsam(w, decouple=True),
        ),
        (
            lambda w: WeightedSharpness([w], rho=RHO, gamma=0.75, decoupled=False),
            lambda w: wsam(w, decouple=False),
        ),
        (  # one tensor: its norm is that of all
            lambda w: ReusedSharpness([w], rho=RHO, every=3, alpha=0.7),
            lambda w: pytorch_optimizer.LookSAM(
                [w], SGD, rho=RHO, k=3, alpha=0.7, lr=0.01, momentum=0.9
            ),
        ),
    ],
    ids=["gsam", "wsam", "coupled wsam", "looksam"],
)
def test_five_steps_are_those_of_pytorch_optimizer(
    ours: Callable[[nn.Parameter], Sharpness],
    theirs: Callable[[nn.Parameter], torch.optim.Optimizer],
) -> None:
    start = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    weight, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = trained(ours(weight), weight, SGD([weight], lr=0.01, momentum=0.9), steps=5)

    optimizer = theirs(other)

    @torch.enable_grad()
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem(other)
        loss.backward()
        return loss

    for _ in range(5):
        if isinstance(optimizer, pytorch_optimizer.GSAM):
            optimizer.step(lambda: (None, closure().detach()))
            continue
        if isinstance(optimizer, pytorch_optimizer.LookSAM):
            closure()  # it wants the plain gradient beforehand
        optimizer.step(closure)
    # Theirs takes some lengths in float32 and adds 1e-8 to others.
    torch.testing.assert_close(found, other.detach(), rtol=1e-6, atol=1e-9)
    assert float((found - start).norm()) > 0.1
