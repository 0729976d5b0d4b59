"""Opening of models: the built-in model, run folders, checkpoints and packaged models."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from famseg.config import load
from famseg.engine import load_checkpoint
from famseg.files import NotPlainError, load_plain, write_atomically
from famseg.messages import InputError
from famseg.models import ImplantModelConfig
from famseg.objectives import penalized_layer
from famseg.reconstruction._coarse import CoarseNetwork
from famseg.reconstruction._confidence import Curve

BUILTIN = "builtin"
CALIBRATION = "calibration.json"
"""File in the folder ``evaluation`` of a run with its threshold and confidence curve."""

_FORMAT = 1
_OUTPUTS: dict[str, Literal["implant", "skull"]] = {"implant": "implant", "skull": "skull"}
_LAYERS = {"implant": "head", "skull": "expand"}  # of runs without a penalty on a layer
_CARD, _WEIGHTS = "card.json", "weights.pt"
_logger = logging.getLogger("famseg")


def load_network(model: str | Path, device: torch.device | str = "cpu") -> CoarseNetwork:
    """Open the coarse network of a reconstruction.

    Args:
        model: ``builtin``; a run folder of the pipeline ``implant`` or ``skull``, whose best
            checkpoint is used; a checkpoint in a run folder; or a folder written by `save_network`.
        device: The device of the computation.

    Returns:
        The network, ready to predict. A warning says if its threshold was never calibrated.

    Raises:
        InputError: If there is none, or it is damaged or of another pipeline.
    """
    place = torch.device(device)
    if str(model) == BUILTIN:
        return _open_saved(Path(__file__).parent / BUILTIN, place)
    path = Path(model).expanduser()
    if (path / _CARD).is_file():
        return _open_saved(path, place)
    if path.is_dir():
        return _open_run(path, path / "checkpoints" / "best.pt", place)
    if path.is_file() and path.suffix == ".pt":
        return _open_run(path.parent.parent, path, place)
    raise InputError(
        f"{model}: there is no such model. Give {BUILTIN}, a run folder, a checkpoint of one, or a "
        "folder with a card.json."
    )


def save_network(network: CoarseNetwork, folder: Path, card: Mapping[str, Any]) -> None:
    """Write a network as a folder that `load_network` opens: weights and card.

    Weights are written as float16, which changes no probability by more than a thousandth or so
    and halves the file.

    Args:
        network: The network, opened from a run of the pipeline ``implant``.
        folder: The output folder; created if it does not exist.
        card: What else the card says, in JSON types: data, settings, metrics, limits.

    Raises:
        OSError: If it cannot be written.
    """
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in network.model.state_dict().items()
    }
    content = io.BytesIO()
    torch.save({name: value.cpu().contiguous() for name, value in halves.items()}, content)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "format": _FORMAT,
        "name": network.name,
        "model": dict(network.card["model"]),
        "size": network.size,
        "spacing_mm": network.spacing_mm,
        "layer": network.layer,
        "threshold": network.threshold,
        "confidence": network.curve.record(),
        "sha256": hashlib.sha256(content.getbuffer()).hexdigest(),
        **card,
    }
    write_atomically(folder / _WEIGHTS, content.getvalue())
    write_atomically(folder / _CARD, (json.dumps(whole, indent=2) + "\n").encode())


def _open_saved(folder: Path, device: torch.device) -> CoarseNetwork:
    """Open a folder written by `save_network`."""
    path, weights = folder / _CARD, folder / _WEIGHTS
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["format"] != _FORMAT:
            raise ValueError(f"its format is {card['format']!r}, this famseg reads {_FORMAT}")
        model = TypeAdapter(ImplantModelConfig).validate_python(card["model"])
        network = CoarseNetwork(
            model=model.build(size=card["size"]),
            size=int(card["size"]),
            spacing_mm=float(card["spacing_mm"]),
            threshold=float(card["threshold"]),
            name=str(card["name"]),
            device=device,
            layer=str(card["layer"]),
            curve=Curve.of_record(card["confidence"]),
            calibrated=True,
            card=card,
        )
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not the card of a model ({_line(error)}).") from error
    if digest != card.get("sha256"):
        raise InputError(
            f"{weights}: does not have the SHA-256 that {path.name} states. Copy both."
        )
    state = _plain(weights)
    _fill(network.model, {name: value.float() for name, value in state.items()}, weights)
    network.model.to(device).eval()
    return network


def _open_run(folder: Path, checkpoint: Path, device: torch.device) -> CoarseNetwork:
    """Open a run folder, without its data."""
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise InputError(
            f"{checkpoint if checkpoint.is_file() else folder}: there is no config.yaml of a run "
            f"in {folder}. Give a run folder or a checkpoint inside one."
        )
    _, config = load(str(config_file), [])
    pipeline = getattr(config, "pipeline", None)
    if pipeline not in _OUTPUTS:
        raise InputError(
            f"{folder}: is a run of the pipeline {pipeline}, which does not complete skulls. Give "
            "one "
            f"of {' or '.join(_OUTPUTS)}."
        )
    state = load_checkpoint(checkpoint)
    model = config.model.build(size=config.data.size)  # type: ignore[attr-defined]  # has both
    _fill(model, state.get("model"), checkpoint)
    found = _calibration(folder / "evaluation" / CALIBRATION)
    if not found:
        _logger.warning(
            "%s: the threshold of this model was never calibrated, so 0.5 is used; with it, a "
            "network that was trained briefly may predict no implant. `famseg evaluate %s` "
            "calibrates a run "
            "of the pipeline implant.",
            folder,
            folder,
        )
    return CoarseNetwork(
        model=model.to(device).eval(),
        size=config.data.size,  # type: ignore[attr-defined]
        spacing_mm=config.data.spacing_mm,  # type: ignore[attr-defined]
        threshold=found.get("threshold", 0.5),
        name=folder.resolve().name,
        device=device,
        output=_OUTPUTS[pipeline],
        layer=penalized_layer(config.penalty, _LAYERS[pipeline]),  # type: ignore[attr-defined]
        curve=found.get("curve", Curve()),
        calibrated=bool(found),
        card={
            "name": folder.resolve().name,
            "pipeline": pipeline,
            "checkpoint": checkpoint.name,
            "epoch": state.get("epoch"),
            "model": config.model.model_dump(mode="json"),  # type: ignore[attr-defined]
        },
    )


def write_calibration(folder: Path, threshold: float, dsc: float, curve: Curve) -> None:
    """Write threshold and confidence curve into the evaluation folder of a run.

    Args:
        folder: The folder ``evaluation`` of the run.
        threshold: The calibrated threshold.
        dsc: Mean implant DSC of the validation cases at it.
        curve: The curve from `fit_curve`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {"threshold": threshold, "validation_dsc": dsc, "confidence": curve.record()}
    write_atomically(folder / CALIBRATION, (json.dumps(record, indent=2) + "\n").encode())


def _calibration(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        threshold = float(record["threshold"])
        if not 0 < threshold < 1:
            raise ValueError(f"its threshold is {threshold:g}")
        return {"threshold": threshold, "curve": Curve.of_record(record["confidence"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is not a calibration ({_line(error)}). Evaluate the run again."
        ) from error


def _plain(path: Path) -> dict[str, Tensor]:
    try:
        state = load_plain(path, checksums=True)
    except (NotPlainError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({_line(error)}). Copy it again.") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: contains no weights.")
    return state


def _fill(model: nn.Module, state: Any, path: Path) -> None:  # noqa: ANN401 - read from a file
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: does not fit the network of its configuration. Were they copied from "
            "different models?"
        ) from error


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
