"""Progress on standard error: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from famseg.engine import log_progress
from famseg.messages import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

    from famseg.engine import RGBImage

Metrics = Mapping[str, float]


class Lines:
    """One line per epoch: loss, penalty, validation, seconds, time left.

    Args:
        console: Where to print.
        metric: Name of the validation metric.
    """

    def __init__(self, console: Console, metric: str) -> None:
        self.console = console
        self.metric = metric
        self._epochs = 0
        self._left = 0
        self._began = time.monotonic()
        self._first_step = self._step = self._steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Remember the extent of the training."""
        self._epochs, self._steps = epochs, steps
        self._first_step = self._step = step
        self._began = time.monotonic()
        if step == steps:
            self._print("the training is complete; nothing is left to train")
        elif step:
            self._print(f"resumed at step {step} of {steps}")

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """Count."""
        self._step = step

    def epoch(self, epoch: int, metrics: Metrics) -> None:
        """Print the line."""
        line = describe_epoch(epoch, self._epochs, metrics, self.metric)
        self._print(f"{line}  left {duration(self._seconds_left())}")

    def image(self, epoch: int, image: RGBImage) -> None:
        """Images are files; nothing to print."""

    def _seconds_left(self) -> float:
        done = self._step - self._first_step
        if not done:
            return 0.0
        return (time.monotonic() - self._began) / done * (self._steps - self._step)

    def _print(self, text: str) -> None:
        self.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)


class Bar(Lines):
    """A progress bar with loss, penalty, validation and time left."""

    def __init__(self, console: Console, metric: str) -> None:
        from rich.progress import TextColumn

        super().__init__(console, metric)
        steps = TextColumn("{task.completed:.0f}/{task.total:.0f} steps  {task.fields[state]}")
        self._progress = _bar(console, steps)
        self._task: TaskID | None = None
        self._penalty = self._validation = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Draw the bar."""
        super().started(epochs=epochs, steps=steps, step=step)
        self._task = self._progress.add_task("training", total=steps, completed=step, state="")

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """Move the bar."""
        super().stepped(step, loss=loss, penalty=penalty)
        if penalty is not None:
            self._penalty = f"  penalty {penalty:.4g}"
        if self._task is not None:
            state = f"loss {loss:.4f}{self._penalty}{self._validation}"
            self._progress.update(self._task, completed=step, state=state)

    def epoch(self, epoch: int, metrics: Metrics) -> None:
        """Keep the validation metric on the bar."""
        value = metrics.get(f"val/{self.metric}")
        if value is not None:
            self._validation = f"  val {self.metric} {value:.4f}"


def progress(metric: str) -> Lines:
    """Return the display that suits standard error: a bar on a terminal, lines in a log."""
    from rich.console import Console

    console = Console(stderr=True)
    return Bar(console, metric) if console.is_terminal else Lines(console, metric)


class Count:
    """The progress of work that is counted; made by `counting`.

    Args:
        what: The work, such as ``preparing``.
        console: Where to print.
        bar: The bar; None where lines are printed instead.
    """

    def __init__(self, what: str, console: Console, bar: Progress | None) -> None:
        self._what = what
        self._console = console
        self._bar = bar
        self._task: TaskID | None = None
        self._log = log_progress(what)

    @property
    def drawn(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def tell(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self._console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    def update(self, done: int, of: int | None) -> None:
        """Move the bar; without a bar, log a line every few seconds.

        Args:
            done: How much is done.
            of: How much there is; None if nobody knows yet.
        """
        if self._bar is None:
            self._log(done, of or 0)
        elif self._task is None:
            self._task = self._bar.add_task(visible(self._what), total=of, completed=done)
        else:
            self._bar.update(self._task, total=of, completed=done)

    def rename(self, what: str) -> None:
        """Show the current activity next to the bar."""
        self._what = what
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=visible(what))


@contextmanager
def counting(what: str, *, in_bytes: bool = False) -> Iterator[Count]:
    """Show the progress of counted work until the block ends.

    Args:
        what: The work, such as ``preparing``.
        in_bytes: Whether bytes are counted: the bar shows sizes and the speed.
    """
    from rich.console import Console
    from rich.progress import DownloadColumn, MofNCompleteColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Count(what, console, None)
        return
    amount: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
    if in_bytes:
        amount = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    with _bar(console, *amount, transient=True) as bar:
        yield Count(what, console, bar)


def _bar(console: Console, *amount: ProgressColumn, transient: bool = False) -> Progress:
    """Return the bar of all commands: what is done, how much of it, and the time left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amount)
    return Progress(
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        refresh_per_second=2,  # the log of a container with a terminal keeps every frame
    )


def describe_epoch(epoch: int, epochs: int, metrics: Metrics, metric: str) -> str:
    """Return the line of an epoch, with means and standard deviations.

    Example:
        >>> describe_epoch(3, 40, {"train/loss": 0.25, "train/loss_std": 0.02}, "dsc")
        'epoch 3/40  loss 0.2500 ± 0.0200'
    """
    parts = [f"epoch {epoch}/{epochs}"]
    for label, key in (
        ("loss", "train/loss"),
        ("penalty", "train/penalty"),
        (f"val {metric}", f"val/{metric}"),
    ):
        if key in metrics:
            digits = ".4g" if label == "penalty" else ".4f"
            parts.append(f"{label} {metrics[key]:{digits}} ± {metrics[f'{key}_std']:{digits}}")
    if "val/n" in metrics:
        parts[-1] += f" (n = {metrics['val/n']:.0f})"
    if "train/epoch_seconds" in metrics:
        parts.append(f"{metrics['train/epoch_seconds']:.1f} s")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration as readable text.

    Example:
        >>> duration(42), duration(754), duration(7300)
        ('42 s', '12 min 34 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
