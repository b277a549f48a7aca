"""What a user can get wrong, in one table: each is refused in three lines, and nothing is written.

The first line names the culprit, the last one says what to do. What no table can hold, arbitrary
input, is in test_any_input.py; damage to checkpoints in test_checkpoint.py.
"""

import gzip
import importlib
import io
import json
import logging
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from cgan_jax import Batch, generate_latent_points, grid, load_generator, run_keys, train_step
from cgan_jax.config import MLPConfig, ModelConfig, OptimizerConfig, TrainConfig, from_dict
from cgan_jax.data import SPECS, Dataset, idx, load, load_folder, load_npz, load_own, load_tfds
from cgan_jax.data.spec import FASHION_MNIST, IdxFile, SplitSpec
from cgan_jax.errors import CGANError, ConfigError, DataError, RunError
from cgan_jax.interop import config_from_torch, load_state_dict, save_state_dict
from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.initialize import init_from
from cgan_jax.sampling.generator import TrainedGenerator, label_ids
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from experiments.shared.command_line import run
from tests.golden.make_run_folder import FOLDER

Call = Callable[[Path], object]
Files = Mapping[str, bytes | str | None]


class Case(NamedTuple):
    """A mistake: what is in the folder, what is called with it, and what the error says.

    `files` by name: bytes, the target of a link, or None for a directory.
    """

    name: str
    kind: type[CGANError]
    call: Call
    culprit: str
    expected: str
    hint: str
    files: Files = MappingProxyType({})


def unreadable(function: str, call: Call) -> Call:
    """Such that the system refuses the file. Permissions would not do: tests may run as root."""

    def attempt(at: Path) -> object:
        with mock.patch(function, side_effect=PermissionError(13, "Permission denied")):
            return call(at)

    return attempt


def with_variable(name: str, value: str, call: Call) -> Call:
    def attempt(at: Path) -> object:
        with mock.patch.dict(os.environ, {name: value}):
            return call(at)

    return attempt


# Configurations

DIGITS = 10**5000  # more than Python prints; and no float holds it
CONFIGURATIONS = [
    Case(name, ConfigError, lambda at, make=make: make(), culprit, expected, hint)
    for name, make, culprit, expected, hint in [
        ("no epochs", lambda: TrainConfig(epochs=0), "epochs", "at least 1, not 0", "default, 200"),
        ("half", lambda: TrainConfig(epochs=0.5), "epochs", "an integer", "default, 200"),
        ("text", lambda: TrainConfig(epochs="10"), "epochs", "not '10'", "default, 200"),
        ("true", lambda: TrainConfig(epochs=True), "epochs", "not True", "default, 200"),
        ("one", lambda: TrainConfig(batch_size=1), "batch_size", "of at least 2", "default, 64"),
        ("seed", lambda: TrainConfig(seed=-1), "seed", "in 0..4294967295", "default, 0"),
        ("digits", lambda: TrainConfig(seed=DIGITS), "seed", "in 0..4294967295", "default, 0"),
        (
            "loss",
            lambda: TrainConfig(loss="lsgan"),
            "loss",
            "wasserstein, not 'lsgan'",
            "default, least",
        ),
        ("losses", lambda: TrainConfig(loss=np.ones(2)), "loss", "one of least", "default, least"),
        ("array", lambda: TrainConfig(dataset=np.ones((9, 9))), "dataset", "a name", "default"),
        ("model", lambda: TrainConfig(model={}), "model", "SNGANConfig, not {}", "Omit it"),
        (
            "optimizer",
            lambda: TrainConfig(optimizer=3),
            "optimizer",
            "an OptimizerConfig",
            "Omit it",
        ),
        ("nan", lambda: OptimizerConfig(lr=float("nan")), "lr", "above 0, not nan", "0.0002"),
        ("inf", lambda: OptimizerConfig(lr=float("inf")), "lr", "a finite number", "0.0002"),
        ("huge", lambda: OptimizerConfig(lr=DIGITS), "lr", "a finite number above 0", "0.0002"),
        ("b1", lambda: OptimizerConfig(b1=1.0), "b1", "in [0, 1), not 1.0", "default, 0.5"),
        ("slope", lambda: ModelConfig(negative_slope="x"), "negative_slope", "in [0, 1]", "0.2"),
        ("widths", lambda: ModelConfig(generator_widths=()), "generator_widths", "0, not ()", "12"),
        ("label_dim", lambda: ModelConfig(label_dim=0), "label_dim", "at least 1", "the default."),
        ("size", lambda: ModelConfig(latent_dim=10**12), "latent_dim 1000", "at most 2,", "small"),
        ("digit", lambda: ModelConfig(img_size=DIGITS), "img_size", "at most 2,147", "smaller"),
        ("side", lambda: ModelConfig(img_size=(DIGITS, 3)), "img_size", "at most 2,147", "smaller"),
        (
            "no side",
            lambda: ModelConfig(img_size=(64, 0)),
            "img_size",
            "(height, width)",
            "default",
        ),
        ("3 sides", lambda: ModelConfig(img_size=[6, 6, 3]), "[6, 6, 3]", "two of them", "default"),
        ("table", lambda: from_dict([]), "configuration", "a table of settings, not []", "Omit"),
        ("misspelt", lambda: from_dict({"epoch": 3}), "'epoch'", "dataset, epochs", "Correct or"),
        ("odd key", lambda: from_dict({"model": {3: 1}}), "3 in model", "latent_dim", "Correct or"),
        ("nested", lambda: from_dict({"optimizer": 3}), "optimizer", "a table", "Omit it"),
        ("value", lambda: from_dict({"epochs": "many"}), "epochs", "an integer", "default"),
    ]
]

# Data: small stand-ins for the published files

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 2, 2)
RAW = idx.header((4, 2, 2)) + PIXELS.tobytes()
RAW_LABELS = idx.header((4,)) + bytes([0, 1, 2, 9])
ZIPPED = gzip.compress(RAW)
SMALL = replace(
    FASHION_MNIST,
    name="small",
    splits={
        "train": SplitSpec(
            IdxFile(IMAGES, (4, 2, 2), idx.sha256(PIXELS)),
            IdxFile(LABELS, (4,), idx.sha256(np.array([0, 1, 2, 9], "u1"))),
        )
    },
)
INFO = "small/1.0.0/dataset_info.json"
ANOTHER = "name another directory, or omit it"


def read_data(at: Path) -> Dataset:
    return load("small", data_dir=at / "data")


def data(name: str, culprit: str, expected: str, /, call: Call = read_data, **files) -> Case:
    """A named directory that holds the good files but for these."""
    good = {IMAGES: RAW, LABELS: RAW_LABELS} | files
    files = {f"data/{name}": held for name, held in good.items() if held != b"-"}
    return Case(name, DataError, call, culprit, expected, ANOTHER, files)


def make_dataset(**wrong) -> Call:
    good = {"images": PIXELS[..., None], "labels": np.zeros(4, np.int32), "class_names": ("a", "b")}
    return lambda at: Dataset(**{**good, **wrong}, name="toy", source="memory")


def from_arrays(images=PIXELS, labels=(0, 1, 1, 0), class_names=("a", "b")) -> Call:
    return lambda at: Dataset.from_arrays(images, labels, class_names, name="toy")


