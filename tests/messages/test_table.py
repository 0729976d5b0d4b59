"""Tables in plain text."""

from famseg.messages import text_table


def test_cells_show_every_sign_and_stay_aligned():
    shown = text_table(["run", "DSC"], [["[bold]a\x1b[31m\nb", "0.9"], ["骨", "0.85"]], numbers=[1])
    assert shown.splitlines() == [
        "run                  DSC",
        r"[bold]a\x1b[31m\nb   0.9",
        "骨                  0.85",  # two columns wide in a terminal
    ]


def test_a_table_in_a_notebook_is_returned_not_displayed(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert text_table(["a"], [["1"]]) == "a\n1"
