"""Checkpoints: exact, complete, and never silently wrong."""

import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.errors import DivergenceError, RunError
from cgan_jax.runs.checkpoint import Checkpoints
from tests.helpers import ROOT

STATE = {
    "weights": jnp.linspace(-1, 1, 3000, dtype=jnp.float32).reshape(30, 100),
    "empty": {},
    "step": jnp.int32(7),
    "nested": (jnp.arange(5, dtype=jnp.uint8), {"x": jnp.float32(0.1)}),
}
LIKE = jax.eval_shape(lambda: STATE)


def later(amount):
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(amount, leaf.dtype), STATE)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def two_steps(tmp_path):
    """A folder with the steps 1 and 2."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, later(1))
        checkpoints.save(2, later(2))
    return tmp_path / "checkpoints"


def restore(folder, like=LIKE, **options):
    with Checkpoints(folder, **options) as checkpoints:
        return checkpoints.restore(like)


def test_restores_the_latest_exactly(two_steps):
    with Checkpoints(two_steps) as checkpoints:
        assert checkpoints.latest() == 2
        assert_same(checkpoints.restore(LIKE), later(2))
    assert_same(restore(two_steps, read_only=True), later(2))


def test_save_is_complete_after_the_with_statement(tmp_path):
    big = {"x": jnp.arange(3_000_000, dtype=jnp.float32)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(5, big)
    assert_same(restore(tmp_path / "checkpoints", jax.eval_shape(lambda: big)), big)


def test_the_callers_buffers_are_copied(tmp_path):
    """The training loop donates them to the next step while saving continues."""
    state = {"x": jnp.arange(1_000_000, dtype=jnp.float32)}
    like = jax.eval_shape(lambda: state)
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(0, state)
        for _ in range(20):
            state = bump(state)
    restored = restore(tmp_path / "checkpoints", like)
    np.testing.assert_array_equal(restored["x"], np.arange(1_000_000, dtype=np.float32))


def test_only_the_latest_few_are_kept(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in range(5):
            checkpoints.save(step, STATE)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"3", "4"}


def test_reading_changes_nothing(two_steps):
    def listing():
        return sorted((p, p.stat().st_mtime_ns) for p in two_steps.rglob("*"))

    before = listing()
    restore(two_steps, read_only=True)
    assert listing() == before


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, lambda path: path.unlink()])
@pytest.mark.parametrize("what", ["state", "manifest"])
def test_a_damaged_step_is_passed_over_and_set_aside(two_steps, damage, what, caplog):
    damage(largest_file(two_steps / "2" / what))
    assert_same(restore(two_steps, read_only=True), later(1))
    assert (two_steps / "2").exists()
    caplog.clear()
    assert_same(restore(two_steps), later(1))
    assert "step 2 is damaged" in caplog.text
    assert not (two_steps / "2").exists()
    assert (two_steps.parent / "damaged" / "2-0").exists()
    with Checkpoints(two_steps) as checkpoints:  # its number is free again
        checkpoints.save(2, later(3))
    assert_same(restore(two_steps), later(3))


def test_older_step_under_a_newer_number_is_rejected(two_steps, caplog):
    shutil.copytree(two_steps / "1", two_steps / "118")
    assert_same(restore(two_steps), later(2))
    assert "it was saved as step 1" in caplog.text


def test_a_file_instead_of_a_step_is_named_and_set_aside(two_steps, caplog):
    (two_steps / "3").touch()
    assert_same(restore(two_steps), later(2))
    assert "step 3 is damaged: its manifest cannot be read" in caplog.text
    assert (two_steps.parent / "damaged" / "3-0").is_file()


def test_saving_continues_after_restoring(two_steps):
    """With one object, as a resumed run does."""
    with Checkpoints(two_steps) as checkpoints:
        checkpoints.restore(LIKE)
        checkpoints.save(3, later(3))
    assert_same(restore(two_steps), later(3))


@pytest.mark.parametrize("read_only", [True, False])
def test_no_intact_step_is_an_error_and_all_stay(two_steps, read_only):
    """Moved aside, they would be missing at the next start, which would then start over."""
    for step in ("1", "2"):
        flip_a_bit(largest_file(two_steps / step / "state"))
    with pytest.raises(RunError, match=r"is intact \(steps 2, 1\): of step 2, .+\nPut back"):
        restore(two_steps, read_only=read_only)
    assert {path.name for path in two_steps.iterdir()} == {"1", "2"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_arrays_are_never_saved(two_steps, bad):
    poisoned = {**STATE, "weights": STATE["weights"].at[3, 4].set(bad)}
    with Checkpoints(two_steps) as checkpoints:
        with pytest.raises(
            DivergenceError, match="weights has NaN or infinite values after step 3"
        ):
            checkpoints.save(3, poisoned)
        assert checkpoints.latest() == 2
    assert_same(restore(two_steps), later(2))


@pytest.mark.parametrize("name", ["notes", "0012", "12.bak", "\u0661\u0662"])
def test_other_files_among_the_steps_are_left_alone(two_steps, name):
    """Numbers with zeros before them, or in other digits, are not steps either."""
    (two_steps / name).write_text("mine")
    with Checkpoints(two_steps) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert_same(checkpoints.restore(LIKE), later(2))
    assert (two_steps / name).read_text() == "mine"


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
import numpy as np
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.errors import RunError

logging.getLogger("absl").setLevel(logging.CRITICAL)  # as the commands do
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with Checkpoints(Path(sys.argv[1])) as checkpoints:
        checkpoints.save(3, {"x": np.random.default_rng(0).random(1_000_000)})
except RunError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_earlier_steps(two_steps):
    """In a process of its own, whose files may not grow beyond 100 kB."""
    done = start(FULL_DISK, two_steps)
    assert re.match(r".*checkpoint.* could not be written .+ \(File too large\)\.\n", done.stdout)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""
    assert_same(restore(two_steps), later(2))


DEVICES = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cgan_jax.runs.checkpoint import Checkpoints

mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
like = {"x": jax.ShapeDtypeStruct((64, 8), np.float32)}
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    state = checkpoints.restore(like)
    for step, spec in ((1, PartitionSpec("batch")), (2, PartitionSpec())):
        moved = jax.device_put(state, NamedSharding(mesh, spec))
        assert len(moved["x"].sharding.device_set) == jax.device_count()
        checkpoints.save(step, jax.tree.map(lambda x: x + 1, moved))
"""


