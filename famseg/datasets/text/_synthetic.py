"""An embedded task of sentence pairs: does the first sentence entail the second?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from famseg.datasets.text._text import TextSample

CLASSES = ("entailment", "not_entailment")

# Increased when the same arguments give other sentences.
_VERSION = 1
_ENTAILED = (("all", "all"), ("all", "some"), ("some", "some"), ("no", "no"))
_NOT_ENTAILED = (("some", "all"), ("some", "no"), ("no", "some"), ("no", "all"), ("all", "no"))
_NOUNS = ("cats", "dogs", "birds", "trains", "doctors", "rivers", "stones", "teachers")
_KINDS = ("old", "red", "small", "tall", "young", "quiet")
_VERBS = ("sleep", "move", "sing", "fall", "wait", "change", "stop", "return")


def synthetic_samples(count: int, *, seed: int, split: str) -> list[TextSample]:
    """Return samples of a task that a small network can learn.

    "all old cats sleep." entails "some old cats sleep." (in a world where there are such cats), not
    "no old cats sleep.": the class depends on both quantifiers, but on neither alone. The two
    classes are equally frequent, up to one sample.

    Args:
        count: Number of samples.
        seed: Seed of the sentences.
        split: Name of the split, on which the sentences also depend.

    Example:
        >>> for sample in synthetic_samples(2, seed=0, split="train"):
        ...     print(*sample.sentences, CLASSES[sample.label])
        no small rivers change. no small rivers change. entailment
        no old trains wait. all old trains wait. not_entailment
    """
    generator = np.random.default_rng([_VERSION, seed, *split.encode()])

    def one(words: Sequence[str]) -> str:
        return words[int(generator.integers(len(words)))]

    samples = []
    for number, label in enumerate(generator.permutation(np.arange(count) % 2).tolist()):
        pairs = (_ENTAILED, _NOT_ENTAILED)[label]
        quantifiers = pairs[int(generator.integers(len(pairs)))]
        rest = f"{one(_KINDS)} {one(_NOUNS)} {one(_VERBS)}."
        sentences = tuple(f"{quantifier} {rest}" for quantifier in quantifiers)
        samples.append(TextSample(f"{split}-{number:05d}", sentences, label))
    return samples
