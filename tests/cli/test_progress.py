from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from famseg.cli._progress import Bar, Lines, counting

METRICS = {
    "train/loss": 0.25,
    "train/loss_std": 0.01,
    "train/penalty": 0.5,
    "train/penalty_std": 0.1,
    "val/dsc": 0.7,
    "val/dsc_std": 0.02,
    "val/n": 5.0,
    "train/epoch_seconds": 1.5,
}


def test_a_log_gets_one_line_an_epoch_with_mean_spread_and_count() -> None:
    text = io.StringIO()
    with Lines(Console(file=text, width=40), "dsc") as lines:
        lines.started(epochs=2, steps=4, step=0)
        for step in range(1, 5):
            lines.stepped(step, loss=0.25, penalty=None)
            if step % 2 == 0:
                lines.epoch(step // 2, METRICS)
    first, second = text.getvalue().splitlines()
    expected = "loss 0.2500 ± 0.0100  penalty 0.5 ± 0.1  val dsc 0.7000 ± 0.0200 (n = 5)  1.5 s"
    assert first.startswith(f"epoch 1/2  {expected}  left ")
    assert second.endswith("left 0 s")


def test_a_resumed_run_says_where_it_goes_on() -> None:
    text = io.StringIO()
    with Lines(Console(file=text), "dsc") as lines:
        lines.started(epochs=2, steps=4, step=3)
    assert text.getvalue() == "resumed at step 3 of 4\n"


def test_a_finished_run_says_that_nothing_is_left() -> None:
    text = io.StringIO()
    with Lines(Console(file=text), "dsc") as lines:
        lines.started(epochs=2, steps=4, step=4)
    assert text.getvalue() == "the training is complete; nothing is left to train\n"


def test_a_terminal_gets_a_bar_with_loss_penalty_and_validation() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    with Bar(console, "dsc") as bar:
        bar.started(epochs=2, steps=4, step=0)
        bar.epoch(1, METRICS)
        bar.stepped(3, loss=0.25, penalty=0.125)
    assert "3/4 steps  loss 0.2500  penalty 0.125  val dsc 0.7000" in text.getvalue()


@pytest.mark.parametrize("in_bytes", [False, True])
def test_a_terminal_gets_one_bar_for_counted_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_bytes: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with counting("scoring", in_bytes=in_bytes) as count:
        assert count.drawn
        count.update(1, 4)
        count.rename("scoring [red]head_3[/]")
        count.tell("head_1: [b]failed[/]")
        count.update(3, 4)
    shown = capsys.readouterr().err
    assert ("3/4 bytes" if in_bytes else "3/4") in shown
    assert "scoring [red]head_3[/]" in shown
    assert "head_1: [b]failed[/]" in shown


def test_a_log_gets_lines_for_counted_work(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with caplog.at_level("INFO", "famseg"), counting("scoring") as count:
        assert not count.drawn
        count.update(1, 4)
        now += 60
        count.update(2, 4)
        count.tell("head_1: failed")
        count.update(4, 4)
    assert caplog.messages == ["scoring: 2 of 4", "scoring: 4 of 4"]
    assert capsys.readouterr().err == "head_1: failed\n"
