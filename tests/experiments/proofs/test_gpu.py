"""The GPU campaign without a GPU: its flags, its table and file, and failures."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cgan_jax.errors import ConfigError, RunError
from experiments.proofs import gpu, gpu_job, gpu_table
from experiments.proofs.gpu_table import Outcome, Row
from experiments.proofs.processes import in_own_process, isolated
from tests.helpers import ROOT

MACHINE = {"platform": "cpu", "device": "cpu"}
GOOD = Row("speed", 2.0, "steps/s", at_least=1)

# What parts do in these tests. Their processes import this file, so it imports no JAX at its top.


def stand_in(part, job):
    """A part's work: one raises an error, one dies; the others measure something."""
    if part == "main":
        raise ValueError("no\nluck")
    if part == "speed":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome([GOOD], failed={"graphs": "no driver"} if part == "presets" else {})


def hang(pids):
    """Start a process, write down both, and do nothing for long."""
    os.setsid()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pids.write_text(f"{os.getpid()} {other.pid}")
    time.sleep(600)


def broken_timer():
    raise ValueError("no such device")


@pytest.fixture
def job(tmp_path):
    return gpu_job.Job(gpu_job.TINY, False, None, tmp_path, tmp_path / "curves.csv", 100.0)


def flags(tmp_path, *parts, **others):
    folder = {"json": tmp_path / "out" / "gpu.json", "workdir": tmp_path / "runs"}
    return gpu.Flags(parts=parts, tiny=True, **folder | others)


def values(outcome):
    return {row.what: row.value for row in outcome.rows}


@pytest.mark.parametrize(
    ("row", "met", "line"),
    [
        (Row("a", 3.0, "s"), None, "3 s"),
        (Row("a", None, "GiB"), None, "- GiB"),
        (Row("a", 20.0, "s", at_most=20), True, "20 s at most 20 yes"),
        (Row("a", 20.5, "s", at_most=20), False, "20.5 s at most 20 NO"),
        (Row("a", 0, at_most=0), True, "0 at most 0 yes"),
        (Row("a", 15.0, "times", at_least=15), True, "15 times at least 15 yes"),
        (Row("a", 14.9, "times", at_least=15), False, "14.9 times at least 15 NO"),
        (Row("a", None, "times", at_least=15), False, "- times at least 15 NO"),
        (Row("a", math.nan, at_most=1), False, "nan at most 1 NO"),
    ],
)
def test_a_line_says_whether_its_goal_was_met(row, met, line):
    assert row.met is met
    assert " ".join(str(row).split()) == f"a {line}"
    assert Outcome([row]).to_dict()["rows"][0]["met"] is met


@pytest.mark.parametrize(
    ("parts", "others", "message"),
    [
        ((), {}, "parts is empty"),
        (("main", "main"), {}, "parts is main main"),
        (("main",), {"timeout": 0}, "timeout must be"),
    ],
)
def test_bad_flags_are_refused(tmp_path, parts, others, message):
    with pytest.raises(ConfigError, match=message):
        flags(tmp_path, *parts, **others).check()


def test_missing_torch_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    flags(tmp_path, "main", "seeds").check()
    with pytest.raises(ConfigError, match="expected it for speed and exactness"):
        flags(tmp_path, "main", "speed", "exactness").check()


@pytest.mark.slow
def test_a_failed_part_is_recorded_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    from experiments.proofs import gpu_parts

    monkeypatch.setattr(gpu_parts, "run_part", stand_in)
    asked = flags(tmp_path, "main", "speed", "presets", "samples")
    assert gpu.run_parts(asked, {}, MACHINE) == ["main", "speed", "presets"]
    saved = gpu_table.read(asked.json, tiny=True)
    assert saved["main"]["failed"] == "ValueError: no luck"
    assert saved["speed"]["failed"] == f"its process ended by signal {int(signal.SIGSEGV)}"
    assert saved["presets"]["failed"] == "graphs: no driver"
    assert saved["samples"]["failed"] is None
    assert saved["samples"]["machine"] == MACHINE
    assert saved["presets"]["rows"] == saved["samples"]["rows"] == [GOOD._asdict() | {"met": True}]
    assert saved["main"]["rows"] == []
    printed = capsys.readouterr().out
    assert "s: FAILED, ValueError: no luck\n" in printed
    assert f"  {GOOD}\n" in printed


