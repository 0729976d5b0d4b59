from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from famseg.datasets import (
    GlueText,
    JsonLinesText,
    PadBatch,
    SyntheticText,
    TextDataConfig,
    TextSample,
    TextSet,
    TextSplits,
    TokensConfig,
)
from famseg.messages import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write train.tsv and dev.tsv with these labels; every sentence occurs once."""

    def write(train: list[str], dev: list[str]) -> Path:
        for name, labels in (("train", train), ("dev", dev)):
            lines = [f"{name} {n}\tb\t{label}\n" for n, label in enumerate(labels)]
            (tmp_path / f"{name}.tsv").write_text("sentence1\tsentence2\tlabel\n" + "".join(lines))
        return tmp_path

    return write


def build(root: Path, seed: int = 0, **options) -> TextSplits:
    return GlueText(root=str(root), **options).build(seed)


def counts(samples) -> list[int]:
    return torch.bincount(torch.tensor([sample.label for sample in samples])).tolist()


def test_the_validation_is_a_stratified_share_of_the_training_file(folder) -> None:
    texts = build(folder(["b"] * 60 + ["a"] * 40, ["a", "b", "b"]), validation=0.2)
    assert texts.classes == ("a", "b")
    assert counts(texts.train) == [32, 48]
    assert counts(texts.validation) == [8, 12]
    assert counts(texts.test) == [1, 2]
    sentences = {sample.sentences for sample in texts.train}
    assert sentences.isdisjoint(sample.sentences for sample in texts.validation)


def test_a_sample_says_where_it_is_from(folder) -> None:
    texts = build(folder(["a", "b"] * 4, ["a", "b"]))
    assert texts.test[1] == TextSample("test-00001", ("dev 1", "b"), 1, "dev.tsv:3")
    for sample in (*texts.train, *texts.validation):
        number = int(sample.sentences[0].split()[1])
        split = "train" if sample in texts.train else "validation"
        assert sample.name == f"{split}-{number:05d}"
        assert sample.source == f"train.tsv:{number + 2}"


def test_the_seed_alone_decides_what_is_held_out(folder) -> None:
    root = folder(["a", "b"] * 20, ["a", "b"])
    assert build(root) == build(root)
    assert build(root).validation != build(root, seed=1).validation
    assert build(root).test == build(root, seed=1).test


def test_limits_keep_the_share_of_each_class(folder) -> None:
    root = folder(["a"] * 80 + ["b"] * 20, ["a"] * 8 + ["b"] * 2)
    texts = build(root, train_limit=20, test_limit=5, validation=0.5)
    assert counts((*texts.train, *texts.validation)) == [16, 4]
    assert counts(texts.test) == [4, 1]


def test_labels_that_are_numbers_are_sorted_as_numbers(folder) -> None:
    assert build(folder(["10", "9", "-1"] * 4, ["9"])).classes == ("-1", "9", "10")


def test_given_classes_decide_the_numbers(folder) -> None:
    texts = build(folder(["a", "b"] * 4, ["a", "b"]), classes=("b", "a"))
    assert [sample.label for sample in texts.test] == [1, 0]


def test_unknown_labels_of_both_files_come_in_one_error(folder) -> None:
    root = folder(["a", "b", "x"], ["b", "y"])
    with pytest.raises(InputError) as caught:
        build(root, classes=("a", "b"))
    advice = "is none of a, b. Fix it, or list it in data.classes."
    assert caught.value.faults == (
        f"{root}/train.tsv:4: the label 'x' {advice}",
        f"{root}/dev.tsv:3: the label 'y' {advice}",
    )


def test_faults_of_both_files_come_in_one_error(folder) -> None:
    root = folder(["a", "b"], [])
    (root / "train.tsv").write_text("sentence1\tsentence2\tlabel\nx\ny\tz\ta\n")
    with pytest.raises(InputError) as caught:
        build(root)
    assert caught.value.faults == (
        f"{root}/train.tsv:2: 1 cell, the header has 3 (sentence1, sentence2, label). Separate "
        "cells with one tab.",
        f"{root}/dev.tsv: has no samples. Give a file with one sample per line.",
    )


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (
            ["a"] * 4,
            {},
            r"1 different labels in 4 samples: 'label' does not contain classes\. "
            "Name",
        ),
        (
            ["a", "b", "b"],
            {"validation": 0.6},
            r"data: no sample of class a is left to train on\. Give more",
        ),
        (["a", "b"] * 4, {"classes": ("a", "b", "c")}, "no sample of class c is left to train on"),
    ],
)
def test_a_class_that_cannot_be_learnt_is_named(folder, train, options, message) -> None:
    with pytest.raises(InputError, match=message):
        build(folder(train, ["a"]), **options)


def test_test_samples_that_are_trained_on_are_counted(folder, caplog) -> None:
    root = folder(["a", "b"] * 4, ["a"])
    (root / "dev.tsv").write_text((root / "train.tsv").read_text() + "new\tb\ta\n")
    with caplog.at_level(logging.WARNING, "famseg"):
        build(root)
    assert "dev.tsv: 8 of 9 samples are also in the training file" in caplog.text


def test_json_lines_are_the_same_data(folder) -> None:
    root = folder(["a", "b"] * 4, ["a", "b"])
    for name in ("train", "dev"):
        header, *lines = (root / f"{name}.tsv").read_text().splitlines()
        cells = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, cells)))
    texts = JsonLinesText(kind="jsonl", root=str(root)).build(0)
    assert texts.fingerprint == build(root).fingerprint


def test_the_fingerprint_is_that_of_sentences_labels_and_splits() -> None:
    texts = SyntheticText(train=16, test=4).build(0)
    assert texts.fingerprint == SyntheticText(train=16, test=4).build(0).fingerprint
    first = texts.test[0]
    for other in (
        replace(texts, train=texts.train[::-1]),
        replace(texts, test=[replace(first, label=1 - first.label), *texts.test[1:]]),
        replace(texts, test=[replace(first, sentences=("a", "b")), *texts.test[1:]]),
        replace(texts, classes=("x", "y")),
    ):
        assert other.fingerprint != texts.fingerprint


def test_the_manifest_has_a_line_for_each_sample(folder, tmp_path: Path) -> None:
    build(folder(["a", "b"] * 4, ["a", "b"])).write_manifest(tmp_path / "manifest.csv")
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 7 + ["validation"] + ["test"] * 2
    assert rows[-1] == {
        "split": "test",
        "subject": "test-00001",
        "label": "1",
        "class": "b",
        "source": "dev.tsv:3",
        "sha256": hashlib.sha256(b'["dev 1", "b"]').hexdigest(),
    }


def test_the_embedded_sentences_follow_the_rule() -> None:
    texts = SyntheticText(train=200, test=100).build(0)
    assert counts(texts.test) == [50, 50]
    assert counts((*texts.train, *texts.validation)) == [100, 100]
    for sample in texts.test:
        (first, *rest), (second, *others) = (sentence.split() for sentence in sample.sentences)
        follows = first == second or (first, second) == ("all", "some")
        assert rest == others
        assert texts.classes[sample.label] == ("entailment" if follows else "not_entailment")


def test_the_embedded_sentences_are_those_of_their_seed() -> None:
    section = SyntheticText(train=16, test=16)
    one = section.build(0)
    assert one == section.build(0)
    assert one.test != section.build(1).test
    whole = (*one.train, *one.validation)
    assert {sample.sentences for sample in whole} != {sample.sentences for sample in one.test}


def test_a_root_alone_turns_embedded_sentences_into_files() -> None:
    adapter = TypeAdapter(TextDataConfig)
    given = {"kind": "synthetic", "train": 80, "test": 20, "validation": 0.2, "root": "x"}
    assert adapter.validate_python(given) == GlueText(
        root="x", train_limit=80, test_limit=20, validation=0.2
    )
    assert adapter.validate_python({"kind": "synthetic"}) == SyntheticText()


@pytest.mark.parametrize(
    "section", [SyntheticText(), GlueText(root="x"), JsonLinesText(kind="jsonl", root="x")]
)
def test_a_section_describes_its_fields_and_survives_its_own_output(section) -> None:
    for name, field in type(section).model_fields.items():
        assert field.description or name == "kind"
    assert type(section).model_validate(section.model_dump(mode="json")) == section
    assert TokensConfig().max_length == 128


class Words:
    """A tokenizer whose tokens are the lengths of the words."""

    padding = {"input_ids": -1, "token_type_ids": 9}  # noqa: RUF012

    def encode(self, sentences, *, max_length):
        ids = [[len(word) for word in " ".join(each).split()][:max_length] for each in sentences]
        return [{"input_ids": each, "token_type_ids": [0] * len(each)} for each in ids]


SAMPLES = [
    TextSample("train-00000", ("aa b", "ccc"), 1),
    TextSample("train-00001", ("a",), 0),
    TextSample("train-00002", ("a b c d e f",), 1),
]


def test_a_batch_is_as_long_as_its_longest_sample() -> None:
    cases = TextSet(SAMPLES, Words(), max_length=4)
    assert cases.lengths == [3, 1, 4]
    batch = PadBatch(Words.padding)([cases[0], cases[1]])
    assert batch["tokens"]["input_ids"].tolist() == [[2, 1, 3], [1, -1, -1]]
    assert batch["tokens"]["token_type_ids"].tolist() == [[0, 0, 0], [0, 9, 9]]
    assert batch["tokens"]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {tensor.dtype for tensor in batch["tokens"].values()} == {torch.int64}
    assert batch["label"].tolist() == [1, 0]
    assert batch["subject"] == ["train-00000", "train-00001"]


def test_lengths_of_batches_are_rounded_up() -> None:
    cases = TextSet(SAMPLES, Words(), max_length=8)
    batch = PadBatch(Words.padding, multiple=4)([cases[0], cases[2]])
    assert batch["tokens"]["input_ids"].shape == (2, 8)
    assert batch["tokens"]["attention_mask"].sum(1).tolist() == [3, 6]


def test_an_index_of_a_later_epoch_is_the_same_sample() -> None:
    cases = TextSet(SAMPLES, Words(), max_length=8)
    assert cases[4]["subject"] == "train-00001"
    assert torch.equal(cases[4]["tokens"]["input_ids"], cases[1]["tokens"]["input_ids"])


def test_a_subset_keeps_classes_and_tokens() -> None:
    cases = TextSet(SyntheticText(train=80).build(0).train, Words(), max_length=8)
    part = cases.subset(20, seed=0)
    assert counts(part.samples) == [10, 10]
    place = cases.samples.index(part.samples[3])
    assert part[3]["subject"] == cases[place]["subject"]
    assert torch.equal(part[3]["tokens"]["input_ids"], cases[place]["tokens"]["input_ids"])
    assert cases.subset(500, seed=0) is cases
    assert len(cases) == 72


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample: this split is empty"):
        TextSet([], Words(), max_length=8)


def test_the_real_files(real_data: Path) -> None:
    texts = build(real_data / "rte")
    assert texts.classes == ("entailment", "not_entailment")
    assert counts((*texts.train, *texts.validation)) == [1249, 1241]
    assert counts(texts.validation) == [125, 124]
    assert counts(texts.test) == [146, 131]
    assert texts.test[0].sentences[1] == "Christopher Reeve had an accident."