NO_INFO = {IMAGES: b"-", LABELS: b"-"}
DATA = [
    data("image magic", f"{IMAGES} is not such an idx", "00 00 08 03", **{IMAGES: b"\1" + RAW[1:]}),
    data("a web page", "starts with 3c 68 74 6d", "00 00 08 03", **{IMAGES: b"<html>"}),
    data("empty file", f"{IMAGES} is not such an idx file", "00 00 08 03", **{IMAGES: b""}),
    data("idx type", "with 00 00 0d 03", "00 00 08 03", **{IMAGES: RAW[:2] + b"\x0d" + RAW[3:]}),
    data("dimensions", "with 00 00 08 01", "[4, 2, 2]", **{IMAGES: RAW[:3] + b"\1" + RAW[4:]}),
    data("cut header", "within its header", "[4, 2, 2]", **{IMAGES: RAW[:9]}),
    data("other size", "holds an array of shape [2, 2, 4]", "[4, 2, 2]",
         **{IMAGES: idx.header((2, 2, 4)) + RAW[16:]}),
    data("cut data", "cut short: 15 bytes", "expected 16", **{IMAGES: RAW[:-1]}),
    data("more data", "bytes after its data", "16 bytes", **{IMAGES: RAW + b"\0"}),
    data("cut gzip", "damaged or cut", "a complete gzip file", **{IMAGES: ZIPPED[:-9]}),
    data("gzip checksum", "CRC", "complete gzip", **{IMAGES: ZIPPED[:-8] + bytes(4) + ZIPPED[-4:]}),
    data("label range", "train labels in", "expected", **{LABELS: RAW_LABELS[:-1] + b"\n"}),
    data("checksum", "train images in", "expected", **{IMAGES: RAW[:-1] + b"\0"}),
    data("no labels", f"lacks {LABELS}", IMAGES, **{LABELS: b"-"}),
    data("directory for a file", f"lacks {IMAGES}", LABELS, **{IMAGES: None}),
    data("link to itself", f"lacks {IMAGES}", LABELS, **{IMAGES: IMAGES}),
    data("empty directory", "holds no Fashion-MNIST train", f"{IMAGES}[.gz]", **NO_INFO, x=None),
    data("file for directory", "does not exist", "a directory", **NO_INFO,
         call=lambda at: load("small", data_dir=at / "data" / "x"), x=b""),
    data("unreadable", f"{IMAGES}: Permission denied", "may read",
         call=unreadable("builtins.open", read_data)),
    data("unreadable folder", "Permission denied", "may read",
         call=unreadable("pathlib.Path.is_file", read_data)),
    data("no TFDS description", "is not a TFDS description", "TFDS", **NO_INFO,
         **{INFO: b"[" * 99_999}),
    data("tfrecord", "tfrecord files", "array_record", **NO_INFO,
         **{INFO: json.dumps({"name": "small", "fileFormat": "tfrecord"}).encode()}),
    data("other set", "data set 'mnist'", "'small'", **NO_INFO, **{INFO: b'{"name": "mnist"}'}),
    Case("no such directory", DataError, lambda at: load("small", data_dir=at / "nowhere"),
         "nowhere", "a directory", ANOTHER),
    Case("overlong name", DataError, lambda at: load("small", data_dir="x" * 300), "xxx",
         "a directory", ANOTHER),
    Case("no such home", DataError, lambda at: load("small", data_dir="~no-such-user/data"),
         "~no-such-user", "the path of", "Give another"),
    Case("no path", DataError, lambda at: load("small", data_dir=3), "data_dir",
         "the path of a file or folder", "Give another"),
    Case("null character", DataError, lambda at: load("small", data_dir="a\0b"), "null character",
         "the path of", "Give another"),
    Case("path that is not UTF-8", DataError, lambda at: load("small", data_dir="\udcff"),
         r"\udcff cannot be written as UTF-8", "valid Unicode", "Rename it"),
    Case("no cache home", DataError,
         with_variable("CGAN_JAX_CACHE", "~no-such-user/c", lambda at: load("small")),
         "CGAN_JAX_CACHE", "the path", "Give another"),
    Case("unknown set", ConfigError, lambda at: load("../../fashion_mnist"),
         "'../../fashion_mnist'", "one of fashion_mnist", "from_arrays"),
    Case("set of sets", ConfigError, lambda at: load(["fashion_mnist"]), "['fashion_mnist']",
         "one of fashion_mnist", "from_arrays"),
    Case("unknown split", ConfigError, lambda at: load("small", "validation"), "'validation'",
         "one of train", "Omit it"),
]  # fmt: skip

# One's own pictures


def png(width: int, height: int, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "png")
    return stream.getvalue()


def tiff(values: np.ndarray) -> Files:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "tiff")
    return {"set/a/a.tif": stream.getvalue()}


def bomb() -> bytes:
    """A small file that says it is a picture of 100 million pixels."""
    good = png(4, 4)
    header = b"IHDR" + struct.pack(">II", 20_000, 5_000) + good[24:29]
    return good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]


def npz(**wrong) -> Files:
    good = {"images": PIXELS, "labels": np.array([0, 1, 1, 0]), "class_names": np.array(["a", "b"])}
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in (good | wrong).items() if array is not ...})
    return {"set.npz": stream.getvalue()}


def huge_npz() -> Files:
    """A few bytes that say they are 10**15 images."""
    stream, header = io.BytesIO(), io.BytesIO()
    said = {"descr": "|u1", "fortran_order": False, "shape": (10**15, 8, 8)}
    np.lib.format.write_array_header_1_0(header, said)
    with zipfile.ZipFile(io.BytesIO(npz(labels=np.zeros(4, int))["set.npz"])) as good:
        label = good.read("labels.npy").replace(b"(4,), ", b"(1000000000000000,), ")
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", label)
    return {"set.npz": stream.getvalue()}


def labels(content: bytes) -> Files:
    return {"set/1.png": png(4, 4), "set/labels.csv": content}


def folder(at: Path) -> Dataset:
    return load_folder(at / "set")


def own_npz(at: Path) -> Dataset:
    return load_npz(at / "set.npz")


def tfds_named(name: str) -> Call:
    return lambda at: load_tfds(name, data_dir=at)


