"""Generators in files of their own, without an extra: StableHLO programs and safetensors.

ONNX is in test_onnx.py, PyTorch's state dicts in test_torch_weights.py, the command in
test_export.py.
"""

import json
import re
import sys
import zipfile
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from safetensors.numpy import load_file

from cgan_jax import interop
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.models.report import Generator
from cgan_jax.sampling.generator import TrainedGenerator, load_generator
from tests.golden.make_run_folder import FOLDER


@pytest.fixture(scope="module")
def generator() -> TrainedGenerator:
    return load_generator(FOLDER)


class OneGrey(nn.Module):
    """A user's own generator: each class is one grey."""

    n_classes: int = 3
    latent_dim: int = 2
    img_size: int = 4
    channels: int = 1

    @nn.compact
    def __call__(self, latent, labels, *, train):
        grey = self.param("grey", nn.initializers.normal(), (self.n_classes,))
        return jnp.tanh(grey)[labels][:, None, None, None] * jnp.ones((4, 4, 1))


@pytest.fixture
def own_generator() -> TrainedGenerator:
    variables = OneGrey().init(jax.random.key(0), np.zeros((1, 2)), np.zeros(1, int), train=False)
    return TrainedGenerator(OneGrey(), variables, ("a", "b", "c"), 7)


def test_a_stablehlo_program_makes_the_same_images_in_batches_of_any_size(generator, tmp_path):
    path = tmp_path / "generator.zip"
    interop.save_stablehlo(path, generator)
    back = interop.load_stablehlo(path)
    assert interop.largest_difference(generator, back, batches=(1, 2, 300)) < 1e-6
    assert back.metadata == interop.metadata(generator)
    images = back(np.zeros((2, 5)), [0, 2])
    assert (images.shape, images.dtype) == ((2, 4, 4, 1), np.float32)


def test_a_stablehlo_program_needs_only_jax(generator, tmp_path):
    """As the README says; and it has none of the names of folders here."""
    interop.save_stablehlo(tmp_path / "generator.zip", generator)
    with zipfile.ZipFile(tmp_path / "generator.zip") as file:
        data, table = file.read("generator.stablehlo"), json.loads(file.read("metadata.json"))
    program = export.deserialize(data)
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert table["class_names"] == ["left", "right", "round trip"]
    assert (table["latent_dim"], table["value_range"], table["step"]) == (5, [-1, 1], 12)
    latent, labels = np.ones((3, 5), np.float32), np.arange(3)
    expected = generator.module.apply(generator.variables, latent, labels, train=False)
    np.testing.assert_allclose(program.call(latent, labels), expected, atol=1e-6)
    assert not re.search(rb"\.py\b|site-packages", data)


def test_a_stablehlo_file_is_the_same_each_time(generator, tmp_path, monkeypatch):
    interop.save_stablehlo(tmp_path / "one.zip", generator)
    monkeypatch.setattr("time.time", lambda: 2e9)
    interop.save_stablehlo(tmp_path / "other.zip", generator)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()


def test_a_custom_module_is_exported_as_stablehlo(own_generator, tmp_path):
    interop.save_stablehlo(tmp_path / "own.zip", own_generator)
    back = interop.load_stablehlo(tmp_path / "own.zip")
    assert interop.largest_difference(own_generator, back, (3,)) < 1e-6
    assert "generator" not in back.metadata


class Inverted(Generator):
    """A subclass of the library's generator that computes something else."""

    def __call__(self, latent, labels, *, train):
        return -super().__call__(latent, labels, train=train)


def test_a_subclass_of_the_generator_is_not_described_as_one(generator, tmp_path):
    """Its layers may have other names. Its own arrays can be saved and loaded."""
    settings = {name: getattr(generator.module, name) for name in ("n_classes", "latent_dim")}
    sizes = {"label_dim": 3, "img_size": 4, "widths": (8, 16)}
    inverted = replace(generator, module=Inverted(**settings, **sizes))
    assert "generator" not in interop.metadata(inverted)
    inverted.save(tmp_path / "inverted.safetensors")
    back = load_generator(tmp_path / "inverted.safetensors", generator=inverted.module)
    np.testing.assert_array_equal(back.generate(range(3)), inverted.generate(range(3)))
    assert not np.array_equal(back.generate(range(3)), generator.generate(range(3)))


