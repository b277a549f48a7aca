"""The tutorial's recipes of losses, steps and labels give what their papers say: numbers by hand.

Those of optimizers and callbacks are in test_researchers_optimizers.py, those of other libraries
in test_researchers_live.py.
"""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from jax.nn import logsumexp, one_hot, relu

import cgan_jax
from cgan_jax import (
    Batch,
    Checkpoints,
    Discriminator,
    Generator,
    IterableSource,
    generate_latent_points,
    load_run,
    run_keys,
    run_steps,
    sample_inputs,
    step_keys,
    train_step,
)
from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training.augment import color
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from tests.helpers import assert_resumes, float64_state

KEY = random.key(3)
in_float64 = pytest.mark.usefixtures("float64")
assert_close = partial(np.testing.assert_allclose, rtol=0, atol=1e-11)


class Plain(Generator):
    """One hidden layer, without randomness or statistics."""

    @nn.compact
    def __call__(self, latent, labels, *, train):
        hidden = nn.tanh(nn.Dense(8)(jnp.concatenate([latent, one_hot(labels, 10)], -1)))
        return nn.tanh(nn.Dense(28 * 28)(hidden)).reshape(-1, 28, 28, 1)


@pytest.fixture(scope="module")
def batch(few_images):
    return Batch(few_images.images[:6], few_images.labels[:6])


def with_sgd(gan, **parts):
    """A GAN whose updates are the gradients."""
    return replace(gan, gen_optimizer=optax.sgd(1.0), disc_optimizer=optax.sgd(1.0), **parts)


def check_step(gan, batch, d_loss, g_loss, *, step=train_step, state=None, outputs=None, keys=None):
    """A step descends both losses, which are written out for what D makes of real and fake images.

    Args:
        d_loss: `(on_real, on_fake, labels, fake_labels)` to a scalar; so is `g_loss`.
        outputs: what D makes of `(params, images, labels)`.
        keys: what the step draws with.

    Returns:
        the next state; and what D, before the step, makes of the real images and of the fakes.
    """
    state = float64_state(gan) if state is None else state
    new, losses = jax.jit(step, static_argnames="gan")(gan, state, batch, KEY)
    latent, fake_labels = sample_inputs(gan, batch, keys or step_keys(gan, KEY))
    real = batch.images / 127.5 - 1

    def apply(params, images, labels):
        return gan.discriminator.apply({"params": params}, images, labels, train=True)

    def on_both(gen, disc):
        fake = gan.generator.apply({"params": gen}, latent, fake_labels, train=True)
        d = outputs or apply
        return d(disc, real, batch.labels), d(disc, fake, fake_labels)

    gen, disc = state.gen.params, state.disc.params
    labels = batch.labels, fake_labels
    for loss, value, before, after in (
        (lambda p: d_loss(*on_both(gen, p), *labels), losses.d_loss, disc, new.disc.params),
        (lambda p: g_loss(*on_both(p, disc), *labels), losses.g_loss, gen, new.gen.params),
    ):
        by_hand, gradient = jax.jit(jax.value_and_grad(loss))(before)
        if step is train_step:  # others may have a penalty, which no loss has in it
            assert_close(value, by_hand)
        jax.tree.map(assert_close, after, jax.tree.map(jnp.subtract, before, gradient))
        assert max(jax.tree.leaves(jax.tree.map(lambda g: abs(g).max(), gradient))) > 1e-4
    return new, on_both(gen, disc)


def soft(x):
    return jnp.log(1 + jnp.exp(x))


def log_probability(logits, labels):
    return (logits - logsumexp(logits, axis=1, keepdims=True))[jnp.arange(len(labels)), labels]


@in_float64
def test_an_auxiliary_classifier_learns_the_classes_of_real_and_fake_images(tutorial, batch):
    """Odena et al. 2017, section 4: D and G both maximise the classes' likelihood."""
    names = tutorial("An auxiliary classifier")

    def d_loss(on_real, on_fake, labels, fake_labels):
        adversarial = soft(-on_real[0]).mean() + soft(on_fake[0]).mean()
        of_real = log_probability(on_real[1], labels)
        return adversarial - (of_real + log_probability(on_fake[1], fake_labels)).mean()

    def g_loss(on_real, on_fake, labels, fake_labels):
        return soft(-on_fake[0]).mean() - log_probability(on_fake[1], fake_labels).mean()

    check_step(with_sgd(names["gan"], generator=Plain()), batch, d_loss, g_loss)


