"""Relative flatness, feature robustness and the generalization gap over a training.

python docs/examples/flatness_over_training.py

It writes flatness_over_training.png into the current folder. A fifth of the training labels are
random, and the network is large enough to learn them by heart: while it does, kappa of its first
layer, the rise of the loss under perturbed features, and the gap between the losses grow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from famseg.flatness import FlatnessHistory, feature_robustness, report

LOSS = nn.CrossEntropyLoss()
LAYER = "0"


def rings(n: int, seed: int, *, random_labels: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return noisy points on three rings, shape (n, 2), and the rings they are said to be of."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=generator)
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    radius = 1 + targets + 0.3 * torch.randn(n, generator=generator)
    inputs = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    random = torch.rand(n, generator=generator) < random_labels
    return inputs, torch.where(random, torch.randint(0, 3, (n,), generator=generator), targets)


@torch.no_grad()
def loss_on(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the mean loss on a batch."""
    return LOSS(model(data[0]), data[1]).item()


def main() -> None:
    """Train, measure every tenth epoch, and draw."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    training, validation = rings(128, seed=1, random_labels=0.2), rings(1000, seed=2)
    inputs, targets = training
    history = FlatnessHistory()
    for epoch in range(201):
        if epoch % 10 == 0:
            found = report(model, training, LOSS, layers=[LAYER], quantities=[], rescale=None)
            history.add(
                epoch,
                found,
                feature_robustness(model, LAYER, training, 0.2, loss=LOSS, draws=8),
                layer=LAYER,
                training_loss=loss_on(model, training),
                validation_loss=loss_on(model, validation),
            )
            kappa = found[LAYER].kappa
            print(f"epoch {epoch}: loss {found.loss:.3f}, kappa of the first layer {kappa:.3f}")
        for batch in torch.randperm(len(inputs)).split(32):
            optimizer.zero_grad()
            LOSS(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    history.plot("flatness_over_training.png")
    print("drawn into flatness_over_training.png")


if __name__ == "__main__":
    main()
