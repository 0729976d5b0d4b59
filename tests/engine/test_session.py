from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy import Log, make_experiment

from famseg.config import to_yaml
from famseg.engine import Processes, RunConfig, Session, StopRequest
from famseg.engine._claim import claimed, folder_name
from famseg.engine._recorder import _tracked_run, distinction
from famseg.engine._scores import scores_metrics, scores_table
from famseg.messages import InputError
from famseg.runs import LostLeaseError, RunFolder


def session(output: Path, epochs: int, **training: Any) -> Session:
    keys = {"epochs": epochs, **training}
    config = RunConfig.model_validate(
        {
            "pipeline": "skull",
            "output": str(output),
            "training": keys,
            "penalty": {"kind": "none"},
            "sam": {"rho": 0.1},
        }
    )

    def build(config: RunConfig, device: Any) -> Any:
        raise AssertionError("nothing is trained here")

    return Session(build, config, processes=Processes(), stop=StopRequest())


def begun_folder(output: Path, config: RunConfig, text: str) -> Path:
    folder = output / folder_name(config)
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("swa", [None, {"start": 0.5}])
def test_a_run_with_an_average_over_epochs_cannot_be_made_longer(
    tmp_path: Path, swa: dict[str, float] | None
) -> None:
    begun = session(tmp_path, 4, swa=swa).config
    folder = begun_folder(tmp_path, begun, to_yaml(begun))
    assert f"-sam0.1{'-swa0.5' if swa else ''}-seed0" in folder.name

    again = session(tmp_path, 8, swa=swa).config
    if swa is None:
        with claimed(again, Processes(), resume=True) as claim:
            assert claim.begun
            assert claim.folder.path == folder
    else:  # averaging would have begun later
        before = sorted(folder.iterdir())
        wrong = pytest.raises(InputError, match=r"config\.yaml: training\.epochs: 4 -> 8")
        with wrong, claimed(again, Processes(), resume=folder):
            pass
        assert sorted(folder.iterdir()) == before


