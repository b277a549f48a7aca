"""The arrays of a run folder's checkpoints, read without changing anything."""

import jax

from cgan_jax.checks import one_line
from cgan_jax.errors import RunError
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training.gan import GAN, GANState


def restore_run(
    run: RunFolder, *, step: int | None = None, best: bool = False
) -> tuple[GAN, GANState]:
    """The GAN of a run's configuration and the state of its newest intact checkpoint.

    For a GAN of your own, see `Checkpoints.restore`.

    Args:
        run: the run folder.
        step: see `read_state`.
        best: see `read_state`.

    Raises:
        RunError: no checkpoint can be read, or not that one.
    """
    gan = GAN.from_config(run.config)
    like = jax.eval_shape(gan.init, jax.random.key(0))
    return gan, read_state(run, like, step=step, best=best)


def read_state(
    run: RunFolder,
    like: GANState,
    *,
    step: int | None = None,
    best: bool = False,
    only: tuple[str, ...] = ("",),
) -> GANState:
    """The arrays of a run's newest intact checkpoint.

    Args:
        run: the run folder.
        like: the state's shapes and dtypes, as from `jax.eval_shape`.
        step: read the checkpoint of this step instead of the newest.
        best: read the checkpoint in `best/` instead of the newest.
        only: see `Checkpoints.restore`.

    Returns:
        the same tree, of NumPy arrays.

    Raises:
        RunError: no checkpoint can be read, or not that one.
    """
    folder = run.best if best else run.checkpoints
    if best and not folder.is_dir():
        raise RunError(
            f"{run.path} has no {folder.name}/\n"
            "expected a run trained with --eval-every, which keeps its best checkpoint there\n"
            "Omit --best (best=) for the newest checkpoint."
        )
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise RunError(
                f"{folder} has no checkpoint of step {step}\n"
                f"expected one of {one_line(', '.join(map(str, steps)))}\nGive one of these."
            )
        state = checkpoints.restore(like, at_most=step, only=only)
    if step is not None and int(state.step) != step:
        raise RunError(
            f"the checkpoint of step {step} in {folder} is damaged\nexpected what was saved\n"
            f"Give another step, as {int(state.step)}."
        )
    return state
