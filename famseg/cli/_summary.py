"""The summary at the end of a run."""

from __future__ import annotations

import shlex
from typing import Any

from famseg.cli._progress import duration
from famseg.engine import RunConfig, RunReport
from famseg.evaluation import penalty_effect_share, penalty_term, penalty_time_share
from famseg.messages import counted


def as_dict(report: RunReport) -> dict[str, Any]:
    """Return the result of a run for scripts."""
    best = report.fit.best
    return {
        "folder": str(report.folder.path),
        "epochs": report.fit.epochs,
        "best_epoch": best.epoch,
        "best_validation": best.value,
        "seconds": report.fit.seconds,
        "mlflow_run_id": report.run_id,
        "report": None if report.page is None else str(report.page),
        "summary": dict(report.summary),
    }


def summary_text(report: RunReport, config: RunConfig) -> str:
    """Return the result, signs of failure, paths and next commands as text."""
    fit, weight = report.fit, config.penalty.weight
    lines = [
        "",
        f"lambda {weight:g}, seed {config.seed}: {counted(fit.epochs, 'epoch')}"
        f"{' (stopped early)' if fit.stopped_early else ''}, best validation in epoch "
        f"{fit.best.epoch}: {fit.best.value:.4f}; training took {duration(fit.seconds)}",
        *_penalty(report, config),
        "",
        report.table,
        "",
    ]
    lines += [f"! {sign}" for sign in report.signs] or ["The method shows no sign of failure."]
    folder = report.folder
    lines += ["", f"run folder   {folder.path}"]
    lines += [] if report.page is None else [f"report       {report.page}"]
    lines += [f"per case     {cases}" for cases in sorted(folder.evaluation.glob("cases.csv"))]
    lines += [f"images       {image}" for image in sorted(folder.evaluation.glob("*.png"))]
    lines.append(f"checkpoint   {folder.checkpoint('best')}")
    if report.tracking_uri:
        store = f" tracking.uri={shlex.quote(config.tracking.uri)}" if config.tracking.uri else ""
        lines.append(f"MLflow       {report.tracking_uri}; open it with: famseg ui{store}")
    lines.append(f"again        famseg evaluate {shlex.quote(str(folder.path))}")
    return "\n".join(lines)


def _penalty(report: RunReport, config: RunConfig) -> list[str]:
    weight, kind = config.penalty.weight, config.penalty.kind
    if weight == 0:
        return []
    effect = penalty_effect_share(report.history, weight)
    time = penalty_time_share(report.history)
    parts = [
        f"{penalty_term(kind)} {effect:.2%} of the loss at the end" if effect is not None else "",
        f"{time:.0%} of the training time" if time is not None else "",
    ]
    text = ", ".join(part for part in parts if part)
    return [f"penalty: {text}"] if text else []
