"""`python -m experiments.fashion_cgan` as a user runs it, in processes of its own, on real data."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cgan_jax.config import from_dict
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import run_lock
from cgan_jax.runs.tables import read_losses
from cgan_jax.sampling.generator import load_generator
from experiments.proofs import tiny
from experiments.shared import training
from tests import helpers
from tests.helpers import ROOT

COMMAND = [sys.executable, "-m", "experiments.fashion_cgan"]
# Few and large batches: an epoch of 60,000 images in 16 steps, the last of which is smaller.
FAST_COMPILE = ["--batch-size", "3900", "--sample-every", "1", "--checkpoint-every", "1"]


def command(*flags, **options):
    return helpers.command("fashion_cgan", *flags, **options)


@pytest.fixture(scope="module")
def trained(fashion_mnist, tmp_path_factory):
    """An epoch without a stop: the folder and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = command("--workdir", folder, "--epochs", 1, "--log-every", 1, *FAST_COMPILE)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_prints_the_reports_lines_and_a_summary(trained):
    _, done = trained
    line = r"\[Epoch (\d+)/1\] \[Batch (\d+)/16\] \[D loss: \d\.\d{6}\] \[G loss: \d\.\d{6}\]"
    found = re.findall(line, done.stdout)
    assert found == [("0", str(batch)) for batch in range(16)]
    assert re.search(r"Epoch 1/1: D loss 0\.\d{4}, G loss \d\.\d{4}, [\d.]+ steps/s", done.stdout)
    assert "Finished: 16 steps" in done.stdout
    assert re.search(r"Fashion-MNIST train: 60000 images from .+", done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_run_fills_its_folder(trained):
    folder, _ = trained
    config = from_dict(json.loads((folder / "config.json").read_text())["config"])
    assert (config.epochs, config.batch_size) == (1, 3900)
    assert config.model == PRESETS["report"].model
    assert read_losses(folder / "losses.csv").shape == (16, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".lock", "checkpoints", "command.txt", "config.json", "events"),
        *("losses.csv", "losses.png", "real.png", "report.html", "samples"),
    ]
    again = shlex.split((folder / "command.txt").read_text())
    assert again[:5] == ["python", "-m", "experiments.fashion_cgan", "--workdir", str(folder)]
    assert "1 of 1" in (folder / "report.html").read_text()
    names = sorted(path.name for path in (folder / "samples").iterdir())
    assert names == ["epoch_0001.png"]
    for picture in (folder / "real.png", folder / "samples" / "epoch_0001.png"):
        with Image.open(picture) as image:
            assert image.size == (900, 917)
            assert np.asarray(image).std() > 40


def test_a_trained_generator_can_be_loaded(trained):
    generator = load_generator(trained[0])
    images = generator.generate(["Ankle boot", 3, "bag"])
    assert (images.shape, images.dtype, generator.step) == ((3, 28, 28, 1), np.uint8, 16)


def test_a_finished_run_says_so_and_changes_nothing(trained):
    folder, _ = trained

    def times():
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    done = command("--workdir", folder, "--epochs", 1, *FAST_COMPILE)
    assert done.returncode == 0
    assert "is finished: 16 steps" in done.stdout
    assert times() == before


