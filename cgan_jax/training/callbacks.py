"""What the training loop calls: `Callback`, what it is told, and `Store`, where states are saved.

Callbacks that write files are in cgan_jax/reporting/.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cgan_jax.training.gan import GANState


@dataclass(frozen=True)
class SpanEnd:
    """Some steps are done.

    Attributes:
        epoch: counted from 0.
        batch: the first step's place in its epoch, from 0.
        losses: float32 `[n, 2]`: d_loss and g_loss of each step.
        seconds: how long they took.
    """

    epoch: int
    batch: int
    losses: np.ndarray
    seconds: float


@dataclass(frozen=True)
class EpochEnd:
    """An epoch is done.

    Attributes:
        epoch: how many are done.
        step: how many steps are done.
        state: what training has reached. Its buffers are given away when the next step begins:
            take copies of what you want to keep.
        losses: float32 `[n, 2]`: d_loss and g_loss of the epoch's steps in this process.
    """

    epoch: int
    step: int
    state: GANState
    losses: np.ndarray


class Callback:
    """Something to do in the course of training: override what you need.

    `train` calls its callbacks in the order in which it was given them.
    """

    def on_train_start(self, step: int, last_step: int, steps_per_epoch: int) -> None:
        """Training goes on after `step` steps, 0 in a fresh run, until `last_step` are done."""

    def on_span_end(self, span: SpanEnd) -> None:
        """Some steps are done, all of one epoch: on a CPU about twice a second."""

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        """An epoch is done; a checkpoint of it, if one is due, is saved after this."""

    def on_train_end(self, step: int, state: GANState) -> None:
        """Training has finished or was stopped after `step` steps."""


class Store(Protocol):
    """Where the loop saves states."""

    def latest(self) -> int | None:
        """The newest saved step, or None."""

    def save(self, step: int, state: Any) -> None:
        """Save a state under its step."""


class RestorableStore(Store, Protocol):
    """A store that gives states back, as `cgan_jax.Checkpoints` does."""

    def restore(self, like: Any, *, at_most: int | None = None) -> Any:
        """The newest state up to a step, with the shapes and dtypes of `like`."""