def test_by_configuration_only_a_run_of_the_same_one_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `make train` after a quick start, which trains the same name with fewer epochs."""
    caplog.set_level("INFO")
    quick = session(tmp_path, 4, swa={"start": 0.5}).config
    full = session(tmp_path, 8, swa={"start": 0.5}).config
    folder = begun_folder(tmp_path, quick, to_yaml(quick))
    with claimed(full, Processes(), resume=True) as claim:
        assert not claim.begun
        second = claim.folder.path
        assert second.name == f"{folder.name}-epochs8"
        (second / "config.yaml").write_text(to_yaml(full))
    (message,) = caplog.messages
    assert message == (
        f"{folder} has another configuration (training.epochs: 4 -> 8); a new run starts. To "
        f"resume that one: famseg train --resume {folder}"
    )
    for config, expected in ((full, second), (quick, folder)):
        with claimed(config, Processes(), resume=True) as claim:
            assert claim.begun
            assert claim.folder.path == expected
    assert len(caplog.messages) == 1


def test_the_name_of_a_run_says_how_it_differs_from_the_one_of_the_plain_name(
    tmp_path: Path,
) -> None:
    plain = session(tmp_path, 4).config
    folder = begun_folder(tmp_path, plain, to_yaml(plain))
    names = []
    for changes in ({}, {"accumulate": 2}, {"clip_norm": 0.5, "accumulate": 2, "ema": 0.9}):
        changed = session(tmp_path, 4, **changes).config
        with claimed(changed, Processes()) as claim:
            names.append(claim.folder.path.name.removeprefix(folder.name))
            (claim.folder.path / "config.yaml").write_text(to_yaml(changed))
    assert names == ["-2", "-accumulate2", "-accumulate2-clip_norm0.5-ema0.9"]
    with claimed(session(tmp_path, 4, accumulate=2).config, Processes()) as claim:
        assert claim.folder.path.name == f"{folder.name}-accumulate2-2"
        assert distinction(claim.folder, plain) == "accumulate2 2"
    assert distinction(RunFolder(folder), plain) == ""
    assert distinction(RunFolder(tmp_path / "lr0.1-3f2a"), plain) == "lr0.1-3f2a"  # of a sweep
    (folder / "config.yaml").write_text("of another version")
    with claimed(session(tmp_path, 4, ema=0.5).config, Processes()) as claim:
        assert claim.folder.path.name == f"{folder.name}-3"


def test_a_run_from_before_sam_had_kinds_goes_on(tmp_path: Path) -> None:
    begun = session(tmp_path, 4).config
    text = to_yaml(begun).replace("  kind: sam\n", "").replace("nso: null\n", "")
    folder = begun_folder(tmp_path, begun, text)
    with claimed(session(tmp_path, 4).config, Processes(), resume=True) as claim:
        assert claim.begun
        assert claim.folder.path == folder


TRACKING = (
    "[]",
    '{"run_id": 1}',
    '{"run_id": ["a"]}',
    '{"run_id": "../../x"}',
    '{"run_id": ""}',
    '{"run_id": null, "start": "a or 1=1"}',
    '{"run_id": 1e999}',
    "{" * 10**5,
    '{"run_id":' * 10**5,
    "\xff",
)


@pytest.mark.parametrize("text", TRACKING, ids=[text[:20] for text in TRACKING])
def test_a_hostile_identity_of_the_tracked_run_is_one_line(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.tracking.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"tracking\.json: .* Restore it, or delete it") as caught:
        _tracked_run(folder)
    assert len(caught.value.faults) == 1


def test_the_identity_of_the_tracked_run_is_taken(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    run_id, mark = _tracked_run(folder)
    assert run_id is None
    assert mark != _tracked_run(folder)[1]
    folder.tracking.write_text('{"run_id": "0123456789abcdef0123456789abcdef", "uri": "x"}')
    assert _tracked_run(folder)[0] == "0123456789abcdef0123456789abcdef"
    folder.tracking.write_text('{"run_id": null, "uri": "x", "start": "abc"}')
    assert _tracked_run(folder) == (None, "abc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"summary\.json: must contain a JSON object\. Evaluate the run again"),
        ('{"a": 1e999}', r"summary\.json: cannot be read \(1e999 is not a finite number\)"),
        ('{"a":' * 10**5, r"summary\.json: cannot be read \(nested too deep\)"),
        ('{"a": 1}', r"is not a summary of this pipeline\. Evaluate the run again: famseg"),
        ('{"a": {"b": {"mean": "c"}}}', r"summary\.json: is not a summary of this pipeline"),
    ],
)
def test_a_hostile_summary_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    folder = RunFolder(tmp_path)
    folder.evaluation.mkdir()
    folder.metrics.write_text("{}")  # the evaluation is said to be complete
    (folder.evaluation / "summary.json").write_text(text)
    experiment: Any = SimpleNamespace(test_metrics=scores_metrics, table=scores_table)
    with pytest.raises(InputError, match=message) as caught:
        session(tmp_path, 1)._known(experiment, folder)
    assert len(caught.value.faults) == 1


class Suspended(Log):
    """Another process takes the folder over after the last checkpoint was written."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        (path,) = self.output.glob("*/lease-1.json")
        path.write_text(path.read_text().replace('"token": "', '"token": "of another '))

    def __init__(self, output: Path) -> None:
        super().__init__()
        self.output = output


def test_who_lost_the_folder_does_not_evaluate_into_it(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "pipeline": "skull",
            "output": str(tmp_path),
            "training": {"epochs": 1, "batch_size": 4, "device": "cpu"},
            "penalty": {"kind": "none"},
            "tracking": {"enabled": False},
        }
    )
    run = Session(
        lambda config, device: make_experiment(), config, processes=Processes(), stop=StopRequest()
    )
    with pytest.raises(LostLeaseError, match="was taken over by another process"):
        run.run(observers=[Suspended(tmp_path)])
    (folder,) = tmp_path.iterdir()
    assert "running" in (folder / "status.json").read_text()  # as it was, for the other one
    assert (folder / "lease-1.json").is_file()
    assert not (folder / "evaluation").exists()
