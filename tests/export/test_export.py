"""Exports give famseg's numbers, say what they are, and replace nothing of others."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from made import SKULL, THRESHOLD, made_run

from famseg.config import load, to_yaml
from famseg.engine import save_checkpoint
from famseg.export import Source, export_network, open_source
from famseg.export._bundle import at_least
from famseg.messages import InputError, RunError
from famseg.reconstruction import load_network


@pytest.fixture(scope="module")
def source(run: Path) -> Source:
    return open_source(run)


def predicted(run: Path, inputs: torch.Tensor) -> np.ndarray:
    """Return what a reconstruction predicts of each volume."""
    network = load_network(run)
    return np.stack([network.predict(each[0].numpy() > 0) for each in inputs])[:, None]


@pytest.fixture(scope="module")
def model_onnx(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "onnx"
    export_network(source, "onnx", out)
    return out / "model.onnx"


@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_gives_the_numbers_of_a_reconstruction(
    run: Path, source: Source, model_onnx: Path, batch: int
) -> None:
    session = onnxruntime.InferenceSession(model_onnx, providers=["CPUExecutionProvider"])
    inputs = source.example(batch)
    (probability,) = session.run(["probability"], {"skull": inputs.numpy()})
    expected = predicted(run, inputs)
    assert expected.max() > 0.01
    np.testing.assert_allclose(probability, expected, atol=1e-4)
    stated = {p.key: p.value for p in onnx.load(model_onnx).metadata_props}
    assert json.loads(stated["preprocessing"])["spacing_mm"] == 14


@pytest.mark.parametrize("pipeline", ["implant", "skull"])
def test_torchscript_gives_the_numbers_of_a_reconstruction(
    run: Path, tmp_path: Path, pipeline: str
) -> None:
    if pipeline == "skull":
        run = made_run(tmp_path / "run", "smoke/skull", SKULL)
    source = open_source(run)
    export_network(source, "torchscript", tmp_path / "out")
    files = {"preprocessing.json": ""}
    network = torch.jit.load(tmp_path / "out" / "model.ts", _extra_files=files)
    inputs = source.example(3)
    np.testing.assert_allclose(network(inputs).detach(), predicted(run, inputs), atol=1e-6)
    assert json.loads(files["preprocessing.json"])["grid"] == [16, 16, 16]


def test_a_card_says_data_metrics_limits_license_and_hashes(source: Source, tmp_path: Path) -> None:
    (tmp_path / "TERMS.txt").write_text("Ask us.")
    out = tmp_path / "out"
    written = export_network(source, "torchscript", out, license_file=tmp_path / "TERMS.txt")
    card: dict[str, Any] = json.loads((out / "model_card.json").read_text())
    assert card == written
    row = {"metric": "test/set1/implant/dsc", "mean": 0.7, "std": 0.1, "n": 5, "failed": 1}
    assert card["metrics"] == [row]
    assert card["data"]["cases"] == {"train": 1}
    assert card["preprocessing"]["threshold"] == THRESHOLD
    assert card["preprocessing"]["threshold_calibrated"]
    assert "/home" not in json.dumps(card)  # whose data lay there is nobody's business
    for name, digest in card["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert sorted(card["files"]) == ["LICENSE", "README.md", "model.ts"]
    assert (out / "LICENSE").read_text() == "Ask us."
    page = (out / "README.md").read_text()
    for text in (
        "Not a medical device",
        "| test/set1/implant/dsc | 0.7 | standard deviation 0.1 | 5 | 1 |",
        card["weights_sha256"],
        "## Limits",
        "spacing_mm: 14.0",
        "TERMS.txt",
    ):
        assert text in page


def test_the_license_of_somebodys_weights_is_not_ours_to_state(
    source: Source, tmp_path: Path
) -> None:
    assert "None is stated" in export_network(source, "torchscript", tmp_path / "out")["license"]
    assert "ask before you use" in (tmp_path / "out" / "LICENSE").read_text()


@pytest.mark.slow
def test_an_unchanged_export_is_replaced_and_anything_else_is_kept(
    source: Source, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_network(source, "torchscript", out)
    export_network(source, "onnx", out)
    assert sorted(path.name for path in out.iterdir()) == [
        "LICENSE",
        "README.md",
        "model.onnx",
        "model_card.json",
    ]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out: contains files that famseg export did not"):
        export_network(source, "onnx", out)
    (out / "notes.txt").unlink()
    (out / "README.md").write_text("edited")
    with pytest.raises(InputError, match=r"Choose another folder with --out, or remove it\."):
        export_network(source, "onnx", out)
    assert (out / "README.md").read_text() == "edited"


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling"])
def test_what_is_no_export_is_refused(source: Source, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        (tmp_path / "other").mkdir() if kind == "link" else None
        out.symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match=r"out: already exists and is not an older export\."):
        export_network(source, "torchscript", out)
    assert out.is_symlink() or out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_nothing_is_written_if_the_numbers_differ(source: Source, tmp_path: Path) -> None:
    class Moody(torch.nn.Module):
        def forward(self, skull: torch.Tensor) -> torch.Tensor:
            # Tracing keeps the branch of the batch that it saw.
            return skull if skull.shape[0] == 1 else skull + 1

    moody = Source(**{**vars(source), "module": Moody()})
    out = tmp_path / "out"
    export_network(source, "torchscript", out)
    before = (out / "model_card.json").read_bytes()
    with pytest.raises(RunError, match=r"run: the export differs from famseg by 1 in a prob"):
        export_network(moody, "torchscript", out)
    assert (out / "model_card.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(source: Source, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"out: cannot be written \(Permission denied\)"):
        export_network(source, "torchscript", tmp_path / "out")


def test_a_run_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    _, config = load("smoke/rte_baseline", [])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(InputError, match=r"pipeline language, which cannot be exported\. Give a"):
        open_source(tmp_path)


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.8])
def test_the_threshold_of_a_bundle_leaves_out_what_lies_on_it(threshold: float) -> None:
    around = np.float32(threshold) + np.float32(1e-6) * np.arange(-2, 3, dtype=np.float32)
    np.testing.assert_array_equal(around >= at_least(threshold), around > threshold)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of the pipeline classification with random weights, and its experiment."""
    folder = tmp_path_factory.mktemp("made") / "names"
    options = ["data.train=100", "data.train_limit=100", "data.test_limit=8", "model.width=8"]
    pipeline, config = load("smoke/cifar10_baseline", options)
    torch.manual_seed(2)
    experiment = pipeline.build(config, torch.device("cpu"))
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    experiment.write_manifest(folder / "manifest.csv")
    state = {"model": experiment.objective.model.state_dict(), "epoch": 1}
    save_checkpoint(folder / "checkpoints" / "best.pt", state)
    return folder, experiment


@pytest.mark.slow
def test_a_classifier_takes_images_as_they_are(
    classifier: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, experiment = classifier
    source = open_source(folder)
    card = export_network(source, "onnx", tmp_path / "onnx")
    assert len(card["preprocessing"]["classes"]) == 10
    tests = experiment.tests["test"]
    pixels = torch.from_numpy(tests.images.pixels[:3]) / 255
    model = experiment.objective.model.eval()
    with torch.no_grad():
        expected = model(tests.__getitems__([0, 1, 2])["image"]).softmax(dim=1)
    session = onnxruntime.InferenceSession(
        tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (given,) = session.run(None, {"image": pixels.numpy()})
    np.testing.assert_allclose(given, expected, atol=1e-4)
    export_network(source, "torchscript", tmp_path / "script")
    traced = torch.jit.load(tmp_path / "script" / "model.ts")
    np.testing.assert_allclose(traced(pixels).detach(), expected, atol=1e-5)


@pytest.mark.slow
def test_there_is_no_bundle_of_a_classifier(classifier: tuple[Path, Any], tmp_path: Path) -> None:
    source = open_source(classifier[0])
    with pytest.raises(InputError, match=r"--format: names is a classifier, for which there is no"):
        export_network(source, "bundle", tmp_path / "out")
