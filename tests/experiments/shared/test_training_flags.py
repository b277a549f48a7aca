"""A flag for every setting, what is kept of a run's command, and how a run's folder is resumed."""

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from cgan_jax import presets
from cgan_jax.config import ModelConfig, OptimizerConfig, TrainConfig, leaves
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.presets import PRESETS, preset
from cgan_jax.runs.folder import RunFolder
from experiments.shared.settings import FROM_DATA, settings
from experiments.shared.training_flags import (
    DeviceFlags,
    OutputFlags,
    StartFlags,
    WeightFlags,
    flag_value,
    parse_job,
)

MODULE = "experiments.some_command"
# Another value for each setting, by the name that `leaves` has for it.
OTHER = {
    "epochs": (3, "--epochs 3"),
    "batch_size": (32, "--batch-size 32"),
    "seed": (7, "--seed 7"),
    "loss": ("hinge", "--loss hinge"),
    "balance": (True, "--balance"),
    "disc_steps": (5, "--disc-steps 5"),
    "augment": ("color,cutout", "--augment color,cutout"),
    "background": (1.0, "--background 1"),
    "schedule_steps": (500, "--schedule-steps 500"),
    "matmul_precision": ("float32", "--matmul-precision float32"),
    "model.latent_dim": (20, "--latent-dim 20"),
    "model.label_dim": (4, "--label-dim 4"),
    "model.generator_widths": ((8, 16), "--generator-widths 8 16"),
    "model.discriminator_widths": ((8,), "--discriminator-widths 8"),
    "model.negative_slope": (0.1, "--negative-slope 0.1"),
    "model.dropout_rate": (0.25, "--dropout-rate 0.25"),
    "model.bn_epsilon": (1e-5, "--bn-epsilon 1e-5"),
    "model.bn_momentum": (0.99, "--bn-momentum 0.99"),
    "optimizer.lr": (1e-3, "--lr 1e-3"),
    "optimizer.b1": (0.0, "--b1 0"),
    "optimizer.b2": (0.99, "--b2 0.99"),
    "optimizer.eps": (1e-6, "--eps 1e-6"),
    "optimizer.lr_end": (1e-5, "--lr-end 1e-5"),
    "optimizer.b2_end": (0.9999, "--b2-end 0.9999"),
    "optimizer.schedule": ("linear", "--schedule linear"),
    "penalty.kind": ("r1_r2", "--penalty r1_r2"),
    "penalty.gamma": (0.3, "--penalty-gamma 0.3"),
    "penalty.gamma_end": (0.03, "--penalty-gamma-end 0.03"),
    "penalty.every": (4, "--penalty-every 4"),
    "average.keep": (True, "--average"),
    "average.half_life": (500.0, "--average-half-life 500"),
    "average.ramp": (0.1, "--average-ramp 0.1"),
    "disc_optimizer.lr": (4e-4, "--disc-lr 4e-4"),
    "disc_optimizer.b1": (0.9, "--disc-b1 0.9"),
    "disc_optimizer.b2": (0.9, "--disc-b2 0.9"),
    "disc_optimizer.eps": (1e-4, "--disc-eps 1e-4"),
    "disc_optimizer.lr_end": (1e-6, "--disc-lr-end 1e-6"),
    "disc_optimizer.b2_end": (0.9, "--disc-b2-end 0.9"),
    "disc_optimizer.schedule": ("linear", "--disc-schedule linear"),
}


@dataclass(frozen=True)
class Flags:
    """A command."""

    data: Annotated[str, tyro.conf.Positional]
    """What to train on."""
    workdir: Path = Path("runs/some")
    """The run's folder."""

    @classmethod
    def folder(cls, words):
        return Path(flag_value(words, "--workdir") or cls.workdir)

    def img_size_to_check(self):
        return None


def parse(*words):
    return parse_job(Flags, MODULE, [str(word) for word in words])