@in_float64
def test_feature_matching_compares_the_mean_features_of_a_batch(tutorial, batch):
    """Salimans et al. 2016, section 3.1."""
    names = tutorial("Feature matching")

    def d_loss(on_real, on_fake, *labels):
        return relu(1 - on_real[0]).mean() + relu(1 + on_fake[0]).mean()

    def g_loss(on_real, on_fake, *labels):
        apart = on_real[1].sum(0) / 6 - on_fake[1].sum(0) / 6
        return (apart**2).sum()

    check_step(with_sgd(names["gan"], generator=Plain()), batch, d_loss, g_loss)


@in_float64
def test_each_of_two_discriminators_has_its_own_loss(tutorial, batch, monkeypatch):
    small = partial(Discriminator, widths=(6, 5), dropout_rate=0.0)
    monkeypatch.setattr(cgan_jax, "Discriminator", small, raising=False)
    names = tutorial("Two discriminators")

    def outputs(params, images, labels):
        """The second one sees the means of 2x2 pixels."""
        halved = images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
        return [
            small().apply({"params": params[f"Discriminator_{i}"]}, x, labels, train=False)
            for i, x in enumerate((images, halved))
        ]

    def d_loss(on_real, on_fake, *labels):
        each = zip(on_real, on_fake, strict=True)
        return sum((((r - 1) ** 2).mean() + (f**2).mean()) / 2 for r, f in each)

    def g_loss(on_real, on_fake, *labels):
        return sum(((f - 1) ** 2).mean() for f in on_fake)

    gan = with_sgd(names["gan"], generator=Plain())
    state = float64_state(gan)
    assert state.disc.params.keys() == {"Discriminator_0", "Discriminator_1"}
    check_step(gan, batch, d_loss, g_loss, outputs=outputs)


# Steps of one's own


class Scores(nn.Module):
    """A discriminator whose scores are a function of the images and labels."""

    of: object

    @nn.compact
    def __call__(self, images, labels, *, train):
        return self.of(images, labels) + 0 * self.param("weight", nn.initializers.ones, ())


class Pixel(Generator):
    """Images of one pixel."""

    img_size: int = 1

    @nn.compact
    def __call__(self, latent, labels, *, train):
        return nn.tanh(nn.Dense(1)(latent))[:, None, None]


def pixels(n_steps, n, n_positive=0):
    """White pixels, of which so many have the label 1."""
    labels = np.broadcast_to(np.arange(n, dtype=np.int32) < n_positive, (n_steps, n))
    return Batch(np.full((n_steps, n, 1, 1, 1), 255, np.uint8), labels.astype(np.int32))


@in_float64
@pytest.mark.parametrize(
    ("n_positive", "before", "direction"),
    [(81, 0.1, 1), (79, 0.1, -1), (0, 0.0, 0), (100, 1.0, 0), (0, 1.0, -1), (100, 0.0, 1)],
)
def test_adaptive_augmentation_follows_the_signs_of_real_scores(
    tutorial, n_positive, before, direction
):
    """The mean sign of 80 of 100 positive scores is the target, 0.6."""
    names = tutorial("Adaptive augmentation")
    by_label = Scores(lambda images, labels: jnp.where(labels == 1, 0.3, -7.0))
    gan = with_sgd(names["gan"], generator=Pixel(n_classes=10), discriminator=by_label)
    state = float64_state(gan).replace(extra=jnp.asarray(before))
    batch = jax.tree.map(lambda rows: rows[0], pixels(1, 100, n_positive))
    new, _ = jax.jit(names["adaptive_step"], static_argnums=0)(gan, state, batch, KEY)
    assert_close(new.extra, before + direction * 100 / 500_000)


@in_float64
@pytest.mark.parametrize("before", [0.0, 0.4])
def test_adaptive_augmentation_settles_at_its_target(tutorial, before):
    """D says real of an image that is as it was, and fake of any other: with p augmented, the mean
    sign is 1 - 2p, and 0.6 at p = 0.2."""
    names = tutorial("Adaptive augmentation")
    unchanged = Scores(lambda images, labels: jnp.where(images[:, 0, 0, 0] == 1, 1.0, -1.0))
    gan = with_sgd(names["gan"], generator=Pixel(), discriminator=unchanged)
    state = float64_state(gan).replace(extra=jnp.asarray(before))
    steps = jax.jit(partial(run_steps, gan, step=names["adaptive_step"]))
    state, _ = steps(state, pixels(40, 4096), run_keys(0).steps)
    assert state.extra == pytest.approx(0.2, abs=0.03)


