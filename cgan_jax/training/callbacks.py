"""What the training loop calls: `Callback`, its arguments, and `Store`, where states are saved.

Callbacks that write files are in cgan_jax/reporting/.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cgan_jax.training.gan import GANState


@dataclass(frozen=True)
class SpanEnd:
    """The end of a span: of consecutive steps within one epoch, for which the host waited once.

    Attributes:
        epoch: counted from 0.
        batch: the first step's position in its epoch, from 0.
        losses: float32 `[n, 2]`: d_loss and g_loss of each step.
        seconds: duration of the span.
        compiled: whether these are the first steps of their program, so that `seconds` may include
            its compilation. A run has a program for its batches and, where it is smaller, one for
            the last batch of each epoch.
    """

    epoch: int
    batch: int
    losses: np.ndarray
    seconds: float
    compiled: bool = False


@dataclass(frozen=True)
class EpochEnd:
    """The end of an epoch.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps.
        state: the state after them. The next step donates its buffers: copy what you want to keep.
        losses: float32 `[n, 2]`: d_loss and g_loss of the epoch's steps in this process.
    """

    epoch: int
    step: int
    state: GANState
    losses: np.ndarray


class Callback:
    """Hooks into training: override those that you need.

    `train` calls its callbacks in the order in which they were passed.
    """

    def on_train_start(self, step: int, last_step: int, steps_per_epoch: int) -> None:
        """Training starts after `step` steps, 0 in a fresh run, and ends after `last_step`."""

    def on_span_end(self, span: SpanEnd) -> None:
        """Some steps of one epoch are done: on a CPU about twice a second."""

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        """An epoch is done; its checkpoint, if one is due, is saved after this."""

    def on_train_end(self, step: int, state: GANState) -> None:
        """Training has finished or was stopped after `step` steps."""


class Store(Protocol):
    """Where the loop saves states."""

    def latest(self) -> int | None:
        """The newest saved step, or None."""

    def save(self, step: int, state: Any) -> None:
        """Save a state under its step."""


class RestorableStore(Store, Protocol):
    """A store that also restores states, as `cgan_jax.Checkpoints` does."""

    def restore(self, like: Any, *, at_most: int | None = None) -> Any:
        """The newest state up to a step, with the shapes and dtypes of `like`."""
