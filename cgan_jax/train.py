"""The host loop: takes a run span by span, and tells callbacks and checkpoints of it.

What a span is stands in spans.py; what is written and drawn on the way is in callbacks.py.
"""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cgan_jax import checks
from cgan_jax.callbacks import Callback, EpochEnd, SpanEnd
from cgan_jax.checkpoint import Checkpoints
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.spans import Span, Spans, steps_per_epoch
from cgan_jax.state import GAN, GANState
from cgan_jax.steps import run_keys

SPAN_SECONDS = 0.5  # how long the host leaves the device alone: progress, stop signals


def train(
    gan: GAN,
    config: TrainConfig,
    dataset: Dataset,
    *,
    state: GANState | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 5,
    should_stop: Callable[[], bool] = lambda: False,
) -> GANState:
    """Train until `config.epochs` epochs are done.

    Args:
        gan: what to train; `GAN.from_config(config)`, or your own.
        config: epochs, batch size and seed are read from here.
        dataset: the training images.
        state: where to go on; by default a fresh state from the seed.
        callbacks: told of the start, of each span of steps, of each epoch and of the end.
        checkpoints: where to save, every `checkpoint_every` epochs and at the end.
        checkpoint_every: in epochs.
        should_stop: asked about twice a second; if true, save and return early.

    Returns:
        the state that was reached.

    Raises:
        ConfigError: the data do not fit the configuration.
        DivergenceError: a loss or a parameter became NaN or infinite; what was saved before stays.
        RunError: a callback or a checkpoint could not write; what was saved before stays.
    """
    checks.whole("checkpoint_every", checkpoint_every, 1, to_do="Leave it out for the default, 5.")
    config.check_data(len(dataset))
    _check_fit(gan, dataset)
    keys = run_keys(config.seed)
    per_epoch = steps_per_epoch(len(dataset), config.batch_size)
    step, last_step = int(state.step) if state else 0, config.epochs * per_epoch
    at_most = 1 if jax.default_backend() == "cpu" else per_epoch
    spans = Spans(gan, dataset, config.batch_size, keys)
    if step < last_step:
        spans.compile(step, at_most)
    if state is None:
        # It runs once: half the time to compile is worth more than a quick program.
        quick = {"xla_backend_optimization_level": 0}
        state = jax.jit(gan.init, compiler_options=quick)(keys.init)
    state = jax.device_put(state)
    saved = checkpoints.latest() if checkpoints else None
    epoch_losses: list[np.ndarray] = []

    for callback in callbacks:
        callback.on_train_start(step, last_step, per_epoch)
    while step < last_step and not should_stop():
        began = time.perf_counter()
        state, span, rows = spans.take(state, step, at_most)
        seconds = time.perf_counter() - began
        _check_finite(rows, state, step, span)
        step += span.n_steps
        epoch_losses.append(rows)
        for callback in callbacks:
            callback.on_span_end(SpanEnd(span.epoch, span.batch, rows, seconds))

        if step % per_epoch == 0:
            epoch_end = EpochEnd(step // per_epoch, step, state, np.concatenate(epoch_losses))
            epoch_losses = []
            for callback in callbacks:
                callback.on_epoch_end(epoch_end)
            if checkpoints and epoch_end.epoch % checkpoint_every == 0:
                checkpoints.save(step, state)
                saved = step
        if not span.last_batch and at_most < per_epoch:
            at_most = _span_length(span.n_steps / seconds, at_most)

    if checkpoints and saved != step:
        checkpoints.save(step, state)
    for callback in callbacks:
        callback.on_train_end(step, state)
    return state


def _check_finite(losses: np.ndarray, state: GANState, step: int, span: Span) -> None:
    """Raises DivergenceError where the losses after `step`, or the networks, are not finite."""
    what = ""
    if not np.isfinite(losses).all():
        bad = step + int(np.flatnonzero(~np.isfinite(losses).all(axis=1))[0])
        what = f"the losses became NaN or infinite in step {bad}"
    else:
        nets = [(net.params, net.batch_stats) for net in (state.gen, state.disc)]
        if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(nets)):
            last = step + span.n_steps - 1
            what = f"the parameters became NaN or infinite in steps {step} to {last}"
    if what:
        raise DivergenceError(
            f"{what} (epoch {span.epoch}).\n"
            "What was saved before stays. Try a lower learning rate, or another seed."
        )


def _span_length(steps_per_second: float, now: int) -> int:
    """As many steps as take SPAN_SECONDS; the first span, which compiles, tells little."""
    wanted = max(1, round(steps_per_second * SPAN_SECONDS))
    return min(wanted, 8 * now)


def _check_fit(gan: GAN, dataset: Dataset) -> None:
    generator = gan.generator
    makes = (generator.img_size, generator.img_size, generator.channels)
    if dataset.images.shape[1:] != makes:
        raise ConfigError(
            f"the images are {list(dataset.images.shape[1:])}, but the generator makes "
            f"{list(makes)}\nGive a ModelConfig with img_size and channels as theirs."
        )
    if len(dataset.class_names) != generator.n_classes:
        raise ConfigError(
            f"the data have {len(dataset.class_names)} classes, but the generator "
            f"{generator.n_classes}\nGive a ModelConfig with n_classes as theirs."
        )
