"""Configuration sections of losses and penalties."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from famseg.config import Strict
from famseg.messages import InputError

if TYPE_CHECKING:
    from torch import nn

    from famseg.flatness import FAM
    from famseg.objectives._jacobian import JacobianNorm
    from famseg.objectives._objective import LayerDecay, Loss, PlainLoss

Terms = TypeVar("Terms", bound="nn.Module")


class _ShapeLoss(Strict):
    scale: float = Field(1.0, gt=0, description="factor of the whole loss")

    def _scaled(self, loss: nn.Module) -> nn.Module:
        from famseg.objectives._objective import Scaled

        return loss if self.scale == 1 else Scaled(loss, self.scale)


class DiceConfig(_ShapeLoss):
    """Soft Dice loss of the sigmoid of the logits, mean over samples (MONAI DiceLoss)."""

    kind: Literal["dice"] = "dice"
    squared: bool = Field(False, description="squared terms in the denominator")

    def build(self) -> nn.Module:
        """Return the loss."""
        from monai.losses import DiceLoss

        return self._scaled(DiceLoss(sigmoid=True, squared_pred=self.squared))


class DiceCEConfig(_ShapeLoss):
    """Weighted sum of soft Dice and binary cross-entropy (MONAI DiceCELoss)."""

    kind: Literal["dice_ce"]
    dice_weight: float = Field(1.0, ge=0, description="factor of the Dice loss")
    ce_weight: float = Field(1.0, ge=0, description="factor of the cross-entropy")
    positive_weight: float = Field(
        1.0,
        gt=0,
        description="factor of the cross-entropy of voxels inside, for targets that fill a small "
        "part of the volume; it makes the probabilities too high",
    )

    def build(self) -> nn.Module:
        """Return the loss."""
        import torch
        from monai.losses import DiceCELoss

        positive = None if self.positive_weight == 1 else torch.tensor([self.positive_weight])
        return self._scaled(
            DiceCELoss(
                sigmoid=True,
                weight=positive,
                lambda_dice=self.dice_weight,
                lambda_ce=self.ce_weight,
            )
        )


class DiceFocalConfig(_ShapeLoss):
    """Weighted sum of soft Dice and focal loss (MONAI DiceFocalLoss)."""

    kind: Literal["dice_focal"]
    gamma: float = Field(2.0, ge=0, description="exponent of the focal term")
    dice_weight: float = Field(1.0, ge=0, description="factor of the Dice loss")
    focal_weight: float = Field(1.0, ge=0, description="factor of the focal loss")

    def build(self) -> nn.Module:
        """Return the loss."""
        from monai.losses import DiceFocalLoss

        return self._scaled(
            DiceFocalLoss(
                sigmoid=True,
                gamma=self.gamma,
                lambda_dice=self.dice_weight,
                lambda_focal=self.focal_weight,
            )
        )


class TverskyConfig(_ShapeLoss):
    """Tversky loss of the sigmoid of the logits, mean over samples (MONAI TverskyLoss)."""

    kind: Literal["tversky"]
    alpha: float = Field(0.5, ge=0, description="weight of false positives")
    beta: float = Field(0.5, ge=0, description="weight of false negatives")

    def build(self) -> nn.Module:
        """Return the loss."""
        from monai.losses import TverskyLoss

        return self._scaled(TverskyLoss(sigmoid=True, alpha=self.alpha, beta=self.beta))


ShapeLossConfig = Annotated[
    DiceConfig | DiceCEConfig | DiceFocalConfig | TverskyConfig, Field(discriminator="kind")
]


class CrossEntropyConfig(Strict):
    """Softmax cross-entropy of the logits, mean over samples (torch CrossEntropyLoss)."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target that is spread over all classes"
    )
    class_weights: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, min_length=2, description="factor of each class, in the order of the classes"
    )

    def build(self, *, classes: int) -> nn.CrossEntropyLoss:
        """Return the loss.

        Args:
            classes: The number of classes.

        Raises:
            InputError: If there is another number of class weights.
        """
        import torch
        from torch import nn

        weights = self.class_weights
        if weights is not None and len(weights) != classes:
            raise InputError(
                f"loss.class_weights: {len(weights)} weights for {classes} classes. Give one "
                "weight per class."
            )
        return nn.CrossEntropyLoss(
            weight=None if weights is None else torch.tensor(weights),
            label_smoothing=self.label_smoothing,
        )