def test_figures_of_other_parts_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "isolated", lambda work, part, job, timeout: Outcome([], {"n": part}))
    asked = flags(tmp_path, "seeds", "samples")
    gpu.run_parts(asked, gpu_table.read(asked.json, tiny=True), MACHINE)
    more = flags(tmp_path, "main", "seeds")
    gpu.run_parts(more, gpu_table.read(asked.json, tiny=True), MACHINE | {"device": "another"})
    saved = gpu_table.read(asked.json, tiny=True)
    assert {part: figures["details"]["n"] for part, figures in saved.items()} == {
        part: part for part in ("seeds", "samples", "main")
    }
    devices = {part: figures["machine"]["device"] for part, figures in saved.items()}
    assert devices == {"seeds": "another", "samples": "cpu", "main": "another"}


def test_each_part_is_written_when_it_is_done(tmp_path, monkeypatch):
    asked = flags(tmp_path, "seeds", "samples")

    def stop(work, part, job, timeout):
        if part == "samples":
            raise KeyboardInterrupt
        return Outcome([GOOD])

    monkeypatch.setattr(gpu, "isolated", stop)
    with pytest.raises(KeyboardInterrupt):
        gpu.run_parts(asked, {}, MACHINE)
    assert list(gpu_table.read(asked.json, tiny=True)) == ["seeds"]


def test_a_rehearsal_and_real_figures_do_not_share_a_file(tmp_path):
    file = tmp_path / "gpu.json"
    gpu_table.write(file, {}, tiny=True)
    with pytest.raises(RunError, match=r"holds the figures of a rehearsal\n.*real campaign\n"):
        gpu_table.read(file, tiny=False)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"tiny": true, "parts": 3}', '{"parts": {}}']
)
def test_a_damaged_file_is_named(tmp_path, content):
    file = tmp_path / "gpu.json"
    file.write_text(content)
    with pytest.raises(RunError, match=r"gpu\.json cannot be read.*\nexpected .*\nName another"):
        gpu_table.read(file, tiny=True)


