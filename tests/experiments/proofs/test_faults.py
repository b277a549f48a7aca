"""The fault campaign in small, and that it can fail. In full: `python -m experiments.proofs.faults`."""

import logging
import os
import shutil
import sys

import numpy as np
import pytest

from cgan_jax.errors import RunError
from cgan_jax.runs.checkpoint import Checkpoints
from experiments.proofs import fault_damages as damages
from experiments.proofs import faults
from experiments.proofs.fault_runs import Runs, Try


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three saved steps of tiny networks."""
    return damages.save_steps(tmp_path_factory.mktemp("saved") / "run" / "checkpoints")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def not_survived(tries):
    return [one for one in tries if not one.survived]


def without_manifest(saved):
    (damage,) = (d for d in damages.deletions(saved) if d.what.endswith("/manifest deleted"))
    return damage


def test_a_step_without_its_manifest_is_detected(saved, tmp_path):
    (found,) = damages.try_damages(saved, [without_manifest(saved)], tmp_path)
    assert found.outcome == "detected"
    assert "step 18" in found.why


def test_without_checksums_a_flipped_bit_is_counted_as_silently_wrong(tmp_path, rng, monkeypatch):
    def describe(array):
        return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": 0}

    monkeypatch.setattr("cgan_jax.runs.checkpoint._describe", describe)
    saved = damages.save_steps(tmp_path / "saved" / "checkpoints")
    arrays = [d for d in damages.flips(saved, rng, 300) if "/state/ocdbt.process_0/d/" in d.what]
    tries = []  # until one is wrong: about a bit in four is; the others are in parts not read
    for one in damages.try_damages(saved, arrays, tmp_path):
        tries.append(one)
        if one.outcome == "silently wrong":
            break
    n = len(tries)
    assert tries[-1].outcome == "silently wrong"
    assert str(faults.Row("bits", tries)).startswith(f"| bits | {n} | {n - 1} | 1 |")


def sabotaged(kind, folder):
    """Checkpoints.restore with one fault of its own."""
    restore = Checkpoints.restore

    def sabotage(self, like):
        if kind == "raises":
            raise ValueError("unforeseen")
        if kind == "writes to the screen":
            os.write(2, b"E0000 a C++ library's line\n")
        if kind == "says nothing":
            logging.disable()
        state = restore(self, like)
        logging.disable(logging.NOTSET)
        if kind == "deletes":
            shutil.rmtree(folder / "damaged", ignore_errors=True)
        if kind == "says much":
            logging.getLogger("cgan_jax").warning("And another thing.")
        return state

    return sabotage


@pytest.mark.parametrize(
    ("kind", "outcome", "why"),
    [
        ("raises", "crashed", "ValueError: unforeseen"),
        ("writes to the screen", "crashed", "on the screen: E0000"),
        ("says nothing", "silently wrong", "without a word"),
        ("deletes", "crashed", "files were lost"),
        ("says much", "crashed", "not one plain line"),
    ],
)
def test_a_library_that_fails_is_caught(saved, tmp_path, monkeypatch, kind, outcome, why):
    monkeypatch.setattr(Checkpoints, "restore", sabotaged(kind, tmp_path / "scratch"))
    (found,) = damages.try_damages(saved, [without_manifest(saved)], tmp_path)
    assert (found.outcome, why in found.why) == (outcome, True), found


def test_a_restore_from_ruins_is_caught(saved, tmp_path, monkeypatch):
    ruin = damages.ruins(saved)[0]
    (found,) = damages.try_ruins(saved, [ruin], tmp_path)
    assert found.outcome == "detected"
    monkeypatch.setattr(Checkpoints, "restore", lambda self, like: like)
    (found,) = damages.try_ruins(saved, [ruin], tmp_path)
    assert found.outcome == "silently wrong"


def test_every_file_is_hit_and_the_same_seed_hits_the_same_places(saved):
    files = {path.relative_to(saved.folder) for path in saved.newest.rglob("*") if path.is_file()}
    one, same, other = (
        [d.what for d in damages.flips(saved, np.random.default_rng(seed), 60)]
        for seed in (1, 1, 2)
    )
    assert one == same != other
    assert len(one) == 60
    assert {word for what in one for word in what.split()} >= {str(file) for file in files}


def test_what_is_said_is_kept_from_the_screen(capfd):
    with damages.listening() as heard:
        os.write(2, b"from C++\n")
        print("from Python", file=sys.stderr)
        logging.getLogger("cgan_jax").warning("from %s", "the library")
    assert heard.lines == ["from the library"]
    assert sorted(heard.noise) == ["from C++", "from Python"]
    assert capfd.readouterr().err == ""


def test_a_row_counts():
    tries = [Try("a", "harmless"), Try("b", "silently wrong"), Try("c", "crashed")]
    assert str(faults.Row("x", tries, "somehow")) == "| x | 3 | 1 | 1 | somehow |"
    assert faults.counted(one.outcome for one in [*tries, tries[1]]).startswith("2 silently wrong,")


@pytest.mark.slow
def test_damaged_checkpoints(saved, tmp_path, rng):
    for kind in (
        damages.flips(saved, rng, 40),
        damages.truncations(saved, rng),
        damages.deletions(saved),
        damages.foreigners(saved),
    ):
        assert not_survived(damages.try_damages(saved, kind, tmp_path)) == []
    assert not_survived(damages.try_ruins(saved, damages.ruins(saved), tmp_path)) == []


def test_an_existing_folder_is_not_worked_in(tmp_path):
    with pytest.raises(RunError, match="Name a new folder"), faults.workplace(tmp_path):
        pass


@pytest.fixture(scope="module")
def runs(fashion_mnist, tmp_path_factory):
    """Real runs, as short as they may be."""
    return Runs(tmp_path_factory.mktemp("runs"), epochs=3)


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
