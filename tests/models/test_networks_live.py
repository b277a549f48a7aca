"""The modern networks beside independent PyTorch twins, on equal weights, in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cgan_jax.config import MLPConfig, ResidualConfig, SNGANConfig
from cgan_jax.models import networks
from experiments.proofs import torch_networks

pytestmark = pytest.mark.torch
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
BATCH = 3
SIZES = {"n_classes": 3, "latent_dim": 5, "label_dim": 4, "img_size": (8, 16), "channels": 2}
RESIDUAL = SIZES | {"generator_widths": (8, 4), "discriminator_widths": (6, 8), "features": 7}
SNGAN = SIZES | {"generator_width": 4, "discriminator_width": 6}
CONFIGS = {
    "mlp, concatenation": MLPConfig(**SIZES, generator_widths=(6, 8), discriminator_widths=(7, 6)),
    "mlp, projection": MLPConfig(**SIZES, discriminator_conditioning="projection"),
    "mlp, projection only": MLPConfig(
        **SIZES | {"channels": 1}, discriminator_conditioning="projection_only", negative_slope=0.1
    ),
    "residual": ResidualConfig(**RESIDUAL),
    "residual, filter": ResidualConfig(**RESIDUAL, resampling="filter"),
    "residual, filter, equal widths, two blocks": ResidualConfig(
        **RESIDUAL | {"generator_widths": (4, 4), "discriminator_widths": (4, 4)},
        blocks=2,
        expansion=1.5,
        resampling="filter",
        discriminator_conditioning="projection_only",
        negative_slope=0.1,
    ),
    "residual, concatenation, unequal depths": ResidualConfig(
        **RESIDUAL | {"generator_widths": (4,), "discriminator_widths": (4, 2, 6), "channels": 1},
        discriminator_conditioning="concatenation",
    ),
    "sngan": SNGANConfig(**SNGAN),
    "sngan, concatenation": SNGANConfig(
        **SNGAN,
        generator_conditioning="concatenation",
        discriminator_conditioning="concatenation",
        bn_momentum=0.7,
        bn_epsilon=1e-3,
    ),
    "sngan, projection only, one stage": SNGANConfig(
        **SNGAN | {"channels": 1}, stages=1, discriminator_conditioning="projection_only"
    ),
}


class Case(NamedTuple):
    """One network with random variables and inputs, and its twin."""

    module: object
    variables: dict
    twin: torch_networks.Network
    inputs: np.ndarray  # latent points or images
    labels: np.ndarray

    @property
    def torch_inputs(self):
        x = torch.tensor(self.inputs)
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        return x.contiguous().requires_grad_(), torch.tensor(self.labels)

    def apply(self, variables, inputs, train):
        return self.module.apply(
            variables, inputs, self.labels, train=train, mutable=["batch_stats"]
        )


def random_variables(shapes, rng):
    """Random weights instead of initial ones, which have zeros and ones; positive variances."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: rng.uniform(-0.5, 0.5, leaf.shape) + (path[-1].key == "var"), shapes
    )


def case_of(config, which):
    rng = np.random.default_rng(0)
    module, twin = networks(config)[which], torch_networks.networks(config)[which].double()
    inputs = rng.uniform(-1, 1, (BATCH, *((config.latent_dim,), config.image_shape)[which]))
    labels = rng.integers(0, config.n_classes, BATCH)
    init = partial(module.init, train=True)
    variables = random_variables(jax.eval_shape(init, jax.random.key(0), inputs, labels), rng)
    twin.load(variables)
    return Case(module, variables, twin, inputs, labels)


FAST = ("mlp, projection", "residual", "residual, filter", "sngan")
CASES = [
    pytest.param((name, which), marks=() if name in FAST else pytest.mark.slow, id=f"{name}, {net}")
    for name in CONFIGS
    for which, net in enumerate(("generator", "discriminator"))
]


@pytest.fixture(params=CASES)
def case(request):
    with jax.enable_x64(True):
        name, which = request.param
        yield case_of(CONFIGS[name], which)


def as_torch_image(array):
    array = torch.tensor(np.asarray(array))
    return array.permute(0, 3, 1, 2) if array.ndim == 4 else array


def test_outputs_and_gradients_agree(case):
    """Two passes in training, with the statistics after them, then one in evaluation."""
    case.twin.train()
    expected = case.twin(*case.torch_inputs)
    case.twin.load(case.variables)
    weights = torch.tensor(np.random.default_rng(1).normal(size=expected.shape))
    weights_of_jax = np.moveaxis(weights.numpy(), 1, -1) if weights.ndim == 4 else weights.numpy()

    def total(params, inputs, variables):
        output, updated = case.apply(variables | {"params": params}, inputs, True)
        return (output * weights_of_jax).sum(), (output, updated)

    gradient = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    variables = case.variables
    for _ in range(2):
        arguments = variables["params"], case.inputs, variables
        (by_params, by_inputs), (output, updated) = gradient(*arguments)
        x, labels = case.torch_inputs
        expected = case.twin(x, labels)
        np.testing.assert_allclose(as_torch_image(output), expected.detach(), **TOLERANCE)
        case.twin.zero_grad()
        (expected * weights).sum().backward()
        np.testing.assert_allclose(as_torch_image(by_inputs), x.grad, **TOLERANCE)
        compare_gradients(case, by_params)
        variables = variables | updated
        compare_statistics(case, variables)

    case.twin.eval()
    output, _ = jax.jit(case.apply, static_argnums=2)(variables, case.inputs, False)
    expected = case.twin(*case.torch_inputs).detach()
    np.testing.assert_allclose(as_torch_image(output), expected, **TOLERANCE)


def compare_gradients(case, by_params):
    """Load JAX's gradients into a second twin, where PyTorch's stand in the same order."""
    other = type(case.twin)(case.module.config).double()
    other.load(case.variables | {"params": by_params})
    parameters = dict(case.twin.named_parameters())
    assert len(parameters) == len(jax.tree.leaves(by_params))
    for name, gradient in other.named_parameters():
        np.testing.assert_allclose(
            gradient.detach(), parameters[name].grad, **TOLERANCE, err_msg=name
        )


def compare_statistics(case, variables):
    other = type(case.twin)(case.module.config).double()
    other.load(variables)
    own = dict(case.twin.named_buffers())
    for name, statistic in other.named_buffers():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(statistic, own[name], **TOLERANCE, err_msg=name)


@pytest.mark.parametrize("name", ["residual", "residual, filter", "mlp, projection"])
def test_gradients_of_a_gradient_penalty_agree(name):
    """R1's derivative by the weights: second derivatives of the whole discriminator."""
    with jax.enable_x64(True):
        case = case_of(CONFIGS[name], 1)

        def penalty(params):
            def score(inputs):
                return case.apply(case.variables | {"params": params}, inputs, True)[0].sum()

            return (jax.grad(score)(case.inputs) ** 2).sum()

        by_params = jax.jit(jax.grad(penalty))(case.variables["params"])
        x, labels = case.torch_inputs
        (by_images,) = torch.autograd.grad(case.twin(x, labels).sum(), x, create_graph=True)
        (by_images**2).sum().backward()
        # No gradient reaches what the gradient by the images does not depend on.
        for parameter in case.twin.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        compare_gradients(case, by_params)
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(by_params)) > 0.1
