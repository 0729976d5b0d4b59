from __future__ import annotations

import os
from pathlib import Path

import pytest

from famseg.files import _json as json_files
from famseg.files._json import parse_json, read_json
from famseg.messages import InputError

ADVICE = "Restore it."
HOSTILE = {
    b"": r"Expecting value: line 1 column 1 \(char 0\)",
    b'{"a": 1': "Expecting ',' delimiter",
    b'{"a": NaN}': "NaN is not a finite number",
    b'{"a": -Infinity}': "-Infinity is not a finite number",
    b'{"a": 1e999}': "1e999 is not a finite number",
    b'{"a": -1' + b"0" * 400 + b".0}": r"-10{38} is not a finite number",
    b'{"a": 1' + b"0" * 5000 + b"}": r"Exceeds the limit \(4300 digits\)",
    b'{"a": ' + b"[" * 200_000: "nested too deep",
    b'{"a":' * 200_000: "nested too deep",
    b"\xff\xfe": "'utf-(8|16)' codec can't decode|Expecting value",
    b'{"a\x1b[31m": "\x01"}': "Invalid control character",
}


@pytest.mark.parametrize("content", HOSTILE, ids=[str(key[:12]) for key in HOSTILE])
def test_a_hostile_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=HOSTILE[content]) as caught:
        read_json(path, ADVICE)
    (line,) = caught.value.faults
    assert line.startswith(f"{path}: cannot be read (")
    assert line.endswith(f"). {ADVICE}")
    assert line.isprintable()
    assert len(line) - len(str(path)) < 300


@pytest.mark.parametrize("content", ["[]", "1", "null", '"a"', "true"])
def test_what_is_no_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: must contain a JSON object\. Restore it\.$"):
        read_json(tmp_path / "a.json", ADVICE)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"cannot be read \(not a regular file\)"):
        read_json(tmp_path / "a.json", ADVICE)
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)"):
        read_json(tmp_path / "b.json", ADVICE)


def test_a_large_file_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "MAX_BYTES", 10)
    (tmp_path / "a.json").write_text('{"a": 123}')
    assert read_json(tmp_path / "a.json", ADVICE) == {"a": 123}
    (tmp_path / "a.json").write_text('{"a": 1234}')
    with pytest.raises(InputError, match=r"cannot be read \(more than 10 bytes\)"):
        read_json(tmp_path / "a.json", ADVICE)


def test_an_honest_one_is_read() -> None:
    assert parse_json('{"a": [1, -2.5e-3, null, "\\u00e4"]}') == {"a": [1, -0.0025, None, "ä"]}
    assert parse_json(b'{"a": 1e-999}') == {"a": 0.0}