OWN = [
    Case("no folder", DataError, folder, "set: ", "sub-folder of images per class", "Name another"),
    Case("a file for a folder", DataError, folder, "set: Not a directory", "per class",
         "an .npz file", {"set": png(4, 4)}),
    Case("an empty folder", DataError, folder, "set has no sub-folders", "one sub-folder",
         "Move the images", {"set": None}),
    Case("pictures without classes", DataError, folder, "set holds no sub-folders, but files",
         "one sub-folder", "name of the class", {"set/a.png": png(4, 4)}),
    Case("a class without pictures", DataError, folder, "1 class holds no image: b", ".png or .jpg",
         "remove empty ones", {"set/a/a.png": png(4, 4), "set/b": None}),
    Case("empty classes", DataError, folder, "7 classes hold no image: 0, 1, 2, 3, 4 and 2 more",
         ".png or .jpg", "remove empty ones", dict.fromkeys(f"set/{i}" for i in range(7))),
    Case("classes of one name", DataError, folder, "1 class has the name of another: 'A b' and "
         "'a b '", "case and spaces", "Rename", {"set/A  b/1.png": png(4, 4), "set/a b /": None}),
    Case("names of one name in an npz", DataError, own_npz, "of another: 'A' and 'a'",
         "case and spaces", "Rename", npz(class_names=np.array(["A", "a"]))),
    Case("another part", ConfigError, lambda at: load_folder(at, split="val"), "split", "not 'val'",
         "Omit it"),
    Case("no test part", DataError, lambda at: load_folder(at / "set", split="test"),
         "set has no test part", "train and test", "Hold out", {"set/a/a.png": png(4, 4)}),
    Case("no test part anywhere", DataError, lambda at: load_own(str(at / "set"), split="test"),
         "set has no test part", "test_images", "Hold out", {"set/a/a.png": png(4, 4)}),
    Case("a class to test alone", DataError, lambda at: load_folder(at / "set", split="test"),
         "test has 1 class that", "the same classes", "Rename",
         {"set/train/a/1.png": png(4, 4), "set/test/b/1.png": png(4, 4)}),
    Case("two label files", DataError, folder, "both labels.csv and dataset.json", "one file",
         "Remove one", {"set/labels.csv": b"", "set/dataset.json": b""}),
    Case("labels without pictures", DataError, folder,
         "labels of 6 missing pictures: a1, a2, a3, a4, a5 and 1 more", "paths of pictures",
         "Correct the names", labels(b"id,class\n1,x\na1,x\na2,x\na3,x\na4,x\na5,x\na6,x")),
    Case("labels before pictures", DataError, folder, "labels of 1 missing picture: x",
         "each first in its line", "Swap the columns", labels(b"class,id\nx,1.png")),
    Case("one picture in two classes", DataError, folder, "1 picture two classes: 1.png",
         "one class", "Remove the wrong", labels(b"1.png,x\n1.png,y")),
    Case("a header alone", DataError, folder, "holds no label", "one for each", "Add",
         labels(b"a,b")),
    Case("three columns", DataError, folder, "line 2 has 3 columns", "two columns", "quotes",
         labels(b"1.png,x\n1.png,x,y")),
    Case("a picture without a class", DataError, folder, "no class is given for 1.png",
         "two columns", "Save it so", labels(b"1.png;")),
    Case("labels of Latin-1", DataError, folder, "codec can't decode", "in UTF-8", "Save it so",
         labels(b"1.png,\xe9")),
    Case("labels that are not JSON", DataError, folder, "dataset.json cannot be read: Expecting",
         '"labels": [[', "from 0", {"set/1.png": png(4, 4), "set/dataset.json": b"{"}),
    Case("no labels in JSON", DataError, folder, "it has no list of labels", '"labels": [[',
         "from 0", {"set/1.png": png(4, 4), "set/dataset.json": b'{"labels": null}'}),
    Case("labels that are lists", DataError, folder, "['1.png', [0, 1]] is not a picture and",
         '"labels": [[', "from 0",
         {"set/1.png": png(4, 4), "set/dataset.json": b'{"labels": [["1.png", [0, 1]]]}'}),
    Case("names of one name in JSON", DataError, folder, "of another: 'a' and 'A '",
         "case and spaces", "Rename", {"set/1.png": png(4, 4),
         "set/dataset.json": b'{"labels": [["1.png", 1]], "class_names": ["a", "A "]}'}),
    Case("fewer names than classes", DataError, folder, "1.png has class 1 of 1", '"labels": [[',
         "from 0", {"set/1.png": png(4, 4),
         "set/dataset.json": b'{"labels": [["1.png", 1]], "class_names": ["a"]}'}),
    Case("a link in a circle", DataError, folder, "set", "", "Name another", {"set": "set"}),
    Case("a cut picture", DataError, folder, "1 picture cannot be read: a/b.png (image file is",
         "intact images", "--skip-unreadable",
         {"set/a/a.png": png(4, 4), "set/a/b.png": png(4, 4)[:43]}),
    Case("a text for a picture", DataError, folder, "a/a.jpg (cannot identify image file)",
         "intact images", "Repair", {"set/a/a.jpg": b"<html>"}),
    Case("many broken files", DataError, folder, "7 pictures cannot be read: a/0.png (cannot",
         "intact images", "--skip-unreadable", {f"set/a/{i}.png": b"x" for i in range(7)}),
    Case("a class of broken files", DataError,
         lambda at: load_folder(at / "set", skip_unreadable=True), "no image can be read of a; 1",
         "intact images", "Repair", {"set/a/a.png": b"x", "set/b/b.png": png(4, 4)}),
    Case("floats that are not numbers", DataError, folder, "from nan to nan",
         "intact images", "Repair", tiff(np.array([[0, np.nan]], np.float32))),
    Case("a class name that is not UTF-8", DataError, folder,
         r"set: the class name \udcff cannot be written as UTF-8", "valid Unicode", "Rename it",
         {"set/\udcff/a.png": png(4, 4)}),
    Case("an enormous picture", DataError,
         lambda at: load_folder(at / "set", img_size=8), "exceeds limit of", "intact images",
         "Repair", {"set/a/a.png": bomb()}),
    Case("pictures of two sizes", DataError, folder, "2 sizes, their shorter sides from 3 to 4",
         "--img-size", "img_size=", {"set/a/a.png": png(4, 4), "set/b/b.png": png(3, 5)}),
    Case("large pictures", DataError, folder, "300 pixels wide", "at most 128", "--img-size",
         {"set/a/a.png": png(300, 400)}),
    Case("no size", ConfigError, lambda at: load_folder(at, img_size=0), "img_size", "at least 1",
         "Omit it"),
    Case("three sizes", ConfigError, lambda at: load_folder(at, img_size=(1, 2, 3)), "img_size",
         "(height, width), not (1, 2, 3)", "Omit it"),
    Case("no such background", ConfigError, lambda at: load_folder(at, background="wite"),
         "background", "did you mean white?", "Omit it"),
    Case("two channels", ConfigError, lambda at: load_npz(at, channels=2), "channels", "1 (grey)",
         "Omit it"),
    Case("no npz", DataError, own_npz, "No such file", "an .npz file", "name another"),
    Case("a text for an npz", DataError, own_npz, "not a zip file", "an .npz file", "Save images",
         {"set.npz": b"text"}),
    Case("no labels in an npz", DataError, own_npz, "no array 'labels'; it holds images",
         "images, labels", "np.savez", npz(labels=...)),
    Case("pickled images", DataError, own_npz, "Object arrays", "numbers and strings", "Save",
         npz(images=np.array([1, None, 2, 3]))),
    Case("floats in an npz", DataError, own_npz, "images in", "uint8", "(images * 255).round()",
         npz(images=PIXELS / 255)),
    Case("channels first", DataError, own_npz, "[4, 3, 8, 8]", "[N, H, W, C]",
         "transpose(0, 2, 3, 1)", npz(images=np.zeros((4, 3, 8, 8), "u1"))),
    Case("floats for labels", DataError, own_npz, "labels in", "integers [4]", "one label per",
         npz(labels=np.zeros(4))),
    Case("a label below 0", DataError, own_npz, "labels run from -1", "0 or more", "from 0",
         npz(labels=np.array([-1, 0, 1, 1]))),
    Case("more labels than names", DataError, own_npz, "labels run from 0 to 2", "0 to 1",
         "from 0", npz(labels=np.array([0, 1, 2, 2]))),
    Case("more images than memory", DataError, own_npz, "has 0 bytes for", "an .npz file",
         "Save images", huge_npz()),
    Case("cut npz", DataError, own_npz, "cannot be read", "an .npz file", "Save images",
         {"set.npz": npz()["set.npz"][:-30]}),
    Case("misspelt name", ConfigError, tfds_named("cifar01"), "did you mean cifar10", "a folder",
         "Correct the name"),
    Case("misspelt configuration", ConfigError, tfds_named("emnist/leters"), "emnist/letters",
         "a configuration of emnist", "Correct the name"),
    Case("path for a name", ConfigError, tfds_named("../../mnist"), "'../../mnist'", "a folder",
         "Correct the name"),
    Case("no such set of TFDS's", ConfigError, tfds_named("zzzzzz"), "data set is called 'zzzzzz'",
         "a name in", "Correct the name"),
    Case("files for TensorFlow", DataError, tfds_named("mnist"), "tfrecord files, which need",
         "array_record", "Prepare it elsewhere",
         {"mnist/3.0.1/dataset_info.json": b'{"name": "mnist", "fileFormat": "tfrecord"}'}),
    Case("unknown split of TFDS's", ConfigError, tfds_named("mnist"), "no split 'train'",
         "one of test", "Name one",
         {"mnist/3.0.1/dataset_info.json": b'{"name": "mnist", "fileFormat": "array_record",'
          b'"splits": [{"name": "test", "shardLengths": ["3"]}]}'}),
    Case("no rows of TFDS's", DataError, tfds_named("mnist"), "cannot read the TFDS files",
         "intact files", "Delete it",
         {"mnist/3.0.1/dataset_info.json": b'{"name": "mnist", "fileFormat": "array_record",'
          b'"splits": [{"name": "train", "shardLengths": ["3"]}]}'}),
]  # fmt: skip

