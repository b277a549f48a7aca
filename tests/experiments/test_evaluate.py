"""`python -m experiments.evaluate` as a user runs it, after a short run with --eval-every."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cgan_jax.data import SPECS
from cgan_jax.metrics.reference import SHA256
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import format_figure, read_measures
from experiments.evaluate import run_folders
from tests.golden.make_run_folder import FOLDER as OF_ANOTHER_DATA_SET
from tests.helpers import command


@pytest.fixture(scope="module")
def trained(fashion_mnist, tmp_path_factory):
    """Two epochs of 16 steps, with a look at the quality after each."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--epochs", 2, "--batch-size", 3900, "--eval-every", 1)
    done = command("fashion_cgan", "--workdir", folder, *flags)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The run and its copy, compared."""
    folder, _ = trained
    again = shutil.copytree(folder, folder.with_name("again"))
    out = tmp_path_factory.mktemp("out") / "comparison"
    done = command("evaluate", folder, again, "--fast", "--best", "--out", out)
    assert done.returncode == 0, done.stderr
    return folder, out, done


@pytest.mark.slow
def test_training_tells_of_the_quality_and_keeps_the_best(trained):
    folder, done = trained
    rows = read_measures(folder / "measures.csv")
    assert [row["step"] for row in rows] == [16, 32]
    assert list(rows[0]) == ["epoch", "step", "gan_test", "fcd", "coverage", "pixel_fd"]
    assert f"Epoch 2/2: gan_test {rows[1]['gan_test']:.4g}, fcd " in done.stdout
    assert len(done.stderr.splitlines()) == 1, done.stderr
    best = min(rows, key=lambda row: row["pixel_fd"])
    assert int(restore_run(RunFolder.open(folder), best=True)[1].step) == best["step"]


@pytest.mark.slow
def test_an_evaluation_prints_a_table_and_says_that_it_was_fast(evaluated):
    _, _, done = evaluated
    assert done.stdout.count("A FAST LOOK") == 2
    for name in ("gan_test", "intra_fcd_worst", "kcd", "coverage", "nearest_training"):
        assert f"\n{name} " in done.stdout
    assert "\ncas " not in done.stdout
    assert f"reference classifier {SHA256[:12]}" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_evaluation_leaves_figures_and_pictures(evaluated):
    folder, _, _ = evaluated
    place = folder / "evaluation_best_fast"
    names = sorted(path.name for path in place.iterdir())
    assert names == ["confusion.png", "evaluation.json", "nearest.png", "per_class.png"]
    saved = json.loads((place / "evaluation.json").read_text())
    assert saved["about"] == {"run": "run", "seed": 0, "best": True}
    assert saved["stamp"]["protocol"]["name"] == "fast"
    assert saved["stamp"]["reference_sha256"] == SHA256
    assert np.sum(saved["confusion"]["fakes"]) == 2000
    assert 0 <= saved["measures"]["gan_test"]["mean"] <= 1
    for name in names:
        if name.endswith(".png"):
            with Image.open(place / name) as image:
                assert np.asarray(image.convert("L")).std() > 15


@pytest.mark.slow
def test_several_runs_are_compared(evaluated):
    """A run and its copy differ by nothing."""
    _, out, done = evaluated
    saved = json.loads((out / "comparison.json").read_text())
    assert saved["runs"] == ["run", "again"]
    for name, (one, other) in saved["measures"].items():
        assert one == other == saved["mean"][name]
        assert saved["sd"][name] == 0
    assert (out / "comparison.png").stat().st_size > 5_000
    assert str(out) in done.stdout


def begun(folder):
    """A run on Fashion-MNIST before its first save."""
    return RunFolder.start(folder, PRESETS["report"], SPECS["fashion_mnist"].class_names)


def test_a_folder_of_runs_stands_for_all_of_them(tmp_path):
    for name in ("a", "b"):
        begun(tmp_path / name).checkpoints.mkdir()
    (tmp_path / "notes").mkdir()
    found = run_folders([tmp_path], best=False)
    assert [run.path for run in found] == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "RUN"),
        (["{empty}"], "it has no config.json"),
        (["{empty}/nowhere"], "it has no config.json"),
        (["{other}"], "expected one on fashion_mnist"),
        (["{run}"], "has no checkpoints/ yet"),
        (["{run}", "--best"], "has no best/ yet"),
        (["{run}", "--fast", "--cas-on-real"], "cas_on_real"),
        (["{run}", "--slow"], "--slow"),
    ],
)
def test_wrong_flags_end_with_code_2_and_say_why(flags, named, tmp_path):
    """And nothing is written."""
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "run")
    places = {"empty": tmp_path / "empty", "run": tmp_path / "run", "other": OF_ANOTHER_DATA_SET}
    before = sorted(tmp_path.rglob("*"))
    done = command(
        "evaluate",
        *(flag.format(**places) for flag in flags),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert named.lower() in done.stderr.lower()
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_inception_weights_that_are_none_are_said(trained, tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"none")
    done = command("evaluate", trained[0], "--fast", "--inception-weights", file)
    assert done.returncode == 2
    assert "error: " in done.stderr and len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    "flags", [["--epochs", "0"], ["--out", "a.pt"], ["--out", "no/a.safetensors"]]
)
def test_a_reference_that_could_not_be_written_is_not_trained(flags, tmp_path):
    done = command("proofs.train_reference", *flags)
    assert done.returncode == 2
    assert flags[0].strip("-") in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.8, "0.800"), (7.0312, "7.03"), (123.45, "123.5"), (1e-4, "0.000100")],
)
def test_digits(value, text):
    assert format_figure(value) == text
