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
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cgan_jax.config import from_dict
from cgan_jax.errors import DataError
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import run_lock
from cgan_jax.runs.tables import read_losses
from cgan_jax.sampling.generator import load_generator
from experiments import fashion_cgan
from experiments.proofs import tiny
from experiments.shared import training
from experiments.shared.command_line import expand_home, fail, parse
from tests import helpers
from tests.helpers import ROOT

COMMAND = [sys.executable, "-m", "experiments.fashion_cgan"]
# Few and large batches: an epoch of 60,000 images in 16 steps, the last of which is smaller; and
# narrow layers, for CI also runs the report's.
FLAGS = ["--batch-size", "3900", "--sample-every", "1", "--checkpoint-every", "1"]
FLAGS += ["--generator-widths", "16", "32", "--discriminator-widths", "32", "32"]


def command(*flags, **options):
    return helpers.command("fashion_cgan", *flags, **options)


@pytest.fixture(scope="module")
def trained(fashion_mnist, tmp_path_factory):
    """One epoch without a stop: the folder, and the finished process."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = command("--workdir", folder, "--epochs", 1, "--log-every", 1, *FLAGS)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_run_prints_the_reports_lines_and_a_summary(trained):
    _, done = trained
    line = r"\[Epoch (\d+)/1\] \[Batch (\d+)/16\] \[D loss: \d\.\d{6}\] \[G loss: \d\.\d{6}\]"
    assert re.findall(line, done.stdout) == [("0", str(batch)) for batch in range(16)]
    assert "count from 0, as in the report" in done.stdout
    assert re.search(r"Epoch 1/1: D loss 0\.\d{4}, G loss \d\.\d{4}, [\d.]+ steps/s", done.stdout)
    assert "Finished: 16 steps" in done.stdout
    assert re.search(r"Fashion-MNIST train: 60,000 images from .+", done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_run_fills_its_folder(trained):
    folder, _ = trained
    config = from_dict(json.loads((folder / "config.json").read_text())["config"])
    assert (config.epochs, config.batch_size) == (1, 3900)
    widths = {"generator_widths": (16, 32), "discriminator_widths": (32, 32)}
    assert config.model == replace(PRESETS["report"].model, **widths)
    assert read_losses(folder / "losses.csv").shape == (16, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".lock", "checkpoints", "classes.csv", "command.txt", "config.json", "events"),
        *("losses.csv", "losses.png", "nearest.png", "real.png", "report.html", "samples"),
    ]
    again = shlex.split((folder / "command.txt").read_text())
    assert again[:3] == ["python", "-m", "experiments.fashion_cgan"]
    assert again[again.index("--workdir") + 1] == str(folder)
    assert "1 of 1" in (folder / "report.html").read_text()
    names = sorted(path.name for path in (folder / "samples").iterdir())
    assert names == ["epoch_0001.png"]
    for picture in (folder / "real.png", folder / "samples" / "epoch_0001.png"):
        with Image.open(picture) as image:
            assert image.size == (900, 917)
            assert np.asarray(image).std() > 40


def test_trained_generator_can_be_loaded(trained):
    generator = load_generator(trained[0])
    images = generator.generate(["Ankle boot", 3, "bag"])
    assert (images.shape, images.dtype, generator.step) == ((3, 28, 28, 1), np.uint8, 16)


def test_finished_run_is_not_changed(trained):
    folder, _ = trained

    def times():
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    done = command("--workdir", folder, "--epochs", 1, *FLAGS)
    assert done.returncode == 0
    assert "is finished: 16 steps" in done.stdout
    assert times() == before


def test_two_runs_in_one_folder(trained):
    """The second is refused."""
    with run_lock(trained[0]):
        done = command("--workdir", trained[0], "--epochs", 1, *FLAGS)
    assert done.returncode == 2
    assert f"in use by process {os.getpid()} on {os.uname().nodename}" in done.stderr
    assert len(done.stderr.partition("error: ")[2].splitlines()) <= 3


def test_run_without_its_checkpoints_does_not_start_over(trained, tmp_path):
    """They may still be somewhere; its losses and pictures stay."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    with (run / "losses.csv").open("a") as table:
        table.write("1,0,0.5,0.5\n")
    before = (run / "losses.csv").read_bytes()
    done = command("--workdir", run, "--epochs", 2, *FLAGS)
    assert done.returncode == 2
    assert "is empty, though" in done.stderr
    assert "--no-resume" in done.stderr
    assert (run / "losses.csv").read_bytes() == before


