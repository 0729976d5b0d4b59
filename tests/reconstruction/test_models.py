from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from famseg.config import load, to_yaml
from famseg.engine import save_checkpoint
from famseg.messages import InputError
from famseg.reconstruction import Curve, fit_curve, load_network, save_network, write_calibration

TINY = ["data.size=16", "data.spacing_mm=14", "model.channels=[8,16]"]


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).random((16, 16, 16)) < 0.2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as far as a reconstruction looks at it."""
    return made_run(tmp_path / "run", "smoke/implant", TINY)


def made_run(folder: Path, config_name: str, overrides: list[str]) -> Path:
    _, config = load(config_name, overrides)
    torch.manual_seed(1)
    model = config.model.build(size=config.data.size)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    state = {"model": model.state_dict(), "epoch": 3}
    save_checkpoint(folder / "checkpoints" / "best.pt", state)
    return folder


def calibrate(run: Path, threshold: float = 0.02) -> Curve:
    curve = fit_curve([0.1, 0.9], [0.2, 0.7])
    write_calibration(run / "evaluation", threshold, 0.5, curve)
    return curve


def test_a_run_opens_with_its_best_checkpoint_and_calibration(
    run: Path, volume: np.ndarray
) -> None:
    curve = calibrate(run)
    network = load_network(run)
    assert (network.size, network.spacing_mm, network.threshold) == (16, 14.0, 0.02)
    assert (network.name, network.output, network.layer) == ("run", "implant", "head")
    assert network.curve == curve
    assert network.calibrated
    assert network.card["epoch"] == 3
    probability = network.predict(volume)
    assert probability.shape == (16, 16, 16)
    checkpoint = load_network(run / "checkpoints" / "best.pt")
    np.testing.assert_array_equal(checkpoint.predict(volume), probability)


def test_a_run_without_calibration_warns(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="famseg"):
        network = load_network(run)
    assert network.threshold == 0.5
    assert not network.calibrated
    assert "the threshold of this model was never calibrated, so 0.5 is used" in caplog.text


@pytest.mark.parametrize("layer", ["latent", "[latent,expand]"])
def test_noise_goes_to_the_penalized_layer(tmp_path: Path, layer: str) -> None:
    options = ["data.size=16", "data.spacing_mm=14", "model.channels=[4,4]", "model.strides=[2,2]"]
    network = load_network(
        made_run(tmp_path / "skull", "smoke/skull", [*options, f"penalty.layer={layer}"])
    )
    assert network.layer == "latent"


def test_an_autoencoder_of_the_pipeline_skull_is_a_model_too(
    tmp_path: Path, volume: np.ndarray
) -> None:
    options = ["data.size=16", "data.spacing_mm=14", "model.channels=[4,4]", "model.strides=[2,2]"]
    network = load_network(made_run(tmp_path / "skull", "smoke/skull", options))
    assert (network.output, network.layer) == ("skull", "expand")
    probability, _, confidence = network.agreement(volume)
    assert not probability[volume].any()
    assert 0 <= confidence <= 1


def test_a_packaged_model_predicts_what_the_run_does(
    run: Path, tmp_path: Path, volume: np.ndarray
) -> None:
    calibrate(run)
    network = load_network(run)
    save_network(network, tmp_path / "packed", {"use": "research only"})
    packed = load_network(tmp_path / "packed")
    assert packed.card["use"] == "research only"
    assert (packed.threshold, packed.curve) == (network.threshold, network.curve)
    np.testing.assert_allclose(packed.predict(volume), network.predict(volume), atol=2e-3)


def test_weights_that_are_not_those_of_the_card_are_refused(run: Path, tmp_path: Path) -> None:
    calibrate(run)
    folder = tmp_path / "packed"
    save_network(load_network(run), folder, {})
    data = bytearray((folder / "weights.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "weights.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"weights\.pt: does not have the SHA-256"):
        load_network(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "its format is 2, this famseg reads 1"),
        ({"confidence": {}}, "it has no confidence curve"),
        ({"model": {"kind": "unet", "channels": [8]}}, "is not the card of a model"),
    ],
)
def test_a_damaged_card_is_refused_in_one_line(
    run: Path, tmp_path: Path, change: dict, reason: str
) -> None:
    calibrate(run)
    folder = tmp_path / "packed"
    save_network(load_network(run), folder, {})
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(InputError, match=reason) as caught:
        load_network(folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_calibration_is_refused(run: Path) -> None:
    calibrate(run)
    path = run / "evaluation" / "calibration.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"threshold": 1.5}))
    with pytest.raises(InputError, match=r"is not a calibration \(its threshold is 1\.5\)"):
        load_network(run)


def test_what_is_no_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: there is no such model"):
        load_network(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"there is no config\.yaml of a run"):
        load_network(tmp_path)
    stray = tmp_path / "stray.pt"
    shutil.copy(run / "checkpoints" / "best.pt", stray)
    with pytest.raises(InputError, match=r"stray\.pt: there is no config\.yaml of a run"):
        load_network(stray)


def test_weights_of_another_network_are_refused(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("fold: 2", "fold: 1"))
    with pytest.raises(InputError, match="does not fit the network of its configuration"):
        load_network(run)


def test_a_run_that_completes_no_skulls_is_refused(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", "smoke/implant", TINY)
    _, config = load("smoke/cifar10_baseline", [])
    (run / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(InputError, match="is a run of the pipeline classification"):
        load_network(run)
