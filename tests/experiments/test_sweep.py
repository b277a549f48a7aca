"""`python -m experiments.sweep`: its flags, its folder, its summary; on tiny networks."""

import re
import shlex
import signal
from dataclasses import replace

import numpy as np
import pytest

from cgan_jax.data import SPECS, Dataset
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import read_losses
from cgan_jax.sampling.generator import load_generator
from experiments import fashion_cgan, train
from experiments.shared import sweep_training, training
from experiments.shared.evaluation_data import source_of
from experiments.shared.sweep_folder import SweepFolder
from experiments.shared.training_flags import OutputFlags, parse_job
from experiments.sweep import DATASET, Flags, main, parse_sweep, with_schedule_steps


def test_members_are_all_combinations_named_by_what_varies():
    _, members, _ = parse_sweep(
        ["--seeds", "2", "--seed", "7", "--lr", "1e-4", "0.001", "--epochs", "3"]
    )
    assert list(members) == [
        "lr_0.0001_seed_7",
        "lr_0.0001_seed_8",
        "lr_0.001_seed_7",
        "lr_0.001_seed_8",
    ]
    config = members["lr_0.001_seed_8"]
    assert (config.optimizer.lr, config.seed, config.epochs) == (0.001, 8, 3)
    assert list(parse_sweep(["--seeds", "1"])[1]) == ["seed_0"]
    _, with_sizes, _ = parse_sweep(
        ["--seeds", "2", "--b1", "0.5", "0.9", "--latent-dim", "20", "100"]
    )
    assert list(with_sizes)[2:5] == [  # the names of earlier versions, which resume
        "latent_dim_20_b1_0.9_seed_0",
        "latent_dim_20_b1_0.9_seed_1",
        "latent_dim_100_b1_0.5_seed_0",
    ]
    assert {c.model.latent_dim for c in list(with_sizes.values())[:4]} == {20}


def test_every_setting_of_one_value_can_vary():
    words = "--seeds 1 --loss hinge least_squares --disc-lr None 1e-3 --generator-widths 8 16"
    _, members, _ = parse_sweep(words.split())
    assert list(members) == [
        "loss_hinge_disc_lr_None_seed_0",
        "loss_hinge_disc_lr_0.001_seed_0",
        "loss_least_squares_disc_lr_None_seed_0",
        "loss_least_squares_disc_lr_0.001_seed_0",
    ]
    assert {config.model.generator_widths for config in members.values()} == {(8, 16)}


def test_an_average_is_kept_by_all_members_or_none():
    _, members, command = parse_sweep(["--seeds", "2", "--average", "--lr", "1e-4", "2e-4"])
    assert {config.average.keep for config in members.values()} == {True}
    assert "--average" in command


def test_a_longer_sweep_keeps_the_length_of_its_schedules(tmp_path):
    _, members, _ = parse_sweep(["--seeds", "1", "--lr-end", "1e-5", "--epochs", "3"])
    config, folder = members["seed_0"], tmp_path / "seed_0"
    begun = with_schedule_steps(config, folder, 640)
    assert begun.schedule_steps == 30
    RunFolder.start(folder, begun, ("a", "b"))
    assert with_schedule_steps(replace(config, epochs=9), folder, 640).schedule_steps == 30


def test_the_length_of_schedules_that_is_asked_for_is_kept(tmp_path):
    _, members, _ = parse_sweep(["--seeds", "1", "--lr-end", "1e-5", "--schedule-steps", "12"])
    assert with_schedule_steps(members["seed_0"], tmp_path / "none", 640).schedule_steps == 12


def test_a_sweeps_folder_is_enough_to_resume(tmp_path):
    words = f"--seeds 2 --lr 1e-4 2e-4 --loss hinge --epochs 3 --workdir {tmp_path}"
    own, members, command = parse_sweep(words.split())
    python, dash_m, module, *again = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", "experiments.sweep")
    assert parse_sweep(again) == (own, members, command)
    (tmp_path / "command.txt").write_text(command)
    assert parse_sweep(["--workdir", str(tmp_path)]) == (own, members, command)
    longer = parse_sweep(["--workdir", str(tmp_path), "--epochs", "5"])[1]
    assert longer == {name: replace(config, epochs=5) for name, config in members.items()}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0"], "seeds must be"),
        (["--lr"], "lr must be one or more values"),
        (["--lr", "1e-4", "1e-4"], "lr must be one or more values, each once"),
        (["--checkpoint-every", "0"], "checkpoint_every must be"),
        (["--preset", "reprot"], "no preset 'reprot'; did you mean report"),
    ],
)
def test_impossible_flags_are_refused(flags, words):
    with pytest.raises(ConfigError, match=words):
        parse_sweep(flags)