# The losses of pipelines with classes; add a new one as a member.
ClassLossConfig = CrossEntropyConfig


class NoPenaltyConfig(Strict):
    """No penalty: the plain loss."""

    kind: Literal["none"]

    @property
    def weight(self) -> float:
        """Lambda of a run without penalty."""
        return 0.0

    def build(self, model: nn.Module, loss: Loss, *, seed: int) -> PlainLoss:
        """Return the terms of ``model`` under the plain loss."""
        from famseg.objectives._objective import PlainLoss

        return PlainLoss(model, loss=loss)


Layers = str | Annotated[list[str], Field(min_length=1)]


class RelativeFlatnessConfig(Strict):
    """lambda * kappa of one or more layers, kappa the exact relative flatness (FAM)."""

    kind: Literal["relative_flatness"] = "relative_flatness"
    layer: Layers = Field(
        description="dotted name, as in model.named_modules(), of a linear or convolution layer; "
        "or a list of them, whose kappas are added up"
    )
    # Before lambda, whose check needs it.
    ceiling: float | None = Field(
        None,
        gt=0,
        description="the largest kappa that counts, per sample, or per batch with bound "
        "batch_positive and where samples have no separate values; null: no limit",
    )
    weight: float = Field(
        alias="lambda",
        description="factor of kappa; 0 is the baseline; a value below 0 trains away from "
        "flatness and needs ceiling",
    )
    estimator: Literal[
        "auto",
        "exact",
        "closed_form",
        "columns",
        "hutchinson",
        "gauss_newton",
        "finite_difference",
        "noise",
    ] = Field(
        "auto",
        description="how kappa is computed; auto takes the cheapest unbiased estimator and "
        "chooses every and samples, which you choose for a named estimator",
    )
    quantity: Literal["relative_flatness", "simplified", "max_eigenvalue"] = Field(
        "relative_flatness",
        description="simplified: ||W||^2 Tr(H); max_eigenvalue: sum of ||w_s||^2 lambda_max(H_ss)",
    )
    gradient: Literal["full", "weights_only"] = Field(
        "full", description="weights_only treats the curvature as constant: term I of the gradient"
    )
    as_released: bool = Field(
        False, description="norms and gradient of the released code of the paper, for reproduction"
    )
    standardize: bool = Field(
        False, description="features in units of their standard deviation over the batch"
    )
    probes: int = Field(
        1, gt=0, description="random probes per step, for estimators that draw them"
    )
    probe_per: Literal["sample", "batch"] = Field(
        "sample", description="hutchinson: probes for each sample, or one for the batch"
    )
    distribution: Literal["rademacher", "gaussian"] = Field(
        "rademacher", description="distribution of the probes: signs or normal numbers"
    )
    antithetic: bool = Field(
        False,
        description="estimator noise: both signs of each draw, which "
        "costs another run of the network",
    )
    every: Annotated[int, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="compute the penalty at every k-th step with k times the weight, which keeps "
        "the mean gradient; auto: 1 with a named estimator or where the penalty is free, else 4 "
        "on a part of the batch and 10 on all of it, and a smaller k where the penalty is strong",
    )
    samples: Annotated[int, Field(gt=0)] | Literal["auto", "all"] = Field(
        "auto",
        description="number of samples of a batch that the penalty uses; auto: all with a "
        "named estimator, else a quarter where their mean is unbiased, more where the penalty is "
        "strong",
    )
    bound: Literal["positive", "batch_positive", "absolute", "none"] = Field(
        "positive", description="what keeps the objective bounded where kappa is negative"
    )
    normalize: Literal["none", "features"] = Field(
        "none", description="features: kappa / m, the convention of the released code"
    )

    @field_validator("weight")
    @classmethod
    def _bounded(cls, weight: float, info: ValidationInfo) -> float:
        if weight < 0 and info.data.get("ceiling", 1.0) is None:
            raise ValueError(
                f"must be at least 0, got {weight:g}. A value below 0 trains away from "
                "flatness (arXiv 2509.17738), which never stops by itself: it needs "
                "penalty.ceiling, the largest kappa that counts."
            )
        return weight

    def build(self, model: nn.Module, loss: Loss, *, seed: int) -> FAM:
        """Return the terms of ``model`` under loss and flatness penalty."""
        from famseg.flatness import FAM

        options = self.model_dump(by_alias=False, exclude={"kind", "normalize"})
        normalize = None if self.normalize == "none" else self.normalize
        return _naming_the_key(FAM, model, loss=loss, seed=seed, normalize=normalize, **options)


