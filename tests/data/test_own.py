"""Your own data: a folder of images, an .npz file, a data set of TFDS by name.

tests/experiments/test_bad_input.py has what is refused.
"""

import gzip
import io
import logging
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cgan_jax.data import (
    has_test_split,
    idx,
    load_folder,
    load_npz,
    load_own,
    load_tfds,
    stack,
    tfds_files,
    tfds_named,
)
from cgan_jax.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
RED = np.tile(np.array([200, 30, 40], np.uint8), (8, 8, 1))


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_a_folder_of_pictures_of_one_size_is_read_bit_for_bit(tmp_path, caplog):
    """Classes are sorted by number, images by name."""
    caplog.set_level(logging.INFO)
    images = RNG.integers(0, 256, (5, 6, 6), np.uint8)
    for image, name in zip(
        images, ("2/a.png", "2/b.BMP", "10/x.png", "10/y.tif", "10/z.png"), strict=True
    ):
        save(tmp_path / "set" / name, image)
    (tmp_path / "set" / "10" / "notes.txt").touch()
    (tmp_path / "set" / ".hidden").mkdir()
    dataset = load_folder(tmp_path / "set")
    np.testing.assert_array_equal(dataset.images[..., 0], images)
    assert dataset.class_names == ("2", "10")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.name == "set"
    assert "skipped 1 file or folder, not an image by suffix" in caplog.text
    assert "reading 5 images of 6x6 in grey" in caplog.text
    assert "resized" not in caplog.text


