"""What becomes of several processes when one of them dies, hangs, fails or is busy.

Slow: each test starts new processes. How they share a batch is in test_devices.py.
"""

import re
import signal
import time

import jax
import numpy as np
import pytest

from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import read_losses
from experiments.proofs import tiny
from tests.training.test_devices import finish, free_address, start_python

EPOCHS, PER_EPOCH, CHECKPOINT_EVERY = 60, 6, 5
TIMEOUT = 6  # seconds; on a busy machine an answer may take some
GONE = re.compile(
    r"error: another process (has ended or does not answer|does not answer: .+)\n"
    r"Earlier checkpoints stay\. See its own message, and start all processes again\.\n"
)

# For what a command cannot be made to do: python -c SCRIPT address number fault
SCRIPT = f"""
import ctypes, functools, sys, time
import jax
from cgan_jax.data.sources import DatasetSource
from cgan_jax.errors import DataError, RunError
from cgan_jax.training import hosts
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sharding import data_mesh
from cgan_jax.training.step import run_keys
from experiments.proofs.tiny import CONFIG, dataset
from experiments.shared.command_line import run

address, number, fault = sys.argv[1:]

def pause(seconds):
    if fault == "busy" and hosts.is_leader():
        ctypes.PyDLL(None).sleep(seconds)  # none of its Python threads runs meanwhile

class Faulty(Callback):
    def on_epoch_end(self, end):
        pause({2 * TIMEOUT})
        if fault == "error":
            raise RunError("the disk is full")
        if fault == "interrupt":
            raise KeyboardInterrupt

class FaultySource(DatasetSource):
    def batches(self, step, n):
        if step > 6 and number == "1" and fault == "unreadable":
            raise DataError("the file is damaged")
        return super().batches(step, n)

def main():
    if fault == "missing":
        jax.distributed.initialize = functools.partial(
            jax.distributed.initialize, initialization_timeout=2
        )
    hosts.initialize(address, 2, int(number), {TIMEOUT})
    with hosts.report_failure({TIMEOUT}):
        pause(35)
        mesh, callbacks = data_mesh(), [Faulty()] if hosts.is_leader() else []
        data = FaultySource(dataset(), CONFIG.batch_size, run_keys(0).order, mesh=mesh)
        state = train(GAN.from_config(CONFIG), CONFIG, data, mesh=mesh, callbacks=callbacks)
        pause(3)
        is_busy_until = time.time()
    print("step", state.step, "ended at", is_busy_until if hosts.is_leader() else time.time())

run(main)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path, dataset = tmp_path_factory.mktemp("data") / "tiny.npz", tiny.dataset()
    np.savez(path, images=dataset.images, labels=dataset.labels)
    return path


def start(data, folder, *flags, **more):
    words = ["--workdir", folder, "--epochs", EPOCHS, "--checkpoint-every", CHECKPOINT_EVERY]
    words += ["--batch-size", 4, "--sample-every", EPOCHS]
    words += ["--generator-widths", 4, 4, "--discriminator-widths", 4, 4]
    return start_python("-m", "experiments.train", data, *words, *flags, **more)


def start_two(data, folder):
    flags = ["--coordinator", free_address(), "--processes", 2, "--peer-timeout", TIMEOUT]
    return [start(data, folder, *flags, "--process-id", i) for i in range(2)]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """The results of one process with two devices."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(data, folder, "--devices", 2, devices=2))
    return results(folder)


def results(folder):
    """What a run has computed: its losses, and the arrays of its last state."""
    state = restore_run(RunFolder.open(folder))[1]
    return [read_losses(folder / "losses.csv"), *jax.tree.leaves(state)]


def check_that_it_ends(process, seconds=2 * TIMEOUT):
    """With code 1, and two lines that say that another process is gone."""
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == 1, errors
    assert GONE.fullmatch(errors), errors


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_others_end_soon_and_the_run_resumes(fault, victim, data, undisturbed, tmp_path):
    """To the same bits as a run that nothing has disturbed."""
    both, losses = start_two(data, tmp_path / "run"), tmp_path / "run" / "losses.csv"
    try:
        deadline = time.monotonic() + 200
        while not (losses.exists() and len(losses.read_text().splitlines()) > 8 * PER_EPOCH):
            assert [process.poll() for process in both] == [None, None]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        both[victim].send_signal(fault)
        check_that_it_ends(both[1 - victim])
        if fault == signal.SIGSTOP:  # it finds that the other one has gone
            both[victim].send_signal(signal.SIGCONT)
            check_that_it_ends(both[victim])
    finally:
        for process in both:
            process.kill()
            process.communicate()
    # With the first process, the save that was under way is gone too.
    allowed = CHECKPOINT_EVERY * (2 if (fault, victim) == (signal.SIGKILL, 0) else 1)
    run = RunFolder.open(tmp_path / "run")
    assert run.steps_logged() - run.steps_saved() <= allowed * PER_EPOCH

    finish(*start_two(data, tmp_path / "run"))
    for array, expected in zip(results(tmp_path / "run"), undisturbed, strict=True):
        np.testing.assert_array_equal(array, expected)


def start_script(fault):
    address = free_address()
    return [start_python("-c", SCRIPT, address, i, fault) for i in range(2)]


@pytest.mark.slow
def test_a_busy_process_is_waited_for():
    """While the first one prepares its data, after an epoch, and when the other has finished.

    The first pause is longer than JAX waits for devices to connect.
    """
    first, second = (output for output, _ in finish(*start_script("busy")))
    ended = re.compile(r"step 18 ended at (.+)")
    assert float(ended.search(second)[1]) > float(ended.search(first)[1])


@pytest.mark.slow
def test_a_process_without_the_others_ends():
    check_that_it_ends(start_python("-c", SCRIPT, free_address(), 1, "missing"), seconds=200)


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_the_others():
    (_, first), (_, second) = finish(*start_script("error"), code=2)
    assert first == "error: the disk is full\n"
    assert second == "error: the first process has failed; see its own message.\n"


@pytest.mark.slow
def test_an_error_of_another_process_ends_the_first():
    """Which is within a step, and takes no part in anything else."""
    first, second = start_script("unreadable")
    ((_, errors),) = finish(second, code=2)
    assert errors == "error: the file is damaged\n"
    check_that_it_ends(first)


@pytest.mark.slow
def test_an_interrupt_of_one_process_ends_the_others():
    first, second = start_script("interrupt")
    ((_, errors),) = finish(first, code=128 + signal.SIGINT)
    assert errors == ""
    check_that_it_ends(second)
