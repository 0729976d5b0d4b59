"""Configuration sections of the networks for texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from famseg.config import PathText, Strict

if TYPE_CHECKING:
    from famseg.models._text_classifier import TextClassifier
    from famseg.models._text_tokens import ByteTokenizer, PretrainedTokenizer


class TransformerConfig(Strict):
    """A pretrained network of Hugging Face's transformers with its tokenizer."""

    kind: Literal["transformer"] = "transformer"
    path: PathText = Field(
        min_length=1,
        description="folder with config.json, weights and tokenizer, or a name on the Hugging Face "
        "hub",
    )
    revision: str | None = Field(None, description="branch, tag or commit on the hub")

    def build(self, classes: Sequence[str], *, seed: int) -> TextClassifier:
        """Load the network.

        Args:
            classes: Names of the classes in the order of their numbers.
            seed: Decides the weights that the checkpoint lacks.
        """
        from famseg.models._text_load import pretrained_classifier

        return pretrained_classifier(self.path, classes=classes, seed=seed, revision=self.revision)

    def tokenizer(self) -> PretrainedTokenizer:
        """Load the tokenizer."""
        from famseg.models._text_load import pretrained_tokenizer

        return pretrained_tokenizer(self.path, revision=self.revision)


class TinyBertConfig(Strict):
    """A small BERT with random weights that reads bytes: needs no file."""

    kind: Literal["tiny_bert"] = "tiny_bert"
    layers: int = Field(2, gt=0, description="number of layers")
    hidden: int = Field(64, gt=0, description="width, a multiple of heads")
    heads: int = Field(4, gt=0, description="attention heads per layer")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout probability")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        return self

    def build(self, classes: Sequence[str], *, seed: int) -> TextClassifier:
        """Return the network.

        Args:
            classes: Names of the classes in the order of their numbers.
            seed: Decides the weights.
        """
        from famseg.models._text_load import tiny_bert

        return tiny_bert(
            classes=classes,
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            dropout=self.dropout,
            seed=seed,
        )

    def tokenizer(self) -> ByteTokenizer:
        """Return the tokenizer of bytes."""
        from famseg.models._text_tokens import ByteTokenizer

        return ByteTokenizer()


TextModelConfig = Annotated[TransformerConfig | TinyBertConfig, Field(discriminator="kind")]
