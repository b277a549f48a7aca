"""Several runs at once, in one program: they differ in seed, learning rate or beta1.

Each member is a run like any other, with callbacks and checkpoints of its own. The command line
and the run folders are in experiments/sweep.py.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cgan_jax.checks import check_int
from cgan_jax.config import OptimizerConfig, TrainConfig, differences
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.training.callbacks import Callback, EpochEnd, RestorableStore, SpanEnd
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.loop import check_fit, finite, take_steps
from cgan_jax.training.optimizers import adam
from cgan_jax.training.spans import JittedFns, Span, Spans, jit_steps, single_run, steps_per_epoch
from cgan_jax.training.steps import Batch, Losses, RunKeys, run_keys, train_steps

VARIED = ("seed", "optimizer.lr", "optimizer.b1")
States = tuple[GANState, ...]  # of all members, in order
_log = logging.getLogger("cgan_jax")


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
    checkpoints: RestorableStore | None = None


def train_members(
    members: Sequence[Member],
    dataset: Dataset,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint_every: int = 5,
    should_stop: Callable[[], bool] = lambda: False,
    diverged: Mapping[str, int] = MappingProxyType({}),
    on_divergence: Callable[[str, int], None] = lambda name, step: None,
    vmap: bool | None = None,
) -> States:
    """Train all members until `epochs` epochs are done, each as `train` would.

    They go on from the newest step that all of them have saved. A member's numbers are those of its
    own single run but for rounding: products of several networks may add up in another order.

    Args:
        members: their configurations may differ in `seed`, `optimizer.lr` and `optimizer.b1`.
        dataset: the training images.
        callbacks: told of the mean of the members' losses; they are given all states, a tuple.
        checkpoint_every: in epochs.
        should_stop: asked about twice a second; if true, save and return early.
        diverged: members that did so earlier, and in which step; nothing is done for them.
        on_divergence: told the name and the step when a member's losses or parameters become NaN or
            infinite. It stops there, with what was saved before; the others go on.
        vmap: whether the program takes a step of all members at once, or of one after another, by
            default on a CPU, where larger products are no faster.

    Returns:
        the members' states, in order.

    Raises:
        ConfigError: members differ in more, or the data do not fit.
        DivergenceError: all have diverged.
        RunError: a callback or a checkpoint could not write; what was saved before stays.
    """
    check_int("checkpoint_every", checkpoint_every, 1, hint="Omit it for the default, 5.")
    configs = [member.config for member in members]
    spans = member_spans(configs, dataset, vmap=vmap)
    together = _Together(members, callbacks, diverged, on_divergence)
    states = together.restore(spans)
    reached: States = take_steps(
        spans,
        states,
        int(states[0].step) if states else 0,
        configs[0].epochs,
        steps_per_epoch(len(dataset), configs[0].batch_size),
        callbacks=[together],
        checkpoints=together if members[0].checkpoints else None,
        checkpoint_every=checkpoint_every,
        should_stop=should_stop,
        check=together.check,
    )
    return reached


def member_spans(
    configs: Sequence[TrainConfig], dataset: Dataset, *, vmap: bool | None = None
) -> Spans:
    """The steps of several runs: their states are a tuple, their losses stacked along a first axis.

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
    keys: Any = zip(*(run_keys(config.seed) for config in configs), strict=True)
    return Spans(
        gan,
        dataset,
        first.batch_size,
        RunKeys(*keys),
        _programs(gan, jax.default_backend() != "cpu" if vmap is None else vmap),
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

    def restore(self, spans: Spans) -> States | None:
        """The newest states that all members have saved; None where one has saved none."""
        stores = {i: m.checkpoints for i, m in self._live.items() if m.checkpoints}
        if not stores or any(store.latest() is None for store in stores.values()):
            return None
        fresh: States = spans.fresh_state()
        like, newest = jax.eval_shape(lambda: fresh[0]), None
        while True:
            # Killed between two members' saves, or a checkpoint is damaged: all go back as far.
            saved = {i: store.restore(like, at_most=newest) for i, store in stores.items()}
            steps = {int(state.step) for state in saved.values()}
            if len(steps) == 1:
                break
            newest = min(steps)
        # In the place of a member that has diverged a fresh one goes on, unheard: so the program,
        # and with it the others' last digits, stays what it was.
        step = jnp.int32(steps.pop())
        return tuple(saved.get(i, replace(one, step=step)) for i, one in enumerate(fresh))

    def check(self, losses: np.ndarray, states: States, step: int, span: Span) -> None:
        """Takes leave of members that are no longer finite; raises when none is left."""
        good = np.isfinite(losses).all(axis=-1)
        for i, member in list(self._live.items()):
            if good[i].all() and finite((states[i].gen.params, states[i].disc.params)):
                continue
            bad = step + (int(good[i].argmin()) if not good[i].all() else span.n_steps - 1)
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
                callback.on_train_end(step, states[i])
        if not self._live:
            raise DivergenceError(
                f"all members have diverged, the last in epoch {span.epoch}.\n"
                "What was saved before stays. Try lower learning rates."
            )

    def latest(self) -> int | None:
        """The newest step that all members have saved, if they have."""
        steps = [m.checkpoints.latest() for m in self._live.values() if m.checkpoints]
        return min((step for step in steps if step), default=None) if all(steps) else None

    def save(self, step: int, states: States) -> None:
        """Save each member to its own checkpoints, unless it was ahead of the others."""
        for i, member in self._live.items():
            if member.checkpoints and (member.checkpoints.latest() or 0) < step:
                member.checkpoints.save(step, states[i])

    def on_train_start(self, step: int, last_step: int, steps_per_epoch: int) -> None:
        own = [callback for member in self._live.values() for callback in member.callbacks]
        for callback in (*own, *self._callbacks):
            callback.on_train_start(step, last_step, steps_per_epoch)

    def on_span_end(self, span: SpanEnd) -> None:
        for i, member in self._live.items():
            for callback in member.callbacks:
                callback.on_span_end(replace(span, losses=span.losses[i]))
        for callback in self._callbacks:
            callback.on_span_end(replace(span, losses=self._mean(span.losses)))

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        states: Any = epoch.state
        for i, member in self._live.items():
            own = replace(epoch, state=states[i], losses=epoch.losses[i])
            for callback in member.callbacks:
                callback.on_epoch_end(own)
        for callback in self._callbacks:
            callback.on_epoch_end(replace(epoch, losses=self._mean(epoch.losses)))

    def on_train_end(self, step: int, states: Any) -> None:
        for i, member in self._live.items():
            for callback in member.callbacks:
                callback.on_train_end(step, states[i])
        for callback in self._callbacks:
            callback.on_train_end(step, states)

    def _mean(self, losses: np.ndarray) -> np.ndarray:
        mean: np.ndarray = losses[list(self._live)].mean(axis=0)
        return mean


def _settings(optimizers: Sequence[OptimizerConfig]) -> tuple[dict[str, jax.Array], ...]:
    """Each member's own settings of Adam, float32: those in which members differ."""
    given = [asdict(optimizer) for optimizer in optimizers]
    varied = [name for name in given[0] if len({each[name] for each in given}) > 1]
    return tuple({name: jnp.float32(each[name]) for name in varied} for each in given)


@lru_cache
def _programs(gan: GAN, vmap: bool) -> JittedFns:
    """A single run's, but for the steps."""
    steps = jit_steps(
        _all_members_steps if vmap else _member_steps,
        jax.default_backend() != "cpu",
        static=["optimizer"],
    )
    return single_run(gan)._replace(steps=steps if vmap else _InTurn(steps))


def _member_steps(
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
    """`train_steps` with some settings of Adam in place of `optimizer`'s."""
    if settings:
        adam_ = adam(**asdict(optimizer) | settings)
        gan = replace(gan, gen_optimizer=adam_, disc_optimizer=adam_)
    return train_steps(
        gan, state, shuffled, key, n_steps, batch_size=batch_size, last_batch=last_batch
    )


def _all_members_steps(
    gan: GAN,
    state: States,
    shuffled: tuple[Batch, ...],
    key: tuple[jax.Array, ...],
    n_steps: int | jax.Array,
    settings: tuple[dict[str, jax.Array], ...],
    **fixed: Any,
) -> tuple[States, Losses]:
    """`_member_steps` mapped over the members."""

    def one(nets: Any, shuffled: Batch, key: jax.Array, settings: Any) -> Any:
        # All are at the same step. It stays one number, for where batches begin depends on it.
        before = GANState(state[0].step, *nets)
        after, losses = _member_steps(gan, before, shuffled, key, n_steps, settings, **fixed)
        return after.step, (after.gen, after.disc), losses

    nets = tuple((member.gen, member.disc) for member in state)
    stacked = (
        jax.tree.map(lambda *each: jnp.stack(each), *part)
        for part in (nets, shuffled, key, settings)
    )
    step, nets, losses = jax.vmap(one, out_axes=(None, 0, 0))(*stacked)
    members = (jax.tree.map(lambda leaf, i=i: leaf[i], nets) for i in range(len(state)))
    return tuple(GANState(step, *member) for member in members), losses


class _InTurn:
    """`_member_steps` for one member after another, with the same program."""

    def __init__(self, program: jax.stages.Wrapped) -> None:
        self._program = program

    def __call__(self, **arguments: Any) -> tuple[States, Losses]:
        found = [self._program(**own) for own in self._each(**arguments)]
        losses: Any = zip(*(losses for _, losses in found), strict=True)
        return tuple(state for state, _ in found), Losses(*map(jnp.stack, losses))

    def lower(self, **arguments: Any) -> jax.stages.Lowered:
        return self._program.lower(**next(self._each(**arguments)))

    @staticmethod
    def _each(
        *, state: Any, shuffled: Any, key: Any, settings: Any, **common: Any
    ) -> Iterator[dict[str, Any]]:
        for own in zip(state, shuffled, key, settings, strict=True):
            yield dict(zip(("state", "shuffled", "key", "settings"), own, strict=True)) | common
