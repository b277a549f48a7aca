"""`python -m experiments.sweep`: its flags, its folder, its table; on tiny networks."""

import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from cgan_jax.errors import ConfigError, RunError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import read_losses
from cgan_jax.sampling.generator import load_generator
from experiments.shared import sweep_training
from experiments.shared.command_line import StopSignals
from experiments.shared.sweep_folder import SweepFolder
from experiments.sweep import Flags, programs


def test_members_are_all_combinations_and_only_what_varies_is_in_their_names():
    members = Flags(seeds=2, seed=7, lr=(1e-4, 0.001), epochs=3).members()
    assert list(members) == [
        "lr_0.0001_seed_7",
        "lr_0.0001_seed_8",
        "lr_0.001_seed_7",
        "lr_0.001_seed_8",
    ]
    config = members["lr_0.001_seed_8"]
    assert (config.optimizer.lr, config.seed, config.epochs) == (0.001, 8, 3)
    assert list(Flags(seeds=1).members()) == ["seed_0"]
    with_sizes = Flags(seeds=2, latent_dim=(20, 100), b1=(0.5, 0.9)).members()
    assert [len(program) for program in programs(with_sizes)] == [4, 4]
    assert {c.model.latent_dim for c in programs(with_sizes)[0].values()} == {20}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"seeds": 0}, "seeds must be"),
        ({"lr": ()}, "lr must be one or more values"),
        ({"lr": (1e-4, 1e-4)}, "lr must be one or more values, each once"),
        ({"checkpoint_every": 0}, "checkpoint_every must be"),
    ],
)
def test_flags_that_cannot_be_are_refused(flags, words):
    with pytest.raises(ConfigError, match=words):
        Flags(**flags).check()


@pytest.fixture
def members(tiny_config):
    """Two seeds with each of two learning rates, and one of another size."""
    fast = replace(tiny_config, optimizer=replace(tiny_config.optimizer, lr=1e-3))
    small = replace(tiny_config, model=replace(tiny_config.model, latent_dim=4))
    named = {"lr_0.0002": tiny_config, "lr_0.001": fast}
    found = {
        f"{name}_seed_{s}": replace(config, seed=s)
        for name, config in named.items()
        for s in (0, 1)
    }
    return found | {"latent_dim_4_seed_0": small}


def run(members, dataset, folder):
    sweep_training.run(programs(members), dataset, folder, sample_every=2, checkpoint_every=1)


@pytest.mark.slow
def test_a_sweep_leaves_runs_and_says_what_came_of_them(members, tiny_dataset, tmp_path, capsys):
    run(members, tiny_dataset, tmp_path / "sweep")
    said = capsys.readouterr().out
    for name, config in members.items():
        folder = RunFolder.open(tmp_path / "sweep" / name)
        assert folder.config == config
        assert len(read_losses(folder.losses)) == 18
        assert load_generator(folder.path).generate([0, 1]).shape == (2, 4, 4, 1)
        assert (folder.path / "samples/epoch_0003.png").exists()
        assert (folder.path / "report.html").exists()
    rows = (tmp_path / "sweep/sweep.csv").read_text().splitlines()
    assert rows[0] == "setting,seed,d_loss,g_loss,diverged_in_step"
    assert [row.split(",")[:2] for row in rows[1:3]] == [["lr_0.0002", "0"], ["lr_0.0002", "1"]]
    ends = [
        read_losses(tmp_path / f"sweep/lr_0.001_seed_{s}/losses.csv")[-6:].mean(axis=0)
        for s in (0, 1)
    ]
    mean, deviation = np.mean(ends, axis=0), np.std(ends, axis=0, ddof=1)
    line = next(line for line in said.splitlines() if line.startswith("lr_0.001 "))
    numbers = [float(number) for number in re.findall(r"\d\.\d{4}", line)]
    np.testing.assert_allclose(numbers, np.stack([mean, deviation], 1).ravel(), atol=1e-4)
    assert "Program 2 of 2: latent_dim_4_seed_0" in said
    assert (tmp_path / "sweep/sweep.png").stat().st_size > 10_000

    run(members, tiny_dataset, tmp_path / "sweep")  # nothing is left to do, and the table is there
    assert line in capsys.readouterr().out
    longer = {name: replace(config, epochs=4) for name, config in members.items()}
    run(longer, tiny_dataset, tmp_path / "sweep")
    assert len(read_losses(tmp_path / "sweep/lr_0.001_seed_0/losses.csv")) == 24


def test_a_stopped_sweep_says_how_to_go_on(members, tiny_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(StopSignals, "__call__", lambda self: True)
    monkeypatch.setattr(StopSignals, "listening", lambda self: Caught(self))
    with pytest.raises(SystemExit) as end:
        run(members, tiny_dataset, tmp_path / "sweep")
    assert end.value.code == 128 + signal.SIGTERM
    assert "Stopped and saved after step 0. To go on: python -m" in capsys.readouterr().out
    monkeypatch.undo()
    run(members, tiny_dataset, tmp_path / "sweep")


class Caught:
    """A signal has come before training begins."""

    def __init__(self, stop):
        stop.caught = signal.SIGTERM

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


def test_a_diverged_member_is_remembered(members, tiny_dataset, tmp_path, capsys, caplog):
    wild = members["lr_0.001_seed_1"]
    two = {
        "lr_0.0002_seed_0": members["lr_0.0002_seed_0"],
        "lr_1e+30_seed_0": replace(wild, optimizer=replace(wild.optimizer, lr=1e30)),
    }
    run(two, tiny_dataset, tmp_path / "sweep")
    sweep = SweepFolder.open(tmp_path / "sweep")
    assert list(sweep.diverged) == ["lr_1e+30_seed_0"]
    assert "0 of 2" in capsys.readouterr().out
    assert caplog.text.count("became NaN") == 1
    run(two, tiny_dataset, tmp_path / "sweep")
    assert caplog.text.count("became NaN") == 1


def test_another_sweeps_folder_is_refused(members, tiny_dataset, tmp_path):
    one = {"lr_0.0002_seed_0": members["lr_0.0002_seed_0"]}
    run(one, tiny_dataset, tmp_path / "sweep")
    with pytest.raises(RunError, match="holds a sweep of other members"):
        SweepFolder.check(tmp_path / "sweep", members)
    other = {name: replace(config, batch_size=5) for name, config in one.items()}
    with pytest.raises(RunError, match="holds a run of another configuration"):
        SweepFolder.check(tmp_path / "sweep", other)
    with pytest.raises(RunError, match="holds other files and no sweep"):
        SweepFolder.check(tmp_path / "sweep/lr_0.0002_seed_0", one)
    for bad in ("[]", '{"format": 2}', "{", '{"format": 1, "members": 3}'):
        (tmp_path / "sweep/sweep.json").write_text(bad)
        with pytest.raises(RunError, match="sweep.json cannot be read"):
            SweepFolder.check(tmp_path / "sweep", one)
