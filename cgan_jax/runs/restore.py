"""The arrays of a run folder's checkpoints, read without changing anything."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cgan_jax.checks import one_line
from cgan_jax.errors import RunError
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training.gan import (
    GAN,
    GANState,
    NetState,
    example_labels,
    generator_like,
    image_shape,
    init_keys,
)


def restore_run(
    run: RunFolder, *, step: int | None = None, best: bool = False
) -> tuple[GAN, GANState]:
    """The GAN of a run's configuration and the state of its newest intact checkpoint.

    For a GAN of your own, see `Checkpoints.restore`.

    Args:
        run: the run folder.
        step: read the checkpoint of this step instead of the newest.
        best: read the checkpoint in `best/` instead of the newest.

    Returns:
        the GAN, and its state as NumPy arrays.

    Raises:
        RunError: no checkpoint can be read, or not that one.
    """
    gan = GAN.from_config(run.config)
    like = jax.eval_shape(gan.init, jax.random.key(0))
    return gan, _read(run, step, best, lambda saved: (like, ("",)))


def restore_generator(
    run: RunFolder,
    module: nn.Module,
    *,
    step: int | None = None,
    best: bool = False,
    raw: bool = False,
) -> tuple[Any, int]:
    """The variables of a run's generator to sample from, whatever else it was trained with.

    They are its running average where the checkpoint has one, otherwise the newest ones.

    Args:
        run: the run folder.
        module: the generator.
        step: as for `restore_run`.
        best: as for `restore_run`.
        raw: the newest variables, even where there is an average.

    Returns:
        its collections as NumPy arrays, and how many steps they were trained for.

    Raises:
        RunError: no checkpoint can be read, or not that one.
        ConfigError: the module is not a generator; see `GAN`.
    """
    like = generator_like(module)

    def wanted(saved: Iterable[str]) -> tuple[GANState, tuple[str, ...]]:
        if raw or not any(path.startswith("average.") for path in saved):
            return like, ("step", *(f"gen.{name}." for name in like.gen.variables))
        no_gen: Any = None
        return replace(like, gen=no_gen, average=like.gen.variables), ("step", "average.")

    state = _read(run, step, best, wanted)
    return state.sampling_variables, int(state.step)


def restore_discriminator(
    run: RunFolder, module: nn.Module, generator: nn.Module, *, step: int, best: bool = False
) -> Any:
    """The variables of a run's discriminator.

    Args:
        run: the run folder.
        module: the discriminator.
        generator: the generator, which says what images and labels it is given.
        step: read the checkpoint of this step.
        best: read it in `best/`.

    Returns:
        its collections as NumPy arrays.

    Raises:
        RunError: the checkpoint cannot be read.
    """
    labels = example_labels(generator)
    images = jnp.zeros((len(labels), *image_shape(generator)))
    init = partial(module.init, train=False)
    variables: Any = jax.eval_shape(init, init_keys(jax.random.key(0)), images, labels)
    no_gen: Any = None
    like = replace(generator_like(generator), gen=no_gen, disc=NetState(dict(variables), None))
    only = ("step", *(f"disc.{name}." for name in variables))
    return _read(run, step, best, lambda saved: (like, only)).disc.variables


def _read(
    run: RunFolder,
    step: int | None,
    best: bool,
    wanted: Callable[[Iterable[str]], tuple[GANState, tuple[str, ...]]],
) -> GANState:
    """The arrays that `wanted`, given the saved paths, asks for: see `Checkpoints.restore`."""
    folder = run.best if best else run.checkpoints
    if best and not folder.is_dir():
        raise RunError(
            f"{run.path} has no {folder.name}/\n"
            "expected a run with the callback BestCheckpoint, as --eval-every adds it\n"
            "Omit --best (best=) for the newest checkpoint."
        )
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise RunError(
                f"{folder} has no checkpoint of step {step}\n"
                f"expected one of {one_line(', '.join(map(str, steps)))}\nGive one of these."
            )
        like, only = wanted(checkpoints.leaves(at_most=step))
        state = checkpoints.restore(like, at_most=step, only=only)
    if step is not None and int(state.step) != step:
        raise RunError(
            f"the checkpoint of step {step} in {folder} is damaged\nexpected what was saved\n"
            f"Give another step, such as {int(state.step)}."
        )
    return state
