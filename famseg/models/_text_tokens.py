"""Tokenizers: from sentences to the input of a network of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from famseg.messages import InputError

PAD, _START, _END, _BYTES = 0, 1, 2, 3


class ByteTokenizer:
    """A token for each byte of the text in UTF-8: no vocabulary, no file.

    ``[START] first [END]``, and ``second [END]`` after it for a pair. The number of a byte is its
    value plus 3, after padding, start and end.

    Example:
        >>> ByteTokenizer().encode([("a", "b")], max_length=8)
        [{'input_ids': [1, 100, 2, 101, 2], 'token_type_ids': [0, 0, 0, 1, 1]}]
    """

    vocabulary = _BYTES + 256
    longest = None

    def __init__(self) -> None:
        self.padding = {"input_ids": PAD, "token_type_ids": 0}

    def encode(
        self, sentences: Sequence[tuple[str, ...]], *, max_length: int
    ) -> list[dict[str, list[int]]]:
        """Return the tokens of each sample; the longer sentence of a pair is truncated first.

        Args:
            sentences: One or two sentences per sample.
            max_length: Largest number of tokens per sample.
        """
        return [_bytes(each, max_length) for each in sentences]


class PretrainedTokenizer:
    """The tokenizer of a pretrained network.

    Args:
        tokenizer: A tokenizer of transformers.
        source: Its origin, for messages.

    Attributes:
        vocabulary: One more than the largest token.
        longest: Largest number of tokens it supports, or None.
        padding: The padding value of each tensor.

    Raises:
        InputError: If it has no padding token, or no tokens for words.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:  # noqa: ANN401  # transformers ships no types
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # The tokenizer that transformers silently creates for a folder without tokenizer files.
            raise InputError(
                f"model.path: {source}: its tokenizer has no vocabulary. Put the tokenizer's files "
                "there (tokenizer.json, vocab.txt or similar)."
            )
        if tokenizer.pad_token_id is None:
            raise InputError(
                f"model.path: {source}: its tokenizer has no token for padding, without which "
                "sentences of different length cannot form a batch. Define one (pad_token)."
            )
        self._tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        # Tokenizers without a limit state a huge number.
        self.longest = tokenizer.model_max_length if tokenizer.model_max_length < 2**20 else None
        self.padding = {
            "input_ids": int(tokenizer.pad_token_id),
            "token_type_ids": int(tokenizer.pad_token_type_id),
        }

    def encode(
        self, sentences: Sequence[tuple[str, ...]], *, max_length: int
    ) -> list[dict[str, list[int]]]:
        """Return the tokens of each sample; the longer sentence of a pair is truncated first.

        Args:
            sentences: One or two sentences per sample.
            max_length: Largest number of tokens per sample.
        """
        columns = [list(column) for column in zip(*sentences, strict=True)]
        encoded = self._tokenizer(
            *columns,
            truncation="longest_first",
            max_length=max_length,
            return_attention_mask=False,
            verbose=False,
        )
        return [
            dict(zip(encoded, values, strict=True))
            for values in zip(*encoded.values(), strict=True)
        ]


def _bytes(sentences: Sequence[str], max_length: int) -> dict[str, list[int]]:
    parts = [[byte + _BYTES for byte in sentence.encode()] for sentence in sentences]
    room = max_length - 1 - len(parts)
    if len(parts) == 1:
        kept = [room]
    else:
        # As if tokens were removed one at a time from the longer sentence.
        first, second = map(len, parts)
        half = room // 2
        kept = [max(room - second, room - half), max(room - first, half)]
    ids, types = [_START], [0]
    for number, (part, length) in enumerate(zip(parts, kept, strict=True)):
        ids += [*part[:length], _END]
        types += [number] * (min(len(part), length) + 1)
    return {"input_ids": ids, "token_type_ids": types}