@in_float64
def test_adaptive_augmentation_is_a_steps_with_the_augmentation(tutorial, batch):
    """With probability 1 every image is augmented, with probability 0 none."""
    names = tutorial("Adaptive augmentation")
    gan = with_sgd(names["gan"], generator=Plain(), discriminator=Discriminator(widths=(5, 5)))
    always = replace(gan, augment=lambda images, key: color(images, random.fold_in(key, 1)))
    never = replace(gan, augment=lambda images, key: images)
    state, step = float64_state(gan), jax.jit(train_step, static_argnums=0)
    own = jax.jit(names["adaptive_step"], static_argnums=0)
    for probability, same in ((0.0, never), (1.0, always)):
        new, losses = own(gan, state.replace(extra=jnp.asarray(probability)), batch, KEY)
        expected, expected_losses = step(same, state, batch, KEY)
        jax.tree.map(assert_close, (new.gen, new.disc), (expected.gen, expected.disc))
        jax.tree.map(assert_close, losses, expected_losses)


def test_the_probability_of_augmentation_survives_a_kill(
    tutorial, tiny_config, tiny_dataset, tmp_path
):
    names = tutorial("Adaptive augmentation")
    config = replace(tiny_config, loss="non_saturating")
    gan = replace(GAN.from_config(config), init_extra=lambda: jnp.asarray(0.5))
    run = partial(train, gan, data=tiny_dataset, step=names["adaptive_step"])

    class KilledError(Exception):
        """As of a process that ends between two steps."""

    class Kill(cgan_jax.Callback):
        def on_epoch_end(self, epoch):
            if epoch.epoch == 2:
                raise KilledError

    with Checkpoints(tmp_path / "whole") as checkpoints:
        whole = run(config=config, checkpoints=checkpoints)
    assert abs(whole.extra - 0.5) > 4 / 500_000  # it has moved
    with Checkpoints(tmp_path / "killed") as checkpoints, pytest.raises(KilledError):
        run(config=config, checkpoints=checkpoints, callbacks=[Kill()])
    with Checkpoints(tmp_path / "killed") as checkpoints:
        assert checkpoints.latest() == 2 * 6
        resumed = run(config=config, checkpoints=checkpoints)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


@in_float64
def test_lecam_keeps_scores_near_the_average_of_the_others(tutorial, batch):
    """Tseng et al. 2021, with averages as the step before left them."""
    names = tutorial("Averages of the scores")
    disc = Discriminator(widths=(5, 5), dropout_rate=0.0)
    gan = with_sgd(names["gan"], generator=Plain(), discriminator=disc)
    real_mean, fake_mean = 0.7, -0.4

    def d_loss(on_real, on_fake, *labels):
        hinge = relu(1 - on_real).mean() + relu(1 + on_fake).mean()
        apart = ((on_real - fake_mean) ** 2).mean() + ((on_fake - real_mean) ** 2).mean()
        return hinge + 0.3 * apart

    def g_loss(on_real, on_fake, *labels):
        return -on_fake.mean()

    state = float64_state(gan).replace(extra=jnp.asarray([real_mean, fake_mean]))
    keys = step_keys(replace(gan, penalty=print), KEY)  # those of a step with any penalty
    new, (on_real, on_fake) = check_step(
        gan, batch, d_loss, g_loss, step=names["lecam_step"], state=state, keys=keys
    )
    means = 0.99 * real_mean + 0.01 * on_real.mean(), 0.99 * fake_mean + 0.01 * on_fake.mean()
    assert_close(new.extra, means)
    assert float64_state(gan).extra.tolist() == [0, 0]


# Labels


def vectors(n_columns, images):
    labels = np.random.default_rng(0).random((len(images), n_columns))
    return Batch(images, labels.round() if n_columns > 1 else labels)