class WeightDecayConfig(Strict):
    """lambda * ||W||^2 of one linear layer: the control for relative flatness."""

    kind: Literal["weight_decay"]
    layer: str = Field(description="dotted name of a linear layer, as in model.named_modules()")
    weight: float = Field(alias="lambda", ge=0, description="factor of the squared norm")

    def build(self, model: nn.Module, loss: Loss, *, seed: int) -> LayerDecay:
        """Return the terms of ``model`` under loss and weight decay of one layer."""
        from famseg.objectives._objective import LayerDecay

        return _naming_the_key(LayerDecay, model, layer=self.layer, loss=loss, weight=self.weight)


class JacobianNormConfig(Strict):
    """lambda / 2 * ||d outputs / d input||^2, mean over samples (arXiv 1908.02729)."""

    kind: Literal["jacobian_norm"]
    weight: float = Field(
        0.01, alias="lambda", ge=0, description="factor of half the squared norm; 0.01 in the paper"
    )
    projections: Annotated[int, Field(gt=0)] | Literal["all"] = Field(
        1,
        description="random directions of the outputs per sample and step, each with a "
        "backward pass; all: one per output, exact; 1 in the paper",
    )

    def build(self, model: nn.Module, loss: Loss, *, seed: int) -> JacobianNorm:
        """Return the terms of ``model`` under loss and penalty on its Jacobian."""
        from famseg.objectives._jacobian import JacobianNorm

        return JacobianNorm(
            model, loss=loss, weight=self.weight, projections=self.projections, seed=seed
        )


PenaltyConfig = Annotated[
    NoPenaltyConfig | RelativeFlatnessConfig | WeightDecayConfig | JacobianNormConfig,
    Field(discriminator="kind"),
]


def penalized_layer(penalty: object, default: str) -> str:
    """Return the layer that a penalty is about, the first of several.

    Args:
        penalty: A `PenaltyConfig`.
        default: The answer for a penalty that is not about a layer, or none at all.

    Example:
        >>> section = {"layer": ["latent", "expand"], "lambda": 0.1}
        >>> penalty = RelativeFlatnessConfig.model_validate(section)
        >>> penalized_layer(penalty, "expand")
        'latent'
    """
    layer = getattr(penalty, "layer", default)
    return layer if isinstance(layer, str) else str(layer[0])


def _naming_the_key(make: Callable[..., Terms], *args: object, **options: object) -> Terms:
    """Call a constructor, and prefix its errors with the key of the configuration."""
    from famseg.flatness import FlatnessError, LayerError, LayerNotFoundError

    try:
        return make(*args, **options)
    except (LayerError, LayerNotFoundError) as error:
        raise InputError(f"penalty.layer: {error}") from error
    except FlatnessError as error:
        raise InputError(f"penalty: {error}") from error
