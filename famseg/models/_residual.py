"""MONAI's ResNet18 as a classifier of images."""

from __future__ import annotations

from typing import Literal

from monai.networks.nets import resnet18 as monai_resnet18

from famseg.models._classifier import Classifier, out_of_place

Stem = Literal["cifar", "imagenet"]


def resnet18(
    *, classes: int, channels: int = 3, stem: Stem = "cifar", features: int | None = None
) -> Classifier:
    """Return MONAI's ResNet18 in two dimensions; 11.17 million parameters with 10 classes.

    Args:
        classes: How many classes there are.
        channels: Channels of the images.
        stem: ``"cifar"``: a convolution of kernel 3, for images of about 32 x 32;
            ``"imagenet"``: kernel 7, stride 2 and max-pooling, a sixteenth of the work.
        features: Features of an extra linear layer before the head, see
            :class:`famseg.models.Classifier`.

    Example:
        >>> resnet18(classes=10, features=64).head
        Linear(in_features=64, out_features=10, bias=True)
    """
    small = stem == "cifar"
    body = monai_resnet18(
        spatial_dims=2,
        n_input_channels=channels,
        conv1_t_size=3 if small else 7,
        conv1_t_stride=1 if small else 2,
        no_max_pool=small,
        bias_downsample=False,
        feed_forward=False,
        pretrained=False,
    )
    return Classifier(out_of_place(body), width=body.in_planes, classes=classes, features=features)
