from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result
from command import Run
from tiny import TINY
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.config import load, to_yaml
from famseg.messages import InputError, RunError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without a training: a configuration and checkpoints of a fresh network."""
    from famseg.engine import save_checkpoint
    from famseg.runs import RunFolder

    root = tmp_path_factory.mktemp("measure")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAMSEG_CACHE", str(root / "cache"))
        pipeline, config = load("skull", [*TINY, "training.device=cpu"])
        torch.manual_seed(0)
        model = pipeline.build(config, CPU).objective.model
    folder = RunFolder(root / "run")
    folder.path.mkdir()
    folder.config.write_text(to_yaml(config))
    save_checkpoint(folder.checkpoint("best"), {"model": model.state_dict(), "epoch": 3})
    model.expand.weight.data.fill_(float("nan"))
    save_checkpoint(folder.checkpoint("last"), {"model": model.state_dict(), "epoch": 4})
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("FAMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def measure(*arguments: str) -> Result:
    """Run the command in this process; importing in a new one takes seconds."""
    return CliRunner().invoke(app, ["measure", "run", *arguments])


def test_the_help_is_one_text() -> None:
    words = CliRunner().invoke(app, ["measure", "--help"]).output
    assert "  Prints kappa" in words
    assert "     checks" not in words


def fault(*arguments: str) -> str:
    """Return the single line of the command's error."""
    done = measure(*arguments)
    assert done.output == ""
    assert isinstance(done.exception, InputError), done.exception
    (line,) = done.exception.faults
    return line


QUICK = ("--layers", "expand", "--no-eigenvalues", "--probes", "1", "--samples", "2")


@pytest.mark.slow
def test_a_run_is_measured_printed_and_written(run: Path) -> None:
    done = measure("--samples", "4", "--split", "train", "--probes", "2")
    assert done.exit_code == 0, done.exception
    assert done.stderr == ""
    assert "run/checkpoints/best.pt, epoch 3; 4 of 5 cases of train" in done.stdout
    assert "Relative flatness of ShapeAutoencoder: 4 samples in 2 batches" in done.stdout
    assert "Tr(H) by a factor 0.25." in done.stdout
    assert "report       run/flatness/report.json" in done.stdout
    report = json.loads((run / "flatness" / "report.json").read_text())
    names = ["encode.encode_0.conv", "encode.encode_1.conv", "latent", "expand"]
    assert [row["name"] for row in report["rows"]][:4] == names
    assert all(check["kappa_change"] < 1e-4 for check in report["rescaling"])
    assert len(report["subjects"]) == 4
    with (run / "flatness" / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in report["rows"]]
    assert [float(row["kappa"]) for row in rows] == [row["kappa"] for row in report["rows"]]
    assert (run / "flatness" / "flatness.png").read_bytes().startswith(b"\x89PNG")
    written = {path.name for path in (run / "flatness").iterdir()}
    assert written == {"report.json", "layers.csv", "flatness.png", "flatness.svg"}


@pytest.mark.nightly
@pytest.mark.slow
def test_json_is_the_report_and_the_measurement_is_reproduced(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = (*QUICK, "--split", "test/set2", "--double", "--json")
    content = json.loads(measure(*options).stdout)
    assert content == json.loads((run / "flatness" / "report.json").read_text())
    assert (content["split"], content["epoch"], content["precision"]) == ("test/set2", 3, "float64")
    # Options and keys are equivalent, and the device is printed first.
    caplog.set_level("INFO")
    threads = torch.get_num_threads()
    keys = ("training.device=cpu", f"training.threads={threads}", "seed=0")
    assert json.loads(measure(*options, *keys).stdout) == content
    assert caplog.messages[0].startswith("device: cpu (")
    assert f", {threads} thread" in caplog.messages[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layers", "expnd"], "--layers: no layer is called 'expnd'. Did you mean 'expand'?"),
        (["--layers", "decode"], "--layers: layer 'decode' is a Sequential, neither linear"),
        (["--split", "test/set3"], "--split: the run has no test set 'set3'. Did you mean set"),
        (["--checkpoint", "last"], "run/checkpoints/last.pt: the loss of batch 0 is nan"),
        (["--device", "gpu"], "training.device: must be auto, cpu, cuda or cuda:N, got gpu"),
    ],
)
def test_faulty_input_is_one_line(run: Path, arguments: list[str], said: str) -> None:
    assert said in fault(*arguments)
    assert not (run / "flatness" / "report.json").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("latent: 2", "latent: 3"))
    assert fault(*QUICK) == (
        "run/checkpoints/best.pt: does not fit the network of run/config.yaml. Were they copied "
        "from different runs?"
    )


@pytest.mark.slow
def test_a_run_without_the_checkpoint_is_said(run: Path) -> None:
    (run / "checkpoints" / "best.pt").unlink()
    assert "run/checkpoints/best.pt: there is no such checkpoint" in fault()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_said_before_the_work(run: Path) -> None:
    (run / "flatness").write_text("")
    assert fault().startswith("run/flatness: cannot be written to (File exists).")


@pytest.mark.slow
def test_a_run_of_which_no_layer_can_be_measured_fails(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        code = self.latent(self.encode(x).flatten(1))
        self.expand(code)
        return self.decode(self.expand(code).unflatten(1, self.code_shape))

    monkeypatch.setattr("famseg.models.ShapeAutoencoder.forward", twice)
    done = measure(*QUICK)
    assert isinstance(done.exception, RunError)
    assert str(done.exception) == "no layer could be measured; the table says why."
    assert "not measured: layer 'expand' was called 2 times" in done.stdout
    assert json.loads((run / "flatness" / "report.json").read_text())["rows"][0]["failure"]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("tests", "--split: there is no split 'tests'. Did you mean test? Choose validation, "),
        ("validation/set1", "--split: there is no split 'validation/set1'."),
        ("test/", "--split: there is no split 'test/'."),
    ],
)
def test_a_wrong_split_is_said_before_anything_is_loaded(split: str, said: str) -> None:
    assert fault("--split", split).startswith(said)


def test_a_folder_that_is_no_run_is_refused(famseg: Run) -> None:
    done = famseg("measure", "nowhere")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "famseg: nowhere: is not a run folder (it has no config.yaml). Give one below runs/."
    )
