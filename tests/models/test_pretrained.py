from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from monai.networks.nets import EfficientNetBN
from torch import Tensor

from famseg.messages import InputError
from famseg.models import Classifier, EfficientNetConfig, convnet
from famseg.models._pretrained import load_weights, read_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def theirs() -> State:
    """Weights as MONAI names them, of a head of 1000 classes."""
    torch.manual_seed(7)
    state: State = EfficientNetBN("efficientnet-b0", pretrained=False).state_dict()
    return state


def saved(folder: Path, state: object, name: str = "weights.pt") -> Path:
    torch.save(state, folder / name)
    return folder / name


def built(path: Path, *, classes: int = 10, **options: object) -> Classifier:
    section = EfficientNetConfig(kind="efficientnet", variant="b0", weights=str(path), **options)
    return section.build(classes=classes, channels=3, size=32)


@pytest.mark.parametrize("names", ["MONAI", "EfficientNet-PyTorch", "DataParallel"])
def test_weights_under_other_names_arrive_and_another_head_is_replaced(
    theirs: State, names: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state: object = theirs
    if names == "EfficientNet-PyTorch":  # which numbers the blocks alone
        state = {re.sub(r"^_blocks\.\d+\.", "_blocks.", key): x for key, x in theirs.items()}
    elif names == "DataParallel":
        state = {"state_dict": {f"module.{key}": x for key, x in theirs.items()}}
    path = saved(tmp_path, state)
    with caplog.at_level(logging.INFO, "famseg"):
        model = built(path)
    assert caplog.messages == [
        f"{path} has a head of 1000 x 1280: the head of 10 classes x 1280 features is initialized "
        "randomly."
    ]
    found = model.state_dict()
    assert len(found) == len(theirs)
    for key, value in theirs.items():
        if not key.startswith("_fc."):
            assert torch.equal(found[f"body.{key}"], value), key


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_our_own_weights_come_back_whole(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    first, second = (convnet(classes=3, width=2, features=4) for _ in range(2))
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(first.state_dict(), path)
    else:
        saved(tmp_path, {"format": 1, "model": first.state_dict()})
    with caplog.at_level(logging.INFO, "famseg"):
        load_weights(second, read_weights(path), path=path, network="convnet")
    assert caplog.messages == []
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)


def test_an_extra_layer_of_features_starts_anew_with_its_head(
    theirs: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "famseg"):
        model = built(saved(tmp_path, theirs), classes=1000, features=64)
    assert "the head of 1000 classes x 64 features is initialized randomly." in caplog.messages[0]
    assert torch.equal(model.body._conv_head.weight, theirs["_conv_head.weight"])


def test_weights_of_another_network_are_refused_in_one_line(theirs: State, tmp_path: Path) -> None:
    state = dict(theirs)
    del state["_bn1.weight"]
    del state["_bn1.num_batches_tracked"]  # older files have none
    state["_conv_stem.weight"] = torch.zeros(32, 1, 3, 3)
    state |= {f"blocks.{k}": torch.zeros(1) for k in range(5)}
    path = saved(tmp_path, state)
    with pytest.raises(InputError) as caught:
        built(path)
    (fault,) = caught.value.faults
    assert fault == (
        f"{path}: not the weights of this efficientnet-b0: of 358 names 1 missing "
        "(body._bn1.weight); 5 unknown (blocks.0, blocks.1, blocks.2, ...); 1 of another shape "
        "(body._conv_stem.weight (32, 1, 3, 3) for (32, 3, 3, 3)). Use the file of the same "
        "variant and number of channels."
    )


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", None, r"there is no such file of weights\. Check model\.weights"),
        ("a.pt", b"", r"not readable as weights \(.+\)\. Save a plain state dict"),
        ("a.pt", b"no weights", r"not readable as weights \(.+\)\. Save a plain state dict"),
        (
            "a.pt",
            pickle.dumps(_Code(), protocol=2),
            r"not readable as weights \(.+\)\. Save a plain",
        ),
        ("a.safetensors", b"no weights", r"not readable as safetensors \(.+\)\."),
    ],
)
def test_files_that_hold_no_weights_are_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        built(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)]])
def test_files_without_names_of_weights_are_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"contains no named weights\. Save model\.state_dict"):
        built(saved(tmp_path, content))
