from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_classes import Points

from famseg.evaluation import HeadMonitor
from famseg.flatness import LayerNotFoundError, relative_flatness

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(5, 3)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(points))
        return logits


def test_kappa_is_the_definition_over_all_samples() -> None:
    net, cases = Net(), Points(11, name="train")
    found = HeadMonitor(cases, CPU, batch_size=4)(net)
    double = Net().double().eval()
    features = double.body(cases.points.double()).detach()

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(features, weight, double.head.bias), cases.labels)

    exact = relative_flatness(loss, double.head.weight.detach())
    assert found["train/kappa"] == pytest.approx(exact.item(), rel=1e-5)
    norm = float(net.head.weight.detach().square().sum())
    assert found["train/head_norm_squared"] == pytest.approx(norm)


def test_the_network_is_left_as_it_was() -> None:
    net, monitor = Net(), HeadMonitor(Points(11, name="train"), CPU)
    state = torch.random.get_rng_state()
    first = monitor(net)
    assert monitor(net) == first
    assert net.training
    assert not net.head._forward_pre_hooks
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_network_without_the_layer_is_refused() -> None:
    with pytest.raises(
        LayerNotFoundError, match=r"no layer is called 'heat'\. Did you mean 'head'"
    ):
        HeadMonitor(Points(2, name="train"), CPU, layer="heat")(Net())
