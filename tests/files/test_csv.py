"""One writer for every CSV table."""

import csv
import io

from famseg.files import csv_text


def test_a_table_reads_back_with_every_digit_and_sign():
    rows = [{"name": 'a,"b"\nc', "dsc": 1 / 3, "left out": 1}, {"name": "=1+1"}, ["é", None]]
    text = csv_text(["name", "dsc"], rows)
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "dsc"],
        ['a,"b"\nc', repr(1 / 3)],
        ["=1+1", ""],
        ["é", ""],
    ]
    assert "\r" not in text  # the same bytes on every system


def test_a_table_for_people_holds_no_formula():
    rows = [{"name": "=1+1", "difference": -0.5}, {"name": "head", "difference": None}]
    text = csv_text(["name", "difference"], rows, for_people=True)
    assert text == "name,difference\n'=1+1,-0.5\nhead,\n"
