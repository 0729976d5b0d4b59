"""``famseg evaluate``."""

from __future__ import annotations

import inspect
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from famseg.cli._common import ChangesArgument, DeviceOption, SeedOption, changes_on_run
from famseg.cli._report import write_run_page
from famseg.cli._say import say, say_json
from famseg.engine import Which, device_of, open_run
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.engine import Opened, Saved

EXAMPLES = """
Examples:

  famseg evaluate runs/skull-lambda0.0006-seed0

  famseg evaluate runs/skull-lambda0.0006-seed0 --checkpoint last --json

  famseg evaluate runs/skull-lambda0.0006-seed0 --save failed

  famseg evaluate runs/skull-lambda0.0006-seed0 --device cpu training.threads=4
"""


class Save(StrEnum):
    """Which predictions are written."""

    none = "none"
    failed = "failed"
    all = "all"


# Long, and with many parameters, because each option of the command is stated here once.
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    changes: ChangesArgument = None,
    checkpoint: Annotated[
        Which,
        typer.Option(
            help="Checkpoint to evaluate. best: the epoch with the best validation "
            "metric; last: the last epoch."
        ),
    ] = Which.best,
    save: Annotated[
        Save,
        typer.Option(help="Which completed skulls to write to evaluation/predictions."),
    ] = Save.none,
    device: DeviceOption = None,
    seed: SeedOption = None,
    page: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Also write report.html to the run folder."),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Evaluate a trained run on its test sets.

    Replaces the folder evaluation of the run, or evaluation-last for --checkpoint last. The file
    checkpoint.json in it says what was evaluated.
    """
    overrides = changes_on_run(changes, device=device, seed=seed)
    from famseg.runs import open_run_folder

    folder = open_run_folder(run)  # before torch is imported, which takes seconds

    from famseg.engine import evaluate_run, leased, page_of, processes, stop_on_signals

    group_of = processes(device_of(folder, overrides))
    with group_of as group, stop_on_signals(), leased(folder, group, purpose="evaluate"):
        opened = open_run(folder, checkpoint, group, overrides=overrides)
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
        write = partial(write_run_page, checkpoint=checkpoint.value) if page else None
        written = page_of(folder, write)
        if written is not None:
            _track(opened, written)
        if as_json:
            say_json(summary)
        else:
            say(f"{opened.checkpoint}, epoch {opened.epoch}\n")
            say(opened.experiment.table(summary))
            say(f"\nper case     {folder.evaluation_of(checkpoint) / 'cases.csv'}")
            if written is not None:
                say(f"report       {written}")


evaluate.__doc__ = f"{inspect.cleandoc(evaluate.__doc__ or '')}\n{EXAMPLES}"


def _track(opened: Opened, page: Path) -> None:
    """Add the page to the artifacts of the run in MLflow, if the run was tracked."""
    from famseg.files import read_json
    from famseg.tracking import add_artifact

    tracking, folder = opened.config.tracking, opened.folder
    if not tracking.enabled or not folder.tracking.is_file():
        return
    try:
        identity = read_json(folder.tracking, "Restore it, or delete it.")
    except InputError as error:  # the evaluation is complete
        say(f"famseg: {error}", err=True)
    else:
        add_artifact(identity, page, uri=tracking.uri)
