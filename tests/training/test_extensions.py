"""What a GAN may have beside the report's: pairing, penalty, augmentation, average, optimizers."""

import re
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from jax.nn import softplus

from cgan_jax.config import OptimizerConfig, TrainConfig
from cgan_jax.data import Batch
from cgan_jax.errors import ConfigError
from cgan_jax.losses import LOSSES, AdversarialLoss
from cgan_jax.models.value_range import to_unit_range
from cgan_jax.presets import PRESETS
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.penalties import WeightedPenalty, r1_r2
from cgan_jax.training.step import run_keys, train_step

KEY = random.key(3)
PAIRED = AdversarialLoss(
    discriminator=lambda real, fake: softplus(fake - real),
    generator=lambda real, fake: softplus(real - fake),
    paired=True,
)


def mean_of_all(average, variables, step):
    """The mean of the variables after each step, since the first."""
    return jax.tree.map(lambda a, v: a + (v - a) / step, average, variables)


@pytest.fixture(scope="module")
def gan(tiny_config):
    """The tiny networks without dropout, whose updates are their gradients."""
    model = replace(tiny_config.model, dropout_rate=0.0)
    built = GAN.from_config(replace(tiny_config, model=model))
    return replace(built, gen_optimizer=optax.sgd(1.0), disc_optimizer=optax.sgd(1.0))


@pytest.fixture(scope="module")
def batch(tiny_dataset):
    return Batch(jnp.asarray(tiny_dataset.images[:4]), jnp.asarray(tiny_dataset.labels[:4]))


@pytest.fixture(scope="module")
def state(gan):
    return jax.jit(gan.init)(random.key(0))


@pytest.fixture(scope="module")
def step():
    return jax.jit(train_step, static_argnames="gan")


@pytest.fixture(scope="module")
def plain(gan, state, batch, step):
    """The state after a step without any of it."""
    return step(gan, state, batch, KEY)


def assert_trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_trees_close(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, other)


def drawn(gan, labels=None):
    """The fakes of the step with KEY, from the fresh state's generator, and their labels."""
    latent_key, label_key, *_ = random.split(KEY, 4)
    latent = random.normal(latent_key, (4, gan.generator.latent_dim))
    if labels is None:
        labels = random.randint(label_key, (4,), 0, gan.generator.n_classes)

    def fakes(params, stats):
        variables = {"params": params, "batch_stats": stats}
        return gan.generator.apply(variables, latent, labels, train=True, mutable=["batch_stats"])[
            0
        ]

    return jax.jit(fakes), labels


# What is absent


def test_without_extensions_the_state_has_no_more_arrays(gan, state, plain):
    for each in (state, plain[0]):
        paths = [path for path, _ in jax.tree.leaves_with_path(each)]
        assert {jax.tree_util.keystr(path[:1]) for path in paths} == {".step", ".gen", ".disc"}
        assert each.average is None
        assert_trees_equal(each.sampling_variables, each.gen.variables)


def test_without_extensions_the_step_draws_no_more(gan, batch):
    """Four keys, and seven with them; so the report's program stays what it is."""

    def splits(gan):
        before = jax.eval_shape(gan.init, KEY)
        jaxpr = str(jax.make_jaxpr(partial(train_step, gan))(before, batch, KEY))
        return "random_split[shape=(4,)]" in jaxpr, "random_split[shape=(7,)]" in jaxpr

    assert splits(gan) == (True, False)
    assert splits(replace(gan, augment=lambda images, key: images)) == (False, True)
    assert splits(replace(gan, average=mean_of_all)) == (True, False)


def test_the_first_keys_are_the_same_however_many_are_split():
    for key in (KEY, run_keys(0).steps):
        few, many = (random.key_data(random.split(key, n)) for n in (4, 7))
        np.testing.assert_array_equal(few, many[:4])


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": lambda real, fake: real},
        {"loss": None},
        {"penalty": 0.5},
        {"augment": "flip"},
        {"average": 0.999},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_part_of_the_wrong_kind_is_refused(gan, changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} is .*\nexpected an? "):
        replace(gan, **changes)


