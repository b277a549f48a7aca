"""Several runs at once, in one program: they differ in seed, learning rate or beta1.

Each member is a run like any other, with its own callbacks and checkpoints. The command is
experiments/sweep.py.
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
from cgan_jax.device_errors import device_errors
from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.training.callbacks import Callback, EpochEnd, RestorableStore, SpanEnd
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.loop import Loop, check_fit
from cgan_jax.training.optimizers import adam_from_config
from cgan_jax.training.spans import (
    JittedFns,
    Spans,
    Taken,
    fixed_trip_count,
    jit_steps,
    single_run,
)
from cgan_jax.training.steps import Batch, Losses, RunKeys, run_keys, train_steps

VARIED = ("seed", "optimizer.lr", "optimizer.b1")
MemberStates = tuple[GANState, ...]  # in the order of the members
Settings = dict[str, jax.Array]  # of an optimizer: those in which members differ
_log = logging.getLogger("cgan_jax")


@dataclass(frozen=True)
class Member:
    """One of several runs.

    Attributes:
        name: its name in messages.
        config: its configuration.
        callbacks: called for this member, as by `train`.
        checkpoints: where this member is saved.
    """

    name: str
    config: TrainConfig
    callbacks: Sequence[Callback] = ()
    checkpoints: RestorableStore | None = None


@device_errors()
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
) -> MemberStates:
    """Train all members until `epochs` epochs are done, each as `train` would.

    They start from the newest step that all of them have saved. A member's numbers are those of its
    own single run up to rounding: products of several networks may be summed in another order.

    Args:
        members: their configurations may differ in `seed`, `optimizer.lr` and `optimizer.b1`.
        dataset: the training images.
        callbacks: called with the mean of the members' losses, and with the tuple of all states.
        checkpoint_every: in epochs.
        should_stop: called about twice a second; if true, save and return early.
        diverged: members that diverged earlier, and in which step; their results are ignored.
        on_divergence: called with the name and the step when a member's losses or parameters become
            NaN or infinite. That member stops there and keeps its earlier checkpoints; the others
            continue.
        vmap: whether the program takes a step of all members at once, instead of one member after
            another. By default not on a CPU, where larger products are no faster.

    Returns:
        the members' states, in order.

    Raises:
        ConfigError: members differ in more, or the data do not fit.
        DivergenceError: all members have diverged.
        RunError: as from `train`.
        KeyboardInterrupt: as from `train`.
    """
    check_int("checkpoint_every", checkpoint_every, 1, hint="Omit it for the default, 5.")
    spans = member_spans([member.config for member in members], dataset, vmap=vmap)
    dispatcher = _MemberDispatcher(members, callbacks, diverged, on_divergence)
    states = dispatcher.restore(spans)
    checkpoints = dispatcher if members[0].checkpoints else None
    loop = Loop(spans, [dispatcher], checkpoints, checkpoint_every, dispatcher.check)
    step = int(states[0].step) if states else 0
    last_step = members[0].config.epochs * spans.per_epoch
    return loop.run(states, step, last_step, should_stop)


def member_spans(
    configs: Sequence[TrainConfig], dataset: Dataset, *, vmap: bool | None = None
) -> Spans:
    """The spans of several runs: their states are a tuple, their losses stacked along a first axis.

    Raises:
        ConfigError: the configurations differ in more than one program allows, or the data do not
            fit.
    """
    first = configs[0]
    for config in configs:
        others = [d for d in differences(first, config) if d.partition(":")[0] not in VARIED]
        if others:
            raise ConfigError(
                f"members of one program differ in {'; '.join(others)}\n"
                f"expected differences only in {', '.join(VARIED)}\nTrain them one after another."
            )
    first.check_data(len(dataset))
    gan = GAN.from_config(first)
    check_fit(gan, dataset)
    keys: Any = zip(*(run_keys(config.seed) for config in configs), strict=True)
    optimizers = [(c.optimizer, c.disc_optimizer or c.optimizer) for c in configs]
    gen_optimizers, disc_optimizers = zip(*optimizers, strict=True)
    settings = zip(_varied(gen_optimizers), _varied(disc_optimizers), strict=True)
    return Spans(
        gan,
        dataset,
        first.batch_size,
        RunKeys(*keys),
        _jitted(gan, fixed_trip_count() if vmap is None else vmap),
        balance=first.balance,
        matmul_precision=first.matmul_precision,
        settings=tuple(settings),
        optimizers=optimizers[0],
        schedule_steps=first.schedule_steps,
    )


class _MemberDispatcher(Callback):
    """Passes each member its part of what `Loop` reports and saves."""

    def __init__(
        self,
        members: Sequence[Member],
        callbacks: Sequence[Callback],
        diverged: Mapping[str, int],
        on_divergence: Callable[[str, int], None],
    ) -> None:
        self._live = {i: m for i, m in enumerate(members) if m.name not in diverged}
        self._callbacks, self._on_divergence = callbacks, on_divergence

    def restore(self, spans: Spans) -> MemberStates | None:
        """The newest states that all members have saved; None if one has saved none."""
        stores = {i: m.checkpoints for i, m in self._live.items() if m.checkpoints}
        if not stores or any(store.latest() is None for store in stores.values()):
            return None
        fresh: MemberStates = spans.fresh_state()
        like, newest = jax.eval_shape(lambda: fresh[0]), None
        while True:
            # If a process died between two members' saves, or a checkpoint is damaged, all members
            # return to the same earlier step.
            saved = {i: store.restore(like, at_most=newest) for i, store in stores.items()}
            steps = {int(state.step) for state in saved.values()}
            if len(steps) == 1:
                break
            newest = min(steps)
        # A fresh run fills the slot of a diverged member, and its output is ignored: so the program
        # stays the same, and with it the others' last digits.
        step = jnp.int32(steps.pop())
        return tuple(saved.get(i, replace(state, step=step)) for i, state in enumerate(fresh))

    def check(self, taken: Taken, step: int) -> None:
        """Drops diverged members; raises DivergenceError if none is left."""
        states, span = taken.state, taken.span
        finite = np.isfinite(taken.losses).all(axis=-1)
        for i, member in list(self._live.items()):
            if finite[i].all() and taken.finite[i]:
                continue
            bad_step = step + (span.n_steps - 1 if finite[i].all() else int(finite[i].argmin()))
            del self._live[i]
            _log.warning(
                "%s: the losses or parameters became NaN or infinite in step %d (epoch %d). Its "
                "earlier checkpoints stay; the other members continue.",
                member.name,
                bad_step,
                span.epoch + 1,
            )
            self._on_divergence(member.name, bad_step)
            for callback in member.callbacks:
                callback.on_train_end(step, states[i])
        if not self._live:
            raise DivergenceError(
                f"all members have diverged, the last in epoch {span.epoch + 1}.\n"
                "Earlier checkpoints stay. Try lower learning rates."
            )

    def latest(self) -> int | None:
        """The newest step that all members have saved, or None."""
        steps = [m.checkpoints.latest() for m in self._live.values() if m.checkpoints]
        return min((step for step in steps if step), default=None) if all(steps) else None

    def save(self, step: int, states: MemberStates) -> None:
        """Save each member in its own checkpoints, unless they have this step."""
        for i, member in self._live.items():
            if member.checkpoints and (member.checkpoints.latest() or 0) < step:
                member.checkpoints.save(step, states[i])

    def on_train_start(self, *steps: int) -> None:
        self._call("on_train_start", lambda i: steps, *steps)

    def on_span_end(self, span: SpanEnd) -> None:
        means = replace(span, losses=self._mean(span.losses))
        self._call("on_span_end", lambda i: [replace(span, losses=span.losses[i])], means)

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        states: Any = epoch.state
        self._call(
            "on_epoch_end",
            lambda i: [replace(epoch, state=states[i], losses=epoch.losses[i])],
            replace(epoch, losses=self._mean(epoch.losses)),
        )

    def on_train_end(self, step: int, states: Any) -> None:
        self._call("on_train_end", lambda i: [step, states[i]], step, states)

    def _call(
        self, hook: str, member_arguments: Callable[[int], Sequence[Any]], *arguments: Any
    ) -> None:
        """Call the members' callbacks with their own arguments, and then those of all members."""
        for i, member in self._live.items():
            for callback in member.callbacks:
                getattr(callback, hook)(*member_arguments(i))
        for callback in self._callbacks:
            getattr(callback, hook)(*arguments)

    def _mean(self, losses: np.ndarray) -> np.ndarray:
        return losses[list(self._live)].mean(axis=0)


