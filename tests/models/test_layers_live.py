"""Layers beside PyTorch's: batch normalisation of images, by class, and spectral normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

from cgan_jax.models.convolution import Conv
from cgan_jax.models.layers import BatchNorm, Linear, SpectralNorm

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def assert_close(actual, expected):
    if isinstance(expected, torch.Tensor):
        expected = expected.detach()
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_classes", [None, 3])
def test_batch_norm_of_images(n_classes):
    """Three steps in training, then evaluation; scale and bias are the class's own."""
    rng = np.random.default_rng(0)
    module = BatchNorm(epsilon=1e-3, momentum=0.7, n_classes=n_classes)
    shape = (n_classes, 2) if n_classes else (2,)
    params = {"scale": rng.uniform(0.5, 2, shape), "bias": rng.normal(size=shape)}
    tables = {name: {"embedding": jnp.asarray(table)} for name, table in params.items()}
    layer_params = tables if n_classes else params
    stats = {"mean": np.zeros(2), "var": np.ones(2)}
    labels = np.array([2, 0, 1, 1, 2])
    oracle = torch.nn.BatchNorm2d(2, eps=1e-3, momentum=0.3, affine=False).double()

    def expected(x):
        scale, bias = (p[labels][:, None, None] if n_classes else p for p in params.values())
        normal = oracle(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return normal.numpy() * scale + bias

    for _ in range(3):
        x = rng.normal(1, 3, (5, 4, 3, 2))
        variables = {"params": layer_params, "batch_stats": stats}
        y, updated = module.apply(variables, x, labels, train=True, mutable=["batch_stats"])
        stats = updated["batch_stats"]
        assert_close(y, expected(x))
        assert_close(stats["mean"], oracle.running_mean)
        assert_close(stats["var"], oracle.running_var)
    oracle.eval()
    variables = {"params": layer_params, "batch_stats": stats}
    assert_close(module.apply(variables, x, labels, train=False), expected(x))


def test_conditional_batch_norm_needs_labels():
    module, x = BatchNorm(0.1, 0.9, n_classes=3), jnp.ones((2, 4))
    with pytest.raises(TypeError, match="needs the labels"):
        module.init(jax.random.key(0), x, train=True)


# A layer of ours, one of PyTorch's, and our kernel as PyTorch's weight.
KINDS = {
    "linear": (Linear(3), torch.nn.Linear(4, 3), lambda k: k.T),
    "convolution": (
        Conv(3),
        torch.nn.Conv2d(2, 3, 3, padding=1),
        lambda k: k.transpose(3, 2, 0, 1),
    ),
    "embedding": (nn.Embed(5, 4), torch.nn.Embedding(5, 4), lambda k: k),
}


@pytest.mark.parametrize("kind", KINDS)
def test_spectral_norm(kind):
    """Weights change between steps; outputs, gradients and vectors agree, and evaluation too."""
    rng = np.random.default_rng(0)
    layer, oracle, as_weight = KINDS[kind]
    x = {"linear": rng.normal(size=(6, 4)), "convolution": rng.normal(size=(2, 5, 5, 2))}
    x = x.get(kind, np.array([0, 3, 4]))
    oracle = spectral_norm(oracle.double()).train()
    weight = oracle.parametrizations.weight
    module = SpectralNorm(layer)
    variables = module.init(jax.random.key(0), x, train=False)
    name = "embedding" if kind == "embedding" else "kernel"
    stats = variables["batch_stats"]
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), variables["params"]
    )
    (key,) = params  # of the wrapped layer

    def vectors():
        v = np.asarray(stats["v"])
        return stats["u"], v.reshape(3, 3, 2).transpose(2, 0, 1).ravel() if v.size == 18 else v

    def torch_output():
        given = torch.tensor(x)
        if kind == "convolution":
            return oracle(given.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return oracle(given)

    with torch.no_grad():
        for own, value in zip((weight[0]._u, weight[0]._v), vectors(), strict=True):
            own.copy_(torch.tensor(np.array(value)))

    def loss(params, train):
        variables = {"params": params, "batch_stats": stats}
        y, updated = module.apply(variables, x, train=train, mutable=["batch_stats"])
        return jnp.sin(y).sum(), (y, updated.get("batch_stats", stats))

    for train in (True, True, True, False):
        with torch.no_grad():
            weight.original.copy_(torch.tensor(as_weight(np.array(params[key][name]))))
            if "bias" in params[key]:
                oracle.bias.copy_(torch.tensor(np.array(params[key]["bias"])))
        oracle.train(train)
        oracle.zero_grad()
        expected = torch_output()
        torch.sin(expected).sum().backward()
        gradient, (y, stats) = jax.grad(loss, has_aux=True)(params, train)
        assert_close(y, expected)
        assert_close(as_weight(np.asarray(gradient[key][name])), weight.original.grad)
        assert_close(vectors()[0], weight[0]._u)
        assert_close(vectors()[1], weight[0]._v)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)


def test_spectral_norm_is_near_one_from_the_start():
    """As many iterations as PyTorch's precede the first step."""
    variables = SpectralNorm(Linear(20)).init(jax.random.key(0), jnp.ones((1, 30)), train=True)
    (params,) = variables["params"].values()
    u, v = variables["batch_stats"]["u"], variables["batch_stats"]["v"]
    largest = np.linalg.norm(params["kernel"], 2)
    assert 0.95 * largest < u @ params["kernel"].T @ v <= largest * (1 + 1e-9)
