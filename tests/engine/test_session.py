from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from famseg.config import InputError, to_yaml
from famseg.engine import Processes, RunConfig, Session, StopRequest, new_run_folder


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


@pytest.mark.parametrize("swa", [None, {"start": 0.5}])
def test_a_run_with_an_average_over_epochs_cannot_be_made_longer(
    tmp_path: Path, swa: dict[str, float] | None
) -> None:
    begun = session(tmp_path, 4, swa=swa)
    folder = new_run_folder(tmp_path, begun._name)
    folder.config.write_text(to_yaml(begun.config))
    assert f"-sam0.1{'-swa0.5' if swa else ''}-seed0" in folder.path.name

    again = session(tmp_path, 8, swa=swa)
    if swa is None:
        resumed = again._run_to_resume()
        assert resumed is not None
        assert resumed.path == folder.path
    else:  # averaging would have begun later
        with pytest.raises(InputError, match=r"config\.yaml: training\.epochs: 4 -> 8"):
            again._run_to_resume()


def test_a_run_from_before_sam_had_kinds_goes_on(tmp_path: Path) -> None:
    begun = session(tmp_path, 4)
    folder = new_run_folder(tmp_path, begun._name)
    text = to_yaml(begun.config).replace("  kind: sam\n", "").replace("nso: null\n", "")
    folder.config.write_text(text)
    resumed = session(tmp_path, 4)._run_to_resume()
    assert resumed is not None
    assert resumed.path == folder.path
