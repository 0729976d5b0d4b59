"""Options and overrides of the commands that compute with a network.

The options are short for keys: ``--device cpu`` is ``training.device=cpu``, ``--seed 1`` is
``seed=1``. A command on a trained run accepts only keys that do not affect what was trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from famseg.messages import InputError, near

DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Device to compute on: auto, cpu, cuda or cuda:N. Short for training.device=DEVICE.",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Random seed. Short for seed=N.",
    ),
]
ChangesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to settings that do not affect what was trained, such as training.threads=4.",
    ),
]

DEVICE, THREADS, SEED = "training.device", "training.threads", "seed"
# Keys that may change on a trained run: where and how fast a command computes, and its seed.
FREE_ON_RUN = (DEVICE, THREADS, "training.workers", SEED, "data.root", "tracking")


def overrides_of(
    words: Iterable[str] | None, *, device: str | None = None, seed: int | None = None
) -> list[str]:
    """Return the overrides given by words and options together.

    Args:
        words: ``key=value`` each.
        device: The value of ``--device``, or None.
        seed: The value of ``--seed``, or None.

    Raises:
        InputError: If an option and its key are given, and differ.

    Example:
        >>> overrides_of(["lambda=0.1"], device="cpu", seed=1)
        ['lambda=0.1', 'training.device=cpu', 'seed=1']
    """
    overrides = list(words or ())
    for option, key, value in (("--device", DEVICE, device), ("--seed", SEED, seed)):
        if value is None:
            continue
        given = value_of(overrides, key)
        if given is not None and given != str(value):
            raise InputError(f"{key}: is set twice, by {key}={given} and by {option} {value}.")
        if given is None:
            overrides.append(f"{key}={value}")
    return overrides


def value_of(overrides: Iterable[str], key: str) -> str | None:
    """Return the value of the last override of a key; None if there is none.

    Example:
        >>> value_of(["seed=1", "lambda=0", "seed=2"], "seed")
        '2'
    """
    found = None
    for override in overrides:
        name, equals, value = override.partition("=")
        if equals and name.strip() == key:
            found = value.strip()
    return found


def changes_on_run(
    words: Iterable[str] | None,
    *,
    device: str | None = None,
    seed: int | None = None,
    allowed: Sequence[str] = FREE_ON_RUN,
) -> list[str]:
    """Return the overrides of a command on a trained run, as `overrides_of`.

    Args:
        words: ``key=value`` each.
        device: The value of ``--device``, or None.
        seed: The value of ``--seed``, or None.
        allowed: Keys, or sections, that may be changed.

    Raises:
        InputError: If a word is not an override, or changes what the run was trained with.
    """
    overrides = overrides_of(words, device=device, seed=seed)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise InputError(f"{override!r}: is not an override. Write it as key=value.")
        key = key.strip()
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            meant = near(key, allowed, cutoff=0.8)
            hint = f" Did you mean {meant}?" if meant else ""
            raise InputError(
                f"{key}: cannot be changed here.{hint} Only these can be changed: "
                f"{', '.join(allowed)}."
            )
    return overrides


def seed_of(overrides: Iterable[str]) -> int:
    """Return the seed that overrides give, 0 without one.

    Raises:
        InputError: If it is not a whole number of at least 0.
    """
    value = value_of(overrides, SEED)
    if value is None:
        return 0
    if not value.isdecimal():
        raise InputError(f"seed: must be a whole number of at least 0, got {value!r}.")
    return int(value)


def refuse_options(context: typer.Context, used: Collection[str], why: str) -> None:
    """Reject every option on the command line that has no effect.

    Args:
        context: Of the command.
        used: Names of the parameters that have an effect.
        why: The reason that the message gives after the option.
    """
    faults = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in used:
            faults.append(f"{max(parameter.opts, key=len)}: {why}: leave it out")
    if faults:
        raise InputError(*faults)


def changes_among(words: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """Separate files from overrides: a word with an equals sign that is not a file is an override.

    Example:
        >>> changes_among(["head.nii.gz", "training.device=cpu"])
        ([PosixPath('head.nii.gz')], ['training.device=cpu'])
    """
    files: list[Path] = []
    changes: list[str] = []
    for word in words:
        is_change = "=" in str(word).partition("/")[0] and not Path(word).exists()
        if is_change:
            changes.append(str(word))
        else:
            files.append(Path(word))
    return files, changes