# The average


def test_the_average_takes_in_every_step(gan, batch, step):
    """Parameters and BatchNorm statistics alike, and training is none the wiser."""
    averaging = replace(gan, average=mean_of_all)
    state, without = (jax.jit(each.init)(random.key(0)) for each in (averaging, gan))
    assert_trees_equal(state.average, state.gen.variables)
    seen = []
    for key in random.split(random.key(1), 3):
        state, _ = step(averaging, state, batch, key)
        without, _ = step(gan, without, batch, key)
        seen.append(state.gen.variables)
    assert_trees_close(state.gen, without.gen)
    assert_trees_close(state.average, jax.tree.map(lambda *each: sum(each) / 3, *seen))
    assert_trees_equal(state.sampling_variables, state.average)
    stats = state.average["batch_stats"]["batch_norm_1"]["mean"]
    assert not np.allclose(stats, state.gen.variables["batch_stats"]["batch_norm_1"]["mean"])


@pytest.mark.slow
def test_a_run_with_an_average_is_resumed_bit_for_bit(tiny_config, tiny_dataset, tmp_path):
    gan = replace(GAN.from_config(tiny_config), average=mean_of_all)
    whole = train(gan, tiny_config, tiny_dataset)
    with Checkpoints(tmp_path) as checkpoints:
        train(gan, replace(tiny_config, epochs=1), tiny_dataset, checkpoints=checkpoints)
    with Checkpoints(tmp_path) as checkpoints:
        resumed = train(gan, tiny_config, tiny_dataset, checkpoints=checkpoints)
    assert_trees_equal(resumed, whole)
    assert whole.average["params"].keys() == whole.gen.params.keys()


# Augmentation


def test_an_augmentation_that_changes_nothing_changes_nothing(gan, state, batch, step, plain):
    new, losses = step(replace(gan, augment=lambda images, key: images), state, batch, KEY)
    assert_trees_close((new, losses), plain)


def record_key(seen, images, key):
    """Append the number of images and the key, each time the traced program runs."""
    jax.debug.callback(
        lambda key: seen.append((len(images), tuple(key.tolist()))),
        random.key_data(key),
        ordered=True,
    )


def test_every_image_that_d_sees_is_augmented(gan, state, batch, step):
    """Fakes in G's step; real images and fakes in D's, with another key."""
    seen = []

    def augment(images, key):
        record_key(seen, images, key)
        return images * 0

    new, _ = step(replace(gan, augment=augment), state, batch, KEY)
    jax.effects_barrier()
    (n_in_gen, key_in_gen), (n_in_disc, key_in_disc) = seen
    assert (n_in_gen, n_in_disc) == (4, 8)
    assert key_in_gen != key_in_disc
    # D sees black images alone: nothing tells the generator how to change.
    assert_trees_equal(new.gen.params, state.gen.params)
    kernel = new.disc.params["hidden_0"]["kernel"]
    n_pixels = batch.images[0].size
    np.testing.assert_array_equal(
        kernel[:n_pixels], state.disc.params["hidden_0"]["kernel"][:n_pixels]
    )
    assert not np.array_equal(kernel[n_pixels:], state.disc.params["hidden_0"]["kernel"][n_pixels:])


# The penalty


def gradient_penalty(score, real, fake, *, step, key):
    """A zero-centred penalty on the real half, and a little of the rest of what it is given."""
    (images, labels), (fakes, fake_labels) = real, fake
    grads = jax.grad(lambda images: score(images, labels).sum())(images)
    mixed = score(fakes, fake_labels).mean() * random.uniform(key)
    return jnp.square(grads).sum() / len(labels) + mixed + 0.01 * step * score(*real).mean()