def test_pictures_are_cropped_to_the_centre_and_resized(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 90, 160, 250
    for name, array in (("wide", wide), ("tall", wide.transpose(1, 0, 2)), ("fits", wide[:8, :8])):
        save(tmp_path / "b" / f"{name}.png", array)
    dataset = load_folder(tmp_path, img_size=8)
    assert (dataset.images[1:] == [90, 160, 250]).all()
    assert (dataset.images[0] == 0).all()
    assert "cropped 2 images to the centre, or resized" in caplog.text


@pytest.mark.parametrize(("channels", "expected"), [(None, 3), (1, 1), (3, 3)])
def test_colour_depends_on_the_files_or_the_option(tmp_path, channels, expected):
    """Also with a palette, transparency and a camera orientation."""
    save(tmp_path / "a" / "1.png", np.full((8, 8), 77, np.uint8))
    save(tmp_path / "a" / "2.png", RED)
    Image.fromarray(RED).quantize(4).save(tmp_path / "a" / "3.png")
    clear = np.dstack([RED, np.full((8, 8), 0, np.uint8)])
    save(tmp_path / "a" / "4.png", clear)
    turned = np.zeros((8, 8, 3), np.uint8)
    turned[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    save(tmp_path / "a" / "5.png", turned, exif=exif)
    grey, red, palette, white, upright = load_folder(tmp_path, channels=channels).images
    assert grey.shape == (8, 8, expected)
    assert (grey == 77).all()
    assert (white == 255).all()
    assert (upright[:, -1] == 255).all() and (upright[:, :-1] == 0).all()
    np.testing.assert_array_equal(red, palette)
    assert (red == ([200, 30, 40] if expected == 3 else 82)).all()


def test_grey_of_16_and_32_bits_is_scaled_to_8(tmp_path):
    """The same grey values give the same image."""
    expected = np.array([[0, 1], [128, 255]], np.uint8)
    deep = expected.astype(np.uint16) * 257
    save(tmp_path / "a" / "1.png", expected)
    save(tmp_path / "a" / "2.png", deep)
    save(tmp_path / "a" / "3.tif", deep.astype(">u2"))
    pixels = deep.astype(">u2").tobytes()  # by hand, since older Pillows cannot write such a file
    (tmp_path / "a" / "4.ppm").write_bytes(b"P5\n2 2\n65535\n" + pixels)
    save(tmp_path / "a" / "5.tif", deep.astype(np.int32))
    save(tmp_path / "a" / "6.tif", (expected / 255).astype(np.float32))
    modes = ["L", "I;16 I", "I;16B", "I", "I", "F"]  # older Pillows call a 16-bit PNG I
    for file, mode in zip(sorted((tmp_path / "a").iterdir()), modes, strict=True):
        with Image.open(file) as image:
            assert image.mode in mode.split()
    images = load_folder(tmp_path).images
    assert images.shape == (6, 2, 2, 1)
    assert (images[..., 0] == expected).all()
    assert load_folder(tmp_path, img_size=1, channels=3).images.shape == (6, 1, 1, 3)


def test_a_tilde_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "set" / "a" / "1.png", RED)
    np.savez(tmp_path / "set.npz", images=RED[np.newaxis], labels=[0])
    np.testing.assert_array_equal(load_folder("~/set").images, load_npz("~/set.npz").images)
    with pytest.raises(ConfigError, match="is called 'zzz'"):
        load_tfds("zzz", data_dir="~/tfds")


def test_an_npz_file_gives_what_it_holds(tmp_path):
    images = RNG.integers(0, 256, (4, 6, 6, 3), np.uint8)
    file = tmp_path / "set.npz"
    np.savez_compressed(file, images=images, labels=[0, 1, 1, 0], class_names=["a", "b"])
    dataset = load_npz(file)
    np.testing.assert_array_equal(dataset.images, images)
    assert (dataset.labels.tolist(), dataset.class_names, dataset.name) == (
        [0, 1, 1, 0],
        ("a", "b"),
        "set",
    )
    assert dataset.images.ctypes.data % 64 == 0  # so JAX, on a CPU, uses it without a copy
    assert load_npz(file, img_size=3, channels=1).images.shape == (4, 3, 3, 1)
    np.savez(file, images=images[:, :, 1:5, 0], labels=np.array([7, 3, 3, 7], np.uint8))
    dataset = load_npz(file)
    np.testing.assert_array_equal(dataset.images[..., 0], images[:, :, 1:5, 0])
    assert (dataset.labels.tolist(), dataset.class_names) == ([1, 0, 0, 1], ("3", "7"))


def test_classes_without_images_are_left_out_and_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    images = np.zeros((3, 4, 4), np.uint8)
    file = tmp_path / "set.npz"
    np.savez(file, images=images, labels=[3, 1, 3], class_names=["w", "x", "y", "z"])
    dataset = load_npz(file)
    assert (dataset.labels.tolist(), dataset.class_names) == ([1, 0, 1], ("x", "z"))
    assert "left out classes without images: w, y" in caplog.text


def test_identity_depends_on_the_data_alone(tmp_path):
    file = tmp_path / "set.npz"
    images = RNG.integers(0, 256, (4, 6, 6, 1), np.uint8)
    arrays = {"images": images, "labels": [0, 1, 1, 0], "class_names": ["a", "b"]}
    np.savez(file, **arrays)
    one = load_npz(file).identity()
    assert one == load_npz(file).identity()
    assert (one["name"], one["n_images"]) == ("set", 4)
    for other in ({"images": 255 - images}, {"labels": [0, 1, 1, 1]}, {"class_names": ["a", "c"]}):
        np.savez(file, **arrays | other)
        assert load_npz(file).identity()["sha256"] != one["sha256"]


class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Six pictures of two sizes in two of three classes, with a second picture and a text each."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "comment": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["disc", "none", "square"]),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._generate_examples(1)}

    def _generate_examples(self, first=0):
        for i in range(first, 6, 1 + first):
            image = np.full((8 + i, 10, 3), 40 * i, np.uint8)
            yield i, {"comment": "", "image": Image.fromarray(image), "label": i % 2 * 2}


def test_a_prepared_data_set_of_tfds_is_read_by_its_name(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    with tfds_files.quiet():
        Shapes(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    for data_dir in (tmp_path, tmp_path / "shapes" / "1.0.0"):
        dataset = load_tfds("shapes", data_dir=data_dir, img_size=4)
        assert dataset.class_names == ("disc", "square")
        values = dataset.images[:, 0, 0, 0]
        assert (dataset.images == values[:, None, None, None]).all()
        assert sorted(values.tolist()) == [40 * i for i in range(6)]
        np.testing.assert_array_equal(dataset.labels, values // 40 % 2)
        assert dataset.source == f"TFDS files in {tmp_path / 'shapes' / '1.0.0'}"
    assert "shapes: left out classes without images: none" in caplog.text
    assert has_test_split("shapes", tmp_path)
    tested = load_own("shapes", split="test", data_dir=tmp_path, img_size=4)
    assert (tested.class_names, tested.labels.tolist()) == (("disc", "square"), [1, 1, 1])
    with monkeypatch.context() as patches:
        patches.setattr(tfds_files, "read_labels", lambda *_: np.array([0, 2, 2]))
        assert load_tfds("shapes", "validation", tmp_path, 4).labels.tolist() == [1, 1, 1]
        patches.setattr(tfds_files, "read_labels", lambda *_: np.array([0, 1]))
        with pytest.raises(DataError, match="1 test class without training images: square"):
            load_tfds("shapes", "validation", tmp_path, 4)


def test_whether_there_is_a_test_part_of_what_is_not_prepared(tmp_path):
    assert has_test_split("fashion_mnist")
    assert not has_test_split("mnist", tmp_path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/www on the loopback: its address. TensorFlow is not installed."""
    monkeypatch.setattr(tfds_named, "find_spec", lambda name: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "www").mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "www")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()
    assert "tensorflow" not in sys.modules


def register(builder, server, folder, monkeypatch):
    """The checksums of the files that the server has, instead of the published ones."""
    infos = {
        f"{server}{path.name}": tfds.download.checksums.compute_url_info(path)
        for path in folder.iterdir()
    }
    monkeypatch.setattr(builder, "url_infos", infos)


def test_mnist_is_downloaded_and_prepared_without_tensorflow(tmp_path, server, monkeypatch, capfd):
    """By TFDS's own builder, on few images."""
    from tensorflow_datasets.image_classification import mnist

    images = RNG.integers(0, 256, (30, 28, 28), np.uint8)
    labels = RNG.integers(0, 10, 30, np.uint8)
    for split in ("train", "t10k"):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = tmp_path / "www" / f"{split}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(idx.header(array.shape) + array.tobytes()))
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 30)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 30)
    monkeypatch.setattr(mnist.MNIST, "URL", server)
    register(mnist.MNIST, server, tmp_path / "www", monkeypatch)
    dataset = load_tfds("mnist", data_dir=tmp_path / "tfds")
    assert_same(dataset, images[..., None], labels)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(mnist.MNIST, "URL", "nowhere")
    np.testing.assert_array_equal(
        load_tfds("mnist", data_dir=tmp_path / "tfds").images, dataset.images
    )


def test_cifar10_is_unpacked_from_its_archive_without_tensorflow(tmp_path, server, monkeypatch):
    """Members of the archive that would lie outside of it are not unpacked."""
    from tensorflow_datasets.image_classification import cifar

    images = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    stock = cifar.Cifar10(data_dir=tmp_path / "tfds")._cifar_info
    rows = b"".join(
        bytes([label]) + image.transpose(2, 0, 1).tobytes()
        for image, label in zip(images, labels, strict=True)
    )
    files = dict.fromkeys([*stock.train_files[:1], *stock.test_files], rows)
    files[stock.label_files[0]] = "\n".join("abcdefghij").encode()
    archive = tmp_path / "www" / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in (*files.items(), ("../../evil", b"x")):
            member = tarfile.TarInfo(stock.prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    wanted = stock._replace(url=server + archive.name, train_files=stock.train_files[:1])
    monkeypatch.setattr(cifar.Cifar10, "_cifar_info", wanted)
    register(cifar.Cifar10, server, tmp_path / "www", monkeypatch)
    dataset = load_tfds("cifar10", data_dir=tmp_path / "tfds")
    assert_same(dataset, images, labels)
    assert dataset.class_names == tuple("abcdefghij")
    assert not list(tmp_path.rglob("evil"))


def assert_same(dataset, images, labels):
    """The same images with the same labels, in any order."""
    given = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    names = dict(enumerate(sorted(set(labels.tolist()))))  # classes without images are left out
    read = {
        i.tobytes(): names[label]
        for i, label in zip(dataset.images, dataset.labels.tolist(), strict=True)
    }
    assert read == given


def never(*_, **__):
    raise AssertionError("something was read")


def test_more_data_than_memory_is_refused_before_reading(tmp_path, monkeypatch):
    file = tmp_path / "set.npz"
    np.savez_compressed(file, images=np.zeros((10, 8, 8), np.uint8), labels=[0] * 10)
    assert file.stat().st_size < 1000
    monkeypatch.setattr(stack, "machine_memory", lambda: 1000.0)
    monkeypatch.setattr(np, "load", never)
    with pytest.raises(DataError, match="set.npz: its compressed arrays unpack to 0.0 GB"):
        load_npz(file)
