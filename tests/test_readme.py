"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from cgan_jax.checkpoint import Checkpoints
from cgan_jax.config import PRESETS
from cgan_jax.run_folder import RunFolder
from cgan_jax.state import GAN

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def report_run(fashion_mnist, tmp_path, monkeypatch):
    """runs/fashion_cgan in the current directory, as the main job makes it (but untrained)."""
    monkeypatch.chdir(tmp_path)
    config = PRESETS["report"]
    run = RunFolder.start("runs/fashion_cgan", config, fashion_mnist.class_names)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(0, jax.jit(GAN.from_config(config).init)(jax.random.key(0)))


def test_examples_run_as_they_stand(report_run):
    assert len(EXAMPLES) == 2
    names = {}
    for example in EXAMPLES:
        exec(example, names)
    assert (names["images"].shape, names["images"].dtype) == ((3, 28, 28, 1), np.uint8)
    assert Path("boots.png").stat().st_size > 1000
    assert int(names["state"].step) == 100
    assert float(names["losses"].d_loss) < 0.2


def test_every_file_that_is_linked_or_shown_is_there():
    root = Path(__file__).parents[1]
    targets = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert targets
    for target in targets:
        assert (root / target).exists(), target
