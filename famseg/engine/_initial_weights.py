"""Initial weights from an old run: search, checks, loading and recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from famseg.engine._checkpoint import LAST, PREVIOUS, load_checkpoint
from famseg.engine._network import weights_hash
from famseg.engine._processes import Processes
from famseg.engine._rank_zero import on_main
from famseg.files import read_json, write_json
from famseg.messages import DAMAGED, InputError, visible
from famseg.runs import RunFolder, open_run_folder

KEY = "started_from"
_SHOWN = 4  # number of listed differences between two networks


@dataclass(frozen=True)
class Origin:
    """Origin of the initial weights of a run.

    Attributes:
        path: The checkpoint; the home folder is written ``~``.
        sha256: Hash of the weights, like ``weights_hash`` in a provenance.
        epoch: The epoch of the old run after which they were saved.
    """

    path: str
    sha256: str
    epoch: int

    def as_dict(self) -> dict[str, object]:
        """Return the origin as JSON types."""
        return asdict(self)


def find_weights(place: Path) -> Path:
    """Return the checkpoint denoted by ``RUN``, ``RUN/best``, ``RUN/last`` or a file.

    Args:
        place: A run folder, for its best epoch; a run folder followed by the name of a checkpoint,
            including ``epoch-00010``; or a checkpoint file.

    Raises:
        InputError: If there is no such run or checkpoint.

    Example:
        >>> find_weights(Path("runs/none/last"))
        Traceback (most recent call last):
        famseg.messages._errors.InputError: runs/none/last: there is no such run or checkpoint. ...
    """
    if place.is_dir():
        return open_run_folder(place).checkpoint("best")
    if place.is_file():
        return place
    named = RunFolder(place.parent).checkpoint(place.name)
    if named.is_file():
        return named
    raise InputError(
        f"{place}: there is no such run or checkpoint. Give a run folder, RUN/last, RUN/best, or a "
        "file of weights from RUN/checkpoints."
    )


def load_origin(model: nn.Module, path: Path, processes: Processes) -> Origin:
    """Load old weights into a network; every rank must call.

    Args:
        model: The network, on any device.
        path: The checkpoint.
        processes: The ranks of the run.

    Raises:
        InputError: If they cannot be read or do not fit; one line states the differences.
    """
    state = load_checkpoint(path)
    weights = state.get("model", {})
    differing = _differences(model.state_dict(), weights)
    if differing:
        shown = "; ".join(differing[:_SHOWN])
        more = f"; {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise InputError(
            f"{path}: does not fit the network of the configuration: {shown}{more}. Start from a "
            "run of the same network, or change the section model."
        )
    try:
        model.load_state_dict(weights)
    except (RuntimeError, *DAMAGED) as error:
        reason = visible(str(error).partition("\n")[0])[:200]
        raise InputError(f"{path}: does not fit the network ({reason}).") from error
    origin = Origin(_impersonal(path), weights_hash(model), int(state.get("epoch", 0)))
    if len(set(processes.gather(origin.sha256))) > 1:
        raise InputError(f"{path}: was replaced while it was read. Start again, from a copy.")
    return origin


def note_origin(folder: RunFolder, origin: Origin) -> None:
    """Record the initial weights of a run before anything else is written.

    Otherwise, a run that is killed early would be resumed with other weights.
    """
    write_json(folder.provenance, {KEY: origin.as_dict()})


def recorded_origin(folder: RunFolder) -> Origin | None:
    """Return the origin of a run's initial weights according to its provenance; None if random.

    Raises:
        InputError: If the provenance is invalid.
    """
    if not folder.provenance.exists():
        return None
    advice = "Restore the file, or leave out --resume for a new run."
    content: Any = read_json(folder.provenance, advice).get(KEY)
    if content is None:
        return None
    if isinstance(content, Mapping):
        path, sha256, epoch = (content.get(name) for name in ("path", "sha256", "epoch"))
        if isinstance(path, str) and isinstance(sha256, str) and isinstance(epoch, int):
            return Origin(path, sha256, epoch)
    raise InputError(f"{folder.provenance}: {KEY} was not written by famseg. {advice}")


def load_again(model: nn.Module, folder: RunFolder, processes: Processes) -> Origin | None:
    """Return the origin of a run, and load its weights if the run has no checkpoint yet.

    Every rank must call.

    Raises:
        InputError: If the weights have changed.
    """
    recorded = on_main(processes, lambda: recorded_origin(folder))
    if recorded is None:
        return None
    saved = [folder.checkpoints / name for name in (LAST, PREVIOUS)]
    if on_main(processes, lambda: any(path.exists() for path in saved)):
        return recorded
    found = load_origin(model, Path(recorded.path).expanduser(), processes)
    if found.sha256 != recorded.sha256:
        raise InputError(
            f"{recorded.path}: has changed since {folder.path} started from it. Start a new run "
            "with --from."
        )
    return recorded


def _differences(own: Mapping[str, Tensor], other: Mapping[Any, Any]) -> list[str]:
    """Return one text for each difference between a checkpoint's weights and a network's."""
    texts = []
    for name, tensor in own.items():
        value = other.get(name)
        if not isinstance(value, Tensor):
            texts.append(f"{name} is missing")
        elif value.shape != tensor.shape:
            texts.append(f"{name} is {tuple(value.shape)} and not {tuple(tensor.shape)}")
    return texts + [f"{visible(str(name))[:80]} is not in it" for name in other if name not in own]


def _impersonal(path: Path) -> str:
    whole, home = path.resolve(), Path.home()
    if home != Path("/") and whole.is_relative_to(home):
        return f"~/{whole.relative_to(home)}"
    return str(whole)
