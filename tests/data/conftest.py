"""A miniature Fashion-MNIST, so that most tests need neither the real data nor a network.

It has few images, of the real size, which TFDS's builder requires.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cgan_jax.data import idx, tfds_files
from cgan_jax.data.idx import Arrays
from cgan_jax.data.spec import FASHION_MNIST, SPECS, IdxFile, Spec, SplitSpec


@dataclass(frozen=True)
class Tiny:
    """The miniature data set: spec, arrays and a directory with its gzipped idx files."""

    spec: Spec
    arrays: dict[str, Arrays]
    idx_dir: Path

    def idx_bytes(self) -> dict[str, bytes]:
        """The raw idx files by name."""
        return {
            file.name: idx.header(array.shape) + array.tobytes()
            for split, files in self.spec.splits.items()
            for file, array in zip(files, self.arrays[split], strict=True)
        }


def _arrays(n: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 28, 28), np.uint8)
    labels = rng.integers(0, 10, n, np.uint8)
    labels[:2] = 3, 8
    images[1] = images[0]
    images[2], labels[2] = images[3], labels[3]
    return Arrays(images, labels)


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The miniature data set, written once per session."""
    root = tmp_path_factory.mktemp("tiny")
    arrays = {"train": _arrays(40, 0), "test": _arrays(20, 1)}
    splits = {
        split: SplitSpec(
            *(
                IdxFile(file.name, array.shape, idx.sha256(array))
                for file, array in zip(files, arrays[split], strict=True)
            )
        )
        for split, files in FASHION_MNIST.splits.items()
    }
    spec = Spec(
        name="fashion_mnist",
        title="Tiny-MNIST",
        class_names=FASHION_MNIST.class_names,
        splits=splits,
        debian_package="dataset-fashion-mnist",
        debian_dir=root / "installed",
        order_file=root / "order.npz",
    )
    np.savez_compressed(
        spec.order_file, **{s: tfds_files.content_order(a) for s, a in arrays.items()}
    )
    tiny = Tiny(spec, arrays, root / "idx")
    tiny.idx_dir.mkdir()
    for name, data in tiny.idx_bytes().items():
        (tiny.idx_dir / f"{name}.gz").write_bytes(gzip.compress(data))
    return tiny


@pytest.fixture
def tiny(tiny_spec: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The miniature data set under the real name, with its own cache and TFDS directory."""
    monkeypatch.setitem(SPECS, "fashion_mnist", tiny_spec.spec)
    monkeypatch.setenv("CGAN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert tfds_files.usual_root() == tmp_path / "tfds"
    return tiny_spec


@pytest.fixture(scope="session")
def prepared(tiny_spec: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS data directory with the miniature data set, written by TFDS's own builder."""
    import tensorflow_datasets as tfds
    from PIL import Image

    root = tmp_path_factory.mktemp("prepared")
    # Import the module before registration is off, because MNIST is in it as well.
    stock = tfds.image_classification.FashionMNIST
    with tfds.core.registered.skip_registration():

        class Builder(stock):
            name = "fashion_mnist"

            def _split_generators(self, dl_manager):
                return {s: self._generate_examples(a) for s, a in tiny_spec.arrays.items()}

            def _generate_examples(self, arrays):
                for i, (image, label) in enumerate(zip(*arrays, strict=True)):
                    yield i, {"image": Image.fromarray(image), "label": int(label)}

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with tfds_files.quiet():
        Builder(data_dir=root).download_and_prepare(
            download_config=config, file_format="array_record"
        )
    return root
