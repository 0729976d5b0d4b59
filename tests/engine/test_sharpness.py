from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.engine._sharpness import Sharpness, buffers_kept


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2), (4,))]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return made


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("scale", [1.0, 65536.0])  # a loss scaled for fp16 moves as far
def test_the_move_is_that_of_the_papers(adaptive: bool, scale: float) -> None:
    moved = parameters()
    for parameter in moved:
        parameter.grad *= scale
    weight = torch.cat([p.detach().flatten() for p in moved])
    gradient = torch.cat([p.grad.flatten() for p in moved])
    size = weight.abs() if adaptive else torch.ones_like(weight)
    expected = weight + 0.3 * size**2 * gradient / (size * gradient).norm()
    with Sharpness(moved, rho=0.3, adaptive=adaptive).away():
        torch.testing.assert_close(torch.cat([p.detach().flatten() for p in moved]), expected)
        assert all(p.grad is None for p in moved)


def test_the_weights_come_back_to_the_bit_also_after_an_error() -> None:
    moved = parameters()
    before = [p.detach().clone() for p in moved]
    sharpness = Sharpness(moved, rho=10.0)
    with pytest.raises(ZeroDivisionError), sharpness.away():
        raise ZeroDivisionError
    assert all(torch.equal(p, old) for p, old in zip(moved, before, strict=True))


def test_buffers_are_put_back() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(4, 2))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    with buffers_kept(norm):
        norm(torch.randn(4, 2) + 5)
        assert norm.num_batches_tracked == 2
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
