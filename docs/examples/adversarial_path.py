"""Relative flatness of single samples along an adversarial path.

python docs/examples/adversarial_path.py

An attack moves each sample step by step up the slope of its loss. Kappa of the last layer, one
value a sample, rises on the way to the decision boundary, is largest about where the prediction
flips, and falls again behind it: the attack ends in a region that is as flat as the one where it
began, and wrong. Walter, Adilova, Vreeken and Kamp call that the "uncanny valley" (arXiv
2405.16918). The closed form of kappa for this layer shows why (their arXiv 2510.14231, and
docs/flatness.md): it depends on features and probabilities, not on the label, and is small wherever
the network is sure.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from famseg.flatness import FAM

STEPS, LENGTH = 40, 0.05


def rings(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy points on three rings, shape (n, 2), and the rings they are of."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=generator)
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    radius = 1 + targets + 0.2 * torch.randn(n, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), targets


def trained() -> nn.Module:
    """Return a network that tells the rings apart."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs, targets = rings(512, seed=1)
    for _ in range(40):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return model


def attacked(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return inputs one step of length LENGTH further up the slope of their losses."""
    inputs = inputs.clone().requires_grad_()
    # The sum, so that each sample has the slope of its own loss.
    loss = nn.functional.cross_entropy(model(inputs), targets, reduction="sum")
    (slope,) = torch.autograd.grad(loss, inputs)
    return (inputs + LENGTH * nn.functional.normalize(slope, dim=1)).detach()


def main() -> None:
    """Follow the path of samples that are predicted well and flip on the way."""
    model = trained()
    objective = FAM(model, layer="4", loss=nn.CrossEntropyLoss(), weight=0.0)
    inputs, targets = rings(500, seed=2)
    kappas, wrong, losses = [], [], []
    for _ in range(STEPS + 1):
        found = objective.measure(inputs, targets)
        kappas.append(found.per_sample)
        losses.append(found.loss.item())
        with torch.no_grad():
            wrong.append(model(inputs).argmax(1) != targets)
        inputs = attacked(model, inputs, targets)
    kappa, flipped = torch.stack(kappas), torch.stack(wrong)  # (steps, samples)

    for step in range(0, STEPS + 1, 5):
        print(
            f"step {step:2}: {flipped[step].float().mean():4.0%} flipped, "
            f"loss {losses[step]:7.3f}, median kappa {kappa[step].median():8.4f}"
        )
    # From right to wrong for good: these have one step at which they flip.
    chosen = ~flipped[0] & flipped[-1] & (flipped.int().diff(dim=0).abs().sum(0) == 1)
    flip, kappa = flipped.int().argmax(0)[chosen], kappa[:, chosen]
    first, last = kappa[0], kappa[-1]
    at_flip = kappa.gather(0, flip[None])[0]
    print(
        f"{int(chosen.sum())} samples that flip once: median kappa {first.median():.4f} at the "
        f"start, {at_flip.median():.4f} where they flip, {last.median():.4f} at the end"
    )
    away = (kappa.argmax(0) - flip).abs().float().median()
    print(f"median distance of the largest kappa from the flip: {away:.0f} of {STEPS} steps")


if __name__ == "__main__":
    main()