# Arrays of one's own

ARRAYS = [
    Case("lists", DataError, make_dataset(images=[[0]]), "list and ndarray", "NumPy",
         "from_arrays"),
    Case("grey", DataError, make_dataset(images=PIXELS), "uint8 [4, 2, 2]", "[N, H, W, C]",
         "C = 1"),
    Case("floats", DataError, make_dataset(images=PIXELS[..., None] / 255), "float64", "uint8",
         "from 0 to 255"),
    Case("no images", DataError, make_dataset(images=PIXELS[:0, ..., None]), "[0, 2, 2, 1]",
         "no empty dimension", "pixel values"),
    Case("no height", DataError, make_dataset(images=PIXELS[:, :0, :, None]), "[4, 0, 2, 1]",
         "no empty dimension", "pixel values"),
    Case("a column of labels", DataError, make_dataset(labels=np.zeros((4, 1), np.int32)),
         "labels are int32 [4, 1]", "int32 [4]", "one label per image"),
    Case("wide labels", DataError, make_dataset(labels=np.zeros(4, np.int64)),
         "labels are int64 [4]", "int32 [4]", "one label per image"),
    Case("few labels", DataError, make_dataset(labels=np.zeros(3, np.int32)),
         "labels are int32 [3]", "int32 [4]", "one label per image"),
    Case("high label", DataError, make_dataset(labels=np.full(4, 2, np.int32)), "from 2 to 2",
         "0 to 1 (2 classes)", "from 0"),
    Case("low label", DataError, make_dataset(labels=np.full(4, -1, np.int32)), "from -1",
         "0 to 1", "from 0"),
    Case("no names", DataError, make_dataset(class_names=()), "class_names is ()",
         "at least one name", "one name per class"),
    Case("a text for names", DataError, from_arrays(class_names="ab"), "class_names is 'ab'",
         "a list", "one name per class"),
    Case("names of two lines", DataError, from_arrays(class_names=("a\nb", "c")), "class_names",
         "one line", "one name per class"),
    Case("None for names", DataError, from_arrays(class_names=None), "class_names is None",
         "a list", "one name per class"),
    Case("labels that are floats", DataError, from_arrays(labels=[0.0, 1, 1, 0]),
         "labels are float64", "integers", "counted from 0"),
    Case("labels of 64 bits", DataError, from_arrays(labels=[0, 1, 1, 2**40]), "1099511627776",
         "int32", "from 0"),
    Case("ragged images", DataError, from_arrays(images=[[[0]], [[0], [1]]]), "not an array",
         "of one size", "Convert them"),
    Case("floats in a batch", ConfigError,
         lambda at: train_step(GAN.from_config(), None,
         Batch(np.zeros((4, 28, 28, 1)), np.zeros(4, int)), None), "float64 [4, 28, 28, 1]",
         "uint8 [B, 28, 28, 1]", "from 0 to 255"),
    Case("a batch of one", ConfigError,
         lambda at: train_step(GAN.from_config(), None,
         Batch(np.zeros((1, 28, 28, 1), "u1"), np.zeros(1, int)), None), "uint8 [1, 28",
         "B at least 2", "Pass"),
    Case("labels that are no batch's", ConfigError,
         lambda at: train_step(GAN.from_config(), None,
         Batch(np.zeros((4, 28, 28, 1), "u1"), np.zeros(3, int)), None), "int64 [3]",
         "integers [B]", "Pass"),
    Case("images of another size", ConfigError,
         lambda at: train(GAN.from_config(), TrainConfig(batch_size=2), make_dataset()(at)),
         "images are [2, 2, 1]", "[28, 28, 1]", "ModelConfig"),
    Case("another number of classes", ConfigError,
         lambda at: train(GAN.from_config(), TrainConfig(batch_size=2),
         make_dataset(images=np.zeros((4, 28, 28, 1), "u1"))(at)), "2 classes", "10",
         "ModelConfig"),
    Case("more a batch than there are", ConfigError,
         lambda at: train(GAN.from_config(), TrainConfig(batch_size=5), make_dataset()(at)),
         "batch_size", "the 4 training images", "smaller"),
    Case("a grid of floats", ConfigError, lambda at: grid(np.zeros((1, 1, 4, 4, 1)), ["a"]),
         "float64 [1, 1, 4, 4, 1]", "uint8", "to_uint8"),
    Case("a grid of one row", ConfigError, lambda at: grid(np.zeros((1, 4, 4, 1), "u1"), ["a"]),
         "uint8 [1, 4, 4, 1]", "[rows, columns,", "Reshape"),
    Case("a grid of two channels", ConfigError,
         lambda at: grid(np.zeros((1, 1, 4, 4, 2), "u1"), ["a"]), "4, 2]", "1, 3 or 4", "Reshape"),
    Case("a grid of nothing", ConfigError, lambda at: grid(np.zeros((1, 1, 4, 0, 1), "u1"), ["a"]),
         "[1, 1, 4, 0, 1]", "none of them 0", "Reshape"),
    Case("a list for a grid", ConfigError, lambda at: grid([[1], [2, 3]], ["a"]), "are list",
         "uint8", "Reshape"),
    Case("too few names", ConfigError, lambda at: grid(np.zeros((1, 2, 4, 4, 1), "u1"), ["a"]),
         "2 columns are ['a']", "one text", "Give a list"),
    Case("names of no text", ConfigError, lambda at: grid(np.zeros((1, 1, 4, 4, 1), "u1"), [3]),
         "are [3]", "one text", "Give a list"),
]  # fmt: skip

