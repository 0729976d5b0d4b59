"""Many small networks in parallel: all seeds of a cell are one training of batched matrices.

Weights have shape ``(S, d, m)`` for S networks, activations ``(S, n, m)``. The penalty of the head
is the closed form; that of an inner layer is the Gauss-Newton form
with one Rademacher probe for each sample, which is exact in expectation for ReLU networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from famseg.flatness._estimators._softmax_spread import softmax_flatness

Form = Literal["full", "term I", "term II", "noise"]
HIDDEN = (128, 64)
_CHUNK = 1000  # images of a forward pass in evaluation


@dataclass(frozen=True)
class Recipe:
    """How the networks of a cell are trained.

    Attributes:
        penalty: Layer (0 is the first, -1 the head), form, and lambda of kappa / m.
        decay: Weight decay of each layer, if not the default.
        sam: Radius of sharpness-aware minimization; 0 for none.
        smoothing: Label smoothing.
    """

    penalty: tuple[int, Form, float] | None = None
    decay: dict[int, float] = field(default_factory=dict)
    sam: float = 0.0
    smoothing: float = 0.0


@dataclass(frozen=True)
class Settings:
    """What all recipes share."""

    epochs: int = 100
    batch: int = 50
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4


_map_flatness = torch.vmap(
    lambda phi, z, w: softmax_flatness(phi, z, w, torch.ones_like(z[:, 0]), simplified=False)
)


def measured_flatness(features: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
    """Return kappa of each network's head by famseg's closed form, shape ``(S,)``."""
    return _map_flatness(features, logits, weight).mean(1)


def head_flatness(features: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
    """Return the same by two batched products: for training, where the last digits do not matter.

    ``||phi||^2 (sum_s p_s ||w_s||^2 - ||W^T p||^2)``, with rows around their mean, which leaves the
    bracket as it is and most of the digits in it.
    """
    weight = weight - weight.mean(1, keepdim=True)
    p = logits.softmax(2)
    spread = (p * weight.square().sum(2)[:, None]).sum(2) - torch.bmm(p, weight).square().sum(2)
    return (features.square().sum(2) * spread.clamp(min=0)).mean(1)


def initial(sizes: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
    """Return weights and biases, layer by layer: He's, half of it for the head."""
    layers = []
    for number, (m, d) in enumerate(pairwise(sizes)):
        scale = math.sqrt(2 / m) * (0.5 if number == len(sizes) - 2 else 1)
        drawn = [
            torch.randn(d, m, generator=torch.Generator().manual_seed(100 * seed + number))
            for seed in seeds
        ]
        layers += [torch.stack(drawn) * scale, torch.zeros(len(seeds), d)]
    return layers


