from ._config import ClassLossConfig as ClassLossConfig
from ._config import CrossEntropyConfig as CrossEntropyConfig
from ._config import DiceCEConfig as DiceCEConfig
from ._config import DiceConfig as DiceConfig
from ._config import DiceFocalConfig as DiceFocalConfig
from ._config import JacobianNormConfig as JacobianNormConfig
from ._config import NoPenaltyConfig as NoPenaltyConfig
from ._config import PenaltyConfig as PenaltyConfig
from ._config import RelativeFlatnessConfig as RelativeFlatnessConfig
from ._config import ShapeLossConfig as ShapeLossConfig
from ._config import TverskyConfig as TverskyConfig
from ._config import WeightDecayConfig as WeightDecayConfig
from ._divisor import check_parts as check_parts
from ._divisor import divisor_of as divisor_of
from ._jacobian import JacobianNorm as JacobianNorm
from ._jacobian import squared_jacobian_norm as squared_jacobian_norm
from ._objective import LayerDecay as LayerDecay
from ._objective import Objective as Objective
from ._objective import PlainLoss as PlainLoss
from ._objective import Scaled as Scaled

__all__ = [
    "ClassLossConfig",
    "CrossEntropyConfig",
    "DiceCEConfig",
    "DiceConfig",
    "DiceFocalConfig",
    "JacobianNorm",
    "JacobianNormConfig",
    "LayerDecay",
    "NoPenaltyConfig",
    "Objective",
    "PenaltyConfig",
    "PlainLoss",
    "RelativeFlatnessConfig",
    "Scaled",
    "ShapeLossConfig",
    "TverskyConfig",
    "WeightDecayConfig",
    "check_parts",
    "divisor_of",
    "squared_jacobian_norm",
]