def test_a_sweep_of_own_data_holds_out_the_same_images_in_all_runs(tmp_path, monkeypatch, capsys):
    """Each run keeps a command of `train`, which names them."""
    images = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(600) % 2)
    calls = []
    monkeypatch.setattr(
        sweep_training, "run", lambda *args, **options: calls.append((args, options))
    )
    words = (
        f"--data {tmp_path / 'set.npz'} --seeds 2 --seed 5 --epochs 2 --workdir {tmp_path / 's'}"
    )
    monkeypatch.setattr("sys.argv", ["sweep", *words.split()])
    main()
    assert "Holding out 60 of 600" in capsys.readouterr().out
    (((members, dataset, folder, output), options),) = calls
    assert (len(dataset), list(members)) == (540, ["seed_5", "seed_6"])
    assert {config.dataset for config in members.values()} == {"set"}
    assert (output.sample_every, output.checkpoint_every) == (20, 5)
    assert options["command"].endswith("--holdout 0.1")
    SweepFolder.start(folder, members)
    sources = set()
    for name, command in options["member_commands"].items():
        run = RunFolder.start(folder / name, members[name], ("0", "1"), data=options["data"])
        run.command.write_text(command)
        sources.add(source_of(run))
        job = parse_job(train.Flags, train.MODULE, ["--workdir", str(run.path)])
        assert job.config.for_data(dataset) == members[name]
    (source,) = sources
    data = source.load(run)
    assert (data.training.identity(), len(data.test)) == (dataset.identity(), 60)
    assert options["data"] == dataset.identity() | {"test": data.test.identity()}
    wider = np.pad(images, [(0, 0), (0, 0), (2, 2), (0, 0)])
    np.savez(tmp_path / "set.npz", images=wider, labels=np.arange(600) % 2)
    main()  # runs that are there keep their size
    assert calls[-1][0][1].identity() == dataset.identity()


def test_fashion_mnist_of_another_size_is_data_like_any_other(tmp_path, monkeypatch):
    """Its runs are checked with that size, and keep the command by which they are evaluated."""
    images, labels = np.zeros((640, 32, 32, 1), np.uint8), np.arange(640) % 10
    data = Dataset.from_arrays(images, labels, SPECS[DATASET].class_names, name=DATASET)
    monkeypatch.setattr(Flags, "load", lambda flags: data)
    calls, sizes = [], set()
    monkeypatch.setattr(sweep_training, "run", lambda *args, **options: calls.append(options))
    monkeypatch.setattr("sys.argv", ["sweep", *f"--img-size 32 --workdir {tmp_path}".split()])
    monkeypatch.setattr(SweepFolder, "check", lambda path, members: sizes.update(_sizes(members)))
    main()
    assert sizes == {32}
    command = calls[0]["member_commands"]["seed_3"]
    assert command.startswith(f"python -m experiments.train {DATASET} --seed 3 ")
    assert command.endswith(" --img-size 32")


def _sizes(members):
    return {config.model.img_size for config in members.values()}


@pytest.fixture
def members(tiny_config):
    """Two seeds with each of two learning rates, and one of another size."""
    fast = replace(tiny_config, optimizer=replace(tiny_config.optimizer, lr=1e-3))
    small = replace(tiny_config, model=replace(tiny_config.model, latent_dim=4))
    named = {"lr_0.0002": tiny_config, "lr_0.001": fast}
    seeds = {
        f"{name}_seed_{s}": replace(config, seed=s)
        for name, config in named.items()
        for s in (0, 1)
    }
    return seeds | {"latent_dim_4_seed_0": small}


@pytest.fixture
def seeds(members):
    """Two seeds of one epoch."""
    names = ("lr_0.0002_seed_0", "lr_0.0002_seed_1")
    return {name: replace(members[name], epochs=1) for name in names}


def run(members, dataset, folder):
    sweep_training.run(
        members,
        dataset,
        folder,
        OutputFlags(sample_every=2, checkpoint_every=1),
        command="python -m experiments.sweep",
        member_commands={name: f"python -m a.run --of {name}" for name in members},
    )


@pytest.mark.slow
def test_sweep_writes_runs_and_a_summary(members, tiny_dataset, tmp_path, capsys):
    run(members, tiny_dataset, tmp_path / "sweep")
    output = capsys.readouterr().out
    for name, config in members.items():
        folder = RunFolder.open(tmp_path / "sweep" / name)
        assert folder.config == config
        assert len(read_losses(folder.losses)) == 18
        assert load_generator(folder.path).generate([0, 1]).shape == (2, 4, 4, 1)
        assert (folder.path / "samples/epoch_0003.png").exists()
        assert (folder.path / "report.html").exists()
        assert folder.command.read_text() == f"python -m a.run --of {name}\n"
    rows = (tmp_path / "sweep/sweep.csv").read_text().splitlines()
    assert rows[0] == "setting,seed,d_loss,g_loss,diverged_in_step"
    assert [row.split(",")[:2] for row in rows[1:3]] == [["lr_0.0002", "0"], ["lr_0.0002", "1"]]
    ends = [
        read_losses(tmp_path / f"sweep/lr_0.001_seed_{s}/losses.csv")[-6:].mean(axis=0)
        for s in (0, 1)
    ]
    mean, deviation = np.mean(ends, axis=0), np.std(ends, axis=0, ddof=1)
    line = next(line for line in output.splitlines() if line.startswith("lr_0.001 "))
    numbers = [float(number) for number in re.findall(r"\d\.\d{4}", line)]
    np.testing.assert_allclose(numbers, np.stack([mean, deviation], 1).ravel(), atol=1e-4)
    assert "Run 5 of 5: latent_dim_4_seed_0" in output
    assert (tmp_path / "sweep/sweep.png").stat().st_size > 10_000

    run(members, tiny_dataset, tmp_path / "sweep")  # nothing to do but to print the table
    assert line in capsys.readouterr().out
    longer = {name: replace(config, epochs=4) for name, config in members.items()}
    run(longer, tiny_dataset, tmp_path / "sweep")
    assert len(read_losses(tmp_path / "sweep/lr_0.001_seed_0/losses.csv")) == 24


