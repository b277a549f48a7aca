"""Configurations: the report's values, what is refused, and their way to JSON and back."""

import dataclasses
import json

import numpy as np
import pytest

from cgan_jax.config import (
    MODEL_KINDS,
    AverageConfig,
    MLPConfig,
    ModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    ResidualConfig,
    SNGANConfig,
    TrainConfig,
    differences,
    from_dict,
    leaves,
    to_dict,
)
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError
from cgan_jax.presets import PRESETS


def test_report_preset_is_the_reports():
    assert dict(leaves(PRESETS["report"])) == {
        "dataset": "fashion_mnist",
        "epochs": 200,
        "batch_size": 64,
        "seed": 0,
        "loss": "least_squares",
        "disc_steps": 1,
        "balance": False,
        "matmul_precision": "default",
        "augment": "",
        "background": -1.0,
        "schedule_steps": None,
        "model.n_classes": 10,
        "model.latent_dim": 100,
        "model.label_dim": None,
        "model.img_size": 28,
        "model.channels": 1,
        "model.generator_widths": (128, 256, 512, 1024),
        "model.discriminator_widths": (512, 512, 512),
        "model.negative_slope": 0.2,
        "model.dropout_rate": 0.4,
        "model.bn_epsilon": 0.8,
        "model.bn_momentum": 0.9,
        "optimizer.lr": 2e-4,
        "optimizer.b1": 0.5,
        "optimizer.b2": 0.999,
        "optimizer.eps": 1e-8,
        "optimizer.lr_end": None,
        "optimizer.b2_end": None,
        "optimizer.schedule": "cosine",
        "disc_optimizer": None,
        "penalty.kind": "none",
        "penalty.gamma": 1.0,
        "penalty.gamma_end": None,
        "penalty.every": 1,
        "average.keep": False,
        "average.half_life": 40_000,
        "average.ramp": 0.05,
    }