def forward(
    layers: Sequence[Tensor],
    x: Tensor,
    penalty: tuple[int, Form, float] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits, features of the head, and kappa / m of the penalized layer.

    Args:
        layers: Weights and biases.
        x: Inputs, shape ``(S, n, m)``.
        penalty: As in `Recipe`; ``noise`` adds the noise and returns no kappa.
        generator: Of probes and noise.
    """
    last = len(layers) // 2 - 1
    where, form = (penalty[0] % (last + 1), penalty[1]) if penalty else (-1, "full")
    h, phi, probe = x, x, None
    for number in range(last + 1):
        weight, bias = layers[2 * number], layers[2 * number + 1]
        phi = h
        z = torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))
        if probe is not None:
            after = weight.detach() if form == "term I" else weight
            probe = torch.bmm(probe, after.transpose(1, 2))
        if number == where and (form == "noise" or number < last):
            drawn = _drawn(h.shape, form, generator).to(h)
            size = h.norm(dim=2, keepdim=True)
            scaled = (size.detach() if form == "term I" else size) * drawn
            shaken = weight.detach() if form == "term II" else weight
            moved = torch.bmm(scaled, shaken.transpose(1, 2))
            if form == "noise":
                z = z + math.sqrt(2 * (penalty or (0, form, 0.0))[2] / weight.shape[2]) * moved
            else:
                probe = moved
        if number == last:
            break
        on = (z > 0).to(z)
        h, probe = z * on, None if probe is None else probe * on
    if penalty is None or form == "noise":
        return z, phi, None
    width = layers[2 * where].shape[2]
    if where == last:
        return z, phi, _head_form(phi, z, weight, form) / width
    if probe is None:
        raise ValueError(f"there is no layer {penalty[0]}")
    p = z.softmax(2)
    p = p.detach() if form == "term I" else p
    kappa = (p * probe.square()).sum(2) - (p * probe).sum(2).square()
    return z, phi, kappa.mean(1) / width


def _head_form(phi: Tensor, z: Tensor, weight: Tensor, form: Form) -> Tensor:
    if form == "term I":
        return head_flatness(phi.detach(), z.detach(), weight)
    return head_flatness(phi, z, weight.detach() if form == "term II" else weight)


def _drawn(shape: torch.Size, form: Form, generator: torch.Generator | None) -> Tensor:
    if form == "noise":
        return torch.randn(shape, generator=generator)
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return each network's mean loss, shape ``(S,)``."""
    logs = logits.log_softmax(2)
    right = -logs.gather(2, labels[..., None])[..., 0]
    if smoothing:
        right = (1 - smoothing) * right - smoothing * logs.mean(2)
    return right.mean(1)


def train(
    x: Tensor,
    y: Tensor,
    classes: int,
    recipe: Recipe,
    seeds: Sequence[int],
    settings: Settings | None = None,
) -> list[Tensor]:
    """Train a network for each seed by SGD with a cosine schedule; return weights and biases.

    Args:
        x: Training images, shape ``(S, n, m)``.
        y: Labels, shape ``(S, n)``.
        classes: Number of classes.
        recipe: How.
        seeds: Of initial weights and the order of the batches.
        settings: What all recipes share.
    """
    s = settings or Settings()
    layers = initial([x.shape[2], *HIDDEN, classes], seeds)
    for each in layers:
        each.requires_grad_()
    number = len(layers) // 2
    decays = {key % number: value for key, value in recipe.decay.items()}
    groups = [
        {"params": layers[2 * i : 2 * i + 2], "weight_decay": decays.get(i, s.decay)}
        for i in range(number)
    ]
    optimizer = torch.optim.SGD(groups, lr=s.rate, momentum=s.momentum)
    generator = torch.Generator().manual_seed(4242)
    orders = [torch.Generator().manual_seed(31 + seed) for seed in seeds]
    n, networks = x.shape[1], torch.arange(len(seeds))[:, None]
    steps, step = s.epochs * (n // s.batch), 0
    weight = recipe.penalty[2] if recipe.penalty else 0.0

    def objective(xb: Tensor, yb: Tensor) -> Tensor:
        z, _, kappa = forward(layers, xb, recipe.penalty, generator)
        loss = cross_entropy(z, yb, recipe.smoothing)
        return (loss if kappa is None else loss + weight * kappa).sum()

    for _ in range(s.epochs):
        order = torch.stack([torch.randperm(n, generator=each) for each in orders])
        for begin in range(0, n - s.batch + 1, s.batch):
            chosen = order[:, begin : begin + s.batch]
            xb, yb = x[networks, chosen], y[networks, chosen]
            for group in optimizer.param_groups:
                group["lr"] = s.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            objective(xb, yb).backward()
            if recipe.sam:
                _at_the_worst_nearby(layers, recipe.sam, partial(objective, xb, yb), optimizer)
            optimizer.step()
            step += 1
    return [each.detach() for each in layers]


def _at_the_worst_nearby(
    layers: Sequence[Tensor],
    radius: float,
    objective: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the gradients by those at the ascent step of each network (SAM)."""
    grads = [each.grad for each in layers]
    squares = sum(grad.flatten(1).square().sum(1) for grad in grads if grad is not None)
    scale = radius / (torch.as_tensor(squares).sqrt() + 1e-12)
    moves = [grad * scale.view(-1, *[1] * (grad.dim() - 1)) for grad in grads if grad is not None]
    with torch.no_grad():
        for each, move in zip(layers, moves, strict=True):
            each.add_(move)
    optimizer.zero_grad()
    objective().backward()
    with torch.no_grad():
        for each, move in zip(layers, moves, strict=True):
            each.sub_(move)


@torch.no_grad()
def scores(layers: Sequence[Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return accuracy, loss, confidence and expected calibration error of each network.

    Args:
        layers: Weights and biases.
        x: Images, shape ``(S, n, m)`` or, the same for all networks, ``(n, m)``.
        y: Labels, shape ``(S, n)`` or ``(n,)``.
    """
    networks = len(layers[0])
    parts = []
    for begin in range(0, x.shape[-2], _CHUNK):
        part = x[..., begin : begin + _CHUNK, :]
        parts.append(forward(layers, part.expand(networks, *part.shape[-2:]))[0])
    logits = torch.cat(parts, 1)
    labels = y.expand(networks, y.shape[-1])
    confidence, answer = logits.softmax(2).max(2)
    right = (answer == labels).float()
    return {
        "accuracy": right.mean(1),
        "loss": cross_entropy(logits, labels),
        "confidence": confidence.mean(1),
        "ece": _calibration_error(confidence, right),
    }


def _calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> Tensor:
    """Return what `famseg.evaluation.calibration` does, of each network."""
    place = (confidence * bins).ceil().long().clamp(1, bins)
    error = torch.zeros(len(confidence))
    for number in range(1, bins + 1):
        inside = (place == number).float()
        error += ((right - confidence) * inside).sum(1).abs() / confidence.shape[1]
    return error


@torch.no_grad()
def traits(layers: Sequence[Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return what is measured of trained networks on their training data.

    ``kappa_head`` and ``kappa_first`` (16 probes), the norms of both weights, and ``robustness``:
    by how much the loss grows where the head's features are shaken by relative noise of size 1
    (Petzka et al. 2021), mean over 8 draws.
    """
    z, phi, _ = forward(layers, x)
    head, first = layers[-2], layers[0]
    generator = torch.Generator().manual_seed(7)
    probes = [forward(layers, x, (0, "full", 1.0), generator)[2] for _ in range(16)]
    kappas = [kappa for kappa in probes if kappa is not None]
    shaken = [
        cross_entropy(forward(layers, x, (-1, "noise", 0.5), generator)[0], y) for _ in range(8)
    ]
    return {
        "kappa_head": measured_flatness(phi, z, head),
        "kappa_first": torch.stack(kappas).mean(0) * first.shape[2],
        "norm_head": head.flatten(1).norm(dim=1),
        "norm_first": first.flatten(1).norm(dim=1),
        "robustness": torch.stack(shaken).mean(0) - cross_entropy(z, y),
    }