def test_another_configuration_is_refused(trained):
    done = command("--workdir", trained[0], "--epochs", 1, "--lr", 0.1, *FLAGS)
    assert done.returncode == 2
    assert "optimizer.lr: 0.0002 -> 0.1" in done.stderr


@pytest.fixture(scope="module")
def whole(fashion_mnist, tmp_path_factory):
    """The folder of three epochs without a stop."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert command("--workdir", folder, "--epochs", 3, *FLAGS).returncode == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_run_stopped_by_a_signal_resumes_to_the_same_bits(whole, tmp_path, number, code):
    flags = ["--workdir", str(tmp_path / "run"), "--epochs", "3", *FLAGS]
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
    assert ": python -m experiments.fashion_cgan --workdir" in out
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert_ends_as(command(*flags), tmp_path / "run", whole)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bits(whole, tmp_path):
    """kill -9 before the first checkpoint, twice in the second epoch, and at a save."""
    flags, folder = ["--epochs", "3", *FLAGS], tmp_path / "run"
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
def test_no_resume_renames_the_old_run(tmp_path):
    folder = tmp_path / "run"
    for flags in (["--seed", "1"], ["--seed", "2", "--no-resume"]):
        done = command("--workdir", folder, "--epochs", 1, *FLAGS, *flags)
        assert done.returncode == 0, done.stderr
    assert "was moved to" in done.stderr
    assert json.loads((folder / "config.json").read_text())["config"]["seed"] == 2
    assert read_losses(tmp_path / "run.old-1" / "losses.csv").shape == (16, 2)


@pytest.mark.slow
def test_dry_run_describes_the_run_and_writes_nothing(tmp_path, monkeypatch, capsys):
    timer = training.PaceTimer
    monkeypatch.setattr(training, "PaceTimer", lambda: timer(seconds=0))
    flags = ["--dry-run", "--workdir", str(tmp_path / "run"), "--batch-size", "3900"]
    monkeypatch.setattr(sys, "argv", [fashion_cgan.MODULE, *flags])
    fashion_cgan.main()
    printed = capsys.readouterr().out
    for words in (
        "1,511,412",
        "932,965",
        "60,000 images from",
        "28 x 28 pixels, 1 channel",
        "10 classes of 6,000 images each",
        "3,200 steps",
        "lr",
        "expected time",
    ):
        assert words in printed
    assert not (tmp_path / "run").exists()


def test_dry_run_counts_the_steps_left_and_no_compilation(
    tiny_dataset, tmp_path, capsys, monkeypatch
):
    timer = training.PaceTimer
    monkeypatch.setattr(training, "PaceTimer", lambda: timer(seconds=0.2))
    monkeypatch.setattr(training, "program_memory", lambda program: 1234 * 2**20)
    config = replace(tiny.CONFIG, epochs=1000)
    run = RunFolder.start(tmp_path, config, tiny_dataset.class_names)
    run.losses.write_text("epoch,batch,d_loss,g_loss\n" + 600 * "0,0,1,1\n")
    training.describe(config, tiny_dataset, tmp_path)
    printed = capsys.readouterr().out
    assert re.search(r"^memory +1,234 MiB on the device", printed, re.MULTILINE)
    line = re.search(r" for 5,400 of the 6,000 steps \((\d+) steps/s, measured", printed)
    assert int(line.group(1)) > 100  # with the compilation it would be a few
    training.describe(config, tiny_dataset, tmp_path, resume=False)
    assert " for 6,000 steps (" in capsys.readouterr().out


def test_help_names_every_flag_and_its_default():
    done = command("--help", env={**os.environ, "COLUMNS": "300"})
    assert done.returncode == 0
    assert "looked for, and fetched" in done.stdout  # a docstring of two lines
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
    """And nothing is written. More of them, within one process, are in test_bad_input.py."""
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


def test_home_is_expanded_in_all_paths(monkeypatch, tmp_path):
    """As a shell does not within quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))

    @dataclass(frozen=True)
    class Part:
        file: Path = Path("~/part")

    @dataclass(frozen=True)
    class Flags:
        """Flags."""

        paths: tuple[Path, ...] = (Path("~"), Path("b/~"))
        part: Part = field(default_factory=Part)
        name: str = "~"

    flags = expand_home(Flags())
    assert flags == Flags((tmp_path, Path("b/~")), Part(tmp_path / "part"))
    parsed = parse(fashion_cgan.Flags, "x", ["--workdir", "~/run"])
    assert (parsed.workdir, parsed.data_dir) == (tmp_path / "run", None)


