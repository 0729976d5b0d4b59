"""Texts as a torch data set of tokens, with padding to batches."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from famseg.datasets.images import stratified
from famseg.datasets.text._text import TextSample

# Stream of random numbers, different from those of the splits.
SUBSET = 16


class Tokenizer(Protocol):
    """Protocol of a tokenizer."""

    @property
    def padding(self) -> Mapping[str, int]:
        """The padding value of each tensor returned by `encode`."""
        ...

    def encode(
        self, sentences: Sequence[tuple[str, ...]], *, max_length: int
    ) -> list[dict[str, list[int]]]:
        """Return ``input_ids``, and ``token_type_ids`` if the network uses them, per sample.

        Args:
            sentences: One or two sentences per sample.
            max_length: Largest number of tokens per sample; the longer sentence of a pair is
                truncated first.
        """
        ...


class TextItem(TypedDict):
    """One sample: ``tokens``, int64 of shape ``(t,)`` each; ``label``, int64 scalar; its name."""

    tokens: dict[str, Tensor]
    label: Tensor
    subject: str


class TextBatch(TypedDict):
    """Several samples: ``tokens``, int64 of shape ``(n, t)`` each; ``label`` ``(n,)``; names."""

    tokens: dict[str, Tensor]
    label: Tensor
    subject: list[str]


class TextSet(Dataset[TextItem]):
    """Samples as tokens, which are computed once.

    An index of ``n`` or more refers to a later epoch, with the same samples. Samples have different
    lengths, so a loader needs `PadBatch` as its ``collate_fn``.

    Args:
        samples: The samples of a split; at least one.
        tokenizer: Converts sentences to tokens.
        max_length: Largest number of tokens per sample.

    Raises:
        ValueError: If there is no sample.
    """

    def __init__(
        self, samples: Sequence[TextSample], tokenizer: Tokenizer, *, max_length: int
    ) -> None:
        if not samples:
            raise ValueError("a data set needs at least one sample: this split is empty.")
        self.samples = samples
        sentences = [sample.sentences for sample in samples]
        # 32 bits save memory, since a task may have half a million samples.
        self._tokens = [
            {name: torch.tensor(values, dtype=torch.int32) for name, values in tokens.items()}
            for tokens in tokenizer.encode(sentences, max_length=max_length)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, count: int, *, seed: int) -> TextSet:
        """Return at most ``count`` of the samples, stratified by class, with the same tokens.

        Args:
            count: Largest number of samples.
            seed: Random seed of the draw.
        """
        if count >= len(self):
            return self
        labels = np.array([sample.label for sample in self.samples], dtype=np.int64)
        chosen = stratified(labels, count, seed, SUBSET).tolist()
        part = copy.copy(self)
        part.samples = [self.samples[index] for index in chosen]
        part._tokens = [self._tokens[index] for index in chosen]
        return part

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each sample."""
        return [len(tokens["input_ids"]) for tokens in self._tokens]

    def __getitem__(self, index: int) -> TextItem:
        number = index % len(self)
        sample = self.samples[number]
        return {
            "tokens": {name: values.long() for name, values in self._tokens[number].items()},
            "label": torch.tensor(sample.label),
            "subject": sample.name,
        }


class PadBatch:
    """Combines samples of different lengths into a batch, as the ``collate_fn`` of a loader.

    Each batch is padded to its longest sample; ``attention_mask`` is 1 for tokens and 0 for
    padding.

    Args:
        padding: As in `Tokenizer`.
        multiple: Lengths are rounded up to a multiple of this; 8 suits the matrix units of GPUs.

    Example:
        >>> item = lambda n: {"tokens": {"input_ids": torch.ones(n, dtype=torch.long)},
        ...                   "label": torch.tensor(0), "subject": str(n)}
        >>> PadBatch({"input_ids": 0})([item(1), item(2)])["tokens"]["input_ids"].tolist()
        [[1, 0], [1, 1]]
    """

    def __init__(self, padding: Mapping[str, int], *, multiple: int = 1) -> None:
        self.padding = dict(padding)
        self.multiple = multiple

    def __call__(self, items: Iterable[TextItem]) -> TextBatch:
        """Return the batch of some items."""
        items = list(items)
        longest = max(len(item["tokens"]["input_ids"]) for item in items)
        length = -(-longest // self.multiple) * self.multiple
        tokens = {
            name: torch.stack(
                [_padded(item["tokens"][name], length, self.padding[name]) for item in items]
            )
            for name in items[0]["tokens"]
        }
        real = torch.tensor([len(item["tokens"]["input_ids"]) for item in items])
        tokens["attention_mask"] = (torch.arange(length) < real[:, None]).long()
        return {
            "tokens": tokens,
            "label": torch.stack([item["label"] for item in items]),
            "subject": [item["subject"] for item in items],
        }


def _padded(values: Tensor, length: int, padding: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=padding)
