"""What a data set must contain: class names, shapes, file names and published hashes.

Facts only; nothing here reads a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SplitSpec:
    """One split of a data set that is published as a pair of idx files.

    Args:
        shape: (N, H, W) of its grey images.
        images_file: name of the idx file of images, without ".gz".
        labels_file: name of the idx file of labels, without ".gz".
        images_sha256: SHA-256 of the decompressed file of images, in hexadecimal.
        labels_sha256: SHA-256 of the decompressed file of labels, in hexadecimal.
    """

    shape: tuple[int, int, int]
    images_file: str
    labels_file: str
    images_sha256: str
    labels_sha256: str


@dataclass(frozen=True)
class Spec:
    """A data set that is published as idx files and also served by TFDS and Debian.

    Args:
        name: its name, which is also its TFDS name.
        title: its name in messages.
        class_names: one name a class, in the order of the labels.
        splits: its splits by name.
        tfds_builder: name of its builder class in tfds.image_classification.
        debian_package: the Debian package that carries the idx files.
        debian_dir: where that package puts them.
        order_file: table for `order.restore`, made by tests/golden/make_order.py.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitSpec]
    tfds_builder: str
    debian_package: str
    debian_dir: Path
    order_file: Path


FASHION_MNIST = Spec(
    name="fashion_mnist",
    title="Fashion-MNIST",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    splits={
        "train": SplitSpec(
            shape=(60_000, 28, 28),
            images_file="train-images-idx3-ubyte",
            labels_file="train-labels-idx1-ubyte",
            images_sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            labels_sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "test": SplitSpec(
            shape=(10_000, 28, 28),
            images_file="t10k-images-idx3-ubyte",
            labels_file="t10k-labels-idx1-ubyte",
            images_sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            labels_sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
    tfds_builder="FashionMNIST",
    debian_package="dataset-fashion-mnist",
    debian_dir=Path("/usr/share/datasets/fashion-mnist"),
    order_file=Path(__file__).with_name("fashion_mnist_order.npz"),
)

SPECS = {FASHION_MNIST.name: FASHION_MNIST}