# Labels, seeds, numbers

NAMES = ("T-shirt/top", "Trouser", "Ankle boot")
TWINS = ("crane", "Crane", "owl")


def generator() -> TrainedGenerator:
    return TrainedGenerator(GAN.from_config().generator, {}, NAMES, step=0)


LABELS_AND_SEEDS = [
    *(
        Case(f"label {name}", ConfigError, lambda at, label=label: label_ids(label, NAMES),
             culprit, "class ids in 0..2", hint)
        for name, label, culprit, hint in [
            ("misspelt", "Ankel boot", "'Ankel boot' is not a class; did you mean 'Ankle boot'?",
                 "Ankle boot"),
            ("like one's end", "shirt", "did you mean 'T-shirt/top'", "T-shirt/top, Trouser"),
            ("unlike any", "xyzzy", "'xyzzy' is not a class", "Pass some of T-shirt/top"),
            ("empty", "", "'' is not a class", "Pass some of"),
            ("below", -1, "-1 is not a class", "Pass some of"),
            ("above", 3, "3 is not a class", "Pass some of"),
            ("above as text", "3", "3 is not a class", "Pass some of"),
            ("of many digits", "9" * 5000, "'999", "Pass some of"),
            ("of more digits", DIGITS, "this int is not a class", "Pass some of"),
            ("half", 0.5, "0.5 is not a class", "Pass some of"),
            ("true", True, "True is not a class", "Pass some of"),
            ("NumPy's true", np.True_, "is not a class", "Pass some of"),
            ("None", None, "None is not a class", "Pass some of"),
            ("bytes", b"Bag", "b'Bag' is not a class", "Pass some of"),
            ("a set", {0, 1}, "{0, 1} is not a class", "Pass some of"),
            ("nested", [[0, 1]], "[0, 1] is not a class", "Pass some of"),
            ("a table", np.zeros((2, 2), int), "array([0, 0]) is not a class", "Pass some of"),
            ("ragged", [np.zeros((2, 2)), np.zeros((2, 3))], "array(", "Pass some of"),
        ]
    ),
    Case("label of two", ConfigError, lambda at: label_ids("crane", TWINS), "2 classes are called",
         "a single class", "[0, 1]"),
    *(
        Case(f"seed {name}", ConfigError, call, "seed", "in 0..4294967295, not", "default, 0")
        for name, call in [
            ("below", lambda at: generator().generate([0], seed=-1)),
            ("above", lambda at: generator().generate([0], seed=2**32)),
            ("as text", lambda at: generator().generate([0], seed="0")),
            ("of a run", lambda at: run_keys(-1)),
            ("of a run, half", lambda at: run_keys(0.5)),
            ("of latent points", lambda at: generate_latent_points(5, 3, seed=None)),
        ]
    ),
    Case("latent_dim", ConfigError, lambda at: generate_latent_points(0, 1), "latent_dim",
         "in 1..", "generator's"),
    Case("n_samples", ConfigError, lambda at: generate_latent_points(1, -1), "n_samples", "in 0..",
         "the number of images"),
    Case("half a sample", ConfigError, lambda at: generate_latent_points(1, 0.5), "n_samples",
         "an integer", "the number of images"),
    Case("n_classes", ConfigError, lambda at: generate_latent_points(1, 1, "ten"), "n_classes",
         "an integer", "default, 10"),
]  # fmt: skip

EVERY = [
    Case(f"{name} of 0, {i}", ConfigError, call, name, "at least 1, not 0", "Omit it")
    for i, (name, call) in enumerate([
        ("checkpoint_every",
             lambda at: train(GAN.from_config(), TrainConfig(), None, checkpoint_every=0)),
        ("plot_every", lambda at: LossesTable(None, plot_every=0)),
        ("every", lambda at: SampleGrids(None, None, every=0)),
        ("rows", lambda at: SampleGrids(None, None, rows=0)),
        ("every", lambda at: TensorBoard(mock.MagicMock(), every=0)),
        ("keep", lambda at: Checkpoints(at, keep=0)),
    ])
]  # fmt: skip

# Weights from elsewhere

GENERATOR = {
    "label_embedding.weight": np.zeros((3, 3), np.float32),
    "model.0.weight": np.zeros((8, 8), np.float32),
    "model.2.weight": np.zeros((16, 8), np.float32),
}
DISCRIMINATOR = {
    "label_embedding.weight": np.zeros((3, 3), np.float32),
    "model.0.weight": np.zeros((8, 19), np.float32),
    "model.2.weight": np.zeros((1, 8), np.float32),
}
FEW_INPUTS = {**GENERATOR, "model.0.weight": np.zeros((8, 2), np.float32)}
PAIR = {"g.safetensors": save(GENERATOR), "d.safetensors": save(DISCRIMINATOR)}
WEIGHTS = [
    Case("no weights file", DataError, lambda at: load_state_dict(at / "w.pt"),
         "w.pt: No such file", "may read", "Name another"),
    Case("directory for weights", DataError, lambda at: load_state_dict(at / "w.pt"),
         "w.pt: Is a directory", "a file", "Name another", {"w.pt": None}),
    Case("unreadable weights", DataError,
         unreadable("pathlib.Path.read_bytes", lambda at: load_state_dict(at / "w.pt")),
         "w.pt: Permission denied", "may read", "Name another"),
    Case("weights of another kind", DataError, lambda at: load_state_dict(at / "w.h5"), "w.h5",
         ".safetensors, .pt or .pth", "Name a file"),
    Case("no name of a file", DataError, lambda at: load_state_dict("\0.pt"), "null", "a file",
         "Name another"),
    Case("empty weights", DataError, lambda at: load_state_dict(at / "w.safetensors"),
         "w.safetensors is damaged", "tensors by name", "Save", {"w.safetensors": b""}),
    Case("cut weights", DataError, lambda at: load_state_dict(at / "w.safetensors"),
         "w.safetensors is damaged", "tensors by name", "Save",
         {"w.safetensors": PAIR["g.safetensors"][:-1]}),
    Case("nowhere to save", RunError,
         lambda at: save_state_dict(at / "f/w.safetensors", GENERATOR), "w.safetensors cannot be",
         "", "space", {"f": b""}),
    Case("text among weights", DataError,
         lambda at: save_state_dict(at / "w.safetensors", {"a": "b"}), "cannot save a", "an array",
         "Convert it"),
    Case("no networks", DataError, lambda at: config_from_torch({"x": np.zeros(3)}, DISCRIMINATOR),
         "1 entries are not the weights of a generator", "label_embedding.weight", "Pass the"),
    Case("two generators", DataError, lambda at: config_from_torch(GENERATOR, GENERATOR),
         "makes 16 values", "a pair", "the generator first"),
    Case("few inputs", DataError, lambda at: config_from_torch(FEW_INPUTS, DISCRIMINATOR),
         "latent_dim", "of any sizes", "Pass the"),
    Case("three channels", DataError,
         lambda at: config_from_torch(GENERATOR, DISCRIMINATOR, channels=3),
         "not squares of 3 channels", "such an image", "Pass the channels"),
    Case("no such size", DataError,
         lambda at: config_from_torch(GENERATOR, DISCRIMINATOR, img_size=(2, 9)),
         "not 2x9 of 1 channel", "such an image", "--img-size"),
    Case("no channels", ConfigError,
         lambda at: config_from_torch(GENERATOR, DISCRIMINATOR, channels=0), "channels",
         "at least 1, not 0", "default, 1"),
]  # fmt: skip