@pytest.mark.parametrize("devices", [2, 8])
def test_a_checkpoint_moves_between_numbers_of_devices(tmp_path, devices):
    """Saved on one, restored on several and saved from there, sharded or replicated, and back."""
    state = {"x": np.random.default_rng(0).random((64, 8), np.float32)}
    like = jax.eval_shape(lambda: state)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(0, state)
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = start(DEVICES, tmp_path / "checkpoints", XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    assert_same(restore(tmp_path / "checkpoints", like), {"x": state["x"] + 1})
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    assert_same(restore(tmp_path / "checkpoints", like), {"x": state["x"] + 1})


def start(script, folder, **variables):
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def test_a_folder_without_checkpoints_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no checkpoints"):
        restore(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(RunError, match="no checkpoints"):
        restore(tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": jnp.zeros((30, 99))}, r"weights is float32 \[30, 100\].*float32 \[30, 99\]"),
        ({"step": jnp.float32(0)}, r"step is int32 \[\], expected float32 \[\]"),
        ({"more": jnp.zeros(2)}, r"more is missing, expected float32 \[2\]"),
    ],
)
def test_another_kind_of_state_is_refused(two_steps, change, named):
    """And the older step, which does not fit either, is not tried instead."""
    with pytest.raises(RunError, match=named):
        restore(two_steps, jax.eval_shape(lambda: {**STATE, **change}))
    assert (two_steps / "2").exists()


def test_a_state_that_was_saved_with_more_is_refused(two_steps):
    less = jax.eval_shape(lambda: {k: v for k, v in STATE.items() if k != "step"})
    with pytest.raises(RunError, match="step is int32"):
        restore(two_steps, less)


def test_the_first_array_that_does_not_fit_is_named(tmp_path):
    """The same in every process, whatever Python's hashes of texts are."""
    state = {f"{i:02}": np.zeros(2) for i in range(40)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state)
    for change, named in (({}, "00 is"), ({"00": np.zeros(2)}, "01 is"), (state, "40 is")):
        like = {name: np.zeros(3) for name in state} | {"40": np.zeros(3)} | change
        with pytest.raises(RunError, match=f"does not fit: {named}"):
            restore(tmp_path / "checkpoints", like)


def test_leaves_are_those_of_the_newest_step_with_a_manifest(two_steps):
    with Checkpoints(two_steps) as checkpoints:
        checkpoints.save(3, {"other": jnp.zeros(2)})
        assert list(checkpoints.leaves()) == ["other"]
    paths = ["nested.0", "nested.1.x", "step", "weights"]
    with Checkpoints(two_steps, read_only=True) as checkpoints:
        assert list(checkpoints.leaves(at_most=2)) == paths
        assert checkpoints.leaves()["other"] == jax.ShapeDtypeStruct((2,), np.float32)
        truncate(two_steps / "3" / "manifest" / "metadata")
        assert list(checkpoints.leaves()) == paths
        assert checkpoints.leaves(at_most=0) == {}


def test_a_home_folder_may_be_written_as_a_tilde(two_steps, monkeypatch):
    monkeypatch.setenv("HOME", str(two_steps.parent))
    assert_same(restore("~/checkpoints", read_only=True), later(2))