@in_float64
@pytest.mark.parametrize("n_columns", [1, 40])
def test_vectors_go_to_both_networks(tutorial, few_images, n_columns):
    """A number, and forty attributes; the fakes have those of the batch in another order."""
    names = vector_recipe(tutorial, few_images)
    generator = names["VectorGenerator"](condition_dim=n_columns)
    gan, batch = with_sgd(names["gan"], generator=generator), vectors(n_columns, few_images.images)

    def d_loss(on_real, on_fake, *labels):
        return (((on_real - 1) ** 2).mean() + (on_fake**2).mean()) / 2

    def g_loss(on_real, on_fake, *labels):
        return ((on_fake - 1) ** 2).mean()

    check_step(gan, batch, d_loss, g_loss)
    _, fake_labels = sample_inputs(gan, batch, step_keys(gan, KEY))
    assert not np.array_equal(fake_labels, batch.labels)
    np.testing.assert_array_equal(*(np.sort(rows, axis=0) for rows in (fake_labels, batch.labels)))
    pairs = {tuple(row) for row in batch.labels}
    assert {tuple(row) for row in np.asarray(fake_labels)} == pairs  # columns stay together


def vector_recipe(tutorial, few_images):
    """The section, with a file of forty random attributes."""
    attributes = np.random.default_rng(0).integers(0, 2, (96, 40))
    columns = [f"attribute {i}" for i in range(40)]
    np.savez("faces.npz", images=few_images.images, attributes=attributes, names=columns)
    return tutorial("Labels that are vectors")


def test_images_of_attributes_are_those_of_the_network(tutorial, few_images):
    names = vector_recipe(tutorial, few_images)
    attributes = np.load("faces.npz")["attributes"]
    data = names["calls"][1]["data"]
    np.testing.assert_array_equal(data.labels, attributes)
    assert data.class_names[39] == "attribute 39"
    latent, _ = generate_latent_points(100, 16)
    images = names["gan"].generator.apply(
        names["state"].gen.variables, latent, np.repeat(attributes[:1], 16, 0), train=False
    )
    expected = np.asarray(jnp.round((images + 1) * 127.5))
    assert abs(names["like_the_first"].astype(float) - expected).max() <= 1  # float32 rounds .5
    others = names["generator"].generate(1 - attributes[:1].astype(float), n=16)
    assert (others != names["like_the_first"]).mean() > 0.5


def test_brightness_is_a_label(tutorial, few_images):
    first, _ = vector_recipe(tutorial, few_images)["calls"]
    brightness = [image.astype(float).sum() / (28 * 28 * 255) for image in few_images.images]
    np.testing.assert_allclose(first["data"].labels, np.array(brightness)[:, None], rtol=1e-6)
    assert first["data"].class_names == ("brightness",)
    assert (first["gan"].generator.condition_dim, first["gan"].generator.latent_dim) == (1, 100)


@in_float64
def test_without_labels_both_networks_see_a_constant(tutorial):
    """Written out for networks of one hidden layer, which then know no labels."""
    [call] = tutorial("No labels")["calls"]
    data, model = call["data"], call["config"].model
    assert data.class_names == ("image",)
    assert not data.labels.any()
    model = replace(model, generator_widths=(8,), discriminator_widths=(8,))
    gan = with_sgd(GAN.from_config(replace(call["config"], model=model)))
    state, batch = float64_state(gan), Batch(data.images[:6], data.labels[:6])

    def layers(params, *inputs):
        constant = params["label_embedding"]["embedding"][0]
        rows = [each if each.ndim == 2 else jnp.tile(constant, (6, 1)) for each in inputs]
        x = jnp.concatenate(rows, 1) @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"]
        x = jnp.where(x > 0, x, 0.2 * x)
        return x @ params["output"]["kernel"] + params["output"]["bias"]

    def outputs(params, images, labels):
        return layers(params, images.reshape(6, -1), jnp.zeros(()))[:, 0]

    def d_loss(on_real, on_fake, *labels):
        return (((on_real - 1) ** 2).mean() + (on_fake**2).mean()) / 2

    def g_loss(on_real, on_fake, *labels):
        return ((on_fake - 1) ** 2).mean()

    check_step(gan, batch, d_loss, g_loss, state=state, outputs=outputs)
    latent, labels = sample_inputs(gan, batch, step_keys(gan, KEY))
    images = jnp.tanh(layers(state.gen.params, jnp.zeros(()), latent)).reshape(6, 28, 28, 1)
    assert_close(gan.generator.apply(state.gen.variables, latent, labels, train=True), images)


# Noise, NNX, seeds


