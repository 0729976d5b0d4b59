from ._cases import CaseRow as CaseRow
from ._cases import case_scores as case_scores
from ._cases import read_cases as read_cases
from ._cases import write_cases as write_cases
from ._evaluate import Evaluation as Evaluation
from ._evaluate import evaluate as evaluate
from ._metrics import dice as dice
from ._metrics import surface_scores as surface_scores
from ._pictures import SlicesCase as SlicesCase
from ._pictures import slices_picture as slices_picture
from ._signs import failure_signs as failure_signs
from ._signs import penalty_effect_share as penalty_effect_share
from ._signs import penalty_time_share as penalty_time_share
from ._summary import flat_metrics as flat_metrics
from ._summary import summarise as summarise
from ._summary import table as table
from ._validation import dice_rows as dice_rows
from ._variance import VarianceRatio as VarianceRatio
from ._variance import variance_ratio as variance_ratio

__all__ = [
    "CaseRow",
    "Evaluation",
    "SlicesCase",
    "VarianceRatio",
    "case_scores",
    "dice",
    "dice_rows",
    "evaluate",
    "failure_signs",
    "flat_metrics",
    "penalty_effect_share",
    "penalty_time_share",
    "read_cases",
    "slices_picture",
    "summarise",
    "surface_scores",
    "table",
    "variance_ratio",
    "write_cases",
]
