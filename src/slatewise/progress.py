"""Progress of long work, on standard error: a bar in a terminal, now and then a line elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between lines where there is no terminal


class Bar:
    """A progress bar, used as a context manager.  total: amount of work.  show: False prints nothing."""

    def __init__(self, label: str, total: int, show: bool = True) -> None:
        self.label, self.total, self.show = label, total, show
        self._printed = time.monotonic()
        console = Console(stderr=True)
        self._live = show and console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Say how much is done, and a few words."""
        done = min(done, self.total)
        if self._live:
            self._bar.update(self._task, completed=done, note=note)
        elif self.show and time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            print(f"{self.label}: {100 * done // max(1, self.total)} %  {note}", file=sys.stderr, flush=True)
