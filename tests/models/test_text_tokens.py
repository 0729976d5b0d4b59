from __future__ import annotations

import pytest

from famseg.models import ByteTokenizer


def longest_first(first: str, second: str, max_length: int) -> tuple[str, str]:
    """Literal implementation of the rule: remove one letter at a time from the longer sentence."""
    while len(first) + len(second) + 3 > max_length:
        if len(first) > len(second):
            first = first[:-1]
        else:
            second = second[:-1]
    return first, second


@pytest.mark.parametrize("max_length", [8, 9, 12, 17, 64])
@pytest.mark.parametrize("pair", [("abcdefgh", "ij"), ("ab", "cdefghij"), ("abcde", "fghijk")])
def test_of_a_pair_the_longer_sentence_is_cut_first(pair, max_length: int) -> None:
    (tokens,) = ByteTokenizer().encode([pair], max_length=max_length)
    first, second = longest_first(*pair, max_length)
    expected = [1, *(ord(c) + 3 for c in first), 2, *(ord(c) + 3 for c in second), 2]
    assert tokens["input_ids"] == expected
    assert tokens["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_a_sentence_alone_and_letters_of_several_bytes() -> None:
    tokenizer = ByteTokenizer()
    one, cut = tokenizer.encode([("ä",), ("abcdefgh",)], max_length=8)
    assert one == {"input_ids": [1, 0xC3 + 3, 0xA4 + 3, 2], "token_type_ids": [0] * 4}
    assert len(cut["input_ids"]) == 8
    assert max(one["input_ids"]) < tokenizer.vocabulary
