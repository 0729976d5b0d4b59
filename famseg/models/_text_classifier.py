"""A classifier of texts: a network of transformers whose last linear layer is called ``head``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn


class TextClassifier(nn.Module):
    """A network of transformers for sequence classification, with its classifier at the top.

    The last linear layer of the network is replaced by an identity and applied to the network's
    output: the same function, whose features are the input of ``head``, whatever the network calls
    it (``classifier``, ``out_proj``, ``score``). The state dict holds ``body.*`` under
    transformers' own names, and ``head.*``.

    Args:
        network: A ``...ForSequenceClassification`` network of transformers.

    Raises:
        ValueError: If the network ends in something else than a linear layer.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=24, num_hidden_layers=1, num_labels=3)
        >>> net = TextClassifier(BertForSequenceClassification(config))
        >>> net(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2)).shape
        torch.Size([1, 3])
        >>> net.head
        Linear(in_features=24, out_features=3, bias=True)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._place, head = last_linear(network)
        # Some tokenizers return token types that the network does not use.
        self._takes_types = "token_type_ids" in signature(network.forward).parameters
        self.body = network
        self.head = head
        network.set_submodule(self._place, nn.Identity())

    def features(self, **tokens: Tensor) -> Tensor:
        """Return the input of ``head``, shape ``(n, m)``; with dropout in training.

        Args:
            tokens: ``input_ids``, ``attention_mask`` and other inputs of the network, ``(n, t)``.
        """
        if not self._takes_types:
            tokens = {name: each for name, each in tokens.items() if name != "token_type_ids"}
        features: Tensor = self.body(**tokens).logits
        return features

    def forward(self, **tokens: Tensor) -> Tensor:
        """Return the logits, shape ``(n, classes)``; arguments as in `features`."""
        logits: Tensor = self.head(self.features(**tokens))
        return logits

    def save_pretrained(self, folder: Path) -> None:
        """Write the network as transformers does, for its ``from_pretrained``.

        Args:
            folder: Where to write configuration and weights; made if it is missing.
        """
        network: Any = self.body
        with self._whole():
            network.save_pretrained(folder)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Put the head back into its original position in the body."""
        self.body.set_submodule(self._place, self.head)
        try:
            yield
        finally:
            self.body.set_submodule(self._place, nn.Identity())


def last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    """Return the last linear layer of a classifier, with its name.

    Raises:
        ValueError: If its output does not have one number per class.
    """
    inside = f"{network.base_model_prefix}."
    # Outside the encoder, since some networks define their classifier before it.
    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
    config: Any = network.config
    classes = config.num_labels
    if not found or found[-1][1].out_features != classes:
        raise ValueError(
            f"{type(network).__name__} does not end in a linear layer with an output for each of "
            f"{classes} classes."
        )
    return found[-1]
