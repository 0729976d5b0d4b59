from . import statistics as statistics
from ._cases import CaseRow as CaseRow
from ._cases import case_scores as case_scores
from ._cases import read_cases as read_cases
from ._cases import write_cases as write_cases
from ._evaluate import Evaluation as Evaluation
from ._evaluate import evaluate as evaluate
from ._files import FilePair as FilePair
from ._files import pair_files as pair_files
from ._files import score_files as score_files
from ._metrics import dice as dice
from ._metrics import surface_scores as surface_scores
from ._monai import SkullMetric as SkullMetric
from ._pair import SCORES as SCORES
from ._pictures import SlicesCase as SlicesCase
from ._pictures import slices_picture as slices_picture
from ._roughness import surface_roughness as surface_roughness
from ._scores import Scores as Scores
from ._scores import score as score
from ._scores import score_labels as score_labels
from ._shape import border_dice as border_dice
from ._shape import count_components as count_components
from ._shape import volume_difference_ml as volume_difference_ml
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
    "SCORES",
    "CaseRow",
    "Evaluation",
    "FilePair",
    "Scores",
    "SkullMetric",
    "SlicesCase",
    "VarianceRatio",
    "border_dice",
    "case_scores",
    "count_components",
    "dice",
    "dice_rows",
    "evaluate",
    "failure_signs",
    "flat_metrics",
    "pair_files",
    "penalty_effect_share",
    "penalty_time_share",
    "read_cases",
    "score",
    "score_files",
    "score_labels",
    "slices_picture",
    "statistics",
    "summarise",
    "surface_roughness",
    "surface_scores",
    "table",
    "variance_ratio",
    "volume_difference_ml",
    "write_cases",
]
