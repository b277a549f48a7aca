"""What the training loop calls: `Callback` and the events that it is told of.

Callbacks that write files are in cgan_jax/reporting/, the bar on the screen is in progress.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from cgan_jax.config import TrainConfig
from cgan_jax.training.gan import GAN, GANState


@dataclass(frozen=True)
class TrainStart:
    """The start of training.

    Attributes:
        gan: what is trained.
        config: its settings.
        state: the state to start from.
        step: the number of finished steps, 0 in a fresh run.
        last_step: the number of steps at which training ends.
        steps_per_epoch: steps in an epoch.
        data: one line about where the images are.
    """

    gan: GAN
    config: TrainConfig
    state: GANState
    step: int
    last_step: int
    steps_per_epoch: int
    data: str = ""


@dataclass(frozen=True)
class ChunkEnd:
    """The end of a chunk: of consecutive steps within one epoch, for which the host waited once.

    Attributes:
        epoch: counted from 0.
        batch: the first step's position in its epoch, from 0.
        step: number of finished steps.
        state: the state after them. The next step donates its buffers: copy what you want to keep.
        losses: float32 `[n, 2]`: d_loss and g_loss of each step.
        seconds: duration of the chunk.
        compiled: whether these are the first steps of their program, so that `seconds` includes
            its compilation. A run has a program for its batches and, where it is smaller, one for
            the last batch of each epoch.
    """

    epoch: int
    batch: int
    step: int
    state: GANState
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
        measures: what the callbacks' `measure` returned, by name; empty where nothing is measured.
    """

    epoch: int
    step: int
    state: GANState
    losses: np.ndarray
    measures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class TrainEnd:
    """The end of training, or a stop.

    Attributes:
        step: number of finished steps.
        state: the state after them.
    """

    step: int
    state: GANState


class Callback:
    """Hooks into training: override those that you need.

    `train` calls its callbacks in the order in which they were passed. Two hooks may return a
    state, with which the next callback and training go on: a learning rate in
    `state.gen.opt_state`, say, can be changed by them.
    """

    def on_train_start(self, start: TrainStart) -> None:
        """Training starts, or continues after a stop."""

    def on_compile(self) -> None:
        """The next steps' program is about to be compiled, which takes seconds."""

    def on_chunk_end(self, chunk: ChunkEnd) -> GANState | None:
        """Some steps of one epoch are done: on a CPU about twice a second."""

    def measure(self, epoch: EpochEnd) -> Mapping[str, float]:
        """Measures to take after this epoch; all callbacks then get those of all."""
        return {}

    def on_epoch_end(self, epoch: EpochEnd) -> GANState | None:
        """An epoch is done, and measured; its checkpoint, if one is due, is saved after this."""

    def on_train_end(self, end: TrainEnd) -> None:
        """Training has finished or was stopped."""

    def should_stop(self) -> bool:
        """Whether to save and end now; asked after each chunk."""
        return False


class StopWhen(Callback):
    """Ends training when a condition is true.

    Args:
        condition: called after each chunk.
    """

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.should_stop = condition  # type: ignore[method-assign]


class Store(Protocol):
    """Where `train` saves states, as in `cgan_jax.Checkpoints`."""

    def latest(self) -> int | None:
        """The newest saved step, or None."""

    def save(self, step: int, state: Any, source: Any = None) -> None:
        """Save a state, and perhaps that of its source of batches, under its step."""

    def restore(self, like: Any, *, at_most: int | None = None) -> Any:
        """The newest state up to a step, with the shapes and dtypes of `like`."""

    def source_state(self, step: int) -> Any:
        """What was saved as `source` with a step, or None."""
