"""MONAI's EfficientNets as classifiers of images, with weights from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from monai.networks.nets import EfficientNet
from monai.networks.nets.efficientnet import efficientnet_params
from torch import nn

from famseg.models._classifier import Classifier, out_of_place
from famseg.models._pretrained import load_weights, read_weights

Variant = Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"]

# Repeats, kernel, stride, expansion, input and output channels, squeeze ratio of the seven stages
# of B0 (Tan and Le 2019, table 1), in the notation of MONAI's class.
_STAGES = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
# MONAI numbers stages and blocks, others only blocks.
_BLOCK = re.compile(r"^_blocks\.\d+\.(\d+)\.")


def efficientnet(
    *,
    classes: int,
    channels: int = 3,
    size: int = 224,
    variant: Variant = "b7",
    weights: Path | None = None,
    features: int | None = None,
) -> Classifier:
    """Return MONAI's EfficientNet in two dimensions; B7 has 63.8 million parameters.

    MONAI's ``EfficientNetBN`` fixes the padding of its convolutions to the variant's own edge (600
    for B7); here it is that of ``size``, as the weights of ImageNet want it.

    Args:
        classes: How many classes there are.
        channels: Channels of the images.
        size: Their edge in pixels.
        variant: ``"b0"`` to ``"b8"``.
        weights: File of trained weights: ``torch.save`` of a state dict, or safetensors, with the
            names of MONAI, of EfficientNet-PyTorch or of this network. A head of another shape is
            replaced by a new one, which a line of the log says.
        features: Features of an extra linear layer before the head, see
            :class:`famseg.models.Classifier`.

    Raises:
        InputError: If the file is missing, unreadable or of another network.

    Example:
        >>> efficientnet(classes=10, size=32, variant="b0").head
        Linear(in_features=1280, out_features=10, bias=True)
    """
    trained = None if weights is None else read_weights(weights)  # first, for early errors
    name = f"efficientnet-{variant}"
    wider, deeper, _, dropout, drop_connect = efficientnet_params[name]
    body = EfficientNet(
        blocks_args_str=list(_STAGES),
        spatial_dims=2,
        in_channels=channels,
        width_coefficient=wider,
        depth_coefficient=deeper,
        dropout_rate=dropout,
        drop_connect_rate=drop_connect,
        image_size=size,
        num_classes=classes,
    )
    width = body._fc.in_features
    body._fc = nn.Identity()
    model = Classifier(out_of_place(body), width=width, classes=classes, features=features)
    if weights is not None and trained is not None:
        load_weights(model, trained, path=weights, network=name, rename=_named_as(model))
    return model


def _named_as(model: Classifier) -> Mapping[str, str]:
    """Map names of weights in other implementations to their names in a network."""
    names = {}
    for own in model.state_dict():
        part, _, inner = own.partition(".")
        elsewhere = f"_fc.{inner}" if part == "head" else inner
        if part != "features":
            names[elsewhere] = own
            names[_BLOCK.sub(r"_blocks.\1.", elsewhere)] = own
    return names
