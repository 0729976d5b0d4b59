"""In the command, MONAI and ignite work as after a plain import but load fewer modules."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(1800)  # a plain import of MONAI takes minutes on a busy machine
# Packages that MONAI needs only when one of its functions is called.
HEAVY = ("transformers", "pandas", "skimage", "torch.distributed.optim", "torch._dynamo", "sympy")
HEAVY += ("matplotlib", "scipy.signal")

NAMES = """
import importlib, json, sys
import monai
offered = {}
for package in monai.__all__:
    module = importlib.import_module(f"monai.{package}")
    assert getattr(monai, package) is module
    offered[package] = [name for name in NAMES[package] if hasattr(module, name)]
from monai.bundle.config_item import ComponentLocator
locator = ComponentLocator()
found = {name: locator.get_component_module_name(name) for name in LOOKED_UP}
print(json.dumps([offered, found, monai.__version__]))
"""
LOOKED_UP = ["UNet", "SegResNet", "DiceCELoss", "SupervisedTrainer", "Compose", "ConvertBoxModed"]


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout


@pytest.mark.nightly
@pytest.mark.slow
def test_monai_offers_what_a_plain_import_of_it_does() -> None:
    plain = "import monai, json, importlib\nNAMES = {}\n"
    plain += "for p in monai.__all__: NAMES[p] = dir(importlib.import_module(f'monai.{p}'))\n"
    plain += f"LOOKED_UP = {LOOKED_UP}\nprint(json.dumps(NAMES))\n"
    names, expected = _python(plain + NAMES).splitlines()
    ours = f"import famseg.cli\nNAMES = {json.loads(names)!r}\nLOOKED_UP = {LOOKED_UP}\n"
    assert json.loads(_python(ours + NAMES)) == json.loads(expected)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("first", ["famseg.cli", "monai"])
def test_a_users_own_import_of_monai_works_before_and_after_famseg(first: str) -> None:
    second = {"famseg.cli": "monai", "monai": "famseg.cli"}[first]
    code = f"""
import {first}
import {second}
import monai, torch
monai.networks.nets.UNet(3, 1, 1, (2, 4), (2,))(torch.zeros(1, 1, 8, 8, 8))
monai.transforms.Compose([monai.transforms.EnsureChannelFirst(channel_dim="no_channel")])
monai.bundle.ConfigParser({{"net": {{"_target_": "DiceLoss"}}}}).get_parsed_content("net")
monai.apps.detection.networks.retinanet_network.RetinaNet
monai.handlers.StatsHandler, monai.fl.utils.constants, monai.data.box_utils
# What waits is imported on its first use.
monai.transforms.utils.ndimage.label([[1, 0]])
assert monai.utils.jupyter_utils.has_matplotlib
assert monai.utils.jupyter_utils.plt.get_backend()
assert monai.networks.nets.transchex.BertConfig().model_type == "bert"
import torch.distributed.optim as optim
from ignite.handlers.checkpoint import ZeroRedundancyOptimizer
assert not isinstance(torch.optim.SGD([torch.ones(1)], lr=1.0), ZeroRedundancyOptimizer)
assert isinstance(
    optim.ZeroRedundancyOptimizer.__new__(optim.ZeroRedundancyOptimizer), ZeroRedundancyOptimizer
)
assert not hasattr(monai.networks, "unheard_of")
print("ok")
"""
    assert _python(code) == "ok\n"


STEPS = """
import torch
graphs = []

def backend(graph, inputs):
    graphs.append(len(list(graph.graph.nodes)))
    return graph.forward

weight = torch.nn.Parameter(torch.ones(3))
for kind in (torch.optim.Adam, torch.optim.SGD):
    optimizer = kind([weight], lr=0.1)
    torch._dynamo.reset()

    @torch.compile(backend=backend)
    def step(x):
        loss = (x * weight).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(torch.ones(3))
print(graphs, weight.tolist())
"""


@pytest.mark.nightly
@pytest.mark.slow
def test_a_compiled_step_of_an_optimizer_is_that_of_torch() -> None:
    assert _python("import famseg.cli" + STEPS) == _python(STEPS)


@pytest.mark.slow
def test_monai_takes_little_with_it() -> None:
    loaded = _python(
        "import famseg.cli, sys\nfrom monai.engines import SupervisedTrainer\n"
        "from monai.losses import DiceCELoss\nimport torch\n"
        "weight = torch.nn.Parameter(torch.ones(1))\nweight.sum().backward()\n"
        "torch.optim.AdamW([weight]).step()\nprint(*sys.modules)"
    ).split()
    # Fails if an upgrade of MONAI or ignite bypasses famseg._libraries.
    assert [name for name in HEAVY if name in loaded] == []
    assert not any(name.startswith("monai.apps.detection") for name in loaded)


def test_a_reconstruction_takes_no_plots_and_statistics_with_it() -> None:
    loaded = _python(
        "import famseg.cli, sys\nfrom famseg.reconstruction import load_network, reconstruct_all\n"
        "load_network('builtin')\nprint(*sys.modules)"
    ).split()
    assert {"monai", "scipy.ndimage"} <= set(loaded)
    assert not {"matplotlib", "scipy.stats", "scipy.signal", "trimesh", "pandas"} & set(loaded)


def test_pydicom_is_imported_without_what_downloads_which_can_be_imported_afterwards() -> None:
    code = "import famseg.cli, sys, pydicom\nfrom pydicom.data import download\n"
    code += "print({'requests', 'tqdm'} & set(sys.modules), download.HAVE_REQUESTS)\n"
    code += "import requests, tqdm\nprint(requests.Session.__name__, tqdm.tqdm.__name__)"
    assert _python(code) == "set() False\nSession tqdm\n"


def test_scipy_leaves_its_docstrings_as_they_are_written() -> None:
    code = "from scipy import ndimage\nfrom scipy._lib._array_api import xp_capabilities_table\n"
    code += "print(ndimage.zoom in xp_capabilities_table, ndimage.zoom.__doc__.split()[0])\n"
    code += "print('Array API' in ndimage.zoom.__doc__)"
    assert _python("import famseg.cli\n" + code) == "True Zoom\nFalse\n"
    assert _python(code) == "True Zoom\nTrue\n"  # else there is nothing to leave out any more


def test_the_version_that_this_was_tried_with() -> None:
    """Check an upgrade: run the slow tests of this file, then change the version here."""
    assert (metadata.version("monai"), metadata.version("pytorch-ignite")) == ("1.6.1", "0.5.5")


def test_the_library_leaves_imports_alone() -> None:
    code = "import sys\nbefore = list(sys.meta_path)\nimport famseg.flatness, famseg.engine\n"
    assert _python(f"{code}assert sys.meta_path == before; print('ok')") == "ok\n"