def test_a_penalty_is_added_to_ds_loss_alone(gan, state, batch, step, plain):
    """D's update is the gradient of both, taken here by hand; G's and the losses stay."""
    state = state.replace(step=jnp.int32(5))
    new, losses = step(replace(gan, penalty=gradient_penalty), state, batch, KEY)
    assert_trees_close(losses, plain[1])
    assert_trees_close(new.gen, plain[0].gen)

    fakes, fake_labels = drawn(gan)
    fake = fakes(state.gen.params, state.gen.variables["batch_stats"])
    real = to_unit_range(batch.images)

    def loss(params):
        def score(images, labels):
            return gan.discriminator.apply({"params": params}, images, labels, train=False)

        least_squares = (score(real, batch.labels) - 1) ** 2 + score(fake, fake_labels) ** 2
        key = random.split(KEY, 7)[6]
        extra = gradient_penalty(score, (real, batch.labels), (fake, fake_labels), step=5, key=key)
        return least_squares.mean() / 2 + extra

    expected = optax.apply_updates(
        state.disc.params, jax.tree.map(jnp.negative, jax.jit(jax.grad(loss))(state.disc.params))
    )
    assert_trees_close(new.disc.params, expected)
    moved = jax.tree.map(lambda one, other: np.abs(one - other).max(), new.disc, plain[0].disc)
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize(("n_done", "is_due"), [(0, True), (6, True), (7, False), (8, False)])
def test_a_rare_penalty_is_left_out_in_the_steps_between(gan, state, batch, n_done, is_due):
    state = state.replace(step=jnp.int32(n_done))
    step = jax.jit(train_step, static_argnames="gan")
    rare = replace(gan, penalty=WeightedPenalty(r1_r2, 0.5, every=3))
    same = replace(gan, penalty=WeightedPenalty(r1_r2, 1.5) if is_due else None)
    assert_trees_close(step(rare, state, batch, KEY), step(same, state, batch, KEY))
    other = replace(gan, penalty=None if is_due else WeightedPenalty(r1_r2, 1.5))
    new, old = (step(each, state, batch, KEY)[0].disc for each in (rare, other))
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), new, old))) > 1e-4


def test_only_a_rare_penalty_is_a_choice(gan, state, batch):
    """Made of loops: for a `cond`, XLA copies the state."""

    def choices(penalty):
        with_penalty = replace(gan, penalty=penalty)
        program = jax.make_jaxpr(partial(train_step, with_penalty))(state, batch, KEY)
        return set(re.findall(r"\b(cond|while)\[", str(program)))

    assert choices(WeightedPenalty(r1_r2, 2.0, gamma_end=1.0, schedule_steps=5)) == set()
    assert choices(WeightedPenalty(r1_r2, every=2)) == {"while"}


def test_a_penalty_goes_through_the_augmentation(gan, state, batch, step):
    """It differentiates by the image before it: a brighter image has the factor's square."""

    def first_penalty(score, real, fake, *, step, key):
        grads = jax.grad(lambda images: score(images, real[1]).sum())(real[0])
        return jnp.square(grads).sum()

    values = {}
    for factor in (1.0, 3.0):
        seen = []

        def penalty(*args, seen=seen, **kwargs):
            value = first_penalty(*args, **kwargs)
            jax.debug.callback(lambda v: seen.append(float(v)), value)
            return value

        linear = gan.discriminator.clone(negative_slope=1.0)  # so that gradients are constant
        augmented = replace(
            gan,
            discriminator=linear,
            penalty=penalty,
            augment=lambda images, key, factor=factor: factor * images,
        )
        step(augmented, state, batch, KEY)
        jax.effects_barrier()
        values[factor] = seen[0]
    assert values[3.0] == pytest.approx(9 * values[1.0], rel=1e-4)


# Pairs


