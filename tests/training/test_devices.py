"""One run on several devices and in several processes. Slow: each starts new processes."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cgan_jax.errors import ConfigError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import read_losses
from cgan_jax.training.sharding import data_mesh, shard_batch
from tests.helpers import ROOT

# 60,000 images in 9 batches of 6,400 and a last one of 2,400: on 8 devices 800 and 300 each.
FLAGS = ["--batch-size", "6400", "--sample-every", "9", "--checkpoint-every", "1"]
# Of narrow networks, since a batch's rows are split alike in all.
FLAGS += ["--generator-widths", "32", "64", "--discriminator-widths", "64", "64"]


def start(folder, *flags, epochs=1, devices=1):
    flags = ("--workdir", folder, "--epochs", epochs, *FLAGS, *flags)
    return start_python("-m", "experiments.fashion_cgan", *flags, devices=devices)


def start_python(*words, devices=1):
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes, code=0):
    """Each process's output and errors, once all have ended with this code."""
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), outputs
    return outputs


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start_two(folder, *more_flags, **more):
    flags = [*more_flags, "--coordinator", free_address(), "--processes", "2", "--process-id"]
    return [start(folder, *flags, str(i), **more) for i in range(2)]


def losses(folder):
    return read_losses(folder / "losses.csv")


@pytest.fixture(scope="module")
def on_one(fashion_mnist, tmp_path_factory):
    """On one of eight devices, so that the number in use is all that differs."""
    folder = tmp_path_factory.mktemp("one") / "run"
    finish(start(folder, "--devices", "1", devices=8))
    return losses(folder)


@pytest.mark.slow
def test_eight_devices_match_one(on_one, tmp_path):
    """Losses within 1e-5 of each other after 10 steps: the order of summation differs."""
    finish(start(tmp_path / "run", "--devices", "8", devices=8))
    on_eight = losses(tmp_path / "run")
    assert on_eight.shape == on_one.shape == (10, 2)
    np.testing.assert_allclose(on_eight, on_one, atol=1e-5)
    assert (on_eight != on_one).any()  # otherwise one device took all


@pytest.mark.slow
def test_two_processes_match_two_devices(on_one, tmp_path):
    """To the same bits; and a run moves from one to the other and back."""
    ((output, errors), (follower_output, _)) = finish(*start_two(tmp_path / "both"))
    finish(start(tmp_path / "one", "--devices", "2", devices=2))
    np.testing.assert_array_equal(losses(tmp_path / "both"), losses(tmp_path / "one"))
    np.testing.assert_allclose(losses(tmp_path / "both"), on_one, atol=1e-5)
    assert "Finished: 10 steps" in output
    assert "Epoch" not in follower_output

    finish(*start_two(tmp_path / "one", epochs=2))
    assert len(losses(tmp_path / "one")) == 20
    ((_, errors),) = finish(start(tmp_path / "both", epochs=2))
    assert "The run began elsewhere (devices: 2 -> 1)" in errors
    # One device, and two in two processes, resumed from the same bits.
    np.testing.assert_allclose(losses(tmp_path / "both"), losses(tmp_path / "one"), atol=1e-4)
    assert restore_run(RunFolder.open(tmp_path / "both"))[1].step == 20


@pytest.mark.slow
def test_two_processes_stop_together(fashion_mnist, tmp_path):
    both = start_two(tmp_path / "run", epochs=400)
    table, deadline = tmp_path / "run" / "losses.csv", time.monotonic() + 200
    while not (table.exists() and len(table.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline
        assert both[0].poll() is None, both[0].communicate()
        time.sleep(0.2)
    for process in both:
        process.send_signal(signal.SIGTERM)
    (output, _), _ = (process.communicate(timeout=200) for process in both)
    assert [process.returncode for process in both] == [128 + signal.SIGTERM] * 2
    assert "Stopped and saved after step" in output
    step = int(restore_run(RunFolder.open(tmp_path / "run"))[1].step)
    assert 0 < step == len(losses(tmp_path / "run"))


@pytest.mark.slow
def test_failure_of_the_first_process_ends_the_others(fashion_mnist, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("not a run")
    (_, first), (_, second) = finish(*start_two(tmp_path / "run"), code=2)
    assert "holds other files, and not a run" in first
    assert "error: the first process has failed" in second


@pytest.mark.slow
def test_failure_of_all_processes_ends_them_all(fashion_mnist, tmp_path):
    for _, errors in finish(*start_two(tmp_path / "run", "--devices", "1"), code=2):
        assert "error: devices must be 2, all of the several hosts, not 1" in errors


def test_too_many_devices_are_refused():
    with pytest.raises(ConfigError, match=r"devices must be in 1\.\.1, not 3"):
        data_mesh(3)


@pytest.mark.slow
def test_indivisible_batch_is_refused_before_anything_is_written(fashion_mnist, tmp_path):
    ((_, errors),) = finish(start(tmp_path / "run", "--devices", "3", devices=3), code=2)
    assert "error: a batch of 6400 cannot be split equally over 3 devices" in errors
    assert len(errors.split("error:")[1].splitlines()) == 2
    assert not (tmp_path / "run").exists()


def test_rows_are_split_only_in_a_mesh():
    rows = np.ones((4, 2))
    assert shard_batch(rows) is rows
    with jax.set_mesh(data_mesh(1)):
        assert jax.jit(shard_batch)(rows).shape == (4, 2)