def test_every_setting_has_a_flag():
    """A field that is new in a dataclass has to be added above, and then has its flag tested."""
    both = replace(TrainConfig(), disc_optimizer=OptimizerConfig(lr=1))
    names = {name for name, _ in leaves(both) if name.rpartition(".")[2] not in FROM_DATA}
    assert names == OTHER.keys()


@pytest.mark.parametrize("name", OTHER)
def test_a_flag_changes_its_setting_alone(name, tmp_path):
    value, words = OTHER[name]
    job = parse("images", "--workdir", tmp_path / "none", *words.split())
    expected = dict(leaves(PRESETS["report"])) | {name: value}
    if name.startswith("disc_optimizer"):
        del expected["disc_optimizer"]
        ours = replace(OptimizerConfig(), **{name.rpartition(".")[2]: value})
        expected |= leaves(ours, "disc_optimizer.")
    assert dict(leaves(job.config)) == expected


@pytest.mark.parametrize("name", OTHER)
def test_the_command_repeats_what_was_asked_for(name, tmp_path):
    words = OTHER[name][1].split()
    job = parse("images", "--workdir", tmp_path / "none", "--eval-every", 2, *words)
    python, dash_m, module, *again = shlex.split(job.command)
    assert (python, dash_m, module) == ("python", "-m", MODULE)
    assert parse(*again) == job
    assert len(again) == len(words) + 5  # and nothing that is the default


def test_the_command_of_defaults_has_no_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("images").command == f"python -m {MODULE} images"


def saved_run(folder, *words):
    """A run's folder as training leaves it, and the job that it came from."""
    job = parse(*words, "--workdir", folder)
    run = RunFolder.start(folder, job.config, ("a", "b"))
    run.command.write_text(job.command + "\n")
    return job


def test_a_folder_is_enough_to_resume(tmp_path):
    flags = ("--lr", "1e-3", "--disc-b1", "0.9", "--epochs", "3", "--sample-every", "2")
    job = saved_run(tmp_path / "run", "images", *flags)
    assert parse("--workdir", tmp_path / "run") == job
    longer = parse("--workdir", tmp_path / "run", "--epochs", 9)
    assert longer.config == replace(job.config, epochs=9)
    assert (longer.own.data, longer.output) == ("images", OutputFlags(sample_every=2))


def test_a_librarys_run_is_resumed_with_its_settings(tmp_path):
    config = TrainConfig(epochs=2, loss="hinge", model=ModelConfig(latent_dim=7))
    RunFolder.start(tmp_path / "run", config, ("a", "b"))
    job = parse("images", "--workdir", tmp_path / "run")
    assert job.config == config
    assert "--loss hinge" in job.command
    assert "--latent-dim 7" in job.command


def test_a_run_keeps_an_optimizer_that_no_flag_can_name(tmp_path):
    """The discriminator's learning rate is constant, where the generator's falls."""
    both = {"optimizer": OptimizerConfig(lr_end=1e-5), "disc_optimizer": OptimizerConfig()}
    config = TrainConfig(schedule_steps=9, **both)
    RunFolder.start(tmp_path / "run", config, ("a", "b"))
    assert parse("images", "--workdir", tmp_path / "run").config == config
    faster = parse("images", "--workdir", tmp_path / "other", "--lr", "1e-3").config
    assert faster == TrainConfig(optimizer=OptimizerConfig(lr=1e-3))


def test_the_discriminators_own_setting_can_be_given_up(tmp_path):
    """Where the preset has one, the generator's is named by None, in a kept command too."""
    for words in (("--disc-lr", "1e-4"), ("--lr", "4e-4")):
        job = parse("images", "--preset", "projection", *words, "--workdir", tmp_path / "none")
        own = job.config.disc_optimizer
        assert own is None or own.lr == job.config.optimizer.lr
        _, _, _, *again = shlex.split(job.command)
        assert parse(*again).config == job.config


