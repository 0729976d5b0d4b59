"""Relative flatness in a training loop of one's own.

python docs/examples/plain_loop.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from famseg.flatness import FAM


def rings(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy points on three rings, shape (n, 2), and the rings they are of."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=generator)
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    radius = 1 + targets + 0.3 * torch.randn(n, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), targets


def train(weight: float) -> FAM:
    """Train with a weight of the penalty, which the caller chooses; 0 is plain training."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    )
    objective = FAM(model, layer="4", loss=nn.CrossEntropyLoss(), weight=weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs, targets = rings(256, seed=1)
    for _ in range(60):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            terms = objective(inputs[batch], targets[batch])
            terms.total.backward()
            optimizer.step()
    return objective


def main() -> None:
    """Train with and without the penalty and compare on new points."""
    inputs, targets = rings(1000, seed=2)
    for weight in (0.0, 0.03):
        objective = train(weight)
        accuracy = (objective.model(inputs).argmax(1) == targets).float().mean()
        measured = objective.measure(inputs, targets)
        print(
            f"weight {weight}: accuracy {accuracy:.3f}, loss {measured.loss:.3f}, "
            f"kappa {measured.kappa:.3f} +- {measured.standard_error:.3f}"
        )


if __name__ == "__main__":
    main()
