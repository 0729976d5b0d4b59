"""Configuration sections of the classifiers of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from famseg.config import PathText, Strict
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.models._classifier import Classifier

_LARGE = 64  # pixels; for larger images, a stem with full resolution is too expensive


class _Classifier(Strict):
    features: int | None = Field(
        None,
        gt=0,
        description="features of an extra linear layer without non-linearity before the head; the "
        "FAM paper has 64",
    )


class ConvNetConfig(_Classifier):
    """A small convolutional network for studies on a CPU."""

    kind: Literal["convnet"] = "convnet"
    width: int = Field(
        32, gt=0, le=1024, description="channels of the first convolution; 32: 0.24 M parameters"
    )

    def build(self, *, classes: int, channels: int, size: int) -> Classifier:
        """Return the network for images of ``channels`` channels."""
        from famseg.models._convnet import convnet

        return convnet(classes=classes, channels=channels, width=self.width, features=self.features)


class ResNet18Config(_Classifier):
    """MONAI's ResNet18."""

    kind: Literal["resnet18"]
    stem: Literal["auto", "cifar", "imagenet"] = Field(
        "auto",
        description="cifar: kernel 3; imagenet: kernel 7, stride 2 and max-pooling; auto: imagenet "
        f"from {_LARGE} pixels on",
    )

    def build(self, *, classes: int, channels: int, size: int) -> Classifier:
        """Return the network for images of ``size`` pixels a side."""
        from famseg.models._residual import resnet18

        stem = self.stem
        if stem == "auto":
            stem = "imagenet" if size >= _LARGE else "cifar"
        return resnet18(classes=classes, channels=channels, stem=stem, features=self.features)


class WideResNetConfig(_Classifier):
    """A wide residual network; depth 28 and width 10 by default."""

    kind: Literal["wide_resnet"]
    depth: int = Field(28, ge=10, description="layers, 6 n + 4: 10, 16, 22, 28, 34, 40")
    width: int = Field(10, gt=0, description="factor of the channels")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability within a block")

    @model_validator(mode="after")
    def _depth_exists(self) -> Self:
        if (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, 34, 40), got {self.depth}")
        return self

    def build(self, *, classes: int, channels: int, size: int) -> Classifier:
        """Return the network for images of ``channels`` channels."""
        from famseg.models._wide_resnet import wide_resnet

        return wide_resnet(
            classes=classes,
            channels=channels,
            depth=self.depth,
            width=self.width,
            dropout=self.dropout,
            features=self.features,
        )


class EfficientNetConfig(_Classifier):
    """MONAI's EfficientNet, new or with weights from a file."""

    kind: Literal["efficientnet"]
    variant: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"] = Field(
        "b7", description="size of the network; b7 has 63.8 M parameters"
    )
    weights: PathText | None = Field(
        None,
        min_length=1,
        description="file of trained weights (a state dict of torch, or .safetensors) with the "
        "names of MONAI or EfficientNet-PyTorch; absent: random initial weights",
    )

    def build(self, *, classes: int, channels: int, size: int) -> Classifier:
        """Return the network for images of ``size`` pixels a side.

        Raises:
            InputError: If the weights are missing, unreadable or of another network.
        """
        from famseg.models._efficientnet import efficientnet

        return efficientnet(
            classes=classes,
            channels=channels,
            size=size,
            variant=self.variant,
            weights=Path(self.weights).expanduser() if self.weights else None,
            features=self.features,
        )


class MonaiConfig(_Classifier):
    """Any two-dimensional classifier of ``monai.networks.nets``."""

    kind: Literal["monai"]
    name: str = Field(
        min_length=1, description="name of a class of monai.networks.nets, e.g. DenseNet121"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="its arguments; dimensions, channels, classes and edge are filled in",
    )

    def build(self, *, classes: int, channels: int, size: int) -> Classifier:
        """Return the network; its last linear layer becomes the head.

        Raises:
            InputError: If there is no such class, or it does not take its arguments or the
                images, or does not end in a linear layer.
        """
        from famseg.models._monai_network import monai_network

        try:
            return monai_network(
                self.name,
                classes=classes,
                channels=channels,
                size=size,
                arguments=self.arguments,
                features=self.features,
            )
        except ValueError as error:
            raise InputError(f"model: {error}") from error


ClassifierConfig = Annotated[
    ConvNetConfig | ResNet18Config | WideResNetConfig | EfficientNetConfig | MonaiConfig,
    Field(discriminator="kind"),
]
