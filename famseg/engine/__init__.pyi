from ._batches import Batches as Batches
from ._checkpoint import load_checkpoint as load_checkpoint
from ._checkpoint import save_checkpoint as save_checkpoint
from ._config import FREE_ON_RESUME as FREE_ON_RESUME
from ._config import OptimizerConfig as OptimizerConfig
from ._config import RunConfig as RunConfig
from ._config import ScheduleConfig as ScheduleConfig
from ._config import TrainingConfig as TrainingConfig
from ._device import place_of as place_of
from ._evaluation import evaluate_run as evaluate_run
from ._experiment import Experiment as Experiment
from ._experiment import History as History
from ._experiment import Observer as Observer
from ._experiment import Picture as Picture
from ._experiment import Saved as Saved
from ._fit import Fit as Fit
from ._main import leased as leased
from ._main import on_main as on_main
from ._methods_config import GSAMConfig as GSAMConfig
from ._methods_config import LookSAMConfig as LookSAMConfig
from ._methods_config import NSOConfig as NSOConfig
from ._methods_config import SAMConfig as SAMConfig
from ._methods_config import SharpnessConfig as SharpnessConfig
from ._methods_config import SWAConfig as SWAConfig
from ._methods_config import WSAMConfig as WSAMConfig
from ._page import WritePage as WritePage
from ._page import page_of as page_of
from ._precision import exact_float32 as exact_float32
from ._processes import Processes as Processes
from ._processes import processes as processes
from ._progress import log_progress as log_progress
from ._result import Best as Best
from ._result import FitResult as FitResult
from ._schedule import learning_rate_factor as learning_rate_factor
from ._scores import Row as Row
from ._session import RunReport as RunReport
from ._session import Session as Session
from ._signals import Interrupted as Interrupted
from ._signals import Paused as Paused
from ._signals import StopRequest as StopRequest
from ._signals import stop_on_signals as stop_on_signals
from ._step import NonFiniteError as NonFiniteError
from ._step import TrainStep as TrainStep
from ._step import to_device as to_device

__all__ = [
    "FREE_ON_RESUME",
    "Batches",
    "Best",
    "Experiment",
    "Fit",
    "FitResult",
    "GSAMConfig",
    "History",
    "Interrupted",
    "LookSAMConfig",
    "NSOConfig",
    "NonFiniteError",
    "Observer",
    "OptimizerConfig",
    "Paused",
    "Picture",
    "Processes",
    "Row",
    "RunConfig",
    "RunReport",
    "SAMConfig",
    "SWAConfig",
    "Saved",
    "ScheduleConfig",
    "Session",
    "SharpnessConfig",
    "StopRequest",
    "TrainStep",
    "TrainingConfig",
    "WSAMConfig",
    "WritePage",
    "evaluate_run",
    "exact_float32",
    "learning_rate_factor",
    "leased",
    "load_checkpoint",
    "log_progress",
    "on_main",
    "page_of",
    "place_of",
    "processes",
    "save_checkpoint",
    "stop_on_signals",
    "to_device",
]