def test_two_runs_in_one_folder(trained):
    """The second is refused; the folder is free again when the first has ended."""
    with run_lock(trained[0]):
        done = command("--workdir", trained[0], "--epochs", 1, *FAST_COMPILE)
    assert done.returncode == 2
    assert f"in use by process {os.getpid()} on {os.uname().nodename}" in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(trained, tmp_path):
    """What was trained may still be somewhere; its losses and pictures stay."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    with (run / "losses.csv").open("a") as table:
        table.write("1,0,0.5,0.5\n")
    before = (run / "losses.csv").read_bytes()
    done = command("--workdir", run, "--epochs", 2, *FAST_COMPILE)
    assert done.returncode == 2
    assert "is empty, though" in done.stderr
    assert "--no-resume" in done.stderr
    assert (run / "losses.csv").read_bytes() == before


def test_another_configuration_is_refused(trained):
    done = command("--workdir", trained[0], "--epochs", 1, "--lr", 0.1, *FAST_COMPILE)
    assert done.returncode == 2
    assert "optimizer.lr: 0.0002 -> 0.1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_ends_in_the_same_bits(trained, tmp_path, number, code):
    whole, _ = trained
    flags = ["--workdir", str(tmp_path / "run"), "--epochs", "1", *FAST_COMPILE]
    stopped = subprocess.Popen(
        [*COMMAND, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    table = tmp_path / "run" / "losses.csv"
    wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > 3, stopped)
    stopped.send_signal(number)
    out, err = stopped.communicate(timeout=120)
    assert stopped.returncode == code, err
    assert "To go on: python -m experiments.fashion_cgan --workdir" in out
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert_ends_as(command(*flags), tmp_path / "run", whole)


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_in_the_same_bits(fashion_mnist, tmp_path):
    """kill -9 before the first checkpoint, twice in the second epoch, and at a save."""
    flags = ["--epochs", "3", *FAST_COMPILE]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert command("--workdir", whole, *flags).returncode == 0
    for rows in (3, 18, 29, 33):
        killed = subprocess.Popen(
            [*COMMAND, "--workdir", str(folder), *flags],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        table = folder / "losses.csv"
        wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > rows, killed)  # noqa: B023
        killed.kill()
        killed.wait()
    assert_ends_as(command("--workdir", folder, *flags), folder, whole)


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_ends_as(done, folder, whole):
    assert done.returncode == 0, done.stderr
    assert (folder / "losses.csv").read_text() == (whole / "losses.csv").read_text()
    labels = np.arange(10)
    one, other = load_generator(folder), load_generator(whole)
    assert one.step == other.step
    np.testing.assert_array_equal(one.generate(labels), other.generate(labels))
    name = "samples/epoch_0001.png"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_no_resume_moves_the_old_run_aside(tmp_path):
    folder = tmp_path / "run"
    for flags in (["--seed", "1"], ["--seed", "2", "--no-resume"]):
        done = command("--workdir", folder, "--epochs", 1, *FAST_COMPILE, *flags)
        assert done.returncode == 0, done.stderr
    assert "was moved to" in done.stderr
    assert json.loads((folder / "config.json").read_text())["config"]["seed"] == 2
    assert read_losses(tmp_path / "run.old-1" / "losses.csv").shape == (16, 2)


def test_a_dry_run_says_everything_and_writes_nothing(tmp_path):
    done = command("--dry-run", "--workdir", tmp_path / "run", "--batch-size", 3900)
    assert done.returncode == 0, done.stderr
    for words in (
        "1,511,412",
        "932,965",
        "60,000 images from",
        "3,200 steps",
        "lr",
        "expected time",
    ):
        assert words in done.stdout
    assert not (tmp_path / "run").exists()


def test_a_dry_run_knows_what_is_left_and_counts_no_compilation(tiny_dataset, tmp_path, capsys):
    config = replace(tiny.CONFIG, epochs=1000)
    run = RunFolder.start(tmp_path, config, tiny_dataset.class_names)
    run.losses.write_text("epoch,batch,d_loss,g_loss\n" + 600 * "0,0,1,1\n")
    training.describe(config, tiny_dataset, tmp_path)
    found = re.search(r" for 5,400 of the 6,000 steps \((\d+) a second", capsys.readouterr().out)
    assert int(found.group(1)) > 100  # with the compilation it were a few
    training.describe(config, tiny_dataset, tmp_path, resume=False)
    assert " for 6,000 steps (" in capsys.readouterr().out


def test_help_names_every_flag_and_its_default():
    done = command("--help", env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0
    for flag in (
        *(
            "--epochs",
            "--batch-size",
            "--lr",
            "--b1",
            "--b2",
            "--latent-dim",
            "--seed",
            "--workdir",
        ),
        *("--data-dir", "--sample-every", "--checkpoint-every", "--log-every", "--no-resume"),
        *("--dry-run", "default: 200", "default: 0.0002", "Examples:"),
    ):
        assert flag in done.stdout, flag


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--epochs", "ten"], "--epochs"),
        (["--lr", "nan"], "lr"),
        (["--workdir", "{folder}"], "other files"),
    ],
)
def test_wrong_flags_end_with_code_2_and_say_why(flags, named, tmp_path):
    """And nothing is written. More of them, not in processes of their own, in test_bad_input.py."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    flags = [flag.format(folder=tmp_path / "full") for flag in flags]
    if "--workdir" not in flags:
        flags += ["--workdir", str(tmp_path / "run")]
    # A terminal whose encoding lacks the lines that tyro draws with.
    done = command(*flags, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert named in done.stderr
    assert "helptext" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "notes.txt"]


def test_help_and_wrong_flags_do_not_import_jax():
    code = (
        "import sys, contextlib\n"
        "sys.argv = ['x', *{flags}]\n"
        "from experiments.shared.command_line import run\n"
        "from experiments.fashion_cgan import main\n"
        "with contextlib.suppress(SystemExit): run(main)\n"
        "print('JAX' if 'jax' in sys.modules else 'none')"
    )
    for flags in (["--help"], ["--lr", "nan"]):
        script = code.format(flags=flags)
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.splitlines()[-1] == "none", done.stderr