# Run folders


def config_json(**changes) -> dict[str, bytes]:
    saved = {"format": 1, "config": {}, "class_names": ["a"]} | changes
    return {"config.json": json.dumps({k: v for k, v in saved.items() if v is not ...}).encode()}


def open_run(at: Path) -> RunFolder:
    return RunFolder.open(at)


def check_run(at: Path) -> object:
    return RunFolder.check(at, TrainConfig())


def start_from(kind: type = ModelConfig, own: bool = False, **changes) -> Call:
    """Start from the run in tests/golden with other networks."""

    def attempt(at: Path) -> object:
        config = RunFolder.open(FOLDER).config
        sizes = {"n_classes": 3, "latent_dim": 5, "img_size": 4}
        model = replace(config.model, **changes) if kind is ModelConfig else kind(**sizes)
        gan = GAN.from_config(replace(config, model=model))
        if own:
            gan = replace(gan, generator=replace(gan.generator, widths=(8, 32)))
        return init_from(gan, replace(config, model=model), "abc"[: model.n_classes], FOLDER)

    return attempt


RESTORE = "Put back the file"
RUN_FOLDERS = [
    Case(f"run's file {name}", RunError, open_run, culprit, expected, RESTORE, files)
    for name, culprit, expected, files in [
        ("that is no JSON", "config.json", "JSON", {"config.json": b"{"}),
        ("that is no text", "config.json", "JSON", {"config.json": b"\xff\xfe"}),
        ("that is empty", "config.json", "JSON", {"config.json": b""}),
        ("nested too deep", "config.json", "JSON", {"config.json": b"[" * 99_999}),
        ("with many digits", "config.json", "JSON", {"config.json": b"9" * 5000}),
        ("that is a directory", "config.json", "JSON", {"config.json": None}),
        ("that is a list", "config.json", "a table", {"config.json": b"[]"}),
        ("that is null", "config.json", "a table", {"config.json": b"null"}),
        ("without format", "format", "a table", config_json(format=...)),
        ("without classes", "class_names", "a list of names", config_json(class_names=[])),
        ("with odd classes", "class_names", "a list of names", config_json(class_names="ab")),
        ("without configuration", "config", "a table", config_json(config=...)),
        ("with an unknown field", "'depth'", "a table", config_json(config={"depth": 3})),
        ("with an odd value", "epochs", "a table", config_json(config={"epochs": 0})),
        ("with an odd environment", "environment", "a table", config_json(environment="x86")),
        ("with odd data", "data is", "a table", config_json(data={"sha256": "a", "test": "b"})),
    ]
] + [
    *(
        Case(f"to start from {name}", ConfigError, start_from(**changes), culprit, expected, hint)
        for name, changes, culprit, expected, hint in [
            ("other sizes", {"img_size": 8, "generator_widths": (8,)},
             "fit: other networks (img_size 4 -> 8, generator_widths (8, 16) -> (8,))",
             "the same networks", "Give --img-size 4 --generator-widths 8 16, or"),
            ("other channels", {"channels": 3}, "(channels 1 -> 3)", "same", "--channels 1"),
            ("networks of another kind", {"kind": MLPConfig}, "kind report, not mlp", "same",
             "Choose a preset with networks of kind report"),
            ("embeddings of another width", {"n_classes": 2}, "embeddings have 3 numbers, the new",
             "label_dim", "Give --label-dim 3"),
            ("networks of one's own", {"own": True}, "batch_norm_1.mean is float32 [16], the new",
             "same networks", "Name another run"),
        ]
    ),
    Case("unreadable run", RunError, unreadable("pathlib.Path.read_text", open_run), "config.json",
         "JSON", RESTORE, config_json()),
    Case("no run", RunError, lambda at: load_generator(at / "nowhere"), "nowhere", "config.json",
         "Name a run's folder"),
    Case("newer format", RunError, open_run, "format 2", "1", "version of cgan_jax",
         config_json(format=2)),
    Case("no checkpoints", RunError, load_generator, "no checkpoints", "one checkpoint",
         "Name a run's folder", config_json()),
    Case("other files", RunError, check_run, "holds other files", "a new or", "Name another",
         {"thesis.tex": b""}),
    Case("file in the way", RunError, lambda at: RunFolder.check(at / "f" / "run", TrainConfig()),
         "a file is in the way", "a folder", "Name another", {"f": b""}),
    Case("overlong name of a run", RunError, lambda at: RunFolder.check("x" * 300, TrainConfig()),
         "too long", "a folder", "Name another"),
    Case("another run", RunError, check_run, "seed: 1 -> 0", "that run's settings",
         "another folder", config_json(config={"seed": 1})),
]  # fmt: skip

CASES = [*CONFIGURATIONS, *DATA, *OWN, *ARRAYS, *LABELS_AND_SEEDS, *EVERY, *WEIGHTS, *RUN_FOLDERS]

# Command lines: the module and its flags, in which {at} is the folder

