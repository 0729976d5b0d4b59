from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from famseg.flatness._tracing._arguments import changed, differentiable_in, mapped, precise


class Named(NamedTuple):
    x: torch.Tensor
    name: str


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    calls: int = field(default=0, init=False)


def test_tensors_are_changed_with_their_paths_in_whatever_holds_them():
    x = torch.arange(6).reshape(3, 2)
    value = {"x": x, "list": [x, 5], "named": Named(x, "a"), "output": Output(x)}
    paths = []

    def change(path, tensor):
        paths.append(path)
        return tensor[:2]

    found = mapped(value, change, "inputs")
    for rows in (found["x"], found["list"][0], found["named"].x, found["output"].logits):
        assert torch.equal(rows, x[:2])
    assert paths == ["inputs.x", "inputs.list.0", "inputs.named.0", "inputs.output.logits"]
    assert found["list"][1] == 5
    assert found["named"].name == "a"
    assert isinstance(found["output"], Output)


def test_coarse_numbers_become_single_and_others_stay():
    half = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    value = precise((half * 1, torch.ones(2, dtype=torch.float64), torch.tensor([1, 2])))
    assert [v.dtype for v in value] == [torch.float32, torch.float64, torch.int64]
    assert not value[0].requires_grad


def test_tensors_of_inference_mode_are_copied_and_others_are_not():
    own = torch.ones(2)
    with torch.inference_mode():
        made = torch.ones(2)
    found = differentiable_in([own, made])
    assert found[0] is own
    assert not found[1].is_inference()
    assert torch.equal(found[1], made)


def test_a_class_is_no_value():
    assert changed(Output, lambda tensor: tensor) is Output