def test_a_safetensors_file_is_the_whole_generator(generator, tmp_path):
    path = tmp_path / "generator.safetensors"
    interop.save_safetensors(path, generator)
    back = interop.load_safetensors(path)
    assert (back.module, back.class_names, back.step) == (
        *(generator.module, generator.class_names, generator.step),
    )
    labels = ["round trip", 0, 1]
    np.testing.assert_array_equal(back.generate(labels), generator.generate(labels))
    assert interop.load_metadata(path) == interop.metadata(generator)
    kernel = load_file(path)["params/hidden_1/kernel"]
    np.testing.assert_array_equal(kernel, generator.variables["params"]["hidden_1"]["kernel"])


def test_files_that_are_not_exported_generators_are_refused(generator, tmp_path):
    good = tmp_path / "good.safetensors"
    interop.save_safetensors(good, generator)
    arrays, table = interop.load_state_dict(good), interop.load_metadata(good)
    bad = tmp_path / "bad.safetensors"
    wrong = {"params/output/bias": np.zeros(3, np.float32)}
    for changed, metadata, words in (
        (arrays, None, "lacks the metadata"),
        (arrays, table | {"format": 2}, "export format 2"),
        (arrays | wrong, table, "params/output/bias is missing, left over or of another shape"),
        (arrays | {"more": np.zeros(1)}, table, "more is missing"),
        (arrays, table | {"generator": {"widths": 3}}, "does not hold the generator"),
        (arrays, table | {"class_names": []}, "does not hold the generator"),
    ):
        interop.save_state_dict(bad, changed, metadata)
        with pytest.raises(DataError, match=words) as caught:
            interop.load_safetensors(bad)
        assert len(str(caught.value).splitlines()) == 3


def test_a_damaged_program_is_refused(generator, tmp_path):
    path = tmp_path / "generator.zip"
    interop.save_stablehlo(path, generator)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    for name in ("generator.zip", "nowhere.zip"):
        with pytest.raises(DataError, match=f"{name} cannot be read") as caught:
            interop.load_stablehlo(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 3


def test_the_comparison_sees_each_class_and_each_value(generator):
    for label in range(3):
        variables = jax.tree.map(np.array, generator.variables)
        variables["params"]["label_embedding"]["embedding"][label] += 0.01
        other = replace(generator, variables=variables)
        assert interop.largest_difference(generator, interop.as_exported(other), (1,)) > 1e-5
    nan = jax.tree.map(lambda leaf: leaf * np.nan, generator.variables)
    other = interop.as_exported(replace(generator, variables=nan))
    assert np.isnan(interop.largest_difference(generator, other, (1,)))


def test_inputs_of_the_wrong_shape_or_class_are_refused(generator):
    exported = interop.as_exported(generator)
    for latent, labels, words in (
        (np.zeros((2, 4)), [0, 1], r"\[2, 4\], the labels \[2\]\nexpected \[B, 5\]"),
        (np.zeros((2, 5)), [0], r"the labels \[1\]"),
        (np.zeros(5), [0], r"are \[5\]"),
        (np.zeros((2, 5)), [0, 3], r"\[0, 3\]\nexpected one or more, in 0..2"),
        (np.zeros((1, 5)), [-1], r"\[-1\]"),
        (np.zeros((0, 5)), [], "one or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            exported(latent, labels)


@pytest.mark.parametrize("absent", ["onnx", "onnxruntime"])
def test_an_absent_extra_is_named(absent, generator, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", sys)  # there, whether installed or not
    monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(DataError, match="`pip install onnx onnxruntime`") as caught:
        interop.save_onnx(tmp_path / "generator.onnx", generator)
    assert absent in str(caught.value).splitlines()[0]