def test_importing_the_parts_takes_no_device():
    """Else it would keep most of a GPU's memory from all parts."""
    script = (
        "import experiments.proofs.gpu_parts, sys; from jax._src import xla_bridge; "
        "sys.exit(xla_bridge.backends_are_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_a_timer_whose_process_has_ended_says_so(capfd):
    with in_own_process(broken_timer) as timer, pytest.raises(RunError, match="with code 1"):
        timer(3)
    assert "no such device" in capfd.readouterr().err


@pytest.mark.slow
def test_what_hangs_is_ended_with_all_it_has_started(tmp_path):
    pids = tmp_path / "pids"
    with pytest.raises(RunError, match="ended after 15 s"):
        isolated(hang, pids, timeout=15)
    for pid in map(int, pids.read_text().split()):
        state = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(OSError):
            assert state.read_text().rpartition(")")[2].split()[0] == "Z", pid


@pytest.mark.parametrize(
    "first_epoch",
    [
        "Epoch 1/200: D loss 0.3, G loss 0.9, 94 steps/s",
        "Epoch 1/200: D loss 0.3, G loss 0.9",  # where all its programs were compiled in it
    ],
)
def test_printed_losses_and_times_are_read(first_epoch):
    from experiments.proofs.gpu_runs import Line, printed_losses, times

    lines = [
        Line(1.0, "[Epoch] and [Batch] count from 0, as in the report."),
        Line(5.0, "[Epoch 0/200] [Batch 0/938] [D loss: 0.500000] [G loss: 1.250000]"),
        Line(6.0, first_epoch),
        Line(7.0, "[Epoch 1/200] [Batch 0/938] [D loss: 0.250000] [G loss: 1.000000]"),
        Line(8.0, "Epoch 2/200: D loss 0.2, G loss 0.9, 1876 steps/s, 1 s left"),
        Line(29.5, ""),
    ]
    np.testing.assert_array_equal(printed_losses(lines), [[0.5, 1.25], [0.25, 1.0]])
    startup, training, in_steps = times(lines, 200)
    assert startup.value == 5.0
    assert (training.value, training.met) == (24.5, False)
    assert in_steps.value == 0.5  # the first epoch also compiles


@pytest.mark.parametrize(
    ("words", "kill_at", "message"),
    [
        (["--epochs", 0], None, "run ended with code 2: error: --epochs"),
        (["--help"], "[Epoch 1/", "run ended with code 0"),
    ],
)
def test_a_command_that_ends_otherwise_is_a_failure(job, words, kill_at, message):
    from experiments.proofs.gpu_runs import command

    with pytest.raises(RunError, match=message):
        command(job, job.folder / "run", *words, kill_at=kill_at)


@pytest.fixture
def rates(monkeypatch):
    """Steps per second of all that part `speed` times, None for what fails."""
    from experiments.proofs import gpu_parts
    from experiments.proofs.benchmark import OURS, PEER

    rates = {OURS: 300.0, PEER: 20.0, "PyTorch, fused Adam, in memory": None}
    by_variant = {"eager": PEER, "fused": "PyTorch, fused Adam, in memory"}

    @contextlib.contextmanager
    def timer(side, first, *args):
        def measure(steps):
            assert steps == 4
            if (rate := rates[by_variant.get(first, OURS)]) is None:
                raise RunError("no compiler")
            return rate

        yield measure

    monkeypatch.setattr(gpu_parts, "in_own_process", timer)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the part changes it
    return rates


def test_a_contestant_that_fails_leaves_the_others(job, rates):
    from experiments.proofs.gpu_parts import speed

    outcome = speed(job)
    assert values(outcome) == {
        "cgan_jax, chunks of steps": 300.0,
        "PyTorch, eager, in memory": 20.0,
        "PyTorch, fused Adam, in memory: failed": None,
        "cgan_jax beside eager PyTorch": 15.0,
    }
    assert outcome.rows[-1].met
    assert outcome.failed == {"PyTorch, fused Adam, in memory": "no compiler"}
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_without_its_peer_the_goal_of_speed_is_not_met(job, rates):
    from experiments.proofs.gpu_parts import speed

    rates["PyTorch, eager, in memory"] = None
    assert (speed(job).rows[-1].value, speed(job).rows[-1].met) == (None, False)


def test_the_time_of_many_seeds_is_that_of_as_many_steps_of_each(job, monkeypatch):
    from experiments.proofs import benchmark_parts
    from experiments.proofs.gpu_parts import seeds

    asked = {}
    monkeypatch.setattr(
        benchmark_parts, "training_timer", lambda data_dir: lambda n: asked.update(one=n) or 100.0
    )
    monkeypatch.setattr(
        benchmark_parts, "seeds_timer", lambda n, _: lambda all_: asked.update(all=all_) or 50.0
    )
    outcome = seeds(job)
    assert asked == {"one": 4, "all": 8}
    assert outcome.rows[-1].value == 4.0  # each of two seeds takes 25 steps per second
    assert outcome.rows[-1].met is False


def test_a_preset_that_fails_leaves_the_others_and_their_curves(job, monkeypatch):
    from experiments.proofs import gpu_parts

    wide, in_float32 = gpu_job.PRECISIONS
    job = job._replace(size=gpu_job.FULL)

    def measured(work, config, job, timeout):
        assert 0 < timeout <= 0.95 * job.timeout
        if config == job.size.presets["projection"]:
            raise RunError("out of memory")
        is_float32 = config == job.size.presets[in_float32]
        losses = np.arange(12.0).reshape(6, 2) + is_float32
        return gpu_parts.Pace(7.0, 0.5, losses[: 5 + is_float32])

    monkeypatch.setattr(gpu_parts, "isolated", measured)
    outcome = gpu_parts.presets(job)
    found = values(outcome)
    assert found["residual"] == found[wide] == 7.0
    assert found[f"{wide}, peak memory"] == 0.5
    assert found["projection: failed"] is None
    assert found[f"{wide}, G loss of the last quarter of 5 steps"] == 9.0
    assert found[f"{in_float32}, D loss of the last quarter of 5 steps"] == 9.0
    assert outcome.failed == {"projection": "out of memory"}
    header, first, *_ = lines = job.curves.read_text().splitlines()
    assert header.count(wide) == header.count(in_float32) == 2
    assert first == "0,0.0,1.0,1.0,2.0"
    assert len(lines) == 6


def test_the_wide_preset_is_measured_in_two_precisions():
    configs = gpu_job.FULL.presets
    assert [configs[name].model.precision for name in gpu_job.PRECISIONS] == ["bfloat16", "float32"]
    assert len(set(configs.values())) == len(configs) == 6
    for name in gpu_job.PRECISIONS:
        assert gpu_job.TINY.presets[name].model.precision == configs[name].model.precision
