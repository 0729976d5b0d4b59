from . import statistics as statistics
from ._calibration import Bin as Bin
from ._calibration import Calibration as Calibration
from ._calibration import calibration as calibration
from ._cases import CaseRow as CaseRow
from ._cases import case_scores as case_scores
from ._cases import read_cases as read_cases
from ._cases import write_cases as write_cases
from ._classification import Logits as Logits
from ._classification import classification_rows as classification_rows
from ._classification import evaluate_classification as evaluate_classification
from ._classification_picture import Answer as Answer
from ._classification_picture import answers_picture as answers_picture
from ._classification_picture import confusion_matrix as confusion_matrix
from ._classification_summary import classification_metrics as classification_metrics
from ._classification_summary import summarise_classes as summarise_classes
from ._classification_table import classification_signs as classification_signs
from ._classification_table import classification_table as classification_table
from ._evaluate import Baseline as Baseline
from ._evaluate import Evaluation as Evaluation
from ._evaluate import Save as Save
from ._evaluate import evaluate as evaluate
from ._evaluate import predicted_outline as predicted_outline
from ._files import FilePair as FilePair
from ._files import pair_files as pair_files
from ._files import score_files as score_files
from ._head import HeadMonitor as HeadMonitor
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
from ._shown import ShownCase as ShownCase
from ._shown import read_shown as read_shown
from ._shown import write_shown as write_shown
from ._signs import failure_signs as failure_signs
from ._signs import penalty_effect_share as penalty_effect_share
from ._signs import penalty_term as penalty_term
from ._signs import penalty_time_share as penalty_time_share
from ._summary import flat_metrics as flat_metrics
from ._summary import summarise as summarise
from ._summary import table as table
from ._validation import dice_rows as dice_rows
from ._validation import with_loss as with_loss
from ._variance import VarianceRatio as VarianceRatio
from ._variance import variance_ratio as variance_ratio

__all__ = [
    "SCORES",
    "Answer",
    "Baseline",
    "Bin",
    "Calibration",
    "CaseRow",
    "Evaluation",
    "FilePair",
    "HeadMonitor",
    "Logits",
    "Save",
    "Scores",
    "ShownCase",
    "SkullMetric",
    "SlicesCase",
    "VarianceRatio",
    "answers_picture",
    "border_dice",
    "calibration",
    "case_scores",
    "classification_metrics",
    "classification_rows",
    "classification_signs",
    "classification_table",
    "confusion_matrix",
    "count_components",
    "dice",
    "dice_rows",
    "evaluate",
    "evaluate_classification",
    "failure_signs",
    "flat_metrics",
    "pair_files",
    "penalty_effect_share",
    "penalty_term",
    "penalty_time_share",
    "predicted_outline",
    "read_cases",
    "read_shown",
    "score",
    "score_files",
    "score_labels",
    "slices_picture",
    "statistics",
    "summarise",
    "summarise_classes",
    "surface_roughness",
    "surface_scores",
    "table",
    "variance_ratio",
    "volume_difference_ml",
    "with_loss",
    "write_cases",
    "write_shown",
]