NAN, INF = float("nan"), float("inf")
IMPOSSIBLE = [
    *((TrainConfig, "epochs", bad) for bad in (0, -1, 1.5, True, "10", None)),
    *((TrainConfig, "batch_size", bad) for bad in (0, 1, -64, 64.0)),
    *((TrainConfig, "seed", bad) for bad in (-1, 2**32, 0.5)),
    *((TrainConfig, "loss", bad) for bad in ("lsgan", None)),
    *((TrainConfig, "dataset", bad) for bad in (3, None)),
    *((TrainConfig, "model", bad) for bad in ({}, None)),
    *((OptimizerConfig, "lr", bad) for bad in (0, -1e-4, NAN, INF, "fast", True)),
    *((OptimizerConfig, "b1", bad) for bad in (-0.1, 1, 1.5, NAN)),
    *((OptimizerConfig, "b2", bad) for bad in (1.0, -INF)),
    *((OptimizerConfig, "eps", bad) for bad in (0, NAN)),
    *((OptimizerConfig, "lr_end", bad) for bad in (-1e-9, INF, "slow")),
    *((OptimizerConfig, "b2_end", bad) for bad in (1, -0.1)),
    *((OptimizerConfig, "schedule", bad) for bad in ("cosin", "constant", None)),
    *((PenaltyConfig, "kind", bad) for bad in ("r3", None, 1)),
    *((PenaltyConfig, "gamma", bad) for bad in (-0.1, NAN, INF)),
    *((PenaltyConfig, "gamma_end", bad) for bad in (-0.1, "none")),
    *((PenaltyConfig, "every", bad) for bad in (0, -1, 1.5)),
    *((AverageConfig, "keep", bad) for bad in (1, "yes", None)),
    *((AverageConfig, "half_life", bad) for bad in (0, -1, INF, None)),
    *((AverageConfig, "ramp", bad) for bad in (0, -0.05, NAN)),
    *((TrainConfig, "balance", bad) for bad in (None, 1, "yes")),
    *((TrainConfig, "augment", bad) for bad in ("colour", "translation, cutout", ",", 1)),
    *((TrainConfig, "background", bad) for bad in (-1.1, 255, None)),
    *((TrainConfig, "schedule_steps", bad) for bad in (0, 2**31, 1.5)),
    *((TrainConfig, "matmul_precision", bad) for bad in ("tf32", None)),
    *((TrainConfig, "penalty", bad) for bad in (None, "r1")),
    *((TrainConfig, "average", bad) for bad in (None, True)),
    *((MLPConfig, "discriminator_conditioning", bad) for bad in ("projektion", None)),
    *((ResidualConfig, "generator_widths", bad) for bad in ((), (64, 0), 64)),
    *((ResidualConfig, "discriminator_widths", bad) for bad in ((), (-1,))),
    *((ResidualConfig, "blocks", bad) for bad in (0, -1, 1.5)),
    *((ResidualConfig, "expansion", bad) for bad in (0, -0.5, 17, NAN)),
    *((ResidualConfig, "features", bad) for bad in (0, "256")),
    *((ResidualConfig, "resampling", bad) for bad in ("filters", None)),
    *((ResidualConfig, "negative_slope", bad) for bad in (-0.1, 2)),
    *((ResidualConfig, "discriminator_conditioning", bad) for bad in ("projektion", None)),
    *((ResidualConfig, "precision", bad) for bad in ("float16", 32)),
    *((SNGANConfig, "generator_width", bad) for bad in (0, (64,))),
    *((SNGANConfig, "discriminator_width", bad) for bad in (0, 1.5)),
    *((SNGANConfig, "stages", bad) for bad in (0, 17, 10**400)),
    *((SNGANConfig, "bn_epsilon", bad) for bad in (0, -1)),
    *((SNGANConfig, "bn_momentum", bad) for bad in (1, -0.1)),
    *((SNGANConfig, "generator_conditioning", bad) for bad in ("projection", None)),
    *((SNGANConfig, "discriminator_conditioning", bad) for bad in ("batch_norm", 1)),
    *((SNGANConfig, "precision", bad) for bad in ("bf16", None)),
    *((ModelConfig, "latent_dim", bad) for bad in (0, -100, 1.0)),
    *((ModelConfig, "label_dim", bad) for bad in (0, "ten")),
    *((ModelConfig, "generator_widths", bad) for bad in ((), (128, 0), (1.5,), 128, "128")),
    *((ModelConfig, "discriminator_widths", bad) for bad in ((), (-1,))),
    *((ModelConfig, "negative_slope", bad) for bad in (-0.1, 2, NAN)),
    *((ModelConfig, "dropout_rate", bad) for bad in (-0.1, 1, NAN)),
    *((ModelConfig, "bn_epsilon", bad) for bad in (0, -0.8)),
    *((ModelConfig, "bn_momentum", bad) for bad in (1, -0.1)),
]


@pytest.mark.parametrize(("kind", "name", "bad"), IMPOSSIBLE)
def test_impossible_values_are_named(kind, name, bad):
    with pytest.raises(ConfigError, match=name) as caught:
        kind(**{name: bad})
    assert repr(bad)[:10] in str(caught.value) or str(bad) in str(caught.value)
    assert "Omit it for the " in str(caught.value).splitlines()[-1]


def test_whole_numbers_of_numpy_become_pythons():
    """Others have no place in JSON."""
    model = ModelConfig(latent_dim=np.int64(5), generator_widths=(np.int32(4), 8))
    config = TrainConfig(seed=np.uint32(2**32 - 1), model=model)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert config.seed == 2**32 - 1


def test_batch_size_must_suit_the_data():
    config = TrainConfig(batch_size=64)
    config.check_data(64)
    config.check_data(60_000)
    with pytest.raises(ConfigError, match="at most the 63"):
        config.check_data(63)
    with pytest.raises(ConfigError, match="last batch of one"):
        config.check_data(65)


