"""``famseg measure``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from famseg.cli._common import (
    ChangesArgument,
    DeviceOption,
    SeedOption,
    changes_on_run,
    seed_of,
)
from famseg.cli._say import say, say_json
from famseg.engine import Opened, Which, device_of, open_run
from famseg.messages import InputError, RunError, counted

if TYPE_CHECKING:
    from torch import Tensor

    from famseg.flatness import Report

EXAMPLES = """
Examples:

  famseg measure runs/skull-lambda0.0006-seed0

  famseg measure runs/skull-lambda0.0006-seed0 --layers expand,latent --samples 64

  famseg measure runs/skull-lambda0.0006-seed0 --layers 'decode.*' --no-eigenvalues

  famseg measure runs/skull-lambda0.0006-seed0 --split test/set2 --checkpoint last --json
"""

_SPLITS = ("validation", "test", "train")


class _Sample(NamedTuple):
    """What is measured: the name of a split, its size, the cases drawn, and their batches."""

    split: str
    cases: int
    subjects: list[str]
    batches: list[tuple[Any, Tensor]]


# Long, and with many parameters, because each option of the command is stated here once.
def measure(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    changes: ChangesArgument = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "-l",
            metavar="NAME,...",
            help="Names of layers, or patterns such as 'decode.*'. Default: all linear and "
            "convolution layers.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Split to measure on: validation, test (the first set), test/SET or train."
        ),
    ] = "validation",
    samples: Annotated[
        int, typer.Option(min=1, help="Number of cases, drawn at random by --seed (0 by default).")
    ] = 8,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Cases per batch. Default: as in training.")
    ] = None,
    probes: Annotated[
        int, typer.Option(min=1, help="Number of random probes for values that are estimated.")
    ] = 4,
    eigenvalues: Annotated[
        bool,
        typer.Option(help="Also compute the largest eigenvalues, which takes most of the time."),
    ] = True,
    checkpoint: Annotated[
        Which,
        typer.Option(
            help="Checkpoint to measure. best: the epoch with the best validation metric; "
            "last: the last epoch."
        ),
    ] = Which.best,
    device: DeviceOption = None,
    double: Annotated[bool, typer.Option("--double", help="Measure in float64.")] = False,
    seed: SeedOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON on standard output.")
    ] = False,
) -> None:
    """Measure the relative flatness of a trained run, layer by layer.

    Prints kappa with its standard error, kappa/m, |W|^2 Tr(H), Tr(H) and largest eigenvalues, and
    checks that kappa does not change when a layer is rescaled. Writes report.json, layers.csv,
    flatness.png and flatness.svg to the folder flatness of the run.
    """
    _check_split(split)
    overrides = changes_on_run(changes, device=device, seed=seed)
    drawn_by = seed_of(overrides)
    from famseg.runs import open_run_folder

    folder = open_run_folder(run)  # before torch is imported, which takes seconds

    from famseg.engine import leased, processes, stop_on_signals

    group_of = processes(device_of(folder, overrides))
    with group_of as group, stop_on_signals(), leased(folder, group, purpose="measure"):
        opened = open_run(folder, checkpoint, group, overrides=overrides)
        if not group.main:
            return
        sample = _sample(opened, split, samples, batch_size, seed=drawn_by, double=double)
        _prepare(opened)
        report = _report(
            opened,
            sample,
            layers=[name for text in layers or () for name in text.split(",")] or None,
            probes=probes,
            eigenvalues=eigenvalues,
            seed=drawn_by,
            double=double,
        )
        content = {
            "checkpoint": str(opened.checkpoint),
            "epoch": opened.epoch,
            "split": sample.split,
            "cases": sample.cases,
            "subjects": sample.subjects,
            "device": str(opened.device),
            "precision": "float64" if double else "float32",
            **report.to_dict(),
        }
        _write(opened, report, content)
        _show(opened, sample, report, content, as_json=as_json)
        if all(row.failure is not None for row in report.rows):
            raise RunError("no layer could be measured; the table says why.")


measure.__doc__ = f"{inspect.cleandoc(measure.__doc__ or '')}\n{EXAMPLES}"


def _check_split(split: str) -> None:
    """Check the name of a split before anything is loaded."""
    kind, slash, name = split.partition("/")
    if kind not in _SPLITS or (slash and (kind != "test" or not name)):
        raise InputError(
            f"--split: there is no split {split!r}.{_meant(kind, _SPLITS)} Choose validation, "
            "test, test/SET or train."
        )


def _meant(name: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _sample(
    opened: Opened, split: str, samples: int, batch_size: int | None, *, seed: int, double: bool
) -> _Sample:
    """Draw cases of a split and put them into batches on the device."""
    import torch
    from torch.utils.data import DataLoader, Subset

    from famseg.engine import to_device

    experiment, objective = opened.experiment, opened.experiment.objective
    name, data = split, experiment.validation
    if split == "train":
        data = experiment.train
    elif split != "validation":
        name, data = _test_set(opened, split)
    cases = len(data)  # type: ignore[arg-type]  # map-style data sets have a length
    generator = torch.Generator().manual_seed(seed)
    drawn = sorted(torch.randperm(cases, generator=generator)[:samples].tolist())
    size = batch_size or opened.config.training.batch_size
    subjects: list[str] = []
    batches = []
    for batch in DataLoader(Subset(data, drawn), batch_size=size, collate_fn=experiment.collate):
        subjects += batch.get("subject", ())
        moved = to_device(batch, opened.device)
        if split == "train":
            moved = experiment.augment(moved)
        inputs, targets = moved[objective.inputs], moved[objective.targets]
        batches.append((_doubled(inputs), _doubled(targets)) if double else (inputs, targets))
    return _Sample(name, cases, subjects, batches)


def _doubled(value: Any) -> Any:  # noqa: ANN401  # a tensor or a mapping of tensors
    if isinstance(value, dict):
        return {key: _doubled(each) for key, each in value.items()}
    return value.double() if value.is_floating_point() else value


def _test_set(opened: Opened, split: str) -> tuple[str, Any]:
    tests = opened.experiment.tests
    wanted = split.partition("/")[2] or next(iter(tests), "")
    if wanted not in tests:
        raise InputError(
            f"--split: the run has no test set {wanted!r}.{_meant(wanted, tuple(tests))} It has: "
            f"{', '.join(tests) or 'none'}."
        )
    return f"test/{wanted}", tests[wanted]


def _prepare(opened: Opened) -> None:
    """Create the folder and remove an older report, so that errors show before the work is done."""
    folder = opened.folder.flatness
    try:
        folder.mkdir(exist_ok=True)
        (folder / "report.json").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}). Fix its permissions."
        ) from error


def _report(
    opened: Opened,
    sample: _Sample,
    *,
    layers: list[str] | None,
    probes: int,
    eigenvalues: bool,
    seed: int,
    double: bool,
) -> Report:
    from famseg.cli._progress import counting
    from famseg.flatness import FAM, FlatnessError, LayerError, LayerNotFoundError, report

    # Each measurement logs its method, which the table states once for all of them.
    logger = logging.getLogger("famseg.flatness")
    level, terms = logger.level, opened.experiment.objective.terms
    logger.setLevel(logging.WARNING)
    try:
        with counting("measuring flatness, steps") as count:
            return report(
                opened.model.double() if double else opened.model,
                sample.batches,
                terms.loss,
                layers=layers,
                output=terms.output if isinstance(terms, FAM) else None,
                quantities=None if eigenvalues else ("simplified",),
                probes=probes,
                seed=seed,
                progress=lambda _, done, of: count.update(done, of),
            )
    except (LayerError, LayerNotFoundError) as error:
        raise InputError(f"--layers: {error}") from error
    except FlatnessError as error:
        raise InputError(f"{opened.checkpoint}: {error}") from error
    finally:
        logger.setLevel(level)


def _write(opened: Opened, report: Report, content: dict[str, Any]) -> None:
    """Write the files, report.json last: if it exists, the report is complete."""
    from famseg.files import csv_text, write_atomically, write_json

    folder, rows = opened.folder.flatness, report.records()
    layers = csv_text(list(rows[0]), rows, for_people=True)
    write_atomically(folder / "layers.csv", layers.encode())
    write_atomically(folder / "flatness.png", report.image())
    write_atomically(folder / "flatness.svg", report.image("svg"))
    write_json(folder / "report.json", content)


def _show(
    opened: Opened, sample: _Sample, report: Report, content: dict[str, Any], *, as_json: bool
) -> None:
    if as_json:
        say_json(content)
        return
    for line in _lines(opened, sample, report):
        say(line)


def _lines(opened: Opened, sample: _Sample, report: Report) -> Iterator[str]:
    yield (
        f"{opened.checkpoint}, epoch {opened.epoch}; {report.samples} of "
        f"{counted(sample.cases, 'case')} of {sample.split}"
    )
    yield f"\n{report.table()}\n"
    folder = opened.folder.flatness
    for what, name in (
        ("report", "report.json"),
        ("layers", "layers.csv"),
        ("plot", "flatness.png"),
    ):
        yield f"{what:13}{folder / name}"
