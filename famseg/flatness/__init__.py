"""Relative flatness for any PyTorch model; needs only torch.

Three lines of a training loop::

    objective = FAM(model, layer="fc", loss=nn.CrossEntropyLoss(), weight=0.1)
    total = objective(inputs, targets).total
    total.backward()
"""

from famseg.flatness._convert import convert_weight
from famseg.flatness._errors import (
    FlatnessError,
    LayerError,
    LayerNotFoundError,
    LossError,
    NotApplicableError,
    SampleInteractionError,
    UnsupportedTailError,
)
from famseg.flatness._estimators._bound import bounded
from famseg.flatness._estimators._closed_form import (
    cross_entropy_flatness,
    logistic_flatness,
    squared_error_flatness,
)
from famseg.flatness._estimators._exact import relative_flatness
from famseg.flatness._fam import FAM
from famseg.flatness._measurement._curvature import Eigenpairs, LayerCurvature
from famseg.flatness._measurement._density import SpectralDensity
from famseg.flatness._measurement._history import FlatnessHistory, HistoryPoint
from famseg.flatness._measurement._report import report
from famseg.flatness._measurement._rescaling import rescaled, rescaled_layer
from famseg.flatness._measurement._robustness import FeatureRobustness, feature_robustness
from famseg.flatness._measurement._rows import LayerRow, Report, RescalingRow
from famseg.flatness._measurement._trace import TraceEstimate
from famseg.flatness._options import Options
from famseg.flatness._terms import Measurement, Terms
from famseg.flatness._tracing._arguments import Inputs, call_model
from famseg.flatness._tracing._layer import find_layer

__all__ = [
    "FAM",
    "Eigenpairs",
    "FeatureRobustness",
    "FlatnessError",
    "FlatnessHistory",
    "HistoryPoint",
    "Inputs",
    "LayerCurvature",
    "LayerError",
    "LayerNotFoundError",
    "LayerRow",
    "LossError",
    "Measurement",
    "NotApplicableError",
    "Options",
    "Report",
    "RescalingRow",
    "SampleInteractionError",
    "SpectralDensity",
    "Terms",
    "TraceEstimate",
    "UnsupportedTailError",
    "bounded",
    "call_model",
    "convert_weight",
    "cross_entropy_flatness",
    "feature_robustness",
    "find_layer",
    "logistic_flatness",
    "relative_flatness",
    "report",
    "rescaled",
    "rescaled_layer",
    "squared_error_flatness",
]
