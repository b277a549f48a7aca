"""`experiments.import_torch` and `export --format torch`, here without PyTorch."""

import re

import jax
import numpy as np
import pytest

from cgan_jax.interop import (
    config_from_torch,
    discriminator_to_torch,
    generator_to_torch,
    load_state_dict,
    save_state_dict,
)
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.gan import GAN
from tests.helpers import command


@pytest.fixture(scope="module")
def weights(tiny_config, tmp_path_factory):
    """A pair of files as PyTorch would write them, the state they hold, and their folder."""
    state = jax.jit(GAN.from_config(tiny_config).init)(jax.random.key(3))
    folder = tmp_path_factory.mktemp("weights")
    gen = generator_to_torch(state.gen.variables, tiny_config.model, steps=40)
    save_state_dict(folder / "generator.safetensors", gen)
    save_state_dict(
        folder / "discriminator.safetensors",
        discriminator_to_torch({"params": state.disc.params}, tiny_config.model),
    )
    return folder, state


def pair(folder):
    return [folder / "generator.safetensors", folder / "discriminator.safetensors"]


def test_weights_come_in_and_go_out_unchanged(weights, tiny_config, tmp_path):
    folder, state = weights
    names = ["--class-names", "left", "right", "round trip"]
    done = command("import_torch", *pair(folder), "--workdir", tmp_path / "run", *names)
    assert done.returncode == 0, done.stderr
    assert "3 classes, images of 4 by 4, after 40 steps" in done.stdout

    generator = load_generator(tmp_path / "run")
    assert (generator.step, generator.class_names) == (40, ("left", "right", "round trip"))
    jax.tree.map(np.testing.assert_array_equal, generator.variables["params"], state.gen.params)
    assert generator.generate(["right"]).shape == (1, 4, 4, 1)

    out, discriminator = pair(tmp_path / "out")
    flags = ["--format", "torch", "--out", out, "--discriminator", discriminator]
    done = command("export", tmp_path / "run", *flags)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\w+)\.safetensors: . kB, after 40 steps\..* JAX by at", done.stdout) == [
        *("generator", "discriminator")
    ]
    for there, back in zip(pair(folder), pair(tmp_path / "out"), strict=True):
        one, other = load_state_dict(there), load_state_dict(back)
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


def test_sizes_are_read_off_the_weights(weights, tiny_config):
    generator, discriminator = map(load_state_dict, pair(weights[0]))
    assert config_from_torch(generator, discriminator) == tiny_config.model
