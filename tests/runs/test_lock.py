"""Two runs in one folder: the second is refused, and a dead process blocks nobody."""

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

from cgan_jax.config import TrainConfig
from cgan_jax.errors import RunError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import run_lock
from tests.helpers import ROOT

HOLD = """
import sys, time
from pathlib import Path
from cgan_jax.runs.lock import run_lock

with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has locked the folder `run`."""
    script = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_is_refused_with_process_and_host_of_the_first(holder, tmp_path):
    with pytest.raises(RunError) as caught, run_lock(tmp_path / "run"):
        pass
    message = str(caught.value)
    assert f"in use by process {holder.pid} on {socket.gethostname()}.\n" in message
    assert "name another folder" in message
    with pytest.raises(RunError, match=f"process {holder.pid}"), run_lock(tmp_path / "run"):
        pass  # to have been refused changes nothing


def test_a_dead_process_does_not_block(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run_lock(tmp_path / "run"):
        holder_file = tmp_path / "run" / ".lock.holder"
        assert holder_file.read_text().startswith(f"process {os.getpid()} on")


def test_within_a_process_too_and_again_afterwards(tmp_path):
    for _ in range(2):
        with (
            run_lock(tmp_path / "run"),
            pytest.raises(RunError, match="in use"),
            run_lock(tmp_path / "run"),
        ):
            pass


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"), run_lock(tmp_path / "file" / "run"):
        pass


def test_a_folder_with_nothing_but_a_lock_is_empty(tmp_path):
    """A start that failed right after leaves one."""
    with run_lock(tmp_path / "run"):
        pass
    assert RunFolder.check(tmp_path / "run", TrainConfig()) is None


def test_a_run_that_is_moved_away_leaves_the_lock(tmp_path):
    with run_lock(tmp_path / "run"):
        RunFolder.start(tmp_path / "run", TrainConfig(), ("a",))
        RunFolder.start(tmp_path / "run", TrainConfig(seed=1), ("a",), resume=False)
        assert not (tmp_path / "run.old-1" / ".lock").exists()
        with pytest.raises(RunError, match="in use"), run_lock(tmp_path / "run"):
            pass


@pytest.mark.parametrize("error", [OSError(errno.ENOSYS, "no flock"), NotImplementedError("none")])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog, error):
    def fail(self, **options):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    for _ in range(2):
        with run_lock(tmp_path / "run"):
            (tmp_path / "run" / "file").touch()
    assert "cannot be locked" in caplog.text


def test_a_released_folder_has_no_holder(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_lock(tmp_path / "run"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path / "run") == [".lock"]