def test_noise_in_each_layer_is_fixed_by_seed_and_index(tutorial):
    names = tutorial("Noise in each layer")
    generator = names["generator"]
    params = generator.variables["params"]
    assert not any(params[f"noise_{i}"].any() for i in range(2))  # learned, from 0 on
    strong = {f"noise_{i}": jnp.ones_like(params[f"noise_{i}"]) for i in range(2)}
    generator = replace(generator, variables={"params": {**params, **strong}})
    many = generator.generate("Bag", n=300, seed=1)  # in two chunks
    np.testing.assert_array_equal(generator.generate("Bag", n=3, seed=1), many[:3])
    np.testing.assert_array_equal(generator.generate(["Bag"] * 300, seed=1)[299], many[299])
    at_one_point = partial(generator.generate, "Bag", latent=np.zeros((4, 100)))
    a, b = at_one_point(seed=1), at_one_point(seed=2)
    assert len({image.tobytes() for image in (*a, *b)}) == 8
    silent = replace(generator, variables={"params": params})
    same = silent.generate("Bag", latent=np.zeros((4, 100)))
    assert len({image.tobytes() for image in same}) == 1


@in_float64
def test_the_strength_of_each_layers_noise_is_learned(tutorial, batch):
    """Its gradient is that of the noise that the fakes were made with, other noise in each step."""
    names = tutorial("Noise in each layer")
    gan = with_sgd(names["gan"])
    state, step = float64_state(gan), jax.jit(train_step, static_argnums=0)
    one, other = (step(gan, state, batch, key)[0].gen.params for key in random.split(KEY))
    for i in range(2):
        strength = f"noise_{i}"
        assert abs(one[strength]).max() > 1e-6
        assert not np.allclose(one[strength], other[strength])


class Twin(nn.Module):
    """The recipe's discriminator without dropout, in Linen."""

    @nn.compact
    def __call__(self, images, labels, *, train):
        x = jnp.concatenate([images.reshape(len(images), -1), one_hot(labels, 10)], axis=-1)
        x = nn.Dense(512, name="hidden")(x)
        return nn.Dense(1, name="score")(jnp.where(x > 0, x, 0.2 * x))[:, 0]


@in_float64
def test_an_nnx_module_trains_as_its_linen_twin(tutorial, batch):
    names = tutorial("A Flax NNX module", changes=[("0.4", "0.0")])
    gan = with_sgd(names["gan"], generator=Plain())
    twin = replace(gan, discriminator=Twin())
    state, step = float64_state(gan), jax.jit(train_step, static_argnums=0)
    other = state.replace(disc=float64_state(twin).disc.replace(params=state.disc.params))
    for key in random.split(KEY, 3):
        before = state.disc.params
        (state, losses), (other, expected) = (
            step(each, at, batch, key) for each, at in ((gan, state), (twin, other))
        )
        jax.tree.map(assert_close, losses, expected)
    jax.tree.map(assert_close, state.disc.params, other.disc.params)
    assert abs(state.disc.params["hidden"]["kernel"] - before["hidden"]["kernel"]).max() > 1e-4


@in_float64
def test_an_nnx_modules_dropout_is_drawn_in_training_alone(tutorial, batch):
    gan = tutorial("A Flax NNX module")["gan"]
    gan = with_sgd(gan, generator=Plain())
    state, step = float64_state(gan), jax.jit(train_step, static_argnums=0)
    one, again, other = (
        step(gan, state, batch, key)[1].d_loss for key in (KEY, KEY, random.key(4))
    )
    assert one == again != other
    assert state.disc.variables.keys() == {"params"}
    images = batch.images / 127.5 - 1
    apply = partial(gan.discriminator.apply, state.disc.variables, images, batch.labels)
    np.testing.assert_array_equal(apply(train=False), apply(train=False))
    expected = Twin().apply(state.disc.variables, images, batch.labels, train=False)
    assert_close(apply(train=False), expected)


