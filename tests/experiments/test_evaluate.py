"""`python -m experiments.evaluate` as a user runs it, and its tables and files without a run."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgan_jax.data import SPECS
from cgan_jax.errors import CGANError, ConfigError, RunError
from cgan_jax.metrics.classification import ConfusionMatrix
from cgan_jax.metrics.evaluation import Evaluation
from cgan_jax.metrics.reference import SHA256
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder, runs_in
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import format_figure, read_measures
from experiments.evaluate import Candidate, compare, main, publish, summarize
from experiments.proofs import train_reference
from tests.golden.make_run_folder import FOLDER as RUN_ON_OTHER_DATA
from tests.helpers import check_flags, command

CLASS_NAMES = SPECS["fashion_mnist"].class_names


def start(folder):
    """A run on Fashion-MNIST before its first checkpoint."""
    return RunFolder.start(folder, PRESETS["report"], CLASS_NAMES)


def evaluation(fcd=3.5):
    """Random images with known measures."""
    rng = np.random.default_rng(0)
    means = {"gan_test": (0.8, 0.9), "fcd": (fcd, 0.05), "nearest_training": (40.0, 32.0)}
    counts = ConfusionMatrix(rng.integers(1, 50, (10, 10)))
    per_class = {"fakes": rng.random(10).tolist(), "real": rng.random(10).tolist()}
    return Evaluation(
        measures={
            name: {"mean": mean, "sd": None, "values": [mean], "real": real}
            for name, (mean, real) in means.items()
        },
        per_class=dict.fromkeys(("gan_test", "diversity", "intra_fcd"), per_class),
        confusion={"fakes": counts, "real": counts},
        warnings=("COLLAPSE: images of Bag",),
        stamp={
            "protocol": {"name": "fast", "n_images": 2000, "seeds": [0]},
            "step": 7,
            "reference_sha256": SHA256,
        },
        neighbours=rng.integers(0, 256, (2, 3, 10, 28, 28, 1), np.uint8),
    )


def test_an_evaluation_is_printed_with_directions_and_written(tmp_path, capsys):
    run, folder = start(tmp_path / "run"), tmp_path / "run" / "evaluation_fast"
    publish(evaluation(), Candidate(run, None, best=True), folder, raw=False)
    out, err = capsys.readouterr()
    assert "A FAST LOOK" in out and f"reference classifier {SHA256[:12]}" in out
    words = [line.split() for line in out.splitlines()]
    assert ["gan_test", "higher", "0.800", "0.900", "0.889"] in [line[:5] for line in words]
    assert ["fcd", "lower", "3.50", "0.0500", "70.0"] in [line[:5] for line in words]
    assert ["nearest_training", "near", "real", "40.0"] in [line[:4] for line in words]
    assert "WARNING: COLLAPSE" in err
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["confusion.png", "evaluation.json", "nearest.png", "per_class.png"]
    saved = json.loads((folder / "evaluation.json").read_text())
    assert saved["about"] == {"run": "run", "seed": 0, "best": True, "raw": False}
    for name in names:
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                assert np.asarray(image.convert("L")).std() > 15
    assert "Frechet distance to test images; lower is better" in (
        run.path / "report.html"
    ).read_text(encoding="utf-8")


def test_figures_are_printed_even_if_they_cannot_be_written(tmp_path, capsys):
    (tmp_path / "evaluation" / "confusion.png").mkdir(parents=True)
    candidate = Candidate(start(tmp_path / "run"), None, best=False)
    with pytest.raises(RunError, match=r"confusion\.png cannot be written"):
        publish(evaluation(), candidate, tmp_path / "evaluation", raw=False)
    assert "\ngan_test " in capsys.readouterr().out


def test_several_runs_are_compared(tmp_path, capsys):
    compare([evaluation(3), evaluation(5)], ["one", "two"], tmp_path)
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert saved["runs"] == ["one", "two"]
    assert saved["measures"]["fcd"] == [3, 5]
    assert saved["mean"]["fcd"] == 4
    assert saved["sd"]["fcd"] == pytest.approx(2**0.5)
    assert saved["real"]["fcd"] == 0.05
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fcd", "lower", "3.00", "5.00", "4.00", "1.41"] in words
    assert (tmp_path / "comparison.png").stat().st_size > 5_000


def test_last_and_best_stand_side_by_side_and_last_ones_are_compared(tmp_path, capsys):
    one, two = (start(tmp_path / name) for name in ("one", "two"))
    candidates = [
        Candidate(one, None, best=False),
        Candidate(one, None, best=True),
        Candidate(two, None, best=False),
    ]
    summarize(candidates, [evaluation(3), evaluation(2), evaluation(5)], tmp_path / "out")
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert words.count(["measure", "better", "last", "best"]) == 1
    assert ["fcd", "lower", "3.00", "2.00"] in words
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (saved["runs"], saved["measures"]["fcd"]) == (["one", "two"], [3, 5])


@pytest.fixture(scope="module")
def trained(fashion_mnist, tmp_path_factory):
    """Two epochs of 16 steps, each followed by quick measures."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--epochs", 2, "--batch-size", 3900, "--eval-every", 1)
    done = command("fashion_cgan", "--workdir", folder, *flags)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_training_reports_measures_and_keeps_the_best_checkpoint(trained):
    folder, done = trained
    rows = read_measures(folder / "measures.csv")
    assert [row["step"] for row in rows] == [16, 32]
    assert list(rows[0]) == ["epoch", "step", "gan_test", "fcd", "coverage", "pixel_fd"]
    assert f"Epoch 2/2: gan_test {rows[1]['gan_test']:.4g}, fcd " in done.stdout
    assert len(done.stderr.splitlines()) == 1, done.stderr
    best = min(rows, key=lambda row: row["pixel_fd"])
    assert int(restore_run(RunFolder.open(folder), best=True)[1].step) == best["step"]


