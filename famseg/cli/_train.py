"""``famseg train``."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from famseg.cli._common import DeviceOption, SeedOption, overrides_of
from famseg.cli._say import say, say_json
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.engine import Paused, RunConfig

EXAMPLES = """
Examples:

  famseg train skull.yaml

  famseg train --config skull.yaml

  famseg train --config skull.yaml lambda=0.02 seed=1

  famseg train --config skull_folder.yaml data.root=/data/skulls

  famseg train --config skull.yaml --resume

  famseg train --resume runs/skull-lambda0.0006-seed0 training.workers=2

  famseg train --config skull.yaml lambda=0.02 --from runs/skull-lambda0.0006-seed0

  torchrun --nproc-per-node 2 -m famseg train --config skull.yaml
"""


# Long, and with many parameters, because each option of the command is stated here once.
def train(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="Configuration: a path, or the name of a shipped one, such as skull.",
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|RUN] KEY=VALUE",
            help="A configuration (if --config is not given) or, with --resume, a run folder; then "
            "overrides, such as lambda=0.02 seed=1 data.root=FOLDER.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the run folder RUN or, given a configuration, its newest run; if there is "
            "none, start a new run.",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN[/CHECKPOINT]",
            help="Start a new run with the weights of an earlier one: RUN for its best epoch, "
            "RUN/last for its last epoch, or a checkpoint file.",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="FOLDER",
            help="Use exactly this run folder, whatever name the configuration gives: start a run "
            "there, or resume the one that it contains.",
        ),
    ] = None,
    until: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCH",
            min=1,
            help="Pause after this epoch. The schedule of the learning rate remains that of the "
            "whole training; resume with --resume.",
        ),
    ] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    page: Annotated[
        bool,
        typer.Option(
            "--report/--no-report", help="Write report.html to the run folder at the end."
        ),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Train a network, evaluate it and track the run.

    Only one command at a time can train, evaluate or measure a run; a second one ends with an
    error. A resumed run keeps its configuration, except that output, tracking and training.device,
    keep, picture_every, threads and workers may change and, with a constant schedule,
    training.epochs may grow.
    """
    if config is None:
        config, arguments = _configuration_in(arguments or [], resume=resume)
    run, overrides = _run_and_overrides(config, arguments or [], resume=resume)
    overrides = overrides_of(overrides, device=device, seed=seed)
    if weights is not None and resume:
        raise InputError(
            "--from: starts a new run. Leave out --resume or, to resume a run, --from."
        )
    if into is not None and (resume or weights is not None):
        raise InputError("--into: starts or resumes the run there. Leave out --resume and --from.")
    from famseg.config import load  # pydantic

    pipeline, loaded = load(str(config if run is None else run / "config.yaml"), overrides)
    from famseg.cli._progress import progress
    from famseg.cli._report import write_run_page
    from famseg.cli._summary import as_dict, summary_text
    from famseg.engine import Paused, Session, processes, stop_on_signals

    run_config = cast("RunConfig", loaded)
    with processes(run_config.training.device) as group, stop_on_signals() as stop:
        session = Session(pipeline.build, run_config, processes=group, stop=stop)
        try:
            with progress(pipeline.KEY_METRIC) as display:
                report = session.run(
                    resume=run or resume,
                    into=into,
                    until=until,
                    weights=weights,
                    observers=[display],
                    write_page=write_run_page if page else None,
                )
        except Paused as pause:
            if group.main:
                _say_paused(pause, as_json=as_json)
            return
        if not group.main:
            return
        if as_json:
            say_json(as_dict(report))
        else:
            say(summary_text(report, run_config))


train.__doc__ = f"{inspect.cleandoc(train.__doc__ or '')}\n{EXAMPLES}"


def _say_paused(pause: Paused, *, as_json: bool) -> None:
    folder = str(pause.folder)
    if as_json:
        say_json({"folder": folder, "paused": str(pause)})
    else:
        say(f"{pause}; resume with: famseg train --resume {shlex.quote(folder)}")


def _configuration_in(words: list[str], *, resume: bool) -> tuple[str | None, list[str]]:
    """Separate a configuration that is given without --config from the overrides around it.

    With --resume, a word may also be a run folder: only a YAML file is a configuration.
    """
    for place, word in enumerate(words):
        is_file = Path(word).is_file()
        if "=" in word and not is_file:
            continue
        if Path(word).is_dir() or (resume and not is_file and not word.endswith((".yaml", ".yml"))):
            break
        return word, [*words[:place], *words[place + 1 :]]
    return None, words


def _run_and_overrides(
    config: str | None, words: list[str], *, resume: bool
) -> tuple[Path | None, list[str]]:
    """Separate a run folder from the overrides; it is None if a configuration names the run.

    Raises:
        InputError: If neither or both are given, or the folder is not that of a run.
    """
    folder = Path(words[0]) if words and ("=" not in words[0] or Path(words[0]).is_dir()) else None
    if config is not None:
        if folder is not None and folder.is_dir():
            raise InputError(
                f"{folder}: a run folder contains its configuration. Leave out --config."
            )
        return None, words
    if not resume:
        raise InputError(
            "--config: is missing. Give a configuration, such as skull.yaml, for a new run, or "
            "--resume RUN to resume one."
        )
    if folder is None:
        raise InputError(
            "--resume: no run is given. Give its folder, or its configuration with --config."
        )
    from famseg.runs import open_run_folder

    return open_run_folder(folder).path, words[1:]
