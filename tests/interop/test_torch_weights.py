"""PyTorch weights to linen variables and back: values, names, shapes, files, error messages.
Most tests use plain NumPy; those that need PyTorch itself are marked so and import it inside.
"""

import itertools
import math
import os
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from cgan_jax import interop
from cgan_jax.config import ModelConfig
from cgan_jax.errors import DataError, RunError

Array = npt.NDArray[Any]

REPORT = ModelConfig()
RGB = ModelConfig(
    n_classes=3,
    latent_dim=5,
    img_size=(2, 8),
    channels=3,
    generator_widths=(6, 7, 8),
    discriminator_widths=(9, 8),
)

# The state dicts of the report's own modules, written out.
REPORT_GENERATOR: dict[str, tuple[int, ...]] = {
    "label_emb.weight": (10, 10),
    "model.0.weight": (128, 110),
    "model.0.bias": (128,),
    "model.2.weight": (256, 128),
    "model.2.bias": (256,),
    "model.3.weight": (256,),
    "model.3.bias": (256,),
    "model.3.running_mean": (256,),
    "model.3.running_var": (256,),
    "model.3.num_batches_tracked": (),
    "model.5.weight": (512, 256),
    "model.5.bias": (512,),
    "model.6.weight": (512,),
    "model.6.bias": (512,),
    "model.6.running_mean": (512,),
    "model.6.running_var": (512,),
    "model.6.num_batches_tracked": (),
    "model.8.weight": (1024, 512),
    "model.8.bias": (1024,),
    "model.9.weight": (1024,),
    "model.9.bias": (1024,),
    "model.9.running_mean": (1024,),
    "model.9.running_var": (1024,),
    "model.9.num_batches_tracked": (),
    "model.11.weight": (784, 1024),
    "model.11.bias": (784,),
}
REPORT_DISCRIMINATOR: dict[str, tuple[int, ...]] = {
    "label_embedding.weight": (10, 10),
    "model.0.weight": (512, 794),
    "model.0.bias": (512,),
    "model.2.weight": (512, 512),
    "model.2.bias": (512,),
    "model.5.weight": (512, 512),
    "model.5.bias": (512,),
    "model.8.weight": (1, 512),
    "model.8.bias": (1,),
}
RGB_GENERATOR: dict[str, tuple[int, ...]] = {
    "label_emb.weight": (3, 3),
    "model.0.weight": (6, 8),
    "model.0.bias": (6,),
    "model.2.weight": (7, 6),
    "model.2.bias": (7,),
    "model.3.weight": (7,),
    "model.3.bias": (7,),
    "model.3.running_mean": (7,),
    "model.3.running_var": (7,),
    "model.3.num_batches_tracked": (),
    "model.5.weight": (8, 7),
    "model.5.bias": (8,),
    "model.6.weight": (8,),
    "model.6.bias": (8,),
    "model.6.running_mean": (8,),
    "model.6.running_var": (8,),
    "model.6.num_batches_tracked": (),
    "model.8.weight": (48, 8),
    "model.8.bias": (48,),
}
RGB_DISCRIMINATOR: dict[str, tuple[int, ...]] = {
    "label_embedding.weight": (3, 3),
    "model.0.weight": (9, 51),
    "model.0.bias": (9,),
    "model.2.weight": (8, 9),
    "model.2.bias": (8,),
    "model.5.weight": (1, 8),
    "model.5.bias": (1,),
}
CASES = [
    pytest.param("generator", REPORT, REPORT_GENERATOR, id="report-generator"),
    pytest.param("discriminator", REPORT, REPORT_DISCRIMINATOR, id="report-discriminator"),
    pytest.param("generator", RGB, RGB_GENERATOR, id="rgb-generator"),
    pytest.param("discriminator", RGB, RGB_DISCRIMINATOR, id="rgb-discriminator"),
]


