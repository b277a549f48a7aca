"""Published facts of data sets: class names, shapes, file names and hashes.

Nothing here reads a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class IdxFile(NamedTuple):
    """A published idx file of unsigned bytes.

    Args:
        name: its file name, without ".gz".
        shape: the shape of its array.
        sha256: SHA-256 of the decompressed file, in hexadecimal.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str


class SplitSpec(NamedTuple):
    """A split that is published as two idx files: grey images [N, H, W] and labels [N]."""

    images: IdxFile
    labels: IdxFile

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its images, [N, H, W]."""
        return self.images.shape


@dataclass(frozen=True)
class Spec:
    """A data set that is published as idx files and also served by TFDS and Debian.

    Args:
        name: its name, which is also its TFDS name.
        title: its name in messages.
        class_names: one name per class, in the order of the labels.
        splits: its splits by name.
        debian_package: the Debian package that carries the idx files.
        debian_dir: where that package puts them.
        order_file: its order, for `tfds_files.restore_order`, made by tests/golden/make_order.py.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitSpec]
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
            IdxFile(
                "train-images-idx3-ubyte",
                (60_000, 28, 28),
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            IdxFile(
                "train-labels-idx1-ubyte",
                (60_000,),
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
        ),
        "test": SplitSpec(
            IdxFile(
                "t10k-images-idx3-ubyte",
                (10_000, 28, 28),
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            IdxFile(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    },
    debian_package="dataset-fashion-mnist",
    debian_dir=Path("/usr/share/datasets/fashion-mnist"),
    order_file=Path(__file__).with_name("fashion_mnist_order.npz"),
)

SPECS = {FASHION_MNIST.name: FASHION_MNIST}
