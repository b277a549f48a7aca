"""Twenty mistakes of ports of the report, twelve in modern recipes, five in measures.

Each fails a fast test.

Each is applied to a copy of the code, and the named test is run there. A mistake that no longer
applies (the code has moved on) fails too: mend the table. The whole of it, in some minutes:
`python -m pytest -m slow tests/training/test_mistakes.py`
"""

import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests.helpers import ROOT


class Mistake(NamedTuple):
    """A change of the code and the fast test that it must fail."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str


MISTAKES = [
    Mistake(
        "BatchNorm eps 1e-5",
        "models/layers.py",
        "rsqrt(var_F + self.epsilon)",
        "rsqrt(var_F + 1e-5)",
        "models/test_models.py::test_batch_norm_by_hand",
    ),
    Mistake(
        "BatchNorm momentum 0.1 instead of 0.9",
        "models/layers.py",
        "keep, take = self.momentum, 1 - self.momentum",
        "take, keep = self.momentum, 1 - self.momentum",
        "models/test_models.py::test_batch_norm_by_hand",
    ),
    Mistake(
        "biased running variance",
        "models/layers.py",
        "var_F * (n_rows / (n_rows - 1))",
        "var_F",
        "models/test_models.py::test_batch_norm_by_hand",
    ),
    Mistake(
        "D updated before G",
        "training/step.py",
        "    if d_losses:\n        disc =",
        """    gen = update_generator(gan, replace(state, disc=disc.net), inputs, real, keys)
    if d_losses:
        disc =""",
        "training/test_step.py::test_generator_is_updated_against_the_discriminator_from_before",
    ),
    Mistake(
        "fakes remade after G's update",
        "training/step.py",
        "    # The fakes from before",
        """    gen = gen._replace(images=generate_fakes(gan, gen.net, inputs, keys)[0])
    # The fakes from before""",
        "training/test_step.py::test_discriminator_sees_the_fakes_from_before_the_generators_update",
    ),
    Mistake(
        "no stop-gradient: D's loss reaches G",
        "training/step.py",
        "        return gan.loss.of_generator(*outputs).mean(), (images, gen)",
        """        leak = gan.loss.of_discriminator(outputs[0], outputs[0]).mean()
        return gan.loss.of_generator(*outputs).mean() + leak, (images, gen)""",
        "training/test_step.py::test_no_gradient_flows_from_the_discriminators_loss_into_the_generator",
    ),
    Mistake(
        "d_loss not halved",
        "losses.py",
        "(jnp.square(real_B - 1) + jnp.square(fake_B)) / 2",
        "jnp.square(real_B - 1) + jnp.square(fake_B)",
        "test_losses.py::test_by_hand",
    ),
    Mistake(
        "label after noise",
        "models/report.py",
        "(label_BxE.astype(latent_BxZ.dtype), latent_BxZ)",
        "(latent_BxZ, label_BxE.astype(latent_BxZ.dtype))",
        "models/test_models.py::test_generator_by_hand",
    ),
    Mistake(
        "image after label",
        "models/report.py",
        "(flat_BxF, label_BxE.astype(flat_BxF.dtype))",
        "(label_BxE.astype(flat_BxF.dtype), flat_BxF)",
        "models/test_models.py::test_discriminator_by_hand",
    ),
    Mistake(
        "dropout after the activation",
        "models/report.py",
        """            if i > 0:
                x_BxF = nn.Dropout(self.dropout_rate, deterministic=not train)(x_BxF)
            inputs = (nn.leaky_relu(x_BxF, self.negative_slope),)""",
        """            x_BxF = nn.leaky_relu(x_BxF, self.negative_slope)
            if i > 0:
                x_BxF = nn.Dropout(self.dropout_rate, deterministic=not train)(x_BxF)
            inputs = (x_BxF,)""",
        "models/test_models.py::test_dropout_stands_before_the_activation_in_all_layers_but_the_first",
    ),
    Mistake(
        "dropout off in G's step",
        "training/step.py",
        "            *outputs, _ = disc_output(gan, state.disc, fake, keys.gen)",
        """            scores = gan.discriminator.apply(state.disc.variables, *fake, train=False)
            outputs = [DiscOutput(scores, scores, *fake)]""",
        "training/test_step.py::test_dropout_is_active_and_fresh_in_every_pass",
    ),
    Mistake(
        "the same dropout mask for real and fake",
        "training/step.py",
        "    on_both, disc = disc_output(gan, disc, both, keys)",
        """    halves = [disc_output(gan, disc, half, keys) for half in (real, fake)]
    return halves[0][0], halves[1][0], halves[0][1]
    on_both, disc = disc_output(gan, disc, both, keys)""",
        "training/test_step.py::test_dropout_is_active_and_fresh_in_every_pass",
    ),
    Mistake(
        "the same dropout mask in both passes of a paired loss",
        "training/step.py",
        "fake, keys.next())",
        "fake, keys)",
        "training/test_extensions.py::test_each_half_of_a_paired_loss_goes_through_d_in_a_pass_of_its_own",
    ),
    Mistake(
        "fake labels taken from the real batch",
        "training/step.py",
        """    if gan.loss.paired:
        return latent_BxZ, batch.labels""",
        "    return latent_BxZ, batch.labels",
        "training/test_step.py::test_fake_labels_are_drawn_and_are_the_same_for_both_players",
    ),
    Mistake(
        "beta1 0.9",
        "config.py",
        "b1: BelowOne = 0.5",
        "b1: BelowOne = 0.9",
        "training/test_step.py::test_second_moments_and_bias_correction_are_adams",
    ),
    Mistake(
        "Flax default initialisers",
        "models/layers.py",
        "        bias_init = nn.initializers.zeros if self.kernel_init else uniform",
        """        bias_init = nn.initializers.zeros
        uniform = nn.initializers.lecun_normal()""",
        "models/test_models.py::test_linear_is_initialised_as_in_pytorch",
    ),
    Mistake(
        "labels ignored by D",
        "models/report.py",
        "label_BxE.astype(flat_BxF.dtype)",
        "0 * label_BxE.astype(flat_BxF.dtype)",
        "models/test_models.py::test_a_label_changes_the_image_and_the_score",
    ),
    Mistake(
        "labels ignored by G",
        "models/report.py",
        "label_BxE.astype(latent_BxZ.dtype)",
        "0 * label_BxE.astype(latent_BxZ.dtype)",
        "models/test_models.py::test_a_label_changes_the_image_and_the_score",
    ),
    Mistake(
        "generator sampled in training mode",
        "sampling/latent_space.py",
        "    apply = partial(module.apply, variables, train=False)",
        """    def apply(*inputs):
        return module.apply(variables, *inputs, train=True, mutable=["batch_stats"])[0]""",
        "sampling/test_generator.py::test_a_generated_image_is_what_the_network_makes_in_evaluation_mode",
    ),
    Mistake(
        "last batch dropped",
        "data/sources.py",
        "return -(-n_images // batch_size)",
        "return n_images // batch_size",
        "data/test_sources.py::test_report_epoch_has_938_batches_the_last_of_32",
    ),
    Mistake(
        "data order the same every epoch",
        "data/sources.py",
        "random.permutation(random.fold_in(key, epoch), n_images)",
        "random.permutation(key, n_images)",
        "data/test_sources.py::test_an_epoch_shows_every_image_once_in_an_order_of_its_own",
    ),
    Mistake(
        "penalty on the wrong half",
        "training/penalties.py",
        "_squared_norms(score, *real)",
        "_squared_norms(score, *fake)",
        "training/test_penalties.py::test_by_hand",
    ),
    Mistake(
        "penalty's mean over pixels instead of their sum",
        "training/penalties.py",
        ".sum((1, 2, 3))",
        ".mean((1, 2, 3))",
        "training/test_penalties.py::test_by_hand",
    ),
    Mistake(
        "gamma not halved",
        "training/penalties.py",
        "_squared_norms(score, *real).mean() / 2",
        "_squared_norms(score, *real).mean()",
        "training/test_penalties.py::test_by_hand",
    ),
    Mistake(
        "penalty not taken through the augmentation",
        "training/step.py",
        "lambda images, labels: disc_output(gan, disc, (images, labels), keys.disc)[0].output",
        "lambda *half: _apply(gan.discriminator, disc, half, keys.disc.dropout)[0]",
        "training/test_extensions.py::test_a_penalty_goes_through_the_augmentation",
    ),
    Mistake(
        "a rare penalty one step late",
        "training/step.py",
        "is_due = (state.step % penalty_period(gan) == 0)",
        "is_due = (state.step % penalty_period(gan) == 1)",
        "training/test_extensions.py::test_a_rare_penalty_is_left_out_in_the_steps_between",
    ),
    Mistake(
        "pairs with unequal labels",
        "training/step.py",
        """    if gan.loss.paired:
        return latent_BxZ, batch.labels
""",
        "",
        "training/test_extensions.py::test_a_paired_loss_compares_images_of_one_label",
    ),
    Mistake(
        "projection without the sum over features",
        "models/layers.py",
        "* h_BxF).sum(-1))",
        "* h_BxF).mean(-1))",
        "models/test_networks_live.py::test_outputs_and_gradients_agree",
    ),
    Mistake(
        "spectral norm's vector updated in evaluation",
        "models/layers.py",
        "if train and not self.is_initializing():\n            u_F.value",
        "if not self.is_initializing():\n            u_F.value",
        "models/test_sngan.py::test_statistics_change_in_training_alone",
    ),
    Mistake(
        "label missing in one conditional BatchNorm",
        "models/sngan.py",
        "norm(x, labels_B, train=train)",
        'norm(x, labels_B * (name == "batch_norm_0"), train=train)',
        "models/test_sngan.py::test_the_label_enters_every_batch_norm",
    ),
    Mistake(
        "parameters averaged without statistics",
        "training/averaging.py",
        "        return jax.tree.map(",
        """        average = average | {"batch_stats": variables["batch_stats"]}
        return jax.tree.map(""",
        "training/test_averaging.py::test_every_step_matches_the_definition",
    ),
    Mistake(
        "decay of the average off by one step",
        "training/averaging.py",
        "jnp.asarray(step, float)",
        "jnp.asarray(step - 1, float)",
        "training/test_averaging.py::test_every_step_matches_the_definition",
    ),
    Mistake(
        "covariance of the wrong set",
        "metrics/frechet.py",
        "real_cov, fake_cov = _covariance(real), _covariance(fake)",
        "real_cov, fake_cov = _covariance(real), _covariance(real)",
        "metrics/test_closed_forms.py::test_frechet_distance_of_scaled_features",
    ),
    Mistake(
        "matrix in place of its root",
        "metrics/frechet.py",
        "vectors * np.sqrt(np.clip(values, 0, None))",
        "vectors * np.clip(values, 0, None)",
        "metrics/test_features.py::test_frechet_distance_matches_a_general_matrix_root",
    ),
    Mistake(
        "k off by one",
        "metrics/manifold.py",
        "np.partition(distances, k, axis=1)[:, k]",
        "np.partition(distances, k, axis=1)[:, k - 1]",
        "metrics/test_features.py::test_manifold_measures_match_their_definitions",
    ),
    Mistake(
        "training images in place of test images",
        "metrics/evaluation.py",
        "_classify(test.images[rows], test.labels[rows]",
        "_classify(training.images[rows], training.labels[rows]",
        "metrics/test_evaluation.py::test_baseline_compares_test_images_with_training_images",
    ),
    Mistake(
        "uint8 wraps around",
        "metrics/diversity.py",
        "reshape(-1, images[0].size).astype(np.float64)",
        "reshape(-1, images[0].size)",
        "metrics/test_images.py::test_distances_of_copies_and_of_black_to_white",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_mistake_is_caught(mistake, tmp_path):
    for part in ("cgan_jax", "experiments", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    file = tmp_path / "cgan_jax" / mistake.file
    code = file.read_text(encoding="utf-8")
    assert code.count(mistake.old) == 1, f"{mistake.file} no longer holds {mistake.old!r} once"
    file.write_text(code.replace(mistake.old, mistake.new), encoding="utf-8")

    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "slow or not slow"]
    command.append(f"tests/{mistake.caught_by}")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout  # 1: tests ran, and some failed
    assert str(tmp_path) in done.stdout or "AssertionError" in done.stdout


def test_each_mistake_is_in_the_table_once():
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) == 37
    for mistake in MISTAKES:
        code = (ROOT / "cgan_jax" / mistake.file).read_text(encoding="utf-8")
        assert code.count(mistake.old) == 1, mistake.name
        file, test = mistake.caught_by.split("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