def weights(shapes: dict[str, tuple[int, ...]], steps: int = 12) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    state_dict: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state_dict[name] = np.array(steps, np.int64)
        else:
            state_dict[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return state_dict


def from_torch(network: str, state_dict: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    if network == "generator":
        return interop.generator_from_torch(state_dict, config)
    return interop.discriminator_from_torch(state_dict, config)


def to_torch(network: str, variables: dict[str, Any], config: ModelConfig) -> dict[str, Array]:
    if network == "generator":
        return interop.generator_to_torch(variables, config, steps=12)
    return interop.discriminator_to_torch(variables, config)


def assert_identical(actual: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, strict=True, err_msg=name)


@pytest.mark.parametrize(("network", "config", "shapes"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_round_trip_is_exact(
    network: str, config: ModelConfig, shapes: dict[str, tuple[int, ...]], dtype: type
) -> None:
    state_dict = {
        name: array.astype(dtype) if array.dtype == np.float32 else array
        for name, array in weights(shapes).items()
    }
    there = from_torch(network, state_dict, config)
    assert_identical(to_torch(network, there, config), state_dict)


@pytest.mark.parametrize(("network", "config", "shapes"), CASES)
def test_result_owns_its_memory(
    network: str, config: ModelConfig, shapes: dict[str, tuple[int, ...]]
) -> None:
    state_dict = weights(shapes)
    variables = from_torch(network, state_dict, config)
    back = to_torch(network, variables, config)
    embedding = variables["params"]["label_embedding"]["embedding"]
    for other in (state_dict, back):
        assert not np.shares_memory(embedding, next(iter(other.values())))
    assert all(array.flags["C_CONTIGUOUS"] for array in back.values())


def test_generator_tree_has_linens_names() -> None:
    state_dict = weights(RGB_GENERATOR)
    variables = interop.generator_from_torch(state_dict, RGB)
    assert {name: set(tree) for name, tree in variables.items()} == {
        "params": {
            "label_embedding",
            "hidden_0",
            "hidden_1",
            "hidden_2",
            "batch_norm_1",
            "batch_norm_2",
            "output",
        },
        "batch_stats": {"batch_norm_1", "batch_norm_2"},
    }
    params, stats = variables["params"], variables["batch_stats"]
    for actual, expected in [
        (params["label_embedding"]["embedding"], state_dict["label_emb.weight"]),
        (params["hidden_1"]["kernel"], state_dict["model.2.weight"].T),
        (params["hidden_1"]["bias"], state_dict["model.2.bias"]),
        (params["batch_norm_2"]["scale"], state_dict["model.6.weight"]),
        (params["batch_norm_2"]["bias"], state_dict["model.6.bias"]),
        (stats["batch_norm_2"]["mean"], state_dict["model.6.running_mean"]),
        (stats["batch_norm_2"]["var"], state_dict["model.6.running_var"]),
    ]:
        np.testing.assert_array_equal(actual, expected)


def test_discriminator_has_parameters_only() -> None:
    variables = interop.discriminator_from_torch(weights(RGB_DISCRIMINATOR), RGB)
    assert list(variables) == ["params"]
    assert set(variables["params"]) == {"label_embedding", "hidden_0", "hidden_1", "output"}


def test_generated_colours_stay_in_their_pixels() -> None:
    state_dict = weights(RGB_GENERATOR)
    output = interop.generator_from_torch(state_dict, RGB)["params"]["output"]
    features = np.random.default_rng(1).normal(size=(2, 8))
    chw = (features @ state_dict["model.8.weight"].T + state_dict["model.8.bias"]).reshape(
        2, 3, 4, 4
    )
    hwc = (features @ output["kernel"] + output["bias"]).reshape(2, 4, 4, 3)
    np.testing.assert_allclose(hwc, chw.transpose(0, 2, 3, 1))


def test_discriminator_sees_the_same_colours_and_label() -> None:
    state_dict = weights(RGB_DISCRIMINATOR)
    hidden = interop.discriminator_from_torch(state_dict, RGB)["params"]["hidden_0"]
    rng = np.random.default_rng(1)
    chw, label = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3))
    hwc = chw.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(
        np.hstack([hwc.reshape(2, -1), label]) @ hidden["kernel"] + hidden["bias"],
        np.hstack([chw.reshape(2, -1), label]) @ state_dict["model.0.weight"].T
        + state_dict["model.0.bias"],
    )


def test_label_embedding_may_have_its_own_width() -> None:
    config = ModelConfig(n_classes=3, latent_dim=5, label_dim=2, img_size=4, generator_widths=(6,))
    state_dict = weights(
        {
            "label_emb.weight": (3, 2),
            "model.0.weight": (6, 7),
            "model.0.bias": (6,),
            "model.2.weight": (16, 6),
            "model.2.bias": (16,),
        }
    )
    variables = interop.generator_from_torch(state_dict, config)
    assert_identical(interop.generator_to_torch(variables, config), state_dict)


@pytest.mark.parametrize(("network", "config", "shapes"), CASES)
def test_both_names_of_the_embedding_are_read(
    network: str, config: ModelConfig, shapes: dict[str, tuple[int, ...]]
) -> None:
    state_dict = weights(shapes)
    rest = list(state_dict)[1:]
    for other in ("label_emb.weight", "label_embedding.weight"):
        names = ["module." + name for name in (other, *rest)]
        spelt = dict(zip(names, state_dict.values(), strict=True))
        variables = from_torch(network, spelt, config)
        assert_identical(to_torch(network, variables, config), state_dict)


def test_batch_counters_are_read_and_written() -> None:
    state_dict = weights(RGB_GENERATOR, steps=77)
    assert interop.batches_tracked(state_dict) == 77
    variables = interop.generator_from_torch(state_dict, RGB)
    back = interop.generator_to_torch(variables, RGB, steps=78)
    assert back["model.6.num_batches_tracked"].dtype == np.int64
    assert interop.batches_tracked(back) == 78
    assert interop.batches_tracked(weights(RGB_DISCRIMINATOR)) == 0


def test_generator_without_counters_is_read() -> None:
    """PyTorch before 0.4.1 wrote none, and newer ones accept such files."""
    shapes = {k: v for k, v in RGB_GENERATOR.items() if "tracked" not in k}
    assert interop.generator_from_torch(weights(shapes), RGB)["batch_stats"]


@pytest.mark.parametrize(
    ("counter", "message"),
    [
        (np.array(3, np.int64), r"different numbers of batches: \[3, 12\]"),
        (np.array([1, 2]), r"model.3.num_batches_tracked is int64 of shape \(2,\)"),
        (np.array(1.5), r"model.3.num_batches_tracked is float64 of shape \(\)"),
        ("many", r"model.3.num_batches_tracked is not an array"),
    ],
)
def test_bad_counters_are_refused(counter: Any, message: str) -> None:
    state_dict = weights(RGB_GENERATOR) | {"model.3.num_batches_tracked": counter}
    with pytest.raises(DataError, match=message):
        interop.batches_tracked(state_dict)
    with pytest.raises(DataError, match=message):
        interop.generator_from_torch(state_dict, RGB)


@pytest.mark.parametrize(("network", "config", "shapes"), CASES)
def test_each_wrong_entry_of_a_state_dict_is_named(
    network: str, config: ModelConfig, shapes: dict[str, tuple[int, ...]]
) -> None:
    good = weights(shapes)
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        rest = {k: v for k, v in good.items() if k != name}
        wrong = (*shape[:-1], shape[-1] + 1)
        replacements: list[tuple[dict[str, Any], str]] = [
            ({}, f"{name} of shape {shape} is missing"),
            (
                {name: np.zeros(wrong, np.float32)},
                f"{name} is float32 of shape {wrong}, expected floats of shape {shape}",
            ),
            (
                {name: np.zeros(shape, np.int32)},
                f"{name} is int32 of shape {shape}, expected floats of shape {shape}",
            ),
            ({name: "text"}, f"{name} is not an array, expected floats of shape {shape}"),
        ]
        for replacement, expected in replacements:
            with pytest.raises(DataError) as caught:
                from_torch(network, rest | replacement, config)
            assert expected in str(caught.value)
            assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(("network", "config", "shapes"), CASES)
def test_each_wrong_entry_of_linen_variables_is_named(
    network: str, config: ModelConfig, shapes: dict[str, tuple[int, ...]]
) -> None:
    def change(tree: Any, at: str, prefix: str = "") -> Any:
        """The tree with the leaf `at` replaced by one that is one longer."""
        return {
            name: (
                change(value, at, f"{prefix}{name}/")
                if isinstance(value, dict)
                else (
                    np.zeros((*value.shape[:-1], value.shape[-1] + 1))
                    if prefix + name == at
                    else value
                )
            )
            for name, value in tree.items()
        }

    variables = from_torch(network, weights(shapes), config)
    names = [
        f"{collection}/{layer}/{leaf}"
        for collection, layers in variables.items()
        for layer, leaves in layers.items()
        for leaf in leaves
    ]
    for name in names:
        with pytest.raises(DataError) as caught:
            to_torch(network, change(variables, name), config)
        assert f"{name} is float64 of shape" in str(caught.value)
        collection, layer, leaf = name.split("/")
        lacking = {c: {k: dict(v) for k, v in t.items()} for c, t in variables.items()}
        del lacking[collection][layer][leaf]
        with pytest.raises(DataError, match=f"{name} of shape .* is missing"):
            to_torch(network, lacking, config)
    variables["params"]["output"]["scale"] = np.ones(3)
    with pytest.raises(DataError, match=r"output/scale is float64 of shape \(3,\), which this"):
        to_torch(network, variables, config)


def test_unknown_entries_are_named() -> None:
    extra = weights(RGB_DISCRIMINATOR) | {
        "model.9.weight": np.zeros((2, 2), np.float32),
        "model.5.num_batches_tracked": np.array(12),
    }
    with pytest.raises(DataError) as caught:
        interop.discriminator_from_torch(extra, RGB)
    message = str(caught.value)
    assert "model.9.weight is float32 of shape (2, 2), which this discriminator does not" in message
    assert "model.5.num_batches_tracked is int64 of shape ()" in message


def test_weights_of_another_model_give_a_short_message() -> None:
    with pytest.raises(DataError) as caught:
        interop.generator_from_torch(weights(RGB_GENERATOR), REPORT)
    message = str(caught.value)
    assert len(message.splitlines()) == 3 and "more" in message and len(message) < 600
    with pytest.raises(DataError, match="is missing"):
        interop.generator_from_torch({}, REPORT)


def test_safetensors_file_round_trip(tmp_path: Path) -> None:
    state_dict = weights(RGB_GENERATOR)
    path = tmp_path / "generator.safetensors"
    interop.save_state_dict(path, weights(RGB_DISCRIMINATOR))
    interop.save_state_dict(path, state_dict)
    loaded = interop.load_state_dict(str(path))
    assert_identical(dict(sorted(loaded.items())), dict(sorted(state_dict.items())))
    assert list(tmp_path.iterdir()) == [path]


def test_dtype_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(DataError, match="no bfloat16"):
        interop.load_state_dict(path)


@pytest.mark.parametrize("name", ["weights.bin", "weights"])
def test_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"expected \.safetensors, \.pt or \.pth"):
        interop.load_state_dict(tmp_path / name)
    with pytest.raises(DataError, match=r"expected \.safetensors, \.pt or \.pth"):
        interop.save_state_dict(tmp_path / name, {})


def test_absent_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(DataError, match=r"weights.safetensors: No such file"):
        interop.load_state_dict(path)
    interop.save_state_dict(path, weights(RGB_DISCRIMINATOR))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"weights.safetensors is damaged"):
        interop.load_state_dict(path)
    with pytest.raises(RunError, match="cannot be written"):
        interop.save_state_dict(path / "w.safetensors", {})


