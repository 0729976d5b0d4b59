from __future__ import annotations

import numpy as np
import pytest
import torch
from made_runs import FAM, make_run

from famseg.evaluation import evaluate
from famseg.messages import InputError
from famseg.reporting import render, run_page


class Balls(torch.utils.data.Dataset):
    """Shells with a part cut out."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        distance = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0)
        label = (distance < 9 - index / 2) & (distance > 5)
        region = np.zeros_like(label)
        region[12:, :, 12:] = True
        masks = {"image": label & ~region, "label": label, "region": region}
        return {
            key: torch.from_numpy(value.astype(np.float32))[None] for key, value in masks.items()
        } | {
            "subject": f"ball{index}<b>",
            "spacing_mm": torch.tensor([3.0, 3.0, 3.0]),
            "affine": torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0])),
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("runs"), "a", metrics={"test/set1/skull/dsc": 0.9})

    def predict(images):
        return torch.zeros_like(images) if images.sum() < 1600 else images.roll(1, dims=2)

    evaluate(predict, {"set1": Balls()}, None, path / "evaluation")
    return path


def test_a_run_is_reported_case_by_case(run):
    page = run_page(run)
    assert page.facts["DSC of the skull, set1"].endswith("(n = 3, failed 1)")
    implants, skulls = page.tables
    assert implants.rows[0][0] == "ball2<b>"  # the worst first
    assert 0 in implants.marked
    assert len(skulls.rows) == 3
    assert page.images[0].title == "Loss"
    assert "worst" in page.scenes[0].title
    assert {part.name for part in page.scenes[0].parts} == {"skull", "reference"}  # no prediction
    assert "data 0123456789" in page.foot
    assert page.settings["pipeline"] == "skull"


def test_the_page_of_a_run_is_small_and_safe(run):
    text = render(run_page(run))
    assert len(text) < 5e6
    assert "ball2&lt;b&gt;" in text
    assert "<b>" not in text


def test_a_run_without_an_evaluation_has_a_report(tmp_path):
    path = make_run(tmp_path, "b", epochs=1)
    page = run_page(path)
    assert "State: " in page.lead
    assert page.tables == []
    assert page.scenes == []
    assert render(page)


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="contains no run folder"):
        run_page(tmp_path)


def test_a_penalty_of_another_version_is_said(tmp_path):
    path = make_run(tmp_path, "c", settings=FAM)
    text = (
        (path / "config.yaml").read_text().replace("kind: relative_flatness", "kind: of_tomorrow")
    )
    (path / "config.yaml").write_text(text)
    assert any("penalty 'of_tomorrow' is unknown" in line for line in run_page(path).warnings)


def test_the_page_says_what_the_end_of_the_training_says(tmp_path):
    found = {"test/set1/skull/dsc": 0.145, "test/set1/mean_skull/skull/dsc": 0.527}
    page = run_page(make_run(tmp_path, "d", metrics=found))
    assert any(line.startswith("worse than the mean skull") for line in page.warnings)
