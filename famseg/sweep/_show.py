"""Display of a sweep: a table of trials in 80 columns, and the remaining time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from famseg.messages import counted
from famseg.sweep._state import Kind, State
from famseg.sweep._trials import Trial

ORDER: tuple[Kind, ...] = ("running", "finished", "failed", "paused", "interrupted", "waiting")


def table(
    trials: Sequence[Trial], states: Mapping[str, State], *, metric: str, limit: int | None = None
) -> Table:
    """Return the trials with their state, epoch and best validation.

    Args:
        trials: The trials.
        states: The states of the trials by name.
        metric: Name of the validation's key metric.
        limit: Largest number of rows, with running and failed trials first; None for all, in order.
    """
    keys = _varied(trials)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for key in keys:
        shown.add_column(key.rpartition(".")[2], overflow="fold")
    shown.add_column("state")
    shown.add_column("epoch", justify="right")
    shown.add_column(f"best val {metric}", justify="right")
    shown.add_column("time", justify="right")
    rows = list(trials)
    if limit is not None and len(rows) > limit:
        rows = sorted(rows, key=lambda trial: ORDER.index(states[trial.name].kind))[:limit]
    for trial in rows:
        state = states[trial.name]
        best = "" if state.best is None else f"{state.best:.4f}"
        where = f" on {state.where}" if state.where else ""
        shown.add_row(
            *(Text(trial.point[key]) for key in keys),
            Text(state.kind + where),
            f"{state.epoch}/{trial.epochs}",
            best,
            _short(state.seconds) if state.seconds else "",
        )
    return shown


def counts(states: Mapping[str, State]) -> str:
    """Return the number of trials in each state as text.

    Example:
        >>> counts({"a": State("finished"), "b": State("waiting"), "c": State("finished")})
        '3 trials: 2 finished, 1 waiting'
    """
    number = Counter(state.kind for state in states.values())
    told = ", ".join(f"{number[kind]} {kind}" for kind in ORDER if number[kind])
    return f"{counted(len(states), 'trial')}: {told}"


def seconds_left(trials: Sequence[Trial], states: Mapping[str, State], jobs: int) -> float | None:
    """Return the remaining time, estimated from the trained epochs; None before the first.

    An epoch is assumed to take as long as those of trials with the same setting or, without any, of
    all trials; the final evaluation is not included.

    Args:
        trials: The trials.
        states: The states of the trials by name.
        jobs: Number of simultaneous trials.
    """
    paces: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for trial in trials:
        state = states[trial.name]
        if state.epoch and state.seconds:
            paces.setdefault(trial.setting, []).append(state.seconds / state.epoch)
    if not paces:
        return None
    usual = fmean(pace for each in paces.values() for pace in each)
    left = 0.0
    for trial in trials:
        state = states[trial.name]
        if state.kind not in ("finished", "failed"):
            pace = fmean(paces.get(trial.setting, [usual]))
            left += pace * max(0, trial.epochs - state.epoch)
    return left / max(1, jobs)


def _varied(trials: Sequence[Trial]) -> list[str]:
    keys = dict.fromkeys(key for trial in trials for key in trial.point)
    return [key for key in keys if len({trial.point.get(key) for trial in trials}) > 1] or (
        list(keys)[:1]
    )


def _short(seconds: float) -> str:
    minutes = round(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d}:{round(seconds) % 60:02d}"
