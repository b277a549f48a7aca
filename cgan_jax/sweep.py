"""Several runs at once, in one program: they differ in seed, learning rate or beta1.

Each member is a run like any other, with callbacks and checkpoints of its own. The command line
and the run folders are in experiments/sweep.py.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cgan_jax import checks
from cgan_jax.adam import adam
from cgan_jax.callbacks import Callback, EpochEnd, SpanEnd
from cgan_jax.checkpoint import Checkpoints
from cgan_jax.config import OptimizerConfig, TrainConfig, differences
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.loop import all_finite, check_fit, take_steps
from cgan_jax.spans import QUICK, Programs, Span, Spans, jit_steps, steps_per_epoch
from cgan_jax.state import GAN, GANState, NetState
from cgan_jax.steps import Batch, Losses, run_keys, shuffle, train_steps

VARIED = ("seed", "optimizer.lr", "optimizer.b1")
_log = logging.getLogger("cgan_jax")

# The members' arrays are stacked along a first axis; they have the step in common.
_AXES: Any = GANState(None, 0, 0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Member:
    """One of several runs.

    Attributes:
        name: what it is called in messages.
        config: its configuration.
        callbacks: told of this member, as `train` tells its.
        checkpoints: where this member is saved.
    """

    name: str
    config: TrainConfig
    callbacks: Sequence[Callback] = ()
    checkpoints: Checkpoints | None = None


def train_members(
    members: Sequence[Member],
    dataset: Dataset,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint_every: int = 5,
    should_stop: Callable[[], bool] = lambda: False,
    diverged: Mapping[str, int] = MappingProxyType({}),
    on_divergence: Callable[[str, int], None] = lambda name, step: None,
) -> GANState:
    """Train all members until `epochs` epochs are done, each as `train` would.

    They go on from the newest step that all of them have saved. A member's numbers are those of its
    own single run but for rounding: products of several networks may add up in another order.

    Args:
        members: their configurations may differ in `seed`, `optimizer.lr` and `optimizer.b1`.
        dataset: the training images.
        callbacks: told of the mean of the members' losses; their `EpochEnd.state` is stacked.
        checkpoint_every: in epochs.
        should_stop: asked about twice a second; if true, save and return early.
        diverged: members that did so earlier, and in which step; nothing is done for them.
        on_divergence: told the name and the step when a member's losses or parameters become NaN or
            infinite. It stops there, with what was saved before; the others go on.

    Returns:
        the state that was reached: the members' arrays are stacked along the first axis, in order.

    Raises:
        ConfigError: members differ in more, or the data do not fit.
        DivergenceError: all have diverged.
        RunError: a callback or a checkpoint could not write; what was saved before stays.
    """
    checks.whole("checkpoint_every", checkpoint_every, 1, to_do="Leave it out for the default, 5.")
    configs = [member.config for member in members]
    spans = member_spans(configs, dataset)
    together = _Together(members, callbacks, diverged, on_divergence)
    return take_steps(
        spans,
        together.restore(spans),
        configs[0].epochs,
        steps_per_epoch(len(dataset), configs[0].batch_size),
        callbacks=[together],
        checkpoints=together if members[0].checkpoints else None,
        checkpoint_every=checkpoint_every,
        should_stop=should_stop,
        check=together.check,
    )


def member_spans(configs: Sequence[TrainConfig], dataset: Dataset) -> Spans:
    """The steps of several runs at once; states and losses are stacked along a first axis.

    Raises:
        ConfigError: the configurations differ in more than a program can hold, or the data do not
            fit.
    """
    first = configs[0]
    for config in configs:
        others = [d for d in differences(first, config) if not d.startswith(VARIED)]
        if others:
            raise ConfigError(
                f"members of one program differ in {'; '.join(others)}\n"
                f"expected differences in {', '.join(VARIED)} alone\nTrain them one after another."
            )
    first.check_data(len(dataset))
    gan = GAN.from_config(first)
    check_fit(gan, dataset)
    return Spans(
        gan,
        dataset,
        first.batch_size,
        jax.vmap(run_keys)(jnp.array([config.seed for config in configs], np.uint32)),
        _programs(gan),
        settings=_settings([config.optimizer for config in configs]),
        optimizer=first.optimizer,
    )


class _Together(Callback):
    """Hands each member its share of what `take_steps` tells and saves."""

    def __init__(
        self,
        members: Sequence[Member],
        callbacks: Sequence[Callback],
        diverged: Mapping[str, int],
        on_divergence: Callable[[str, int], None],
    ) -> None:
        self._live = {i: m for i, m in enumerate(members) if m.name not in diverged}
        self._callbacks, self._on_divergence = callbacks, on_divergence

    def restore(self, spans: Spans) -> GANState | None:
        """The newest state that all members have saved; None where one has saved none."""
        stores = {i: m.checkpoints for i, m in self._live.items() if m.checkpoints}
        if not stores or any(store.latest() is None for store in stores.values()):
            return None
        fresh = spans.fresh_state()
        like, newest = jax.eval_shape(_member, fresh, 0), None
        while True:
            # Killed between two members' saves, or a checkpoint is damaged: all go back as far.
            states = {i: store.restore(like, at_most=newest) for i, store in stores.items()}
            steps = {int(state.step) for state in states.values()}
            if len(steps) == 1:
                break
            newest = min(steps)
        # In the place of a member that has diverged a fresh one goes on, unheard: so the program,
        # and with it the others' last digits, stays what it was.
        gen, disc = jax.tree.map(np.array, (fresh.gen, fresh.disc))
        for i, state in states.items():
            jax.tree.map(lambda rows, row, i=i: rows.__setitem__(i, row), gen, state.gen)
            jax.tree.map(lambda rows, row, i=i: rows.__setitem__(i, row), disc, state.disc)
        return GANState(jnp.int32(steps.pop()), gen, disc)

    def check(self, losses: np.ndarray, state: GANState, step: int, span: Span) -> None:
        """Takes leave of members that are no longer finite; raises when none is left."""
        finite = np.isfinite(losses).all(axis=-1)
        networks = np.asarray(_finite((state.gen.params, state.disc.params)))
        for i, member in list(self._live.items()):
            if finite[i].all() and networks[i]:
                continue
            bad = step + (int(finite[i].argmin()) if not finite[i].all() else span.n_steps - 1)
            del self._live[i]
            _log.warning(
                "%s: the losses or parameters became NaN or infinite in step %d (epoch %d). What "
                "was saved before stays; the others go on.",
                member.name,
                bad,
                span.epoch,
            )
            self._on_divergence(member.name, bad)
            for callback in member.callbacks:
                callback.on_train_end(step, state)
        if not self._live:
            raise DivergenceError(
                f"all members have diverged, the last in epoch {span.epoch}.\n"
                "What was saved before stays. Try lower learning rates."
            )

    def latest(self) -> int | None:
        """The newest step that all members have saved, if they have."""
        steps = [m.checkpoints.latest() for m in self._live.values() if m.checkpoints]
        return min((step for step in steps if step), default=None) if all(steps) else None

    def save(self, step: int, state: GANState) -> None:
        """Save each member to its own checkpoints, unless it was ahead of the others."""
        for i, member in self._live.items():
            if member.checkpoints and (member.checkpoints.latest() or 0) < step:
                member.checkpoints.save(step, _member(state, i))

    def on_train_start(self, step: int, last_step: int, steps_per_epoch: int) -> None:
        for callback in self._everyone():
            callback.on_train_start(step, last_step, steps_per_epoch)

    def on_span_end(self, span: SpanEnd) -> None:
        for i, member in self._live.items():
            for callback in member.callbacks:
                callback.on_span_end(replace(span, losses=span.losses[i]))
        for callback in self._callbacks:
            callback.on_span_end(replace(span, losses=self._mean(span.losses)))

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        for i, member in self._live.items():
            own = replace(epoch, state=_member(epoch.state, i), losses=epoch.losses[i])
            for callback in member.callbacks:
                callback.on_epoch_end(own)
        for callback in self._callbacks:
            callback.on_epoch_end(replace(epoch, losses=self._mean(epoch.losses)))

    def on_train_end(self, step: int, state: GANState) -> None:
        for callback in self._everyone():
            callback.on_train_end(step, state)

    def _everyone(self) -> list[Callback]:
        own = [callback for member in self._live.values() for callback in member.callbacks]
        return [*own, *self._callbacks]

    def _mean(self, losses: np.ndarray) -> np.ndarray:
        mean: np.ndarray = losses[list(self._live)].mean(axis=0)
        return mean


def _settings(optimizers: Sequence[OptimizerConfig]) -> dict[str, jax.Array]:
    """Adam's settings in which the members differ, float32 `[members]`."""
    given = [asdict(optimizer) for optimizer in optimizers]
    varied = [name for name in given[0] if len({each[name] for each in given}) > 1]
    return {name: jnp.array([each[name] for each in given]) for name in varied}