def _varied(optimizers: Sequence[OptimizerConfig]) -> list[Settings]:
    """For each member, its values of the settings in which members differ, float32."""
    values = [asdict(optimizer) for optimizer in optimizers]
    varied = [name for name in values[0] if len({member[name] for member in values}) > 1]
    return [{name: jnp.float32(member[name]) for name in varied} for member in values]


@lru_cache
def _jitted(gan: GAN, vmap: bool) -> JittedFns:
    """The functions of a single run, with other steps."""
    function = _all_members_steps if vmap else _member_steps
    steps = jit_steps(function, fixed_trip_count(), static=["optimizers", "schedule_steps"])
    return single_run(gan)._replace(steps=steps if vmap else _SequentialSteps(steps))


def _member_steps(
    gan: GAN,
    state: GANState,
    shuffled: Batch,
    key: jax.Array,
    n_steps: int | jax.Array,
    settings: tuple[Settings, Settings],
    *,
    optimizers: tuple[OptimizerConfig, OptimizerConfig],
    schedule_steps: int | None,
    batch_size: int,
    last_batch: bool,
) -> tuple[GANState, Losses]:
    """`train_steps`, with traced values for the optimizers' settings in which members differ."""
    gen_optimizer, disc_optimizer = (
        adam_from_config(config, schedule_steps, **traced) if traced else own
        for own, config, traced in zip(
            (gan.gen_optimizer, gan.disc_optimizer), optimizers, settings, strict=True
        )
    )
    gan = replace(gan, gen_optimizer=gen_optimizer, disc_optimizer=disc_optimizer)
    return train_steps(
        gan, state, shuffled, key, n_steps, batch_size=batch_size, last_batch=last_batch
    )


