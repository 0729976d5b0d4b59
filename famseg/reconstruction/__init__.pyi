from ._baselines import mean_baseline as mean_baseline
from ._baselines import mirror_baseline as mirror_baseline
from ._baselines import nearest_baseline as nearest_baseline
from ._baselines import standard_baselines as standard_baselines
from ._baselines import thin_plate as thin_plate
from ._batch import Done as Done
from ._batch import reconstruct_all as reconstruct_all
from ._calibrate import calibrate as calibrate
from ._calibrate import confidence_rows as confidence_rows
from ._coarse import CoarseNetwork as CoarseNetwork
from ._confidence import Curve as Curve
from ._confidence import agreement_of as agreement_of
from ._confidence import fit_curve as fit_curve
from ._demo import write_demo as write_demo
from ._dicom_seg import check_dicom_seg as check_dicom_seg
from ._fit import Fitted as Fitted
from ._fit import fit as fit
from ._flush import Step as Step
from ._flush import step_mm as step_mm
from ._inputs import Input as Input
from ._inputs import Inputs as Inputs
from ._inputs import check_out as check_out
from ._inputs import find_inputs as find_inputs
from ._mirror import mirror as mirror
from ._models import load_network as load_network
from ._models import save_network as save_network
from ._models import write_calibration as write_calibration
from ._plate import plate as plate
from ._reconstruct import Options as Options
from ._reconstruct import reconstruct as reconstruct
from ._refine import Refinement as Refinement
from ._refine import refine as refine
from ._save import Outputs as Outputs
from ._save import Result as Result
from ._save import save_case as save_case

__all__ = [
    "CoarseNetwork",
    "Curve",
    "Done",
    "Fitted",
    "Input",
    "Inputs",
    "Options",
    "Outputs",
    "Refinement",
    "Result",
    "Step",
    "agreement_of",
    "calibrate",
    "check_dicom_seg",
    "check_out",
    "confidence_rows",
    "find_inputs",
    "fit",
    "fit_curve",
    "load_network",
    "mean_baseline",
    "mirror",
    "mirror_baseline",
    "nearest_baseline",
    "plate",
    "reconstruct",
    "reconstruct_all",
    "refine",
    "save_case",
    "save_network",
    "standard_baselines",
    "step_mm",
    "thin_plate",
    "write_calibration",
    "write_demo",
]
