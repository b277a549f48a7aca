"""A run's steps on the device, span by span: within an epoch, all of one batch size.

What a step does is in steps.py; what happens between spans is in loop.py.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from cgan_jax.data import Dataset
from cgan_jax.training.gan import GAN
from cgan_jax.training.sharding import check_shares, replicated
from cgan_jax.training.steps import Batch, Losses, RunKeys, shuffle, train_steps


@dataclass(frozen=True)
class Span:
    """StepsFn that one call takes.

    Attributes:
        epoch: counted from 0.
        batch: the first step's place in its epoch, from 0.
        n_steps: how many.
        last_batch: whether it is the epoch's last step, of fewer images.
    """

    epoch: int
    batch: int
    n_steps: int
    last_batch: bool


def next_span(step: int, n_images: int, batch_size: int, at_most: int) -> Span:
    """The span that begins after `step` steps of a run and has at most `at_most` steps."""
    epoch, batch = divmod(step, steps_per_epoch(n_images, batch_size))
    full_batches = n_images // batch_size
    if batch == full_batches:
        return Span(epoch, batch, 1, last_batch=True)
    return Span(epoch, batch, min(at_most, full_batches - batch), last_batch=False)


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """Batches in an epoch, the last of which may be smaller: 938 for 60,000 images in 64s."""
    return -(-n_images // batch_size)


class StepsFn(Protocol):
    """`cgan_jax.training.steps.train_steps` under jit, or what does as much for several runs."""

    def __call__(self, **arguments: Any) -> tuple[Any, Losses]: ...

    def lower(self, **arguments: Any) -> jax.stages.Lowered: ...


class JittedFns(NamedTuple):
    """What a run has the device do, under jit.

    Attributes:
        init: a key to a fresh state.
        shuffle: see `cgan_jax.training.steps.shuffle`.
        steps: see `cgan_jax.training.steps.train_steps`.
    """

    init: Callable[..., Any]
    shuffle: Callable[..., Any]
    steps: StepsFn


class Spans:
    """Takes the steps of one run. Holds the data set on the device, and a copy in order.

    Of several runs, in cgan_jax/sweep.py, the keys are tuples, and so are the states.

    Args:
        gan: what is trained.
        dataset: the training images.
        batch_size: images a step.
        keys: the run's streams of randomness.
        programs: what the device does; by default, the steps of a single run.
        mesh: devices to split the batches over; by default, JAX's first device does all.
        step_kwargs: further arguments of `programs.steps`.

    Raises:
        ConfigError: the batches cannot be split equally.
    """

    def __init__(
        self,
        gan: GAN,
        dataset: Dataset,
        batch_size: int,
        keys: RunKeys,
        programs: JittedFns | None = None,
        mesh: Mesh | None = None,
        **step_kwargs: Any,
    ) -> None:
        if mesh:
            check_shares(batch_size, mesh)
        self._programs = programs or single_run(gan, mesh)
        self._mesh = mesh
        self._keys, self._batch_size = keys, batch_size
        self._fixed = {"gan": gan, "key": keys.steps, "batch_size": batch_size} | step_kwargs
        self._data = Batch(*self.device_put((dataset.images, dataset.labels)))
        self._epoch = -1
        self._shuffled: Any
        self._compiling: threading.Thread | None = None

    def device_put(self, arrays: Any) -> Any:
        """Arrays on the device, or on each one of the mesh."""
        return jax.device_put(arrays, replicated(self._mesh) if self._mesh else None)

    def fresh_state(self) -> Any:
        """The state before the first step."""
        return self.device_put(jax.tree.map(self._programs.init, self._keys.init))

    def compile(self, step: int, at_most: int) -> None:
        """Begin to compile what `run` will need for its first call; return before it is done."""
        init, shuffle = self._programs.init, self._programs.shuffle
        state = jax.tree.map(lambda key: jax.eval_shape(init, key), self._keys.init)
        shuffled = jax.tree.map(
            lambda key: jax.eval_shape(shuffle, self._data, key, 0), self._keys.order
        )
        arguments = self._arguments(state, shuffled, self._next(step, at_most))
        with self._on_mesh():
            program = self._programs.steps.lower(**arguments)

        def compile_it() -> None:
            with contextlib.suppress(Exception):  # `run` will raise it where it can be caught
                program.compile()

        self._compiling = threading.Thread(target=compile_it)
        self._compiling.start()

    def run(self, state: Any, step: int, at_most: int) -> tuple[Any, Span, np.ndarray]:
        """Go on from a state after `step` steps, which is donated, for at most so many.

        Returns:
            the new state, the span that led to it, and its losses `[span.n_steps, 2]`: D's, G's.
            Of several runs at once, `[runs, span.n_steps, 2]`.
        """
        span = self._next(step, at_most)
        if span.epoch != self._epoch:
            self._shuffled = jax.tree.map(
                lambda key: self._programs.shuffle(self._data, key, span.epoch), self._keys.order
            )
            self._epoch = span.epoch
        if self._compiling:
            self._compiling.join()
            self._compiling = None
        with self._on_mesh():
            state, losses = self._programs.steps(**self._arguments(state, self._shuffled, span))
        return state, span, np.stack(losses, axis=-1)[..., : span.n_steps, :]

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return jax.set_mesh(self._mesh) if self._mesh else contextlib.nullcontext()

    def _next(self, step: int, at_most: int) -> Span:
        return next_span(step, len(self._data.labels), self._batch_size, at_most)

    def _arguments(self, state: Any, shuffled: Any, span: Span) -> dict[str, Any]:
        now = {"n_steps": span.n_steps, "last_batch": span.last_batch}
        return {"state": state, "shuffled": shuffled} | now | self._fixed


def single_run(gan: GAN, mesh: Mesh | None = None) -> JittedFns:
    """The programs of a single run."""
    fixed_trip_count = jax.default_backend() != "cpu"
    return JittedFns(_init(gan), _shuffle, compiled_train_steps(fixed_trip_count, mesh))


# For what runs once: half the time to compile is worth more than a quick program.
FAST_COMPILE = {"xla_backend_optimization_level": 0}
_shuffle = jax.jit(shuffle)


@lru_cache
def _init(gan: GAN) -> jax.stages.Wrapped:
    return jax.jit(gan.init, compiler_options=FAST_COMPILE)


@lru_cache
def compiled_train_steps(fixed_trip_count: bool, mesh: Mesh | None = None) -> jax.stages.Wrapped:
    """`train_steps` under jit: compiled once for a run's batches, and once for its last batches."""
    return jit_steps(train_steps, fixed_trip_count, out_shardings=mesh and replicated(mesh))


def jit_steps(
    steps: Callable[..., Any], fixed_trip_count: bool, static: Sequence[str] = (), **options: Any
) -> jax.stages.Wrapped:
    """A function like `train_steps` under jit.

    On a CPU one program serves spans of all lengths. A GPU waits for the host at each turn of a
    loop whose length it does not know, so there each length has its own program; all are epochs.
    """
    return jax.jit(
        steps,
        static_argnames=["gan", "batch_size", "last_batch", *static]
        + ["n_steps"] * fixed_trip_count,
        donate_argnames="state",
        compiler_options=_update_in_place(),
        **options,
    )


def _update_in_place() -> dict[str, bool]:
    """Without this, XLA's CPU compiler copies each kernel and first moment once a step.

    It takes the products with a kernel and the kernel's update for unordered, and keeps the old
    one. The numbers are the same either way; an XLA that lacks the option is only slower.
    """
    options = {"xla_cpu_copy_insertion_use_region_analysis": True}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