@pytest.mark.slow
def test_the_command_evaluates_a_run_and_its_copy(trained, tmp_path):
    """They do not differ."""
    folder, _ = trained
    again = shutil.copytree(folder, folder.with_name("again"))
    out = tmp_path / "comparison"
    done = command("evaluate", folder, again, "--fast", "--out", out)
    assert done.returncode == 0, done.stderr
    best_step = int(restore_run(RunFolder.open(folder), best=True)[1].step)
    both = best_step != 32
    assert done.stdout.count("A FAST LOOK") == (4 if both else 2)
    assert done.stdout.count("the best checkpoint is the last one") == (0 if both else 2)
    for name in ("gan_test", "intra_fcd_worst", "kcd", "coverage", "nearest_training"):
        assert f"\n{name} " in done.stdout
    assert "\ncas " not in done.stdout
    assert "Traceback" not in done.stderr
    assert str(out) in done.stdout
    for kind in ("evaluation_fast", "evaluation_best_fast")[: 1 + both]:
        saved = json.loads((folder / kind / "evaluation.json").read_text())
        assert saved["stamp"]["protocol"]["name"] == "fast"
        assert saved["stamp"]["reference_sha256"] == SHA256
        assert np.sum(saved["confusion"]["fakes"]) == 2000
        assert 0 <= saved["measures"]["gan_test"]["mean"] <= 1
    saved = json.loads((out / "comparison.json").read_text())
    assert saved["runs"] == ["run", "again"]
    for name, (first, second) in saved["measures"].items():
        assert first == second == saved["mean"][name]
        assert saved["sd"][name] == 0


def test_a_folder_of_runs_stands_for_all_of_them(tmp_path):
    for name in ("a", "b"):
        start(tmp_path / name).checkpoints.mkdir()
    (tmp_path / "notes").mkdir()
    runs = runs_in([tmp_path])
    assert [run.path for run in runs] == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("{empty}", "it has no config.json"),
        ("{empty}/nowhere", "it has no config.json"),
        ("{other}", "holds a run on tiny, and not the command"),
        ("{run}", "there are no checkpoints in"),
        ("{run} --fast --cas-on-real", "cas_on_real"),
        ("{saved}", "saved/evaluation/evaluation.json cannot be written"),
        (
            "{saved} {saved} --fast --out {saved}/evaluation/x",
            "x/evaluation.json cannot be written",
        ),
        pytest.param(
            "{saved} --fast --inception-weights {saved}/config.json",
            "Inception",
            marks=pytest.mark.slow,  # it imports PyTorch
        ),
    ],
)
def test_runs_that_cannot_be_evaluated_are_refused(flags, message, tmp_path, monkeypatch):
    """And nothing is measured or written."""
    (tmp_path / "empty").mkdir()
    start(tmp_path / "run")
    saved = start(tmp_path / "saved")
    saved.checkpoints.mkdir()
    (saved.path / "evaluation").touch()
    folders = {name: tmp_path / name for name in ("empty", "run", "saved")}
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(
        "sys.argv", ["evaluate", *flags.format(**folders, other=RUN_ON_OTHER_DATA).split()]
    )
    monkeypatch.setattr("cgan_jax.metrics.evaluation.Evaluator", None)
    with pytest.raises(CGANError, match=message):
        main()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("flags", "message"), [([], "RUN"), (["runs", "--slow"], "--slow")])
def test_wrong_flags_end_with_code_2_and_a_reason(flags, message):
    """On a terminal without Unicode, too."""
    done = command("evaluate", *flags, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (2, "")
    assert message.lower() in done.stderr.lower()
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 3, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 0}, "epochs"), ({"out": "a.pt"}, "out"), ({"out": "no/a.safetensors"}, "out")],
)
def test_a_reference_that_cannot_be_written_is_not_trained(options, message):
    options = {name: Path(value) if name == "out" else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=message):
        check_flags(train_reference.Flags(**options))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.8, "0.800"), (7.0312, "7.03"), (123.45, "123.5"), (1e-4, "0.000100")],
)
def test_digits(value, text):
    assert format_figure(value) == text