def _all_members_steps(
    gan: GAN,
    state: MemberStates,
    shuffled: tuple[Batch, ...],
    key: tuple[jax.Array, ...],
    n_steps: int | jax.Array,
    settings: tuple[tuple[Settings, Settings], ...],
    **static: Any,
) -> tuple[MemberStates, Losses]:
    """`_member_steps` mapped over the members."""
    step = state[0].step  # that of all members: a scalar, since the batches' positions depend on it
    no_step: Any = None

    def one(member: GANState, shuffled: Batch, key: jax.Array, settings: Any) -> Any:
        before = replace(member, step=step)
        after, losses = _member_steps(gan, before, shuffled, key, n_steps, settings, **static)
        return after.step, replace(after, step=no_step), losses

    members = [replace(member, step=no_step) for member in state]
    stacked = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *part)
        for part in (members, shuffled, key, settings)
    )
    step, after, losses = jax.vmap(one, out_axes=(None, 0, 0))(*stacked)
    rows = (jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(len(state)))
    return tuple(replace(member, step=step) for member in rows), losses


class _SequentialSteps:
    """`_member_steps` for one member after another, with the same program."""

    def __init__(self, program: jax.stages.Wrapped) -> None:
        self._program = program

    def __call__(self, **arguments: Any) -> tuple[MemberStates, Losses]:
        results = [self._program(**own) for own in self._split(**arguments)]
        losses: Any = zip(*(losses for _, losses in results), strict=True)
        return tuple(state for state, _ in results), Losses(*map(jnp.stack, losses))

    def lower(self, **arguments: Any) -> jax.stages.Lowered:
        return self._program.lower(**next(self._split(**arguments)))

    @staticmethod
    def _split(
        *, state: Any, shuffled: Any, key: Any, settings: Any, **common: Any
    ) -> Iterator[dict[str, Any]]:
        for own in zip(state, shuffled, key, settings, strict=True):
            yield dict(zip(("state", "shuffled", "key", "settings"), own, strict=True)) | common
