"""The GPU campaign, all of it, on a CPU and with PyTorch beside it."""

import json

import numpy as np
import pytest

from tests.helpers import command


@pytest.mark.slow
@pytest.mark.torch
def test_a_rehearsal_runs_every_part(tmp_path, fashion_mnist):
    file = tmp_path / "gpu.json"
    words = ("--tiny", "--json", file, "--workdir", tmp_path / "runs")
    done = command("proofs.gpu", *words, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    saved = json.loads(file.read_text())["parts"]
    assert list(saved) == ["main", "speed", "seeds", "presets", "exactness", "samples"]
    rows = {}
    for part in saved.values():
        assert part["failed"] is None
        assert part["machine"]["platform"] in ("cpu", "gpu")
        rows |= {row["what"]: row for row in part["rows"]}
    assert all(what in done.stdout for what in rows)
    exact = [row for row in rows.values() if "differ" in row["what"] or "float" in row["what"]]
    assert len([row for row in exact if row["met"]]) == 2 + 13 + 1
    assert (
        rows["2 epochs after that"]["value"]
        > rows["  in steps, without pictures and checkpoints"]["value"]
        > 0
    )
    assert len(saved["main"]["details"]["first losses"]["ours"]) == 25
    curves = np.loadtxt(tmp_path / "gpu_curves.csv", delimiter=",", skiprows=1)
    assert curves.shape[1] == 5
    assert np.isfinite(curves).all()
    assert 0 < np.abs(curves[:, 1:3] - curves[:, 3:]).max() < 0.1  # two precisions
