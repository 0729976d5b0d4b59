"""How should the penalty be bounded below? Trainings with every bound, in one run.

    python benchmarks/bounds.py            # all tables, about a minute and a half on one core
    python benchmarks/bounds.py --steps 40 # a quick look

Relative flatness of a Dice loss can be negative. A small 3D autoencoder completes spherical
shells with a hole, Dice loss plus lambda times the relative flatness of the layer behind its
bottleneck, once for each bound and several lambdas. Every run starts from the same weights and
sees the same batches. Printed: training loss and test Dice at the end, exact relative flatness on
the test set (mean, smallest sample, share of negative samples), the lowest training objective seen,
and, at the weights of two of the runs, bias and noise of the bounded estimate with one probe.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

from famseg.flatness import FAM, bounded

BOUNDS = ("none", "positive", "batch_positive", "absolute")
SIZE = 16


class Autoencoder(nn.Module):
    """Three strided convolutions, two linear layers, three transposed convolutions."""

    def __init__(self, channels: tuple[int, ...] = (8, 16, 16), latent: int = 8) -> None:
        super().__init__()
        down, up = [], []
        for before, after in zip((1, *channels), channels, strict=False):
            down.append(self._block(nn.Conv3d(before, after, 3, 2, 1), after))
            layer = nn.ConvTranspose3d(after, before, 3, 2, 1, output_padding=1)
            up.append(layer if before == 1 else self._block(layer, before))
        self.shape = (channels[-1], *(3 * (SIZE // 2 ** len(channels),)))
        flat = torch.Size(self.shape).numel()
        self.encode = nn.Sequential(*down, nn.Flatten())
        self.latent, self.expand = nn.Linear(flat, latent), nn.Linear(latent, flat)
        self.decode = nn.Sequential(nn.Unflatten(1, self.shape), *reversed(up))

    @staticmethod
    def _block(layer: nn.Module, channels: int) -> nn.Module:
        return nn.Sequential(layer, nn.GroupNorm(channels, channels), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the shape of ``x``."""
        return self.decode(self.expand(self.latent(self.encode(x))))


