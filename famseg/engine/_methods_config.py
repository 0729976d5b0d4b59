"""Configuration sections of training methods: SAM and its variants, NSO, SWA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from famseg.config import Strict

if TYPE_CHECKING:
    from torch import nn

    from famseg.engine._epoch_average import EpochAverage
    from famseg.engine._sharpness import Sharpness
    from famseg.engine._weight_noise import WeightNoise

    Parameters = Iterable[nn.Parameter]

_ADAPTIVE = "measure distances in units of each weight's own size, as ASAM does"


class SAMConfig(Strict):
    """SAM, sharpness-aware minimization: each step takes the gradient at nearby, worse weights."""

    kind: Literal["sam"] = "sam"
    rho: float = Field(
        0.05, gt=0, description="distance to those weights; 0.05 in Foret et al. 2021"
    )
    adaptive: bool = Field(
        False,
        description="ASAM: distances in units of each weight's own size; rho 0.5 to 2",
    )

    @property
    def tag(self) -> str:
        """The part of a run folder's name that states the method."""
        return f"{'asam' if self.adaptive else 'sam'}{self.rho:g}"

    def build(self, parameters: Parameters) -> Sharpness:
        """Return the method for the given parameters."""
        from famseg.engine._sharpness import Sharpness

        return Sharpness(parameters, rho=self.rho, adaptive=self.adaptive)


class GSAMConfig(Strict):
    """GSAM: SAM's gradient minus the orthogonal part of the plain one (Zhuang et al. 2022)."""

    kind: Literal["gsam"]
    rho: float = Field(
        0.05,
        gt=0,
        description="distance to the worse weights at the base learning rate; 0.05 as for SAM",
    )
    rho_min: float = Field(
        0.0,
        ge=0,
        description="distance at learning rate 0; between the two it follows the learning rate, as "
        "in the paper",
    )
    alpha: float = Field(
        0.4, ge=0, le=1, description="factor of the orthogonal part; 0.4 in pytorch_optimizer"
    )
    adaptive: bool = Field(False, description=_ADAPTIVE)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.rho_min > self.rho:
            raise ValueError(f"rho_min {self.rho_min:g} is above rho {self.rho:g}. Swap them.")
        return self

    @property
    def tag(self) -> str:
        """The part of a run folder's name that states the method."""
        return f"gsam{self.rho:g}"

    def build(self, parameters: Parameters) -> Sharpness:
        """Return the method for the given parameters."""
        from famseg.engine._sharpness_variants import SurrogateGap

        return SurrogateGap(
            parameters,
            rho=self.rho,
            rho_min=self.rho_min,
            alpha=self.alpha,
            adaptive=self.adaptive,
        )


class WSAMConfig(Strict):
    """WSAM: the loss plus a weighted multiple of its sharpness (Yue et al. 2023)."""

    kind: Literal["wsam"]
    rho: float = Field(
        0.05, gt=0, description="distance to the worse weights; 0.05 in the authors' code"
    )
    gamma: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="the sharpness is weighted with gamma / (1 - gamma): 0 is the plain gradient, "
        "0.5 is SAM; 0.9 in the authors' code",
    )
    decoupled: bool = Field(
        True,
        description="subtract the sharpness from the weights after the optimizer step, without "
        "momentum and scaling, as the authors do; false: pass the sum of both gradients to the "
        "optimizer",
    )
    adaptive: bool = Field(False, description=_ADAPTIVE)

    @property
    def tag(self) -> str:
        """The part of a run folder's name that states the method."""
        return f"wsam{self.rho:g}"

    def build(self, parameters: Parameters) -> Sharpness:
        """Return the method for the given parameters."""
        from famseg.engine._sharpness_variants import WeightedSharpness

        return WeightedSharpness(
            parameters,
            rho=self.rho,
            gamma=self.gamma,
            decoupled=self.decoupled,
            adaptive=self.adaptive,
        )


class LookSAMConfig(Strict):
    """LookSAM: SAM on every k-th step; the other steps reuse part of it (Liu et al. 2022)."""

    kind: Literal["looksam"]
    rho: float = Field(
        0.1, gt=0, description="distance to the worse weights; 0.1 in pytorch_optimizer"
    )
    every: int = Field(
        10, gt=0, description="steps between two gradients of SAM; 10 in pytorch_optimizer"
    )
    alpha: float = Field(
        0.7,
        ge=0,
        le=1,
        description="length of the reused part, relative to the plain gradient; 0.7 in "
        "pytorch_optimizer",
    )
    adaptive: bool = Field(False, description=_ADAPTIVE)

    @property
    def tag(self) -> str:
        """The part of a run folder's name that states the method."""
        return f"looksam{self.rho:g}"

    def build(self, parameters: Parameters) -> Sharpness:
        """Return the method for the given parameters."""
        from famseg.engine._sharpness_variants import ReusedSharpness

        return ReusedSharpness(
            parameters,
            rho=self.rho,
            every=self.every,
            alpha=self.alpha,
            adaptive=self.adaptive,
        )


SharpnessConfig = Annotated[
    SAMConfig | GSAMConfig | WSAMConfig | LookSAMConfig, Field(discriminator="kind")
]


class NSOConfig(Strict):
    """NSO: the mean of the gradients at weights plus and minus normal noise (arXiv 2306.08553)."""

    sigma: float = Field(
        0.01,
        gt=0,
        description="standard deviation of the noise on every weight; 0.008 to 0.012 in the "
        "authors' experiments",
    )
    pairs: int = Field(
        1,
        gt=0,
        description="noise samples per step, each added and subtracted: two passes per sample; 1 "
        "in the authors' experiments",
    )

    @property
    def tag(self) -> str:
        """The part of a run folder's name that states the method."""
        return f"nso{self.sigma:g}"

    def build(self, parameters: Parameters, *, seed: int) -> WeightNoise:
        """Return the method for the given parameters."""
        from famseg.engine._weight_noise import WeightNoise

        return WeightNoise(parameters, sigma=self.sigma, pairs=self.pairs, seed=seed)


class SWAConfig(Strict):
    """SWA: the mean of the weights at the ends of the last epochs (Izmailov et al. 2018)."""

    start: float = Field(
        0.75,
        gt=0,
        lt=1,
        description="fraction of the training after which averaging begins; 0.75 in the paper",
    )
    every: int = Field(
        1, gt=0, description="epochs between two weights that are averaged; 1 in the paper"
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="constant learning rate from then on, as in the paper; absent: that of the "
        "schedule",
    )

    @property
    def tag(self) -> str:
        """The part of a run folder's name that states the method."""
        return f"swa{self.start:g}"

    def first(self, epochs: int) -> int:
        """Return the first epoch, starting at 1, whose final weights are part of the mean."""
        return math.ceil(round(self.start * epochs, 6))  # 0.7 * 10 is slightly above 7

    def schedule(
        self, schedule: Callable[[float], float], *, epochs: int, base: float
    ) -> Callable[[float], float]:
        """Return a schedule with the constant learning rate during averaging, if there is one.

        Args:
            schedule: Maps a time in epochs to the factor of the base learning rate.
            epochs: Length of the training.
            base: The base learning rate.
        """
        if self.learning_rate is None:
            return schedule
        begin, factor = self.start * epochs, self.learning_rate / base
        return lambda epoch: factor if epoch >= begin else schedule(epoch)

    def build(self, model: nn.Module, *, epochs: int) -> EpochAverage:
        """Return the average of a network."""
        from famseg.engine._epoch_average import EpochAverage

        return EpochAverage(model, first=self.first(epochs), every=self.every)