def test_the_steps_of_a_run_can_be_counted():
    """In the int32 of `GANState.step`."""
    TrainConfig(batch_size=64, epochs=(2**31 - 1) // 938).check_data(60_000)
    with pytest.raises(ConfigError, match="epochs must be at most 2289428"):
        TrainConfig(batch_size=64, epochs=(2**31 - 1) // 938 + 1).check_data(60_000)


def test_json_round_trip():
    config = TrainConfig(epochs=3, model=ModelConfig(generator_widths=(4, 5), label_dim=2))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert hash(from_dict(json.loads(json.dumps(to_dict(config))))) == hash(config)


def test_a_file_from_before_a_field_was_added_is_read():
    old = to_dict(TrainConfig(epochs=3))
    del old["loss"], old["model"]["label_dim"]
    assert from_dict(old) == TrainConfig(epochs=3)


def test_differences_name_the_fields():
    other = dataclasses.replace(
        PRESETS["report"], seed=1, optimizer=OptimizerConfig(lr=1e-3), epochs=200
    )
    assert differences(PRESETS["report"], other) == [
        "seed: 0 -> 1",
        "optimizer.lr: 0.0002 -> 0.001",
    ]
    assert differences(other, other) == []


@dataclasses.dataclass(frozen=True)
class OtherModel:
    """A second kind of model, as a later version may have it."""

    n_classes: int = 10
    latent_dim: int = 64
    img_size: int = 28
    channels: int = 1
    stages: int = 3


def test_kinds_of_model_are_told_apart_in_json(monkeypatch):
    monkeypatch.setitem(MODEL_KINDS, "other", OtherModel)
    config = TrainConfig(model=OtherModel(stages=4))
    saved = json.loads(json.dumps(to_dict(config)))
    assert saved["model"]["kind"] == "other"
    assert from_dict(saved) == config
    assert differences(TrainConfig(), config) == ["model: report -> other"]
    with pytest.raises(ConfigError, match="unknown setting 'dropout_rate' in model"):
        from_dict({"model": {"kind": "other", "dropout_rate": 0.1}})


@pytest.mark.parametrize("kind", ["redisual", 3, None])
def test_an_unknown_kind_of_model_is_refused(kind):
    with pytest.raises(ConfigError, match="unknown kind of model .*\nexpected one of report, mlp"):
        from_dict({"model": {"kind": kind}})


def test_the_report_has_no_kind_as_in_earlier_versions():
    assert "kind" not in to_dict(PRESETS["report"])["model"]
    assert from_dict({"model": {"kind": "report"}}) == PRESETS["report"]


def test_each_network_may_have_an_optimizer_of_its_own():
    own = TrainConfig(disc_optimizer=OptimizerConfig(lr=4e-4))
    assert from_dict(json.loads(json.dumps(to_dict(own)))) == own
    assert differences(TrainConfig(), own) == ["disc_optimizer.lr: 0.0002 -> 0.0004"]
    assert differences(own, own) == []
    assert "disc_optimizer" not in to_dict(TrainConfig())
    assert TrainConfig(disc_optimizer=OptimizerConfig()) == TrainConfig()


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("balance", True, "False -> True"),
        ("matmul_precision", "float32", "default -> float32"),
        ("disc_steps", 5, "1 -> 5"),
    ],
)
def test_a_run_without_a_later_setting_has_the_file_of_earlier_versions(name, value, change):
    assert name not in to_dict(TrainConfig())
    config = TrainConfig(**{name: value})
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert differences(TrainConfig(), config) == [f"{name}: {change}"]


def dataset_of(n_images):
    images = np.zeros((n_images, 8, 8, 1), np.uint8)
    labels = np.zeros(n_images, np.int32)
    return Dataset(images, labels, ("one",), name="tiny", source="a test")


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(optimizer=OptimizerConfig(lr_end=1e-5)),
        TrainConfig(disc_optimizer=OptimizerConfig(b2_end=0.99)),
        TrainConfig(penalty=PenaltyConfig("r1", gamma_end=0.1)),
    ],
)
def test_schedules_last_as_long_as_the_first_run(config):
    config = dataclasses.replace(config, epochs=3, batch_size=4).for_data(dataset_of(10))
    assert config.schedule_steps == 9
    longer = dataclasses.replace(config, epochs=30).for_data(dataset_of(10))
    assert longer.schedule_steps == 9


def test_without_schedules_their_length_is_not_recorded():
    config = TrainConfig(penalty=PenaltyConfig(gamma_end=0.1))  # of no kind, so without effect
    assert config.for_data(dataset_of(10)).schedule_steps is None