def test_seeds_trained_together_are_those_trained_alone(
    tutorial, tiny_config, tiny_dataset, monkeypatch
):
    """To rounding, which Adam would magnify."""
    sgd = optax.sgd(0.05)
    built = replace(GAN.from_config(tiny_config), gen_optimizer=sgd, disc_optimizer=sgd)
    tiny = type("GAN", (), {"from_config": staticmethod(lambda: built)})
    monkeypatch.setattr(cgan_jax, "GAN", tiny, raising=False)
    names = tutorial("Several seeds at once", data=tiny_dataset, changes=[("64", "4")])
    source = names["source"]
    alone = jax.jit(partial(run_steps, built))
    for seed in (0, 2):
        keys = run_keys(seed)
        state, step = jax.jit(built.init)(keys.init), 0
        while step < 5 * 6:
            batches = source.batches(step, 30)
            state, losses = alone(state, batches, keys.steps)
            step += len(batches.labels)
        together = jax.tree.map(lambda leaf, i=seed: leaf[i], names["states"])
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, together, state)
        close(names["losses"].d_loss[seed], losses.d_loss)
    assert names["state"].step == 30
    jax.tree.map(np.testing.assert_array_equal, names["state"], together)
    kernels = names["states"].gen.params["output"]["kernel"]
    assert abs(kernels[0] - kernels[1]).max() > 0.01


# Batches


def test_a_generator_of_batches_is_resumed(tutorial, tiny_config, tiny_dataset, tmp_path):
    """Its batches are the data; a second one begins with the same."""
    names = tutorial("A generator of batches", data=tiny_dataset, changes=[("64", "4")])
    sources = iter([names["source"]])

    def make():
        again = IterableSource(names["batches"](tiny_dataset), names["source"].steps_per_epoch)
        return next(sources, again)

    assert_resumes(GAN.from_config(tiny_config), tiny_config, make, tmp_path / "checkpoints")
    given = make().batches(0, 12)
    draw = np.random.default_rng(0)
    rows = np.stack([draw.integers(22, size=4) for _ in range(12)])
    np.testing.assert_array_equal(given.images, tiny_dataset.images[rows])
    np.testing.assert_array_equal(given.labels, tiny_dataset.labels[rows])


# Trained runs


@pytest.fixture
def trained_run(tmp_path, few_images):
    """An untrained run of small networks, where the tutorial has its own."""
    model = ModelConfig(generator_widths=(8, 16), discriminator_widths=(16, 8))
    config = TrainConfig(model=model)
    run = RunFolder.start(tmp_path / "runs/fashion_cgan", config, few_images.class_names)
    gan = GAN.from_config(config)
    state = jax.jit(gan.init)(random.key(5))
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(0, state)
    return gan, state


def test_the_generator_can_be_differentiated(tutorial, trained_run):
    """The gradient agrees with finite differences, and following it raises the score."""
    names = tutorial("The generator in jit and grad")
    gan, state = trained_run
    bags = np.full(16, 8)

    def images_of(latent):
        return gan.generator.apply(state.gen.variables, latent, bags, train=False)

    score = names["score"]
    with jax.enable_x64():
        latent, direction = random.normal(random.key(1), (2, 16, 100))
        slope = (jax.grad(score)(latent) * direction).sum()
        difference = score(latent + 1e-5 * direction) - score(latent - 1e-5 * direction)
        assert slope == pytest.approx(float(difference) / 2e-5, rel=1e-4)
        images = images_of(latent)
        scores = gan.discriminator.apply(state.disc.variables, images, bags, train=False)
        assert score(latent) == pytest.approx(float(scores.sum()), rel=1e-6)

    first = random.normal(random.key(0), (16, 100))
    assert score(names["latent"]) > score(first) + 1e-3
    rounded = np.asarray(jnp.round((images_of(names["latent"]) + 1) * 127.5))
    assert abs(names["better_bags"].astype(float) - rounded).max() <= 1


def test_scores_of_pictures_are_the_discriminators(tutorial, trained_run, few_images):
    names = tutorial("What the discriminator says")
    gan, state = trained_run
    images = few_images.images.astype(np.float32) / 127.5 - 1
    expected = gan.discriminator.apply(state.disc.variables, images, few_images.labels, train=False)
    np.testing.assert_allclose(names["scores"], expected, atol=1e-5)
    assert np.ptp(expected) > 0.01
    assert names["scores"].dtype == np.float32
    np.testing.assert_array_equal(names["oddest"][0], few_images.images[np.argmin(expected)])
    by_name = load_run("runs/fashion_cgan").discriminator.score(few_images.images[:3], "Bag")
    as_bags = gan.discriminator.apply(state.disc.variables, images[:3], np.full(3, 8), train=False)
    np.testing.assert_allclose(by_name, as_bags, atol=1e-5)