@pytest.mark.parametrize(
    "value",
    [None, "text", {"a": 1}, np.array(["a", None], object), np.ones(2, ml_dtypes.bfloat16)],
    ids=["none", "text", "mapping", "objects", "bfloat16"],
)
def test_values_that_are_not_arrays_are_not_saved(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match="cannot save odd"):
        interop.save_state_dict(tmp_path / "w.safetensors", {"odd": value})
    assert not list(tmp_path.iterdir())


def test_absent_pytorch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "w.pt"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="need PyTorch"):
        interop.load_state_dict(path)
    with pytest.raises(DataError, match="need PyTorch"):
        interop.save_state_dict(path, {})


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch_file_round_trip(tmp_path: Path, suffix: str) -> None:
    import torch

    state_dict = weights(RGB_GENERATOR)
    path = tmp_path / f"generator{suffix}"
    interop.save_state_dict(path, state_dict)
    assert_identical(interop.load_state_dict(path), state_dict)
    assert torch.load(path, weights_only=True)["model.3.num_batches_tracked"].shape == ()

    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    assert set(interop.load_state_dict(path)) == {"weight", "bias"}
    for not_weights, message in [
        ([1], "it holds a list"),
        ({"a": 1}, "entry a is a int"),
        (torch.nn.Linear(2, 2), "not a state dict"),
    ]:
        torch.save(not_weights, path)
        with pytest.raises(DataError, match=message):
            interop.load_state_dict(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="damaged"):
        interop.load_state_dict(path)


