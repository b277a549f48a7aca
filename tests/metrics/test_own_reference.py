"""A reference classifier of one's own data: how well it learns, its cache, and its sizes."""

import jax
import numpy as np
import pytest

from cgan_jax.data import Dataset
from cgan_jax.data.holdout import hold_out
from cgan_jax.errors import DataError
from cgan_jax.metrics import own_reference
from cgan_jax.metrics.classifier import Recipe
from cgan_jax.metrics.own_reference import default_recipe, train_reference
from cgan_jax.metrics.reference import ReferenceNet
from experiments.digits_cgan import digits

RECIPE = Recipe(epochs=3, batch_size=32, peak_lr=3e-3)


@pytest.fixture(scope="module")
def parts():
    return hold_out(digits(), 0.5)


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """A classifier of half of the digits, its cache folder, and the steps it took."""
    cache, steps = tmp_path_factory.mktemp("cache"), []
    on_step = lambda *args: steps.append(args)  # noqa: E731
    return train_reference(parts[0], RECIPE, cache_dir=cache, on_step=on_step), cache, steps


def test_it_recognises_images_that_it_has_not_seen(trained, parts):
    reference, _, steps = trained
    features, predictions = reference(parts[1].images)
    assert (features.shape, predictions.dtype) == ((len(parts[1]), 128), np.int32)
    assert (predictions == parts[1].labels).mean() > 0.9
    assert reference.accuracy > 0.85 and reference.n_validation == 90
    assert 0.08 < reference.chance < 0.13
    assert steps == [(i + 1, 75) for i in range(75)]
    with pytest.raises(DataError, match=r"cannot take images \[9, 8, 1\]"):
        reference(np.zeros((2, 9, 8, 1), np.uint8))


def test_it_is_cached_by_the_data_and_damage_trains_it_again(trained, parts, caplog, monkeypatch):
    reference, cache, _ = trained
    untrained = lambda *args, **kwargs: pytest.fail("trained")  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(own_reference, "fit", untrained)
        again = train_reference(parts[0], RECIPE, cache_dir=cache)
        assert (again.sha256, again.accuracy) == (reference.sha256, reference.accuracy)
        for other in ((parts[1], RECIPE), (parts[0], RECIPE._replace(epochs=2))):
            with pytest.raises(pytest.fail.Exception):
                train_reference(*other, cache_dir=cache)
    (file,) = cache.rglob("*.safetensors")
    intact = bytearray(file.read_bytes())
    short = Recipe(epochs=1, batch_size=800)
    weights = own_reference._load(file, own_reference._shapes(ReferenceNet(10), parts[0]))
    monkeypatch.setattr(
        own_reference, "fit", lambda *a, stop_after, **k: stop_after(_nested(weights))
    )
    for damaged in (intact[:-9], intact[:-1] + bytes([intact[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level("INFO", "cgan_jax"):
            assert train_reference(parts[0], RECIPE, cache_dir=cache).sha256 == reference.sha256
        assert "is unusable" in caplog.text
        assert file.read_bytes() == intact
    (cache / "file").touch()
    with caplog.at_level("INFO", "cgan_jax"):
        train_reference(parts[0], short, cache_dir=cache / "file")
    assert "is not cached" in caplog.text


def _nested(weights):
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(weights, sep=".")


def test_training_stops_early_and_keeps_the_best_weights(monkeypatch, tiny_dataset):
    accuracies = iter([0.2, 0.5, 0.5, 0.4, 0.3, 0.1])
    monkeypatch.setattr(own_reference, "_accuracy", lambda *_: next(accuracies))
    best = own_reference._Best(ReferenceNet(3), tiny_dataset, patience=3)
    stops = [best.stop_after({"epoch": np.array(epoch)}) for epoch in range(5)]
    assert stops == [False, False, False, False, True]
    assert best.variables == {"epoch": 2}  # the later one of the two best


@pytest.mark.parametrize(
    ("shape", "n_parameters"),
    [((28, 28, 1), 242_410), ((8, 8, 3), 244_010), ((33, 70, 4), 392_522), ((3, 3, 1), 242_410)],
)
def test_the_network_takes_images_of_any_size(shape, n_parameters):
    module = ReferenceNet(mirror=False)
    example = np.zeros((2, *shape), np.float32)

    def forward(key):
        variables = module.init(key, example, train=False)
        return variables, module.apply(variables, example, train=False)

    variables, (features, logits) = jax.eval_shape(forward, jax.random.key(0))
    assert (features.shape, logits.shape) == ((2, 128), (2, 10))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == n_parameters


def test_more_images_take_fewer_epochs_and_few_fit_in_a_batch():
    def of(n, side=32):
        images = np.zeros((n, side, side, 1), np.uint8)
        return default_recipe(Dataset.from_arrays(images, np.arange(n) % 2, ["a", "b"]))

    assert [of(n).epochs for n in (100, 5_000, 50_000)] == [40, 15, 4]
    assert [of(n).batch_size for n in (3, 100, 200, 5_000)] == [3, 16, 25, 64]
    assert not of(100).flip