def shells(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``n`` spherical shells with a hole and whole, both ``(n, 1, 16, 16, 16)``."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(n, 8, 1, 1, 1, generator=generator)
    axis = torch.arange(SIZE, dtype=torch.float32) - SIZE / 2 + 0.5
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    center = 3 * (draw[:, :3] - 0.5)
    stretch = 0.8 + 0.4 * draw[:, 6]
    r = (
        (x - center[:, 0]) ** 2 + (y - center[:, 1]) ** 2 + ((z - center[:, 2]) / stretch) ** 2
    ).sqrt()
    radius = 4 + 2.5 * draw[:, 3]
    whole = ((r - radius).abs() < 1).float()[:, None]
    angle, height = 6.28 * draw[:, 4], radius * (2 * draw[:, 5] - 1)
    side = (radius**2 - height**2).clamp(min=0).sqrt()
    hole = (x - center[:, 0] - side * angle.cos()) ** 2 + (
        y - center[:, 1] - side * angle.sin()
    ) ** 2
    hole = hole + (z - center[:, 2] - height) ** 2 < 3.5**2
    return whole * (~hole)[:, None], whole


def train(weight: float, bound: str, steps: int, data: tuple[Tensor, Tensor]) -> tuple[FAM, float]:
    """Train from a fixed start; return the objective and the lowest total seen."""
    torch.manual_seed(0)
    fam = FAM(
        Autoencoder(),
        layer="expand",
        loss=DiceLoss(sigmoid=True),
        weight=weight,
        estimator="hutchinson",
        bound=bound,
    )
    optimizer = torch.optim.Adam(fam.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)
    lowest = float("inf")
    for _ in range(steps):
        batch = torch.randint(len(data[0]), (8,), generator=order)
        total = fam(data[0][batch], data[1][batch]).total
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(fam.parameters(), 1.0)
        optimizer.step()
        lowest = min(lowest, total.item())
    return fam, lowest


def exact_kappa(fam: FAM, data: tuple[Tensor, Tensor]) -> Tensor:
    """Return every sample's exact relative flatness."""
    judge = FAM(fam.model, layer="expand", loss=fam.loss, weight=1, estimator="columns")
    parts = zip(data[0].split(16), data[1].split(16), strict=True)
    return torch.cat([judge.measure(x, y).per_sample for x, y in parts])


def dice(fam: FAM, data: tuple[Tensor, Tensor]) -> float:
    """Return the mean hard Dice on a data set."""
    with torch.no_grad():
        found = (fam.model(data[0]) > 0).flatten(1).float()
    truth = data[1].flatten(1)
    return (2 * (found * truth).sum(1) / (found.sum(1) + truth.sum(1))).mean().item()


def compare(steps: int, lambdas: list[float]) -> None:
    """Print the table of trainings, then that of noise and bias."""
    learn, test = shells(64, 1), shells(64, 2)
    head = ("lambda", "bound", "loss", "test DSC", "kappa", "smallest kappa", "share < 0")
    print(*(f"{cell:<15}" for cell in (*head, "lowest total", "seconds")))

    for weight in lambdas:
        for bound in BOUNDS if weight else ("none",):
            start = time.perf_counter()
            fam, lowest = train(weight, bound, steps, learn)
            seconds = time.perf_counter() - start
            with torch.no_grad():
                loss = fam(*learn).loss.item()
            kappa = exact_kappa(fam, test)
            row = [weight, bound, f"{loss:.4f}", f"{dice(fam, test):.4f}"]
            row += [f"{x:+.4g}" for x in (kappa.mean(), kappa.min())]
            row += [f"{(kappa < 0).float().mean():.2f}", f"{lowest:+.4g}", f"{seconds:.1f}"]
            print(*(f"{cell!s:<15}" for cell in row), flush=True)


def noise(steps: int, draws: int, weight: float) -> None:
    """Print bias and noise of the bounded one-probe estimate at the weights of one run."""
    learn = shells(64, 1)
    fam, _ = train(weight, "positive", steps, learn)
    batch = learn[0][:8], learn[1][:8]
    exact = FAM(fam.model, layer="expand", loss=fam.loss, weight=1, estimator="columns")
    parts = exact.measure(*batch).per_sample
    print(
        f"\nweights of lambda {weight:g}, batch of 8: kappa {parts.mean():+.4g}, "
        f"samples {parts.min():+.3g} to {parts.max():+.3g}, one probe, {draws} draws"
    )
    head = (
        "bound",
        "of exact",
        "mean estimate",
        "std/|mean|",
        "gradient cosine",
        "gradient std/norm",
    )
    print(*(f"{cell:<17}" for cell in head))
    for bound in BOUNDS:
        exact.options = exact.options.with_(bound=bound)
        _, truth = _value_and_gradient(exact, batch)
        probe = FAM(
            fam.model, layer="expand", loss=fam.loss, weight=1, estimator="hutchinson", bound=bound
        )
        found = [_value_and_gradient(probe, batch) for _ in range(draws)]
        value, gradient = (torch.stack(part) for part in zip(*found, strict=True))
        mean = gradient.mean(0)
        scatter = (gradient - mean).norm(dim=1).square().mean().sqrt() / mean.norm()
        numbers = (bounded(parts, bound), value.mean(), value.std() / value.mean().abs())
        numbers += (torch.cosine_similarity(mean, truth, 0), scatter)
        print(f"{bound:<17}", *(f"{x:<+17.4g}" for x in numbers))


def _value_and_gradient(fam: FAM, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    penalty = fam(*batch).penalty
    found = torch.autograd.grad(penalty, list(fam.parameters()), materialize_grads=True)
    return penalty.detach(), torch.cat([g.flatten() for g in found])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0, 0.1, 1, 10])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {options.steps} steps")
    compare(options.steps, options.lambdas)
    for weight in (0.0, 0.1):
        noise(options.steps, options.draws, weight)
