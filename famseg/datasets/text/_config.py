"""Configuration sections of the texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from famseg.config import PathText, Strict

if TYPE_CHECKING:
    from famseg.datasets.text._read import Format
    from famseg.datasets.text._text import TextSplits


class TokensConfig(Strict):
    """How sentences become batches of tokens."""

    max_length: int = Field(
        128,
        ge=8,
        description="maximum number of tokens per sample; in a pair, the longer sentence is cut "
        "first",
    )
    pad_to_multiple_of: int = Field(
        1, ge=1, description="lengths of batches are rounded up to a multiple of this; 8 suits GPUs"
    )


class _Data(Strict):
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="seed of the splits and subsets; it does not depend on the seed of the run",
    )
    validation: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the training file for validation (choice of the best epoch), drawn "
        "class by class",
    )


class SyntheticText(_Data):
    """Embedded pairs of sentences: does the first one entail the second?"""

    kind: Literal["synthetic"] = "synthetic"
    train: int = Field(1000, ge=8, le=1_000_000, description="samples, validation included")
    test: int = Field(200, ge=2, le=1_000_000, description="number of test samples")

    def build(self, seed: int) -> TextSplits:
        """Return the sentences.

        Args:
            seed: Seed of sentences and splits.
        """
        from famseg.datasets.text._build import synthetic_text

        return synthetic_text(
            train=self.train, test=self.test, validation=self.validation, seed=seed
        )


class _Files(_Data):
    form: ClassVar[Format]
    root: PathText = Field(min_length=1, description="folder that contains the files")
    columns: tuple[str, ...] = Field(
        ("sentence1", "sentence2"),
        strict=False,
        min_length=1,
        max_length=2,
        description="name of the column or key of the sentence, or the two names for a pair of "
        "sentences",
    )
    label: str = Field("label", min_length=1, description="name of the column or key of the label")
    classes: tuple[str, ...] | None = Field(
        None,
        strict=False,
        min_length=2,
        description="labels in the order of their numbers; default: the sorted labels of the "
        "training file",
    )
    train_limit: int | None = Field(
        None,
        gt=1,
        description="maximum number of samples of the training file, drawn class by class",
    )
    test_limit: int | None = Field(
        None, gt=0, description="maximum number of samples of the test file, drawn class by class"
    )

    def _build(self, train: str, test: str, seed: int) -> TextSplits:
        from famseg.datasets.text._build import text_files

        root = Path(self.root).expanduser()
        return text_files(
            root / train,
            root / test,
            form=self.form,
            columns=self.columns,
            label=self.label,
            classes=self.classes,
            validation=self.validation,
            train_limit=self.train_limit,
            test_limit=self.test_limit,
            seed=seed,
        )


class GlueText(_Files):
    """Tab-separated files as GLUE has them; their header names the columns."""

    form = "tsv"
    kind: Literal["glue"] = "glue"
    train: str = Field("train.tsv", min_length=1, description="training file")
    test: str = Field(
        "dev.tsv",
        min_length=1,
        description="test file; the labels of GLUE's test.tsv are not public",
    )

    def build(self, seed: int) -> TextSplits:
        """Read both files; all their errors are reported together.

        Args:
            seed: Seed of the held-out samples.
        """
        return self._build(self.train, self.test, seed)


class JsonLinesText(_Files):
    """Files with one JSON object per line."""

    form = "jsonl"
    kind: Literal["jsonl"]
    train: str = Field("train.jsonl", min_length=1, description="training file")
    test: str = Field("dev.jsonl", min_length=1, description="test file")

    def build(self, seed: int) -> TextSplits:
        """Read both files; all their errors are reported together.

        Args:
            seed: Seed of the held-out samples.
        """
        return self._build(self.train, self.test, seed)


def _root_means_folder(data: object) -> object:
    """Let ``data.root=FOLDER`` alone replace embedded sentences by files in a configuration.

    The counts of embedded samples become limits, so that a short run stays short.
    """
    if not isinstance(data, dict) or data.get("kind") != "synthetic" or "root" not in data:
        return data
    kept = {key: value for key, value in data.items() if key not in ("train", "test")}
    limits = {f"{key}_limit": data[key] for key in ("train", "test") if key in data}
    return {**limits, **kept, "kind": "glue"}


TextDataConfig = Annotated[
    SyntheticText | GlueText | JsonLinesText,
    Field(discriminator="kind"),
    BeforeValidator(_root_means_folder),
]
