"""From sentences to the numbers that a network of transformers takes."""

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
        """Return the tokens of each sample, of a pair the longer sentence cut first.

        Args:
            sentences: One sentence or two, by sample.
            max_length: Most tokens of a sample.
        """
        return [_bytes(each, max_length) for each in sentences]


class PretrainedTokenizer:
    """The tokenizer of a pretrained network.

    Args:
        tokenizer: A tokenizer of transformers.
        source: Where it is from, for messages.

    Attributes:
        vocabulary: One more than the largest token.
        longest: Most tokens of a sample that it was made for, or None.
        padding: The value of padding, by kind of token.

    Raises:
        InputError: If it has no token for padding, or none for words.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:  # noqa: ANN401  # transformers ships no types
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # What transformers makes of a folder without the files of a tokenizer, without a word.
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
        # Tokenizers that know no limit state a huge number.
        self.longest = tokenizer.model_max_length if tokenizer.model_max_length < 2**20 else None
        self.padding = {
            "input_ids": int(tokenizer.pad_token_id),
            "token_type_ids": int(tokenizer.pad_token_type_id),
        }

    def encode(
        self, sentences: Sequence[tuple[str, ...]], *, max_length: int
    ) -> list[dict[str, list[int]]]:
        """Return the tokens of each sample, of a pair the longer sentence cut first.

        Args:
            sentences: One sentence or two, by sample.
            max_length: Most tokens of a sample.
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
        # As if one token after the other were taken from the longer one.
        first, second = map(len, parts)
        half = room // 2
        kept = [max(room - second, room - half), max(room - first, half)]
    ids, types = [_START], [0]
    for number, (part, length) in enumerate(zip(parts, kept, strict=True)):
        ids += [*part[:length], _END]
        types += [number] * (min(len(part), length) + 1)
    return {"input_ids": ids, "token_type_ids": types}
