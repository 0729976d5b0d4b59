"""``famseg evaluate``."""

from __future__ import annotations

import inspect
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from famseg.cli._say import say, say_json
from famseg.engine._opened import Which, device_of, open_run

if TYPE_CHECKING:
    from famseg.engine import Saved

EXAMPLES = """
Examples:

  famseg evaluate runs/skull-lambda0.002-seed0

  famseg evaluate runs/skull-lambda0.002-seed0 --checkpoint last --json

  famseg evaluate runs/skull-lambda0.002-seed0 --save failed
"""


class Save(StrEnum):
    """Which predictions are written."""

    none = "none"
    failed = "failed"
    all = "all"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    checkpoint: Annotated[
        Which,
        typer.Option(help="best: highest validation metric; last: end of the training."),
    ] = Which.best,
    save: Annotated[
        Save,
        typer.Option(help="Which completed skulls are written to evaluation/predictions."),
    ] = Save.none,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Evaluate a trained run on its test sets.

    Rewrites the run's folder evaluation; that of --checkpoint last is evaluation-last. The file
    checkpoint.json there says what was evaluated.
    """
    from famseg.runs import open_run_folder

    folder = open_run_folder(run)  # before torch is imported, which takes seconds

    from famseg.engine import evaluate_run, leased, processes, stop_on_signals

    group_of = processes(device_of(folder))
    with group_of as group, stop_on_signals(), leased(folder, group, purpose="evaluate"):
        opened = open_run(folder, checkpoint, group)
        summary = evaluate_run(
            opened.experiment,
            opened.model,
            folder,
            processes=group,
            epoch=opened.epoch,
            checkpoint=checkpoint.value,
            save=None if save is Save.none else cast("Saved", save.value),
        )
        if not group.main:
            return
        if as_json:
            say_json(summary)
        else:
            say(f"{opened.checkpoint}, epoch {opened.epoch}\n")
            say(opened.experiment.table(summary))
            say(f"\nper case     {folder.evaluation_of(checkpoint) / 'cases.csv'}")


evaluate.__doc__ = f"{inspect.cleandoc(evaluate.__doc__ or '')}\n{EXAMPLES}"