def test_home_of_an_unknown_user_is_an_error():
    with pytest.raises(DataError, match=r"workdir .*'~nobody-has-this-name/run'"):
        parse(fashion_cgan.Flags, "x", ["--workdir", "~nobody-has-this-name/run"])


def test_errors_have_no_colours(capsys):
    """As PyTorch's have, of a file that it cannot read, cut in the middle of a code here."""
    with pytest.raises(SystemExit):
        fail("it is \x1b[1mbold\x1b[0m, and cut\x1b[1")
    assert capsys.readouterr().err == "error: it is bold, and cut\n"


def run_script(body, **options):
    """The function `main` under `run`, in a process of its own."""
    script = f"from experiments.shared.command_line import run\ndef main():\n    {body}\nrun(main)"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, timeout=60, text=True, **options
    )


@pytest.mark.parametrize("platform", ["nonsuch", "cuda"])
def test_missing_platform_of_jax_is_named(platform):
    if platform == "cuda" and jax.default_backend() != "cpu":
        pytest.skip("this machine has it")
    done = run_script(
        "import jax; jax.devices()",
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
    )
    assert done.returncode == 2
    first, second, third = done.stderr.splitlines()[-3:]
    assert first == f"error: JAX_PLATFORMS is {platform}, which JAX cannot use here"
    assert second.startswith("expected ")
    assert third.startswith("Unset it")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("print(1)", "the output cannot be written: No space left on device"),
        ("print(1); raise SystemExit(0)", "the output cannot be written"),
        ("from cgan_jax.errors import RunError; raise RunError('other')", "other"),
    ],
)
def test_output_to_a_full_device(body, error, unbuffered):
    with open("/dev/full", "w") as full:
        done = run_script(
            body,
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {error}")
    assert len(done.stderr.splitlines()) <= 3, done.stderr


@pytest.mark.parametrize(("flags", "code"), [("--help", 0), ("--epochs 0", 2)])
def test_closed_output_is_no_error(flags, code):
    line = f"{shlex.join(COMMAND)} {flags} 2>&1 >&-"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert "Traceback" not in done.stdout
    line = f"{shlex.join(COMMAND)} {flags} >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], cwd=ROOT, timeout=60).returncode == code


def test_other_errors_keep_their_traceback():
    done = run_script("raise OSError(5, 'a mistake')", capture_output=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_ctrl_c_during_imports(tmp_path):
    """Simulated by a module in place of tyro. The shell says 130 of a process that SIGINT ended."""
    interrupt = "import signal\nsignal.raise_signal(signal.SIGINT)\n"
    (tmp_path / "tyro.py").write_text(interrupt)
    done = command(env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == -signal.SIGINT
    assert done.stderr == done.stdout == ""