TRAIN, HELP = "fashion_cgan", "--help"
COMMANDS = [
    (TRAIN, "--epochs 0", "epochs", "at least 1", "default, 200", {}),
    (TRAIN, "--preset residul", "preset 'residul'", "did you mean residual", "Choose", {}),
    (TRAIN, "--augment cutuot", "augment", "did you mean cutout", "no augmentation", {}),
    (TRAIN, "--penalty r1 --penalty-gamma -1", "gamma", "of at least 0", "default, 1.0", {}),
    (TRAIN, "--penalty r1 --penalty-every 0", "every", "at least 1", "default, 1", {}),
    (TRAIN, "--average --average-half-life -5", "-half-life", "above 0", "default, 40000", {}),
    (
        *(TRAIN, "--preset residual --generator-widths 64 32 16"),
        *("cannot be halved 3 times", "a multiple of 8", "give fewer generator_widths", {}),
    ),
    (TRAIN, "--epochs ten", "--epochs", "int", HELP, {}),
    (TRAIN, "--epochs", "--epochs", "Expected 1", HELP, {}),
    (TRAIN, "--epoch 3", "--epoch", "--epochs", HELP, {}),
    (TRAIN, "--epochs 99999999", "epochs", "at most 2289428", "Give fewer", {}),
    (TRAIN, "--batch-size 1", "--batch-size", "at least 2", "default, 64", {}),
    (TRAIN, "--disc-lr 0", "--disc-lr", "above 0", "the default.", {}),
    (TRAIN, "--preset residual --penalty-every 0", "--penalty-every", "at least 1", "t, 4.", {}),
    (TRAIN, "--preset residual --generator-widths 0", "--generator-w", "above 0", "128 48", {}),
    (TRAIN, "--batch-size 60001", "batch_size", "at most the 60000", "smaller", {}),
    (TRAIN, "--batch-size 59999", "batch_size 59999", "at least two", "one more", {}),
    (TRAIN, "--lr 0", "lr", "above 0", "default, 0.0002", {}),
    (TRAIN, "--lr nan", "lr", "a finite number", "default, 0.0002", {}),
    (TRAIN, "--lr 1e400", "lr", "a finite number", "default, 0.0002", {}),
    (TRAIN, "--b1 1", "b1", "in [0, 1)", "default, 0.5", {}),
    (TRAIN, "--b2 -0.5", "b2", "in [0, 1)", "default, 0.999", {}),
    (TRAIN, "--latent-dim 0", "--latent-dim", "at least 1", "default, 100", {}),
    (TRAIN, "--latent-dim 1000000000000", "latent_dim", "at most", "smaller", {}),
    (TRAIN, "--seed -1", "seed", "in 0..4294967295", "default, 0", {}),
    (TRAIN, "--seed 4294967296", "seed", "in 0..4294967295", "default, 0", {}),
    (TRAIN, f"--seed {'9' * 5000}", "--seed", "int", HELP, {}),
    (TRAIN, "--sample-every 0", "sample_every", "at least 1", "default, 5", {}),
    (TRAIN, "--checkpoint-every 0", "checkpoint_every", "at least 1", "default, 5", {}),
    (TRAIN, "--log-every -1", "log_every", "at least 0", "default, 0", {}),
    (TRAIN, "--workdir {at}/f", "a file is in the way", "a folder", "Name another", {"f": b""}),
    (TRAIN, "--workdir {at}", "holds other files", "a new or", "Name another", {"thesis.tex": b""}),
    (TRAIN, f"--workdir {'x' * 300}", "too long", "a folder", "Name another", {}),
    (TRAIN, "--data-dir {at}/nowhere", "nowhere", "a directory", ANOTHER, {}),
    (TRAIN, "--data-dir {at}", "holds no Fashion-MNIST", "prepared by TFDS", ANOTHER, {}),
    (TRAIN, f"--data-dir {'x' * 300}", "does not exist", "a directory", ANOTHER, {}),
    (TRAIN, "--data-dir {at}", IMAGES, "[60000, 28, 28]", ANOTHER,
         {IMAGES: RAW, LABELS: RAW_LABELS}),
    (TRAIN, "train", "train", "", HELP, {}),
    (TRAIN, "--init-from {at}/none", "none is not a run", "config.json", "Name a run's folder", {}),
    (TRAIN, "--eval-every -1", "eval_every", "at least 0", "default, 0", {}),
    (TRAIN, "--devices 0", "devices", "at least 1", "Omit it", {}),
    (TRAIN, "--processes 2", "processes", "belong together", "Give all three", {}),
    (TRAIN, "--coordinator here:1 --processes 2", "coordinator", "together", "Give all three", {}),
    ("train", "", "DATA", "required", HELP, {}),
    ("train", "{at}/set --img-size 0", "img_size", "at least 1", "Omit it", {}),
    ("train", "{at}/set --img-size 64x", "not '64x'", "height x width, such as", "Omit it", {}),
    ("train", "{at}/set --img-size 0x3", "not '0x3'", "at least 1", "Omit it", {}),
    ("train", "{at}/set --channels 2", "--channels must be", "one of 1, 3, 4, not '2'", HELP, {}),
    ("train", "{at}/set --holdout 10%", "--holdout must be", "a number, not '10%'", HELP, {}),
    ("train", "{at}/set --devices 1.5", "--devices must be", "an integer, not '1.5'", HELP, {}),
    ("train", "{at}/x.npy", "x.npy is a file", "an .npz file", "np.savez(", {"x.npy": b""}),
    ("train", "{at}/set --holdout 1", "holdout", "from 0 to below 1", "such as 0.1", {}),
    ("train", "{at}/nowhere", "nowhere", "one sub-folder", "Name another", {}),
    ("train", "{at}/set --data-dir {at}", "data_dir", "the name of a data set", "Omit it",
         {"set/a/a.png": png(4, 4)}),
    ("train", "{at}/set --lr 0", "lr", "above 0", "default, 0.0002", {}),
    ("evaluate", "{at}", "holds a run on photos", "a run of `train`", "with --data",
         config_json(config={"dataset": "photos"})),
    ("digits_cgan", "--epochs 0", "epochs", "at least 1", "default, 200", {}),
    ("sweep", "--seeds 0", "seeds", "at least 1", "default, 4", {}),
    ("sweep", "--lr", "lr", "one or more values", "Omit it", {}),
    ("sweep", "--b1 0.5 0.5", "b1", "each once", "Omit it", {}),
    ("sweep", "--lr 1e-4 0", "lr", "above 0", "default, 0.0002", {}),
    ("sweep", "--seed 4294967295 --seeds 2", "seed", "in 0..4294967295", "default, 0", {}),
    ("sweep", "--batch-size 59999", "batch_size 59999", "at least two", "one more", {}),
    ("sweep", "--workdir {at}", "holds other files", "no sweep", "Name a new", {"thesis.tex": b""}),
    ("sweep", "--workdir {at}", "sweep.json cannot be read", "a sweep wrote", "Put back",
         {"sweep.json": b"{}"}),
    ("evaluate", "{at}", "is not a run folder", "config.json", "Name a run's", {"thesis.tex": b""}),
    ("evaluate", "", "no run to evaluate", "at least one", "Name one", {}),
    ("import_torch", "{at}/g.safetensors {at}/d.safetensors", "--workdir", "required", HELP, PAIR),
    ("import_torch", "{at}/g.safetensors {at}/d.safetensors --workdir {at}/run --class-names a b",
         "2 class names for 3 classes", "expected 3", "--class-names", PAIR),
    ("import_torch", "{at}/d.safetensors {at}/g.safetensors --workdir {at}/run",
         "the generator makes", "a pair", "generator first", PAIR),
    ("import_torch", "{at}/g.safetensors {at}/new.pt --workdir {at}/run", "new.pt: No such file",
         "may read", "Name another", PAIR),
    ("import_torch", "{at}/g.safetensors {at}/d.safetensors --workdir {at}/run --channels 0",
         "channels", "at least 1", "default, 1", PAIR),
    ("import_torch", "{at}/g.safetensors {at}/d.safetensors --workdir {at}/run --bn-epsilon 0",
         "bn_epsilon", "above 0", "default, 0.8", PAIR),
    ("import_torch", "{at}/g.safetensors {at}/d.safetensors --workdir {at} --class-names a b c",
         "holds other files", "a new or", "Name another", PAIR),
    ("animate", "{at}", "is not a run folder", "config.json", "Name a run's folder", {}),
    ("animate", "{at}", "no sample grids", "epoch_0001.png", "for an epoch", config_json()),
    ("animate", "{at} --to Bag", "--to", "--from with it", "omit --to", {}),
    ("animate", "{at} --from a --out x.mp4", "x.mp4", ".gif or .png or .npz", "another --out", {}),
    ("animate", "{at} --from x.npz", "x.npz cannot be read", "experiments.invert", "Name another",
         config_json()),
    ("invert", "{at}", "there is no picture", "at least one", "Name some files", {}),
    ("invert", "{at} y.png", "is not a run folder", "config.json", "Name a run's folder", {}),
    ("invert", "{at} x.png", "x.png cannot be read", "an intact image", "another", config_json()),
    ("invert", "{at} x.png", "x.png cannot be read", "8 bits", "Name another",
         {**config_json(config={"model": {"img_size": 8}}), "x.png": b"<html>"}),
    ("invert", "{at} x.png --label b", "'b' is not a class", "in 0..0", "Pass some of a",
         {**config_json(), "x.png": png(4, 4)}),
    ("invert", "{at} x.png --out x.jpg", "out is x.jpg", "ends in .png", "another --out", {}),
    ("invert", "{at} x.png --out y.png", "y.npz exists already", "a new file", "--overwrite",
         {"y.npz": b""}),
    ("animate", "{at} --from b", "'b' is not a class", "class ids in 0..0", "Pass some of a",
         config_json()),
    ("animate", "{at} --out {at}/a.gif", "a.gif exists already", "a new file", "--overwrite",
         {**config_json(), "a.gif": b""}),
    ("sample", "{at} --out {at}/s.png", "s.png exists already", "a new file", "--overwrite",
         {**config_json(), "s.png": b""}),
    ("sample", "{at} --label", "no label", "at least one", "Give some", config_json()),
    ("sample", "~no-such-user/run", "~no-such-user", "the path of", "Give another", {}),
    ("sweep", "--lr 1e-4 --lr 2e-4", "--lr is given more than once", "one --lr", "--lr VALUE", {}),
    ("animate", "{at} --from a --to a a --n 0", "n must be", "at least 1", "default, 4", {}),
    ("export", "{at} --format torch --out {at}/g.safetensors", "is not a run folder",
         "config.json", "Name a run's folder", {}),
    ("export", "{at} --format safetensors --out {at}/g.safetensors", "no checkpoints in",
         "at least", "first save", config_json()),
    ("export", "{at} --format onnx --out {at}/g.onnx", "g.onnx exists already", "a new file",
         "--overwrite", {**config_json(), "g.onnx": b""}),
    ("export", "{at} --format stablehlo --out {at}/g.zip --overwrite", "g.zip exists already",
         "a new", "Name another", {**config_json(), "g.zip": None}),
    ("export", "{at} --format stablehlo --out {at}/config.json/g.zip", "is not a folder",
         "a writable folder", "Name another", config_json()),
    ("export", f"{{at}} --format onnx --out {{at}}/{'x' * 300}.onnx", "too long", "", "", {}),
    ("export", "{at} --format onnx --out {at}/g.zip", "does not name", ".onnx", "another", {}),
    ("export", "{at} --format onnx --out g.onnx --discriminator d.onnx", "discriminator",
         "--format torch", "Omit it", {}),
    ("export", "{at} --format torch --out g.pt --discriminator g.pt", "out and discriminator", "",
         "two names", {}),
    ("export", "{at} --format torch --out g.pt --best --step 3", "step", "--best", "Omit", {}),
    ("export", "{at} --format pickle --out {at}/g.pt", "pickle", "onnx", HELP, {}),
    ("export", f"{{at}} --format {'x' * 5000}", "invalid choice 'xxx", "", HELP, {}),
    ("proofs.recipes", "--seeds 1 1", "seeds is 1 1", "each of them once", "default", {}),
    ("proofs.benchmark", "--rounds 0", "rounds", "in 1..1000", "default, 5", {}),
    ("proofs.gpu", "--parts main main", "parts is main main", "each of them once", "Omit it", {}),
    ("proofs.gpu", "--parts main", "there is no GPU", "expected an NVIDIA GPU", "--tiny", {}),
    ("proofs.gpu", "--parts main --json {at}/gpu.json", "gpu.json cannot be read", "earlier call",
         "--json", {"gpu.json": b"{"}),
    ("proofs.parity", "--float64-steps 939", "float64_steps", "in 1..938", "default, 200", {}),
    ("demo", "{at}", "is not a run folder", "config.json", "Name a run's folder", {}),
    ("demo", "{at} --best --step 3", "step", "--best", "Omit", {}),
    ("demo", "{at} --port 70000", "port", "in 1..65535", "default, 7860", {}),
    ("report", "", "no run", "at least one", "Name one", {}),
    ("report", "{at}", "is not a run folder", "config.json", "Name a run's folder", {}),
    ("proofs.report_log", "--run {at}", "no finished run of 200", "epochs 0 to 199", "such a run",
         config_json()),
    ("proofs.report_log", "--run {at}", "no finished run of 200", "epochs 0 to 199", "such a run",
         {**config_json(), "losses.csv": b"epoch,batch,d_loss,g_loss\n0;1;2;3\n"}),
    ("proofs.report_log", "--seeds 1", "seeds", "at least 2", "default, 20", {}),
]  # fmt: skip


