"""Every preset's programs have a translation for CUDA: a missing one is found without a GPU."""

import jax
import jax.numpy as jnp
import pytest

from cgan_jax.presets import PRESETS
from cgan_jax.training.gan import GAN
from cgan_jax.training.spans import compiled_train_steps
from cgan_jax.training.steps import Batch, run_keys, shuffle
from experiments.proofs import tiny
from tests.helpers import first_fast


def lower_for_cuda(function, *arguments, **named):
    """The text of a jitted function's program for NVIDIA GPUs."""
    return function.trace(*arguments, **named).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("name", first_fast(*PRESETS))
def test_training_is_lowered_for_cuda(name):
    """As a GPU runs it: the number of steps is known when the program is compiled."""
    config, dataset, keys = tiny.shrink(PRESETS[name]), tiny.dataset(), run_keys(0)
    gan, data = GAN.from_config(config), Batch(dataset.images, dataset.labels)
    program = lower_for_cuda(
        compiled_train_steps(fixed_trip_count=True),
        gan=gan,
        state=jax.eval_shape(gan.init, keys.init),
        shuffled=data,
        key=keys.steps,
        n_steps=5,
        batch_size=config.batch_size,
    )
    assert "stablehlo.while" in program
    assert lower_for_cuda(jax.jit(gan.init), keys.init)
    assert lower_for_cuda(jax.jit(shuffle), data, keys.order, 0)


def test_an_operation_without_a_translation_is_found():
    schur = jax.jit(jax.scipy.linalg.schur)
    assert schur.lower(jnp.eye(2)).as_text()
    with pytest.raises(NotImplementedError, match="for platform cuda"):
        lower_for_cuda(schur, jnp.eye(2))
