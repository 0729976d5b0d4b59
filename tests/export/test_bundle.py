"""A bundle is verified and run by MONAI's own commands where famseg cannot be imported."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest
import torch
from made import skull
from scipy import ndimage

from famseg.export import export_network, open_source
from famseg.export._bundle import at_least
from famseg.export._modules import LargePieces
from famseg.reconstruction import load_network

# Refuses famseg, and then runs MONAI's command once for each list of words.
ALONE = """
import json, runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("famseg", "pipelines"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
try:
    import famseg
except ImportError:
    pass
else:
    raise SystemExit("famseg could be imported")
for words in json.loads(sys.argv[1]):
    sys.argv = ["monai.bundle", *words]
    runpy.run_module("monai.bundle", run_name="__main__")
assert "famseg" not in sys.modules
print("all done")
"""

# What MONAI's schema of 2024-07-25 demands, which verify_metadata would fetch from the web.
TENSOR = {
    "type": "object",
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
        **{name: {"type": "string"} for name in ("type", "format", "dtype")},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
TENSORS = {"type": "object", "additionalProperties": TENSOR}
TEXTS = (
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task"),
    *("description", "authors", "copyright"),
)
OPTIONAL = ("data_source", "data_type", "image_classes", "pred_classes", "intended_use")
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in (*TEXTS, *OPTIONAL)},
        **{n: {"type": "object"} for n in ("changelog", "eval_metrics")},
        "required_packages_version": {"type": "object"},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
            "required": ["inputs", "outputs"],
        },
    },
    "required": [*TEXTS, "required_packages_version", "network_data_format"],
}


def monai(folder: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """Run commands of ``python -m monai.bundle`` in a folder, without famseg."""
    words = [sys.executable, "-I", "-W", "ignore", "-c", ALONE, json.dumps(commands)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_pieces_are_left_out_as_famseg_does(run: Path, seed: int) -> None:
    network = load_network(run)
    noise = np.random.default_rng(seed).random((16, 16, 16))
    smooth = ndimage.gaussian_filter(noise, 1.2, mode="constant")
    probability = np.asarray(smooth / smooth.max(), dtype=np.float32)
    skull = np.zeros((16, 16, 16), dtype=bool)
    threshold = float(np.float32(0.85 + 0.02 * seed))
    network = dataclasses.replace(network, threshold=threshold)
    expected = network.implant_of(probability, skull)
    assert 0 < expected.sum() < (probability > threshold).sum()  # some are left out
    both = torch.from_numpy(np.stack([probability, 0 * probability]))[:, None]
    found = LargePieces(torch.nn.Identity(), at_least(threshold))(both)
    np.testing.assert_array_equal(found[0, 0] >= at_least(threshold), expected)
    assert not found[1].any()


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    export_network(open_source(run), "bundle", out)
    return out


def test_a_bundle_has_the_files_of_the_specification(bundle: Path) -> None:
    found = sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())
    assert found == [
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "model_card.json",
        "models/model.pt",
        "models/model.ts",
    ]
    stated = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert stated["preprocessing"]["grid"] == [16, 16, 16]
    assert stated["eval_metrics"]["test/set1/implant/dsc"]["n"] == 5


def test_a_bundle_holds_no_code_but_two_paths_and_the_run(bundle: Path) -> None:
    def expressions(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [found for each in value.values() for found in expressions(each)]
        if isinstance(value, list):
            return [found for each in value for found in expressions(each)]
        return [value] if isinstance(value, str) and value.startswith("$") else []

    assert expressions(json.loads((bundle / "configs" / "inference.json").read_text())) == [
        "$@bundle_root + '/eval'",
        "$@bundle_root + '/models/model.ts'",
        "$@evaluator.run()",
    ]
    assert expressions(json.loads((bundle / "configs" / "metadata.json").read_text())) == []


@pytest.mark.slow
def test_monai_verifies_a_bundle_and_runs_it_without_famseg(
    run: Path, bundle: Path, tmp_path: Path
) -> None:
    """One process for three commands: importing MONAI takes longer than they do."""
    # A skull of 5 mm voxels whose axes run to the left, the back and the top.
    given = skull(48)[::-1, ::-1]
    affine = np.diag([-5.0, -5.0, 5.0, 1.0])
    affine[:3, 3] = (110, 130, -40)
    nibabel.save(nibabel.Nifti1Image(given.astype(np.uint8), affine), tmp_path / "new.nii.gz")
    # A schema that is there already is not fetched.
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    meta = ["--meta_file", "configs/metadata.json"]
    config = ["--config_file", "configs/inference.json"]
    to = ["--output_dir", str(tmp_path / "eval")]
    done = monai(
        bundle,
        ["verify_metadata", *meta, "--filepath", str(tmp_path / "schema.json")],
        ["verify_net_in_out", "network", *meta, *config, "--device", "cpu"],
        [*("run", *meta, *config, "--input", str(tmp_path / "new.nii.gz")), *to],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all done\n")
    seen = nibabel.load(tmp_path / "eval" / "new_skull.nii.gz")
    implant = nibabel.load(tmp_path / "eval" / "new_implant.nii.gz")
    frame = np.asarray(seen.dataobj) > 0
    assert frame.shape == (16, 16, 16)
    np.testing.assert_allclose(seen.affine[:3, :3], np.diag([14.0] * 3), atol=1e-5)
    np.testing.assert_array_equal(implant.affine, seen.affine)
    expected = load_network(run).implant(frame)
    assert 0 < expected.sum() < expected.size / 2
    np.testing.assert_array_equal(np.asarray(implant.dataobj) > 0, expected)
    _is_the_same_skull(frame, seen.affine, given, affine)


def _is_the_same_skull(
    frame: np.ndarray, frame_affine: np.ndarray, given: np.ndarray, affine: np.ndarray
) -> None:
    """Compare the middles in mm of the world, and where the frame has the top of the head."""
    middles = [
        matrix[:3, :3] @ np.argwhere(mask).mean(axis=0) + matrix[:3, 3]
        for mask, matrix in ((frame, frame_affine), (given, affine))
    ]
    np.testing.assert_allclose(*middles, atol=7)
    top = np.flatnonzero(frame.any(axis=(0, 1)))[-1] + 1
    assert 0.82 <= top / frame.shape[2] <= 0.97


def test_the_schema_refuses_metadata_that_lack_a_key(bundle: Path) -> None:
    """The schema that the test above uses does refuse."""
    stated = json.loads((bundle / "configs" / "metadata.json").read_text())
    jsonschema.validate(stated, SCHEMA)
    del stated["network_data_format"]["inputs"]["image"]["dtype"]
    with pytest.raises(jsonschema.ValidationError, match="'dtype' is a required property"):
        jsonschema.validate(stated, SCHEMA)