class RunsWhenUnpickled:
    """Makes a folder when a reader is so careless as to run what a pickle says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.torch
@pytest.mark.slow
def test_torch_file_runs_no_code(tmp_path: Path) -> None:
    import torch

    path, folder = tmp_path / "w.pt", tmp_path / "made"
    torch.save({"a": RunsWhenUnpickled(folder)}, path)
    with pytest.raises(DataError):
        interop.load_state_dict(path)
    assert not folder.exists()


def upstream_modules(config: ModelConfig) -> tuple[Any, Any]:
    """PyTorch modules with the attribute names and the layers of PyTorch-GAN's `cgan.py`."""
    from torch import nn

    pixels = math.prod(config.image_shape)

    def layers(sizes: list[int], middle: Any) -> list[Any]:
        stack: list[Any] = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes[:-1])):
            stack += [nn.Linear(fan_in, fan_out), *([middle(fan_out)] if i else []), nn.LeakyReLU()]
        return [*stack, nn.Linear(sizes[-2], sizes[-1])]

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.label_emb = nn.Embedding(config.n_classes, config.n_classes)
            sizes = [config.latent_dim + config.n_classes, *config.generator_widths, pixels]
            self.model = nn.Sequential(*layers(sizes, nn.BatchNorm1d), nn.Tanh())

    class Discriminator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.label_embedding = nn.Embedding(config.n_classes, config.n_classes)
            sizes = [pixels + config.n_classes, *config.discriminator_widths, 1]
            self.model = nn.Sequential(*layers(sizes, lambda width: nn.Dropout(0.4)))

    return Generator(), Discriminator()


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("config", [REPORT, RGB], ids=["report", "rgb"])
def test_pytorch_gan_state_dicts_load_strictly_both_ways(config: ModelConfig) -> None:
    import torch

    torch.manual_seed(0)
    pair, fresh = upstream_modules(config), upstream_modules(config)
    state_dicts = [{k: v.numpy() for k, v in net.state_dict().items()} for net in pair]
    shape: Any = {"channels": config.channels, "img_size": config.img_size}
    sizes = interop.config_from_torch(*state_dicts, **shape)
    assert sizes == config
    variables = [
        interop.generator_from_torch(state_dicts[0], sizes),
        interop.discriminator_from_torch(state_dicts[1], sizes),
    ]
    exported = [
        interop.generator_to_torch(variables[0], sizes),
        interop.discriminator_to_torch(variables[1], sizes),
    ]
    for network, twin, arrays in zip(pair, fresh, exported, strict=True):
        twin.load_state_dict({k: torch.from_numpy(a) for k, a in arrays.items()}, strict=True)
        for name, tensor in network.state_dict().items():
            assert torch.equal(twin.state_dict()[name], tensor), name


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("config", [REPORT, RGB], ids=["report", "rgb"])
def test_torch_and_linen_networks_agree_both_ways(config: ModelConfig) -> None:
    """Trained PyTorch weights in linen, then back into fresh PyTorch modules with strict=True."""
    import jax
    import torch

    from cgan_jax.models import report as models
    from experiments.proofs import torch_cgan

    torch.manual_seed(0)
    height, width, channels = config.image_shape
    shape = (channels, height, width)

    def new() -> tuple[torch_cgan.Generator, torch_cgan.Discriminator]:
        return (
            torch_cgan.Generator(
                config.latent_dim, config.n_classes, config.generator_widths, shape
            ),
            torch_cgan.Discriminator(config.n_classes, config.discriminator_widths, shape),
        )

    g, d = new()
    gan = torch_cgan.CGAN(g, d, lr=1e-2)
    z = torch.randn(16, config.latent_dim)
    labels = torch.arange(16) % config.n_classes
    real = torch.rand(16, *shape) * 2 - 1
    for _ in range(3):
        gan.train_step(real, labels, z, labels.flip(0))
    g.eval(), d.eval()
    with torch.no_grad():
        images, scores = g(z, labels).numpy(), d(real, labels).numpy()

    g_variables = interop.generator_from_torch(dict(g.state_dict()), config)
    d_variables = interop.discriminator_from_torch(dict(d.state_dict()), config)
    label_dim = config.n_classes
    linen_g = models.Generator(
        config.n_classes,
        config.latent_dim,
        label_dim,
        config.img_size,
        config.channels,
        config.generator_widths,
    )
    linen_d = models.Discriminator(config.n_classes, label_dim, config.discriminator_widths)
    expected = jax.eval_shape(
        lambda: linen_g.init(jax.random.key(0), z.numpy(), labels.numpy(), train=False)
    )
    assert jax.tree.map(np.shape, g_variables) == jax.tree.map(np.shape, expected)
    hwc: Any = linen_g.apply(g_variables, z.numpy(), labels.numpy(), train=False)
    real_hwc = real.numpy().transpose(0, 2, 3, 1)
    linen_scores: Any = linen_d.apply(d_variables, real_hwc, labels.numpy(), train=False)
    np.testing.assert_allclose(hwc.transpose(0, 3, 1, 2), images, atol=1e-5)
    np.testing.assert_allclose(linen_scores, scores[:, 0], atol=1e-5)

    g_again, d_again = new()
    on_device = jax.tree.map(jax.numpy.asarray, g_variables)
    for module, state_dict in [
        (g_again, interop.generator_to_torch(on_device, config, steps=3)),
        (d_again, interop.discriminator_to_torch(d_variables, config)),
    ]:
        module.load_state_dict(
            {name: torch.from_numpy(array) for name, array in state_dict.items()}, strict=True
        )
    for before, after in [(g, g_again), (d, d_again)]:
        for name, tensor in before.state_dict().items():
            assert torch.equal(tensor, after.state_dict()[name]), name
