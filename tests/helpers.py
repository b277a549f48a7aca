"""What several test files do: run a command as a process of its own, and stop a training."""

import subprocess
import sys
from pathlib import Path

from cgan_jax.callbacks import Callback

ROOT = Path(__file__).parents[1]


def command(module, *flags, **options):
    """`python -m experiments.<module>` until its end: its code, and what it printed."""
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


class StopAfter(Callback):
    """Asks for a stop once so many steps are done, as a signal would."""

    def __init__(self, steps):
        self.left = steps

    def on_span_end(self, span):
        self.left -= len(span.losses)

    def __call__(self):
        return self.left <= 0
