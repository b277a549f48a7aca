"""The host loop: takes a run's steps span by span, and calls callbacks and checkpoints.

Spans are in spans.py, the callbacks that write and draw in cgan_jax/reporting/callbacks.py.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cgan_jax.checks import check_int
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.device_errors import device_errors
from cgan_jax.errors import CGANError, ConfigError, DivergenceError
from cgan_jax.training.callbacks import Callback, EpochEnd, RestorableStore, SpanEnd, Store
from cgan_jax.training.gan import GAN, GANState, image_shape
from cgan_jax.training.hosts import broadcast_int, broadcast_state, is_leader
from cgan_jax.training.spans import Spans, Taken, fixed_trip_count
from cgan_jax.training.steps import run_keys
from cgan_jax.training.stop_signals import StopSignals

SPAN_SECONDS = 0.5  # between two updates of progress, and two checks for a stop


@device_errors()
def train(
    gan: GAN,
    config: TrainConfig,
    dataset: Dataset,
    *,
    state: GANState | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: RestorableStore | None = None,
    checkpoint_every: int = 5,
    should_stop: Callable[[], bool] = lambda: False,
    mesh: Mesh | None = None,
) -> GANState:
    """Train until `config.epochs` epochs are done.

    Args:
        gan: what to train; `GAN.from_config(config)`, or your own.
        config: epochs, batch size, seed, `balance` and `matmul_precision` are read from here.
        dataset: the training images.
        state: where to start; by default the newest state in `checkpoints`, or a fresh one from the
            seed.
        callbacks: called at the start, after each span of steps, after each epoch and at the end.
        checkpoints: where to save: every `checkpoint_every` epochs, at the end, and before an error
            that is not a CGANError leaves this function, such as KeyboardInterrupt.
        checkpoint_every: in epochs.
        should_stop: called about twice a second; if true, save and return early.
        mesh: devices to split each batch over, from `cgan_jax.data_mesh`; by default the first
            device takes all. If they belong to several processes (cgan_jax/training/hosts.py), all
            of these call this; callbacks, checkpoints and `should_stop` belong to the first alone.

    Returns:
        the last state.

    Raises:
        ConfigError: the data do not fit the configuration.
        DivergenceError: a loss or a parameter became NaN or infinite; earlier checkpoints stay.
        RunError: no checkpoint is intact; a callback or a checkpoint could not write; or the device
            has failed, or has too little memory; earlier checkpoints stay.
        KeyboardInterrupt: after Ctrl-C, with `checkpoints` once the current steps are saved.
    """
    check_int("checkpoint_every", checkpoint_every, 1, hint="Omit it for the default, 5.")
    config.check_data(len(dataset))
    check_fit(gan, dataset)
    if state is None:
        state = newest_state(gan, checkpoints)
    keys = run_keys(config.seed)
    spans = Spans(
        gan,
        dataset,
        config.batch_size,
        keys,
        mesh=mesh,
        balance=config.balance,
        matmul_precision=config.matmul_precision,
    )
    loop = Loop(spans, callbacks, checkpoints, checkpoint_every, _check_finite)
    step = int(state.step) if state else 0
    return loop.run(state, step, config.epochs * spans.per_epoch, should_stop)


def newest_state(gan: GAN, checkpoints: RestorableStore | None) -> GANState | None:
    """The newest saved state, or None; in all processes that of the first one."""
    like = jax.eval_shape(gan.init, jax.random.key(0))
    saved = checkpoints is not None and checkpoints.latest() is not None
    return broadcast_state(checkpoints.restore(like) if checkpoints and saved else None, like)


@dataclass
class Loop:
    """The loop of `train`, for one run or for several at once, whose state is a tuple of states.

    Attributes:
        spans: takes the steps.
        callbacks: see `train`.
        checkpoints: see `train`.
        checkpoint_every: in epochs.
        check: called with what each span led to, and the number of steps before it; raises an error
            if training must stop.
    """

    spans: Spans
    callbacks: Sequence[Callback]
    checkpoints: Store | None
    checkpoint_every: int
    check: Callable[[Taken, int], None]

    def run(self, state: Any, step: int, last_step: int, should_stop: Callable[[], bool]) -> Any:
        """Train from a state after `step` steps, None for a fresh one, and return the last state.

        With checkpoints, Ctrl-C stops like `should_stop` and then raises KeyboardInterrupt; a
        second one raises it at once. A program's own handler of Ctrl-C stays in place.
        """
        self._at_most = self.spans.per_epoch if fixed_trip_count() else 1
        if step < last_step:
            self.spans.compile(step, self._at_most)
        self._state = self.spans.device_put(state) if state else self.spans.fresh_state()
        self._step, self._saved = step, self.checkpoints.latest() if self.checkpoints else None
        self._epoch_losses, self._compiled = list[np.ndarray](), set[tuple[bool, int]]()
        ctrl_c = StopSignals(signal.SIGINT)
        with ctrl_c.listening() if self._catches_ctrl_c() else contextlib.nullcontext():
            self._call("on_train_start", step, last_step, self.spans.per_epoch)
            self._take_steps(last_step, lambda: should_stop() or ctrl_c())
            self._save()
            self._call("on_train_end", self._step, self._state)
        if ctrl_c.caught:
            raise KeyboardInterrupt
        return self._state

    def _catches_ctrl_c(self) -> bool:
        return (
            self.checkpoints is not None
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def _take_steps(self, last_step: int, should_stop: Callable[[], bool]) -> None:
        try:
            while self._step < last_step and (
                n_steps := broadcast_int(0 if should_stop() else self._at_most)
            ):
                self._take_span(n_steps)
                if self._step % self.spans.per_epoch == 0:
                    self._end_epoch()
        except CGANError:  # what could not be written is written again by the resumed run
            raise
        except BaseException:  # from a user's callback, or a second Ctrl-C
            donated = any(leaf.is_deleted() for leaf in jax.tree.leaves(self._state))
            if not donated:
                self._save()
            raise

    def _take_span(self, n_steps: int) -> None:
        began = time.perf_counter()
        taken = self.spans.run(self._state, self._step, n_steps)
        seconds = time.perf_counter() - began
        if is_leader():
            self.check(taken, self._step)
        span, losses = taken.span, taken.losses
        self._state, self._step = taken.state, self._step + span.n_steps
        self._epoch_losses.append(losses)
        program = span.last_batch, span.n_steps if fixed_trip_count() else 0
        compiled = program not in self._compiled
        self._compiled.add(program)
        if not span.last_batch and not fixed_trip_count():
            self._at_most = _span_length(span.n_steps / seconds, self._at_most)
        self._call("on_span_end", SpanEnd(span.epoch, span.batch, losses, seconds, compiled))

    def _end_epoch(self) -> None:
        epoch, losses = self._step // self.spans.per_epoch, np.concatenate(self._epoch_losses, -2)
        self._epoch_losses = []
        self._call("on_epoch_end", EpochEnd(epoch, self._step, self._state, losses))
        if epoch % self.checkpoint_every == 0:
            self._save()

    def _save(self) -> None:
        if self.checkpoints and self._saved != self._step:
            self._saved = self._step
            self.checkpoints.save(self._step, self._state)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)


def _check_finite(taken: Taken, step: int) -> None:
    """Raises DivergenceError if the losses after `step`, or the state, are not finite."""
    losses, span = taken.losses, taken.span
    if not np.isfinite(losses).all():
        first = step + int(np.flatnonzero(~np.isfinite(losses).all(axis=1))[0])
        problem = f"the losses became NaN or infinite in step {first}"
    elif not taken.finite:
        last = step + span.n_steps - 1
        problem = f"the parameters became NaN or infinite in steps {step} to {last}"
    else:
        return
    raise DivergenceError(
        f"{problem} (epoch {span.epoch + 1}).\n"
        "Earlier checkpoints stay. Try a lower learning rate, or another seed."
    )


def _span_length(steps_per_second: float, previous: int) -> int:
    """The number of steps in SPAN_SECONDS; grows slowly, for the first span also compiles."""
    return min(max(1, round(steps_per_second * SPAN_SECONDS)), 8 * previous)


def check_fit(gan: GAN, dataset: Dataset) -> None:
    """Raises ConfigError if the networks do not fit the data."""
    generator = gan.generator
    shape = image_shape(generator)
    if dataset.images.shape[1:] != shape:
        raise ConfigError(
            f"the images are {list(dataset.images.shape[1:])}, but the generator makes "
            f"{list(shape)}\nGive a ModelConfig with the images' img_size and channels."
        )
    if len(dataset.class_names) != generator.n_classes:
        raise ConfigError(
            f"the data have {len(dataset.class_names)} classes, but the generator has "
            f"{generator.n_classes}\nGive a ModelConfig with the data's n_classes."
        )
