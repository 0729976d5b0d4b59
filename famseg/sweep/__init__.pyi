from ._axes import Axis as Axis
from ._axes import Distribution as Distribution
from ._axes import draws as draws
from ._axes import grid as grid
from ._axes import parse_axes as parse_axes
from ._folder import SweepFolder as SweepFolder
from ._folder import find_sweep as find_sweep
from ._folder import open_sweep as open_sweep
from ._halving import Rung as Rung
from ._halving import rungs as rungs
from ._halving import survivors as survivors
from ._kubernetes import Cluster as Cluster
from ._kubernetes import manifest as manifest
from ._local import LocalRunner as LocalRunner
from ._local import Outcome as Outcome
from ._local import trial_command as trial_command
from ._ray import RayRunner as RayRunner
from ._show import counts as counts
from ._show import seconds_left as seconds_left
from ._show import table as table
from ._slurm import SlurmRunner as SlurmRunner
from ._slurm import write_array as write_array
from ._state import State as State
from ._state import read_state as read_state
from ._sweep import Request as Request
from ._sweep import Runner as Runner
from ._sweep import Show as Show
from ._sweep import Sweep as Sweep
from ._sweep import local_runner as local_runner
from ._sweep import plan_sweep as plan_sweep
from ._sweep import run_sweep as run_sweep
from ._trials import Trial as Trial
from ._trials import make_trials as make_trials
from ._trials import trial_hash as trial_hash

__all__ = [
    "Axis",
    "Cluster",
    "Distribution",
    "LocalRunner",
    "Outcome",
    "RayRunner",
    "Request",
    "Rung",
    "Runner",
    "Show",
    "SlurmRunner",
    "State",
    "Sweep",
    "SweepFolder",
    "Trial",
    "counts",
    "draws",
    "find_sweep",
    "grid",
    "local_runner",
    "make_trials",
    "manifest",
    "open_sweep",
    "parse_axes",
    "plan_sweep",
    "read_state",
    "run_sweep",
    "rungs",
    "seconds_left",
    "survivors",
    "table",
    "trial_command",
    "trial_hash",
    "write_array",
]