@lru_cache
def _programs(gan: GAN) -> Programs:
    """A single run's, mapped over members."""
    return Programs(
        init=jax.jit(jax.vmap(gan.init, out_axes=_AXES), compiler_options=QUICK),
        shuffle=jax.jit(jax.vmap(shuffle, in_axes=(None, 0, None))),
        steps=jit_steps(_train_steps, jax.default_backend() != "cpu", static=["optimizer"]),
    )


def _train_steps(
    gan: GAN,
    state: GANState,
    shuffled: Batch,
    key: jax.Array,
    n_steps: int | jax.Array,
    settings: dict[str, jax.Array],
    *,
    optimizer: OptimizerConfig,
    batch_size: int,
    last_batch: bool,
) -> tuple[GANState, Losses]:
    """`train_steps` of each member, with its own settings of Adam in place of `optimizer`'s."""

    def one(
        settings: dict[str, jax.Array],
        gen: NetState,
        disc: NetState,
        shuffled: Batch,
        key: jax.Array,
    ) -> tuple[GANState, Losses]:
        own = gan
        if settings:
            transform = adam(**asdict(optimizer) | settings)
            own = replace(gan, gen_optimizer=transform, disc_optimizer=transform)
        before = GANState(state.step, gen, disc)
        return train_steps(
            own, before, shuffled, key, n_steps, batch_size=batch_size, last_batch=last_batch
        )

    members = (settings, state.gen, state.disc, shuffled, key)
    if jax.default_backend() == "cpu":
        # One after another within the program: a CPU has no use for larger products.
        trained, losses = lax.map(lambda member: one(*member), members)
        trained = GANState(trained.step[0], trained.gen, trained.disc)
    else:
        trained, losses = jax.vmap(one, out_axes=(_AXES, 0))(*members)
    return trained, losses


@jax.jit
def _member(state: GANState, i: int | jax.Array) -> GANState:
    gen, disc = jax.tree.map(lambda leaf: leaf[i], (state.gen, state.disc))
    return GANState(state.step, gen, disc)


_finite = jax.jit(jax.vmap(all_finite))
