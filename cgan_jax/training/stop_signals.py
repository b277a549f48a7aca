"""Signals as a request to stop: what training asks about between two spans of steps.

Imports no JAX, since commands use it before JAX is there.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopSignals:
    """Ctrl-C and SIGTERM as a request to stop; a second Ctrl-C stops at once.

    Args:
        signals: the signals to catch.

    Attributes:
        caught: the signal that came, or None.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._signals = signals or (signal.SIGINT, signal.SIGTERM)
        self.caught: signal.Signals | None = None

    def __call__(self) -> bool:
        return self.caught is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopSignals"]:
        """Catch the signals while the `with` statement lasts. Only for the main thread."""
        before = {s: signal.signal(s, self._catch) for s in self._signals}
        try:
            yield self
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number)
