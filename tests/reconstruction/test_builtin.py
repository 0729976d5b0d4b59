"""The model that is shipped: its files, its card, and what it returns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import famseg.reconstruction
from famseg.datasets import RegionDefect, inject, phantom
from famseg.reconstruction import CoarseNetwork, load_network

FOLDER = Path(famseg.reconstruction.__file__).parent / "builtin"
# Beyond the subjects that trained, validated or tested the model.
UNSEEN = 5000


@pytest.fixture(scope="module")
def network() -> CoarseNetwork:
    return load_network("builtin")


def test_the_files_are_a_few_mb_and_the_card_says_what_it_is_for(network: CoarseNetwork) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5e6
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["use"].startswith("Research only. Not a medical device")
    assert "no patient data" in card["data"]["kind"]
    text = (FOLDER / "MODEL_CARD.md").read_text()
    for fact in ("Research only. Not a medical device", card["sha256"], card["made_by"]):
        assert fact in text
    assert (network.size, network.spacing_mm, network.calibrated) == (64, 3.5, True)


def test_the_card_counts_its_cases_by_class(network: CoarseNetwork) -> None:
    found = network.card["metrics"]["phantoms"]
    classes = [name for name in found if name not in ("all", "confidence")]
    assert len(classes) == 5
    assert sum(found[name]["n"] for name in classes) == found["all"]["n"] >= 50
    assert sum(found[name]["failed"] for name in classes) == found["all"]["failed"]


@pytest.mark.slow
def test_it_finds_the_implants_of_skulls_it_has_never_seen(network: CoarseNetwork) -> None:
    dsc = []
    for subject in range(3):
        complete = phantom(UNSEEN + subject, 0)
        defect = RegionDefect("parietotemporal", area_cm2=(60, 80))
        defective, region = inject(complete, defect, (3.5,) * 3, np.random.default_rng(subject))
        truth = (complete > 0) & region
        implant = network.implant(defective > 0)
        dsc.append(2 * (implant & truth).sum() / (implant.sum() + truth.sum()))
    assert min(dsc) > 0.6


@pytest.mark.slow
def test_its_confidence_falls_where_it_fails(network: CoarseNetwork) -> None:
    complete = phantom(UNSEEN, 0)
    defect = RegionDefect("parietotemporal", area_cm2=(60, 80))
    defective, _ = inject(complete, defect, (3.5,) * 3, np.random.default_rng(0))
    probability, agree, confidence = network.agreement(defective > 0)
    assert probability.shape == agree.shape == (64, 64, 64)
    noise = np.random.default_rng(0).random((64, 64, 64)) < 0.1
    assert network.agreement(noise)[2] < confidence