def test_a_paired_loss_compares_images_of_one_label(gan, state, batch, step):
    """Both losses and both updates, written out again."""
    paired = replace(gan, loss=PAIRED)
    new, losses = step(paired, state, batch, KEY)
    fakes, labels = drawn(gan, batch.labels)
    real = to_unit_range(batch.images)

    def score(params, images):
        return gan.discriminator.apply({"params": params}, images, labels, train=False)

    def g_loss(params):
        fake = fakes(params, state.gen.variables["batch_stats"])
        disc = state.disc.params
        return softplus(score(disc, real) - score(disc, fake)).mean()

    def d_loss(params):
        fake = fakes(state.gen.params, state.gen.variables["batch_stats"])
        return softplus(score(params, fake) - score(params, real)).mean()

    for net, before, loss, value in (
        (new.gen, state.gen, g_loss, losses.g_loss),
        (new.disc, state.disc, d_loss, losses.d_loss),
    ):
        np.testing.assert_allclose(value, loss(before.params), rtol=1e-5)
        moves = jax.tree.map(jnp.negative, jax.jit(jax.grad(loss))(before.params))
        assert_trees_close(net.params, optax.apply_updates(before.params, moves))


class Recorder(nn.Module):
    """A discriminator whose scores are dropout alone, and whose statistics are what it saw."""

    @nn.compact
    def __call__(self, images, labels, *, train):
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        if train:
            seen.value = seen.value / 2 + images.mean()
        ones = nn.Dropout(0.5, deterministic=not train)(jnp.ones((len(images), 50)))
        return ones.mean(1) * self.param("weight", nn.initializers.ones, ())


def test_each_half_of_a_paired_loss_goes_through_d_in_a_pass_of_its_own(gan, batch, step):
    """With keys of its own; the statistics take in the real images first."""
    seen = []

    def augment(images, key):
        record_key(seen, images, key)
        return images

    difference = AdversarialLoss(
        discriminator=lambda real, fake: real - fake, generator=lambda real, fake: fake, paired=True
    )
    recording = replace(gan, discriminator=Recorder(), loss=difference, augment=augment)
    state = jax.jit(recording.init)(random.key(0))
    new, losses = step(recording, state, batch, KEY)
    jax.effects_barrier()
    fakes, _ = drawn(gan, batch.labels)
    fake = fakes(state.gen.params, state.gen.variables["batch_stats"])
    before, real = state.disc.variables["batch_stats"]["seen"], to_unit_range(batch.images)
    statistics = (before / 2 + real.mean()) / 2 + fake.mean()
    np.testing.assert_allclose(new.disc.variables["batch_stats"]["seen"], statistics, rtol=1e-5)
    assert [n for n, _ in seen] == [4] * 4
    assert len({key for _, key in seen}) == 4
    assert abs(losses.d_loss) > 0.01  # the same dropout in both halves would make it 0


def test_only_the_relativistic_loss_is_paired():
    assert [name for name, loss in LOSSES.items() if loss.paired] == ["relativistic"]


# From a configuration


def test_what_changes_no_network_changes_no_gan():
    """Else two seeds compile everything twice."""
    report = PRESETS["report"]
    same = replace(report, seed=1, epochs=3, batch_size=32, dataset="others")
    assert GAN.from_config(same) is GAN.from_config(report) is GAN.from_config()
    for other in (
        replace(report, loss="hinge"),
        replace(report, optimizer=OptimizerConfig(lr=1e-3)),
        replace(report, disc_optimizer=OptimizerConfig(lr=1e-3)),
        replace(report, model=replace(report.model, latent_dim=3)),
    ):
        assert GAN.from_config(other) is not GAN.from_config(report)


def test_each_network_has_its_own_optimizer(tiny_config, batch, step):
    """At the first step Adam moves a parameter by the learning rate, whatever its gradient."""
    rates = {"optimizer": OptimizerConfig(lr=1e-3), "disc_optimizer": OptimizerConfig(lr=1e-2)}
    gan = GAN.from_config(replace(tiny_config, **rates))
    state = jax.jit(gan.init)(random.key(0))
    new, _ = step(gan, state, batch, KEY)
    for net, before, rate in ((new.gen, state.gen, 1e-3), (new.disc, state.disc, 1e-2)):
        move = np.abs(net.params["output"]["bias"] - before.params["output"]["bias"]).max()
        assert move == pytest.approx(rate, rel=1e-2)
    assert TrainConfig().disc_optimizer is None
