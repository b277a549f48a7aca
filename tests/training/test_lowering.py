"""Every preset's programs have a translation for CUDA: a missing one is found without a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.data import sources
from cgan_jax.data.sources import DatasetSource, epoch_order
from cgan_jax.presets import PRESETS
from cgan_jax.training.chunks import compiled_steps
from cgan_jax.training.gan import GAN
from cgan_jax.training.step import run_keys
from experiments.proofs import tiny
from tests.helpers import first_fast


def lower_for_cuda(function, *arguments, **named):
    """The text of a jitted function's program for NVIDIA GPUs."""
    return function.trace(*arguments, **named).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("name", first_fast(*PRESETS))
def test_training_is_lowered_for_cuda(name):
    """As a GPU runs it: the number of steps is known when the program is compiled."""
    config, dataset, keys = tiny.shrink(PRESETS[name]), tiny.dataset(), run_keys(0)
    gan = GAN.from_config(config)
    n_steps = 4  # a penalty that is due in every fourth step needs a multiple of it
    batches = DatasetSource(dataset, config.batch_size, keys.order).batches(0, n_steps)
    assert len(batches.labels) == n_steps
    program = lower_for_cuda(
        compiled_steps(),
        gan=gan,
        state=jax.eval_shape(gan.init, keys.init),
        batches=batches,
        key=keys.steps,
    )
    assert "stablehlo.while" in program
    assert lower_for_cuda(jax.jit(gan.init), keys.init)
    order = jax.jit(epoch_order, static_argnums=2)
    assert lower_for_cuda(order, keys.order, 0, len(dataset))
    assert lower_for_cuda(sources._take_rows, dataset.images, np.arange(4).reshape(2, 2))


def test_an_operation_without_a_translation_is_found():
    schur = jax.jit(jax.scipy.linalg.schur)
    assert schur.lower(jnp.eye(2)).as_text()
    with pytest.raises(NotImplementedError, match="for platform cuda"):
        lower_for_cuda(schur, jnp.eye(2))
