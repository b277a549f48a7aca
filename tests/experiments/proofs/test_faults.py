"""A small fault campaign, and that it can fail. In full: `python -m experiments.proofs.faults`."""

import logging
import os
import shutil
import sys

import jax
import numpy as np
import pytest

from cgan_jax.errors import RunError
from cgan_jax.runs.checkpoint import Checkpoints
from experiments.proofs import fault_damages as damages
from experiments.proofs import faults
from experiments.proofs.fault_runs import Runs
from experiments.proofs.fault_tries import Try


def few_arrays(step):
    """What a state has of each kind: all arrays are saved and checked alike."""
    rng = np.random.default_rng(step)
    params = {"kernel": rng.normal(size=(50, 80)), "bias": rng.normal(size=80)}
    net = {"params": params, "mu": params, "batch_stats": {"mean": rng.normal(size=80)}}
    arrays = jax.tree.map(np.float32, {"gen": net, "disc": {"params": params}})
    return arrays | {"step": np.array(step, np.int32)}


def save_steps(folder):
    """Three steps."""
    return damages.save_steps(folder, {step: few_arrays(step) for step in (6, 12, 18)})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_steps(tmp_path_factory.mktemp("saved") / "run" / "checkpoints")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def not_survived(tries):
    return [one for one in tries if not one.survived]


def without_manifest(saved):
    what = f"{saved.newest}/manifest deleted"
    (damage,) = (d for d in damages.deletions(saved, None) if d.what == what)
    return damage


def test_missing_manifest_is_detected(saved, tmp_path):
    (result,) = damages.try_damages(saved, [without_manifest(saved)], tmp_path)
    assert result.outcome == "detected"
    assert "step 18" in result.why


def test_flipped_bit_is_silently_wrong_without_checksums(tmp_path, rng, monkeypatch):
    def describe(array):
        return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": 0}

    monkeypatch.setattr("cgan_jax.runs.checkpoint._describe", describe)
    saved = save_steps(tmp_path / "saved" / "checkpoints")
    arrays = [d for d in damages.flips(saved, rng, 300) if "/state/ocdbt.process_0/d/" in d.what]
    tries = []  # until one is wrong, as about every fourth is; the others are in parts not read
    for one in damages.try_damages(saved, arrays, tmp_path):
        tries.append(one)
        if one.outcome == "silently wrong":
            break
    n = len(tries)
    assert tries[-1].outcome == "silently wrong"
    assert f"| {n} | {n - 1} | 1 |" in faults.row("flip", tries)


def sabotaged(kind, folder):
    """Checkpoints.restore with one defect."""
    restore = Checkpoints.restore

    def sabotage(self, like):
        if kind == "raises":
            raise ValueError("unforeseen")
        if kind == "writes to the screen":
            os.write(2, b"E0000 a C++ library's line\n")
        if kind == "is silent":
            logging.disable()
        state = restore(self, like)
        logging.disable(logging.NOTSET)
        if kind == "deletes":
            shutil.rmtree(folder / "damaged", ignore_errors=True)
        if kind == "adds a notice":
            logging.getLogger("cgan_jax").warning("And another thing.")
        return state

    return sabotage


@pytest.mark.parametrize(
    ("kind", "outcome", "why"),
    [
        ("raises", "crashed", "ValueError: unforeseen"),
        ("writes to the screen", "crashed", "on the screen: E0000"),
        ("is silent", "silently wrong", "without a notice"),
        ("deletes", "crashed", "files were lost"),
        ("adds a notice", "crashed", "not one plain line"),
    ],
)
def test_defective_restore_is_caught(saved, tmp_path, monkeypatch, kind, outcome, why):
    monkeypatch.setattr(Checkpoints, "restore", sabotaged(kind, tmp_path / "scratch"))
    (result,) = damages.try_damages(saved, [without_manifest(saved)], tmp_path)
    assert (result.outcome, why in result.why) == (outcome, True), result


def test_restore_after_a_total_loss_is_caught(saved, tmp_path, monkeypatch):
    loss = next(damages.total_losses(saved, None))
    (result,) = damages.try_damages(saved, [loss], tmp_path)
    assert result.outcome == "detected"
    monkeypatch.setattr(Checkpoints, "restore", lambda self, like: like)
    (result,) = damages.try_damages(saved, [loss], tmp_path)
    assert result.outcome == "silently wrong"


def test_flips_hit_every_file_and_depend_on_the_seed(saved):
    newest = saved.folder / str(saved.newest)
    files = {path.relative_to(saved.folder) for path in newest.rglob("*") if path.is_file()}
    one, same, other = (
        [d.what for d in damages.flips(saved, np.random.default_rng(seed), 60)]
        for seed in (1, 1, 2)
    )
    assert one == same != other
    assert len(one) == 60
    assert {word for what in one for word in what.split()} >= {str(file) for file in files}


def test_output_is_captured_and_not_shown(capfd):
    with damages.captured_output() as output:
        os.write(2, b"from C++\n")
        print("from Python", file=sys.stderr)
        logging.getLogger("cgan_jax").warning("from %s", "the library")
    assert output.notices == ["from the library"]
    assert sorted(output.screen) == ["from C++", "from Python"]
    assert capfd.readouterr().err == ""


def test_row_counts_the_outcomes():
    tries = [Try("a", "harmless"), *[Try("b", "silently wrong")] * 2, Try("c", "crashed")]
    flips, full_disks = faults.row("flip", tries), faults.row("disk", tries)
    assert flips.endswith("| 4 | 1 | 2 | 2 silently wrong, 1 harmless, 1 crashed |")
    assert full_disks.endswith("| 4 | 1 | 2 | a, b, b, c |")


@pytest.mark.slow
def test_damaged_checkpoints(saved, tmp_path, rng):
    for kind in (
        damages.flips(saved, rng, 40),
        damages.truncations(saved, rng),
        damages.deletions(saved, rng),
        damages.foreign_files(saved, rng),
    ):
        assert not_survived(damages.try_damages(saved, kind, tmp_path)) == []


@pytest.mark.slow
def test_all_checkpoints_of_a_training_damaged(tmp_path, rng):
    trained = damages.save_steps(tmp_path / "saved" / "checkpoints", damages.train_states())
    losses = damages.total_losses(trained, rng)
    assert not_survived(damages.try_damages(trained, losses, tmp_path)) == []


def test_existing_workdir_is_refused(tmp_path):
    with pytest.raises(RunError, match="Name a new folder"):
        faults.new_folder(tmp_path)


@pytest.fixture(scope="module")
def runs(fashion_mnist, tmp_path_factory):
    """Real runs, as short as they may be, of narrow networks."""
    widths = "--generator-widths 128 256 --discriminator-widths 256 256"
    return Runs(tmp_path_factory.mktemp("runs"), epochs=3, flags=widths.split())


@pytest.mark.slow
def test_killed_runs(runs, rng):
    tries = list(runs.kills(rng, 4))
    assert [one.outcome for one in tries] == ["same bits"] * 4, tries


@pytest.mark.slow
def test_full_disks(runs):
    tries = list(runs.full_disks())
    assert len(tries) == 6
    assert not_survived(tries) == []


@pytest.mark.slow
def test_runs_without_a_good_checkpoint(runs):
    tries = list(runs.lost_checkpoints())
    assert [one.outcome for one in tries] == ["detected"] * 2, tries
