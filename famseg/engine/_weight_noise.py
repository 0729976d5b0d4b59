"""Noise stability optimization: the mean gradient at the weights plus and minus noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from famseg.objectives import generator_at


class WeightNoise:
    r"""Perturbs the weights by plus and minus normal noise, and restores them.

    .. math:: g = \frac{1}{2k} \sum_{j=1}^{k} \left(\nabla L(w + u_j) + \nabla L(w - u_j)\right),
              \qquad u_j \sim N(0, \sigma^2 I)

    (NSO: Zhang, Li and Ju 2024, arXiv 2306.08553, algorithm 1). It is an unbiased gradient of
    :math:`E\, L(w + u) = L(w) + \frac{\sigma^2}{2} \operatorname{tr} H + O(\sigma^4)`; the
    first-order term, which would only add variance, cancels between the two signs. Costs :math:`2k`
    forward and backward passes and memory for two copies of the weights.

    The noise is a function of seed and step, the same in all ranks and in all forward passes of a
    step, whose gradients are therefore those of one large batch.

    Args:
        parameters: The weights; frozen ones are not perturbed.
        sigma: Standard deviation of the noise in every weight.
        pairs: :math:`k`.
        seed: Seed of the noise.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> with WeightNoise([weight], sigma=0.5, seed=0).around(step=0) as places:
        ...     there = [weight.detach().clone() for _ in places]
        >>> len(there), (there[0] + there[1]) / 2, weight.detach()
        (2, tensor([3., 4.]), tensor([3., 4.]))
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, sigma: float, pairs: int = 1, seed: int
    ) -> None:
        self.parameters = [each for each in parameters if each.requires_grad]
        self.sigma = sigma
        self.pairs = pairs
        self.seed = seed

    @property
    def places(self) -> int:
        """Number of perturbed weights at which a step computes gradients."""
        return 2 * self.pairs

    @contextmanager
    def around(self, step: int) -> Iterator[Iterator[int]]:
        """Yield the numbers of the perturbations of a step from 0, applying each to the weights.

        The weights are restored exactly on exit, also after an error.
        """
        kept = [each.detach().clone() for each in self.parameters]
        try:
            yield self._moves(step, kept)
        finally:
            with torch.no_grad():
                for parameter, weight in zip(self.parameters, kept, strict=True):
                    parameter.copy_(weight)

    def _moves(self, step: int, kept: list[Tensor]) -> Iterator[int]:
        for pair in range(self.pairs):
            noise = self._noise(step, pair)
            for side in (0, 1):
                with torch.no_grad():
                    for parameter, weight, way in zip(self.parameters, kept, noise, strict=True):
                        parameter.copy_(weight - way if side else weight + way)
                yield 2 * pair + side

    def _noise(self, step: int, pair: int) -> list[Tensor]:
        device = self.parameters[0].device
        generator = generator_at(self.seed, "weight noise", step, pair, device=device)
        # Always drawn in float32, so that a float64 check uses the same noise as a float32 run.
        return [
            self.sigma * torch.randn(each.shape, generator=generator, device=device).to(each.dtype)
            for each in self.parameters
        ]