class Signal:
    """Stands for a function; the n-th call of it gets a signal."""

    def __init__(self, n):
        self.calls, self.n = 0, n

    def __call__(self, *_):
        self.calls += 1
        if self.calls == self.n:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_a_sweep_that_is_stopped_within_a_run_is_resumed_there(
    seeds, tiny_dataset, tmp_path, capsys, monkeypatch
):
    """A signal comes before the second run's first step."""
    monkeypatch.setattr(training, "draw_real_images", Signal(2))
    with pytest.raises(SystemExit) as end:
        run(seeds, tiny_dataset, tmp_path / "sweep")
    assert end.value.code == 128 + signal.SIGTERM
    printed = capsys.readouterr().out
    assert "Stopped and saved after step 0 of 6. To resume: python -m a.run --workdir" in printed
    assert printed.endswith(
        f"To resume the sweep: python -m experiments.sweep --workdir {tmp_path / 'sweep'}\n"
    )
    monkeypatch.undo()
    run(seeds, tiny_dataset, tmp_path / "sweep")
    printed = capsys.readouterr().out
    assert "lr_0.0002_seed_0 is finished: 6 steps, 1 epoch" in printed
    assert "Finished: 6 steps" in printed
    assert "2 of 2" in printed


@pytest.mark.slow
def test_a_stop_after_a_runs_last_step_ends_the_sweep(
    seeds, tiny_dataset, tmp_path, capsys, monkeypatch
):
    first, second = (tmp_path / "sweep" / name for name in seeds)
    monkeypatch.setattr(training, "write_or_warn", Signal(1))
    with pytest.raises(SystemExit) as end:
        run(seeds, tiny_dataset, tmp_path / "sweep")
    assert end.value.code == 128 + signal.SIGTERM
    assert "\nTo resume the sweep: " in capsys.readouterr().out
    assert RunFolder.open(first).steps_saved() == 6
    assert not second.exists()


def test_a_members_command_trains_it_alone(tmp_path, monkeypatch, fashion_mnist):
    calls = []
    monkeypatch.setattr(sweep_training, "run", lambda *args, **options: calls.append(options))
    monkeypatch.setattr("sys.argv", ["sweep", *f"--lr 1e-4 2e-4 --workdir {tmp_path}".split()])
    main()
    command = calls[0]["member_commands"]["lr_0.0001_seed_3"]
    assert command == (
        f"python -m experiments.fashion_cgan --seed 3 --lr 0.0001 "
        f"--workdir {tmp_path / 'lr_0.0001_seed_3'}"
    )
    job = parse_job(fashion_cgan.Flags, fashion_cgan.MODULE, shlex.split(command)[3:])
    assert job.config == parse_sweep(["--lr", "1e-4", "2e-4"])[1]["lr_0.0001_seed_3"]


@pytest.mark.slow
def test_diverged_member_is_recorded(seeds, tiny_dataset, tmp_path, capsys, caplog):
    config = seeds.pop("lr_0.0002_seed_1")
    optimizer = replace(config.optimizer, lr=1e30)
    members = seeds | {"lr_1e+30_seed_0": replace(config, optimizer=optimizer)}
    for _ in range(2):  # the second time it is not trained again
        run(members, tiny_dataset, tmp_path / "sweep")
        sweep = SweepFolder.open(tmp_path / "sweep")
        assert list(sweep.diverged) == ["lr_1e+30_seed_0"]
        assert "0 of 2" in capsys.readouterr().out
        assert caplog.text.count("became NaN") == 1


def test_folder_of_another_sweep_is_refused(members, tiny_dataset, tmp_path):
    one = {"lr_0.0002_seed_0": members["lr_0.0002_seed_0"]}
    SweepFolder.start(tmp_path / "sweep", one)
    for name, config in one.items():
        RunFolder.start(tmp_path / "sweep" / name, config, tiny_dataset.class_names)
    assert SweepFolder.check(tmp_path / "sweep", one).members == tuple(one)
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
