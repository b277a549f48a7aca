"""`python -m experiments.export` on the committed run: what it writes, and when it does not.

Wrong flags are in test_bad_input.py, the round trip of state dicts in test_weights_commands.py,
ONNX in interop/test_onnx.py.
"""

import sys
import zipfile

import numpy as np
import pytest
from jax import export

from cgan_jax import interop
from cgan_jax.errors import DataError
from cgan_jax.models.value_range import to_uint8
from cgan_jax.runs.restore import restore_run
from cgan_jax.sampling.generator import generate_latent_points, load_generator
from experiments.export import main
from tests.golden.make_run_folder import FOLDER
from tests.helpers import command


@pytest.fixture
def run_export(monkeypatch):
    """The command on the committed run, in this process."""

    def attempt(*flags):
        monkeypatch.setattr(sys, "argv", ["export", *map(str, (FOLDER, *flags))])
        main()

    return attempt


def test_an_exported_program_makes_the_runs_pictures(tmp_path):
    out = tmp_path / "new" / "generator.zip"
    done = command("export", FOLDER, "--format", "stablehlo", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{out}: 6 kB, after 12 steps. Read back, it differs from JAX by at most" in done.stdout
    assert list(out.parent.iterdir()) == [out]
    with zipfile.ZipFile(out) as file:
        program = export.deserialize(file.read("generator.stablehlo"))
    latent, _ = generate_latent_points(5, 3, seed=0)
    images = to_uint8(program.call(latent, np.arange(3, dtype=np.int32)))
    expected = np.load(FOLDER / "expected_images.npy")
    np.testing.assert_allclose(images.astype(float), expected.astype(float), atol=1)


def test_arrays_by_name(tmp_path, run_export, capsys):
    out = tmp_path / "weights.safetensors"
    run_export("--format", "safetensors", "--out", out)
    assert "differs from JAX by at most 0.0e+00" in capsys.readouterr().out
    generator = interop.load_safetensors(out)
    expected = load_generator(FOLDER).generate(["right"] * 3)
    np.testing.assert_array_equal(generator.generate(["right"] * 3), expected)


def test_a_file_that_differs_from_jax_is_not_written(tmp_path, run_export, capsys):
    """No difference is small enough here. The older file stays, and nothing else."""
    old, discriminator = tmp_path / "g.safetensors", tmp_path / "d.safetensors"
    old.write_bytes(b"old")
    flags = ("--format", "torch", "--out", old, "--overwrite", "--tolerance")
    with pytest.raises(SystemExit) as end:
        run_export(*flags, "-1", "--discriminator", discriminator)
    assert end.value.code == 1
    assert "g.safetensors was not written: read back, it differs" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]
    assert old.read_bytes() == b"old"
    run_export(*flags, "0")
    assert interop.load_metadata(old)["class_names"] == ["left", "right", "round trip"]


def test_statistics_of_the_discriminator_are_not_dropped(tmp_path, run_export, monkeypatch):
    """A state dict of the report's discriminator has no place for them."""

    def with_statistics(*args, **kwargs):
        gan, state = restore_run(*args, **kwargs)
        statistics = {"norm": {"u": np.ones(3, np.float32)}}
        return gan, state.replace(disc=state.disc.replace(batch_stats=statistics))

    monkeypatch.setattr("experiments.export.restore_run", with_statistics)
    files = tmp_path / "g.safetensors", tmp_path / "d.safetensors"
    with pytest.raises(DataError, match="batch_stats/norm/u is float32"):
        run_export("--format", "torch", "--out", files[0], "--discriminator", files[1])
    assert files[0].exists() and not files[1].exists()


@pytest.mark.torch
@pytest.mark.slow
def test_pytorch_loads_the_state_dicts(tmp_path, run_export):
    """With the metadata in them, strictly, where its batch counters stand too."""
    import torch

    from experiments.proofs import torch_cgan

    out, discriminator = tmp_path / "g.pt", tmp_path / "d.pt"
    run_export("--format", "torch", "--out", out, "--discriminator", discriminator)
    twin = torch_cgan.Generator(5, 3, (8, 16), (1, 4, 4))
    assert not twin.load_state_dict(torch.load(out), strict=True).missing_keys
    assert twin.model[3].num_batches_tracked == 12
    judge = torch_cgan.Discriminator(3, (16, 16), (1, 4, 4))
    judge.load_state_dict(torch.load(discriminator), strict=True)

    latent, labels = generate_latent_points(5, 7, 3, seed=1)
    generator = interop.as_exported(load_generator(FOLDER))
    with torch.no_grad():
        images = twin.eval()(torch.tensor(np.array(latent)), torch.tensor(np.array(labels)))
    expected = generator(latent, labels).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)
    table = interop.metadata(load_generator(FOLDER))
    assert interop.load_metadata(out) == table
    assert interop.load_metadata(discriminator).items() <= table.items()
    assert interop.load_metadata(discriminator)["step"] == 12
