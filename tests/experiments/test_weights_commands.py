"""`experiments.import_torch` and `export --format torch`, here without PyTorch."""

import re
import sys
from dataclasses import replace

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
from cgan_jax.reporting.page import write_page
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.gan import GAN
from experiments import import_torch
from experiments.shared import training
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


def test_weights_are_imported_and_exported_unchanged(weights, tiny_config, tmp_path):
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


def imported(gen, disc, workdir, monkeypatch, *flags):
    """The run folder that the command makes of two state dicts, in this process."""
    save_state_dict(workdir.with_suffix(".g.safetensors"), gen)
    save_state_dict(workdir.with_suffix(".d.safetensors"), disc)
    files = [str(workdir.with_suffix(f".{network}.safetensors")) for network in "gd"]
    monkeypatch.setattr(sys, "argv", ["import", *files, "--workdir", str(workdir), *flags])
    import_torch.main()
    return RunFolder.open(workdir)


@pytest.mark.parametrize(
    ("img_size", "n_classes", "names"),
    [
        (28, 10, ("T-shirt/top", "Ankle boot")),
        (32, 10, ("0", "9")),  # PyTorch-GAN's default size, of which nobody knows the classes
        (28, 11, ("0", "10")),
    ],
)
def test_only_the_reports_sizes_get_fashion_mnist_names(
    img_size, n_classes, names, tmp_path, monkeypatch, capsys
):
    n_pixels = img_size**2
    gen, disc = (
        {
            f"{table}.weight": np.zeros((n_classes, 3), np.float32),
            "model.0.weight": np.zeros((4, fan_in + 3), np.float32),
            "model.0.bias": np.zeros(4, np.float32),
            "model.2.weight": np.zeros((fan_out, 4), np.float32),
            "model.2.bias": np.zeros(fan_out, np.float32),
        }
        for table, fan_in, fan_out in (("label_emb", 5, n_pixels), ("label_embedding", n_pixels, 1))
    )
    run = imported(gen, disc, tmp_path / "run", monkeypatch)
    assert (run.class_names[0], run.class_names[-1]) == names
    note = capsys.readouterr().out.splitlines()[-1]
    assert f"called {names[0]}, " in note and "--class-names" in note


def test_an_imported_run_counts_its_earlier_steps(
    weights, tiny_dataset, tmp_path, monkeypatch, capsys
):
    gen, disc = map(load_state_dict, pair(weights[0]))
    names = ("--class-names", *tiny_dataset.class_names)
    run = imported(gen, disc, tmp_path / "run", monkeypatch, *names)
    assert (run.steps_logged(), run.steps_done()) == (0, 40)
    text = " ".join(write_page(run.path).read_text(encoding="utf-8").split())
    assert "Trained for 40 steps." in text
    capsys.readouterr()
    training.describe(replace(run.config, batch_size=4, epochs=10), tiny_dataset, run.path)
    assert " for 20 of the 60 steps (" in capsys.readouterr().out


def test_sizes_are_read_off_the_weights(weights, tiny_config):
    generator, discriminator = map(load_state_dict, pair(weights[0]))
    assert config_from_torch(generator, discriminator) == tiny_config.model
