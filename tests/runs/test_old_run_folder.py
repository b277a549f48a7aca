"""A run folder of an earlier version still opens, samples and resumes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cgan_jax.errors import RunError
from cgan_jax.reporting.callbacks import LossesTable
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import read_losses
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.loop import train
from experiments.proofs import tiny
from tests.golden.make_run_folder import CONFIG, FOLDER


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "run")


def test_its_images_are_the_same(folder):
    """To what another version's or machine's arithmetic may change: one grey level of 255."""
    images = load_generator(folder).generate(tiny.CLASS_NAMES, seed=0)
    expected = np.load(folder / "expected_images.npy")
    assert images.dtype == expected.dtype
    np.testing.assert_allclose(images.astype(float), expected.astype(float), atol=1)
    assert np.ptp(expected.astype(float)) > 20


def test_it_resumes(folder):
    """For another epoch, after the losses that it has."""
    longer = replace(CONFIG, epochs=3)
    run = RunFolder.start(folder, longer, tiny.CLASS_NAMES)
    before = run.losses.read_text()
    gan, state = restore_run(run)
    assert state.step == 12
    with Checkpoints(run.checkpoints) as checkpoints:
        state = train(
            gan,
            longer,
            tiny.dataset(),
            state=state,
            callbacks=[LossesTable(run)],
            checkpoints=checkpoints,
        )
        assert checkpoints.latest() == 18
    assert run.losses.read_text().startswith(before)
    assert np.isfinite(read_losses(run.losses)).all()
    assert len(read_losses(run.losses)) == 18


def test_fields_that_it_lacks_have_their_defaults(folder):
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    del saved["config"]["loss"], saved["config"]["model"]["dropout_rate"], saved["environment"]
    path.write_text(json.dumps(saved))
    assert RunFolder.open(folder).config == CONFIG


def test_a_newer_format_is_refused(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(RunError, match=r"run format 2; expected 1\.\nUse .* newer"):
        load_generator(folder)