def test_a_preset_that_is_named_again_changes_nothing(tmp_path):
    words = ("images", "--preset", "residual", "--epochs", "5", "--lr", "1e-3")
    config = parse(*words, "--workdir", tmp_path / "none").config.with_schedule_steps(640)
    RunFolder.start(tmp_path / "run", config, ("a", "b"))
    again = parse("images", "--preset", "residual", "--workdir", tmp_path / "run")
    assert again.config == config


def test_a_longer_run_keeps_the_length_of_its_schedules(tmp_path):
    words = ("images", "--lr-end", "1e-5", "--epochs", "3")
    config = parse(*words).config.with_schedule_steps(640)
    assert config.schedule_steps == 30
    RunFolder.start(tmp_path / "run", config, ("a", "b"))
    for again in (("images",), (*words, "--preset", "report")):
        longer = parse(*again, "--workdir", tmp_path / "run", "--epochs", "9").config
        assert longer.with_schedule_steps(640) == replace(config, epochs=9)


def test_what_a_folder_has_is_not_used_for_a_fresh_start(tmp_path):
    saved_run(tmp_path / "run", "images", "--epochs", "3")
    fresh = parse("images", "--workdir", tmp_path / "run", "--no-resume")
    assert fresh.config == PRESETS["report"]
    assert fresh.start == StartFlags(resume=False)


def test_the_run_that_weights_are_from_is_kept_and_may_be_gone_later(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "run"
    with pytest.raises(RunError, match="source is not a run folder"):
        parse("images", "--init-from", source)
    saved_run(source, "images")
    job = saved_run(folder, "images", "--init-from", source / "best")
    assert job.weights == WeightFlags(source / "best")
    source.rename(tmp_path / "moved")
    assert parse("--workdir", folder) == job
    fresh = parse("images", "--workdir", folder, "--no-resume")
    assert fresh.weights == WeightFlags()


def test_processes_are_not_remembered(tmp_path):
    """A run that several machines began can be resumed on one."""
    process = ("--coordinator", "one:1", "--processes", "2", "--process-id", "0")
    saved_run(tmp_path / "run", "images", "--devices", "2", *process)
    assert parse("--workdir", tmp_path / "run").device == DeviceFlags(devices=2)


@pytest.mark.parametrize(
    "text", ["", "python -m experiments.other x --lr 1", "python -m '", f"python -m {MODULE} --old"]
)
def test_a_command_of_another_kind_is_passed_over(tmp_path, text, capsys):
    job = saved_run(tmp_path / "run", "images", "--epochs", "3")
    (tmp_path / "run" / "command.txt").write_text(text)
    assert parse("images", "--workdir", tmp_path / "run").config == job.config
    assert capsys.readouterr().err == ""


def test_a_preset_gives_the_defaults_of_all_settings(tmp_path, monkeypatch):
    other = TrainConfig(epochs=4, loss="hinge", optimizer=OptimizerConfig(b1=0.0))
    monkeypatch.setattr(presets, "PRESETS", PRESETS | {"other": other})
    monkeypatch.setattr("experiments.shared.training_flags.PRESETS", PRESETS | {"other": other})
    job = parse("images", "--preset", "other", "--lr", "1e-3", "--workdir", tmp_path / "none")
    assert job.config == replace(other, optimizer=OptimizerConfig(lr=1e-3, b1=0.0))
    assert "--preset other --lr 0.001" in job.command
    saved_run(tmp_path / "run", "images", "--preset", "other")
    assert parse("--workdir", tmp_path / "run").config == other
    # Asked for, a preset wins; that the folder holds another run is said when it is opened.
    assert parse("--workdir", tmp_path / "run", "--preset", "report").config == PRESETS["report"]


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no preset 'reprot'; did you mean report"):
        parse("images", "--preset", "reprot")
    with pytest.raises(ConfigError, match="no preset 'xyz'\n"):
        preset("xyz")


def test_settings_are_described(capsys):
    for setting in settings(PRESETS["report"]):
        assert len(setting.help.split()) >= 3, setting.name
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for setting in settings(PRESETS["report"]):
        assert re.search(rf"--{setting.flag.replace('_', '-')}[ ,]", text), setting.flag
