"""Relative flatness for any PyTorch model; needs torch alone.

objective = FAM(model, layer="fc", loss=nn.CrossEntropyLoss(), weight=0.1)
total = objective(inputs, targets).total
total.backward()
"""

from famseg.flatness._bound import bounded
from famseg.flatness._closed_form import cross_entropy_flatness
from famseg.flatness._errors import (
    FlatnessError,
    LayerError,
    LayerNotFoundError,
    LossError,
    NotApplicableError,
    SampleInteractionError,
    UnsupportedTailError,
)
from famseg.flatness._exact import relative_flatness
from famseg.flatness._fam import FAM
from famseg.flatness._layer import find_layer
from famseg.flatness._terms import Measurement, Terms

__all__ = [
    "FAM",
    "FlatnessError",
    "LayerError",
    "LayerNotFoundError",
    "LossError",
    "Measurement",
    "NotApplicableError",
    "SampleInteractionError",
    "Terms",
    "UnsupportedTailError",
    "bounded",
    "cross_entropy_flatness",
    "find_layer",
    "relative_flatness",
]
