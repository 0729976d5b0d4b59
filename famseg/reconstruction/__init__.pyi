from ._baselines import mean_baseline as mean_baseline
from ._baselines import mirror as mirror
from ._baselines import mirror_baseline as mirror_baseline
from ._baselines import nearest_baseline as nearest_baseline
from ._baselines import standard_baselines as standard_baselines
from ._baselines import thin_plate as thin_plate
from ._calibrate import calibrate as calibrate
from ._calibrate import confidence_rows as confidence_rows
from ._coarse import CoarseNetwork as CoarseNetwork
from ._confidence import Curve as Curve
from ._confidence import agreement_of as agreement_of
from ._confidence import fit_curve as fit_curve
from ._models import load_network as load_network
from ._models import save_network as save_network
from ._models import write_calibration as write_calibration

__all__ = [
    "CoarseNetwork",
    "Curve",
    "agreement_of",
    "calibrate",
    "confidence_rows",
    "fit_curve",
    "load_network",
    "mean_baseline",
    "mirror",
    "mirror_baseline",
    "nearest_baseline",
    "save_network",
    "standard_baselines",
    "thin_plate",
    "write_calibration",
]