@pytest.fixture
def at(tmp_path, monkeypatch) -> Path:
    """The folder that a case begins with; all that is written by default would come below it."""
    monkeypatch.setitem(SPECS, "small", SMALL)
    monkeypatch.setenv("CGAN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(files: Files, at: Path) -> None:
    for name, held in files.items():
        path = at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if held is None:
            path.mkdir()
        elif isinstance(held, str):
            path.symlink_to(held)
        else:
            path.write_bytes(held)


def listing(at: Path) -> list[tuple[str, int, int]]:
    stats = ((str(path), path.lstat()) for path in sorted(at.rglob("*")))
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def assert_helps(message: str, culprit: str, expected: str, hint: str) -> None:
    lines = message.splitlines()
    assert len(lines) <= 3, message
    assert len(message) < 1000, message
    assert culprit in lines[0], message
    assert expected in message
    assert hint in lines[-1], message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_and_nothing_is_written(case, at):
    put(case.files, at)
    before = listing(at)
    with pytest.raises(CGANError) as caught:
        case.call(at)
    assert type(caught.value) is case.kind
    assert_helps(str(caught.value), case.culprit, case.expected, case.hint)
    assert listing(at) == before


@pytest.fixture
def notices():
    """Undoes what `command_line.run` does to the notices' logger."""
    logger = logging.getLogger("cgan_jax")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.parametrize(
    ("module", "flags", "culprit", "expected", "hint", "files"),
    COMMANDS,
    ids=[f"{module} {flags:.70}" for module, flags, *_ in COMMANDS],
)
def test_a_command_line_is_refused_with_code_2_and_nothing_is_written(
    module, flags, culprit, expected, hint, files, at, notices, monkeypatch, capsys
):
    put(files, at)
    before = listing(at)
    monkeypatch.setattr(sys, "argv", [module, *flags.format(at=at).split()])
    with pytest.raises(SystemExit) as end:
        run(importlib.import_module(f"experiments.{module}").main)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("error: ")
    assert_helps(err, culprit, expected, hint)
    assert listing(at) == before


def test_the_table_is_as_large_as_promised():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert len(names) + len(COMMANDS) >= 60
