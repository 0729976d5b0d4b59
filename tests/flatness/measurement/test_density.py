from __future__ import annotations

import math

import pytest
import torch

from famseg.flatness._measurement import _density
from famseg.flatness._measurement._density import spectral_density

DOUBLE = torch.float64
SIZE = 60
SPECTRUM = torch.cat([torch.linspace(-1, 2, SIZE - 2), torch.tensor([6.0, 9.0])]).double()


@pytest.fixture
def matrix():
    q = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=DOUBLE)).Q
    return q @ SPECTRUM.diag() @ q.T


def normals(count):
    return torch.randn(count, SIZE, dtype=DOUBLE)


def density_of(matrix, draw=normals, count=8, steps=12, points=1024, width=None):
    return spectral_density(
        lambda rows: rows @ matrix, draw, count, steps=steps, points=points, width=width
    )


def test_the_quadrature_of_each_probe_is_exact_below_twice_its_steps(matrix):
    starts = normals(5)
    found = density_of(matrix, lambda _: starts, 5, steps=4)
    units = starts / starts.norm(dim=1, keepdim=True)
    for power in range(8):
        forms = ((units @ torch.linalg.matrix_power(matrix, power)) * units).sum(1)
        nodes = (found.weights * found.nodes**power).sum(1)
        torch.testing.assert_close(nodes, forms, rtol=1e-9, atol=1e-9)


def test_moments_are_the_traces_of_powers_within_their_errors(matrix):
    found = density_of(matrix, count=200, steps=4)
    assert (found.size, found.products) == (SIZE, 800)
    for power in range(1, 8):
        value, error = found.mean(lambda x, power=power: x**power)
        assert abs(value - SPECTRUM.pow(power).mean().item()) < 5 * error
        assert error < 0.1 * abs(value)


def test_all_steps_give_the_density_of_the_eigenvalues(matrix):
    found = density_of(matrix, count=300, steps=SIZE, width=0.3)
    distance = (found.grid - SPECTRUM[:, None]) / 0.3
    true = ((-0.5 * distance**2).exp() / (0.3 * math.sqrt(2 * math.pi))).mean(0)
    assert ((found.density - true).abs() <= 5 * found.error + 1e-9).all()
    assert found.error.max() < 0.1 * true.max()


def test_the_integral_is_one_and_the_outermost_nodes_are_eigenvalues(matrix):
    found = density_of(matrix, steps=20)
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(8, dtype=DOUBLE))
    assert found.nodes[:, -1].tolist() == pytest.approx([9.0] * 8, rel=1e-9)
    assert found.nodes[:, -2].tolist() == pytest.approx([6.0] * 8, rel=1e-6)
    assert found.width == pytest.approx(0.01 * (found.nodes.max() - found.nodes.min()).item())
    assert found.grid[0].item() == pytest.approx(found.nodes.min().item() - 5 * found.width)


def test_an_exhausted_space_has_nodes_without_weight():
    q = torch.linalg.qr(torch.randn(SIZE, 2, dtype=DOUBLE)).Q
    found = density_of(q @ torch.tensor([5.0, -3.0]).double().diag() @ q.T, steps=10)
    values = (found.nodes[:, :, None] - torch.tensor([5.0, -3.0, 0.0]).double()).abs().amin(2)
    assert values.max() < 1e-12
    torch.testing.assert_close(found.weights.sum(1), torch.ones(8, dtype=DOUBLE))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_multiple_of_the_identity_has_one_peak(value):
    found = density_of(value * torch.eye(SIZE, dtype=DOUBLE), steps=5)
    assert found.mean(lambda x: x) == (pytest.approx(value), pytest.approx(0, abs=1e-12))
    assert found.grid[found.density.argmax()].item() == pytest.approx(value, abs=found.width)
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-4)


def test_groups_of_probes_change_nothing(matrix, monkeypatch):
    starts = normals(5)
    together = density_of(matrix, lambda _: starts, 5)
    monkeypatch.setattr(_density, "_BASIS_NUMBERS", 2 * 12 * SIZE)
    sizes = []

    def product(rows):
        sizes.append(len(rows))
        return rows @ matrix

    options = {"steps": 12, "points": 1024, "width": None}
    apart = spectral_density(product, lambda _: starts, 5, **options)
    assert sizes == [2] * 24 + [1] * 12
    torch.testing.assert_close(apart.nodes, together.nodes)
    torch.testing.assert_close(apart.density, together.density)


def test_more_steps_than_eigenvalues_are_not_taken(matrix):
    assert density_of(matrix, count=2, steps=100).nodes.shape == (2, SIZE)


def test_agrees_with_the_lanczos_method_of_curvlinops(matrix, monkeypatch):
    reason = "the oracle is not installed: see requirements/oracles.txt"
    pytest.importorskip("curvlinops", reason=reason)
    from curvlinops.papyan2020traces import spectrum

    starts = normals(3)
    found = density_of(matrix, lambda _: starts, 3, steps=10)
    each = iter(starts)
    monkeypatch.setattr(spectrum, "randn", lambda *_, **__: next(each).clone())
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        values, vectors = spectrum.fast_lanczos(matrix, 10)
        torch.testing.assert_close(nodes, values, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(weights, vectors[0] ** 2, rtol=1e-5, atol=1e-7)
