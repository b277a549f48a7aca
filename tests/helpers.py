"""What several test files do: run a command, stop a training, have a run's folder without one."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from PIL import Image

from cgan_jax.checks import check_fields
from cgan_jax.models import networks
from cgan_jax.pictures.grids import grid
from cgan_jax.presets import PRESETS
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import append_losses, write_measures
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.loop import train
from experiments.proofs import tiny

ROOT = Path(__file__).parents[1]


def command(module, *flags, cwd=ROOT, timeout=300, **options):
    """`python -m experiments.<module>` until its end: its code, and what it printed."""
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


class StopAfter(Callback):
    """Asks for a stop once so many steps are done, as a signal would."""

    def __init__(self, steps):
        self.left = steps

    def on_chunk_end(self, chunk):
        self.left -= len(chunk.losses)

    def should_stop(self):
        return self.left <= 0


def finished_run(path, class_names=tiny.CLASS_NAMES):
    """The folder of a finished and evaluated run of tiny.CONFIG, without checkpoints."""
    run, rng = RunFolder.start(path, tiny.CONFIG, class_names), np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 12, len(class_names), 4, 4, 1), np.uint8)
    run.sample_grid(0).parent.mkdir()
    grid(images[0], class_names).save(path / "real.png")
    for epoch in (1, 2, 3):
        grid(images[epoch], class_names).save(run.sample_grid(epoch))
    losses = rng.random((18, 2))
    run.losses.write_text("epoch,batch,d_loss,g_loss\n")
    for epoch in range(3):
        append_losses(run.losses, epoch, 0, losses[6 * epoch :][:6])
    rows = [{"epoch": 1, "step": 6, "pixel_fd": 0.5}, {"epoch": 2, "step": 12, "pixel_fd": 0.25}]
    write_measures(run.measures, rows)
    for name, colour in (("losses.png", "red"), ("measures.png", "blue")):
        Image.new("RGB", (90, 45), colour).save(path / name)
    run.command.write_text("python -m the.run --again\n")
    (path / "evaluation").mkdir()
    figures = {
        "stamp": {"step": 18, "protocol": {"name": "fast", "seeds": [0], "n_images": 2000}},
        "measures": {"gan_test": {"mean": 0.8295, "sd": None, "real": 0.926}},
    }
    (path / "evaluation" / "evaluation.json").write_text(json.dumps(figures))
    grid(images[0, :2], class_names).save(path / "evaluation" / "confusion.png")
    return run


def init_pair(config):
    """Two networks' first outputs, for two inputs, and their variables: images, scores, G, D."""
    generator, discriminator = networks(config)
    gen_key, disc_key = jax.random.split(jax.random.key(0))
    latent, labels = jax.random.normal(jax.random.key(1), (2, config.latent_dim)), jnp.arange(2)
    images, gen = generator.init_with_output(gen_key, latent, labels, train=True)
    scores, disc = discriminator.init_with_output(disc_key, images, labels, train=False)
    return images, scores, gen, disc


def first_fast(*cases):
    """Values for `parametrize`: the first case is a fast test, the others are slow ones."""
    first, *others = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*first), *(pytest.param(*c, marks=pytest.mark.slow) for c in others)]


each_conditioning = pytest.mark.parametrize(
    "conditioning", first_fast("projection", "concatenation", "projection_only")
)


@partial(jax.jit, static_argnums=0)
def change_by_label(config):
    """For two inputs, how much another label changes any pixel of the image, and the score."""
    generator, discriminator = networks(config)
    images, scores, gen, disc = init_pair(config)
    latent, other = jax.random.normal(jax.random.key(1), (2, config.latent_dim)), jnp.arange(2) + 1
    changed = generator.apply(gen, latent, other, train=True, mutable=["batch_stats"])[0]
    rescored = discriminator.apply(disc, images, other, train=False)
    return jnp.abs(images - changed).max((1, 2, 3)), jnp.abs(scores - rescored)


def n_parameters(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def check_flags(flags):
    """Check flags that no command line gave: their ranges, and what goes together."""
    check_fields(flags)
    flags.check()


def with_schedules(name):
    """A preset; `residual` with a penalty that changes from the first step on, as a test case."""
    config = PRESETS[name]
    if name != "residual":
        return config
    return replace(config, penalty=replace(config.penalty, gamma_end=0.01))


def assert_resumes(gan, config, make_data, folder):
    """A run that was stopped within an epoch goes on as if it had not been, to the last bit.

    Args:
        make_data: makes the data anew, as another process would.
        folder: for checkpoints.

    Returns:
        the last state.
    """
    whole = train(gan, config, make_data())
    for callbacks in ([StopAfter(8)], []):
        with Checkpoints(folder) as checkpoints:
            resumed = train(gan, config, make_data(), checkpoints=checkpoints, callbacks=callbacks)
            assert callbacks == [] or 8 <= checkpoints.latest() < whole.step
    for one, other in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = random.key_data(one), random.key_data(other)
        np.testing.assert_array_equal(one, other)
    return whole


def float64_state(gan):
    """The fresh state in float64, where only rounding lies between two ways to a number."""
    state = jax.jit(gan.init)(jax.random.key(0))
    return jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, state)
