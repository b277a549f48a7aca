"""Folders of pictures: label files, test parts, transparency, grey, broken files, the cache.

test_own.py has pictures of 8 bits in sub-folders; tests/experiments/test_bad_input.py what is
refused.
"""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from cgan_jax.data import (
    crops,
    folder,
    has_test_split,
    load_folder,
    load_npz,
    load_own,
    picture_cache,
    stack,
)
from cgan_jax.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, caplog):
    """A cache of the test's own, for what takes any time to read."""
    monkeypatch.setenv("CGAN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(picture_cache, "_WORTH_SECONDS", 0)
    caplog.set_level(logging.INFO)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)


def grey(*values):
    """Grey pictures of 4x4 pixels, each of one value."""
    return [np.full((4, 4), value, np.uint8) for value in values]


def values_of(dataset):
    """The class of each value in a data set of such pictures."""
    names = [dataset.class_names[i] for i in dataset.labels]
    return dict(zip(dataset.images[:, 0, 0, 0].tolist(), names, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "file,class\nimg/a.png,cat\nimg/x/b.png,dog\n",
        '\ufeffimg/a.png,"cat"\r\n\r\nimg\\x\\b.png,dog\r\n',
        "name;kind\nb.png;dog\n./img/a.png;cat",
        "id\tbreed\na\tcat \nb\t dog",
    ],
)
def test_a_table_of_labels_names_pictures_by_path_or_name(tmp_path, caplog, text):
    for name, picture in zip(("a", "x/b", "c"), grey(1, 2, 3), strict=True):
        save(tmp_path / "set" / "img" / f"{name}.png", picture)
    (tmp_path / "set" / "labels.csv").write_bytes(text.encode())
    dataset = load_folder(tmp_path / "set")
    assert values_of(dataset) == {1: "cat", 2: "dog"}
    assert "left out 1 picture without a label: img/c.png" in caplog.text
    assert "there is only one image of cat, dog" in caplog.text


def test_a_name_that_two_pictures_have_is_not_enough(tmp_path):
    for name, picture in zip(("x/a", "y/a"), grey(1, 2), strict=True):
        save(tmp_path / "set" / f"{name}.png", picture)
    (tmp_path / "set" / "labels.csv").write_text("x/a.png,1\na.png,2")
    with pytest.raises(DataError, match=r"labels of 1 missing picture: a\.png"):
        load_folder(tmp_path / "set")


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, ("2", "10")), ([*"cbadefghij", "A b"], ("a", "A b"))],
)
def test_labels_as_stylegans(tmp_path, names, expected):
    for name, picture in zip(("00/1", "00/2", "01/1"), grey(1, 2, 3), strict=True):
        save(tmp_path / "set" / f"{name}.png", picture)
    labels = [["00/1.png", 10], ["01/1.png", 2], ["00/2.png", 10]]
    content = {"labels": labels} | ({"class_names": names} if names else {})
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(content))
    dataset = load_folder(tmp_path / "set")
    assert dataset.class_names == expected
    assert values_of(dataset) == {1: expected[1], 2: expected[1], 3: expected[0]}


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_the_test_part_has_the_classes_of_the_training_part(tmp_path, caplog, test):
    """And its size, channels and background; whatever its own pictures are like."""
    root = tmp_path / "set"
    light = np.zeros((4, 4, 4), np.uint8)
    light[1:3, 1:3] = 255
    for name in ("10", "9", "8"):
        save(root / "train" / name / "1.png", light)
    clear = np.zeros((9, 8, 2), np.uint8)
    save(root / test / "10" / "1.png", clear)
    save(root / test / "9" / "1.png", clear)
    (root / "notes").mkdir()
    dataset = load_folder(root)
    assert (dataset.class_names, len(dataset)) == (("8", "9", "10"), 3)
    assert dataset.source == f"the folder {root / 'train'}"
    assert has_test_split(str(root))
    assert caplog.text.count(f"reading train and {test}, not notes") == 1
    tested = load_own(str(root), split="test")
    assert (tested.class_names, tested.labels.tolist()) == (dataset.class_names, [1, 2])
    assert tested.images.shape == (2, 4, 4, 3)
    assert (tested.images == 0).all()  # black, as suits the training pictures


def test_pictures_without_classes_are_not_a_test_part(tmp_path):
    save(tmp_path / "set" / "train" / "a" / "1.png", *grey(1))
    save(tmp_path / "set" / "test" / "1.png", *grey(1))
    assert load_folder(tmp_path / "set").class_names == ("a",)
    assert not has_test_split(str(tmp_path / "set"))
    (tmp_path / "set" / "test" / "labels.csv").write_text("1.png,a")
    assert load_folder(tmp_path / "set", split="test").labels.tolist() == [0]


def test_a_class_may_be_called_train(tmp_path, caplog):
    for name in ("train", "test"):
        save(tmp_path / "set" / name / "1.png", *grey(1))
    save(tmp_path / "set" / "train" / "others" / "1.png", *grey(1))
    assert load_folder(tmp_path / "set").class_names == ("test", "train")
    assert "read as classes: test, train; a part of the data would have one sub-" in caplog.text
    assert not has_test_split(str(tmp_path / "set"))


def test_arrays_have_a_test_part(tmp_path):
    file, images = tmp_path / "set.npz", np.stack(grey(1, 2, 3))
    arrays = {"images": images, "labels": [7, 3, 5]}
    np.savez(file, **arrays)
    assert not has_test_split(str(file))
    test = {"test_images": np.zeros((2, 8, 6, 3), np.uint8), "test_labels": [7, 5]}
    np.savez(file, **arrays, **test)
    assert has_test_split(str(file))
    dataset = load_own(str(file), split="test")
    assert (dataset.class_names, dataset.labels.tolist()) == (("3", "5", "7"), [2, 1])
    assert dataset.images.shape == (2, 4, 4, 1)
    np.savez(file, **arrays, **test, class_names=list("abcdefgh"))
    assert load_npz(file, split="test").class_names == load_npz(file).class_names
    np.savez(file, **arrays, **test | {"test_labels": [7, 4]})
    with pytest.raises(DataError, match="1 test class without training images: 4"):
        load_npz(file, split="test")


SHAPE = np.zeros((6, 6), bool)
SHAPE[2:4, 2:4] = True


@pytest.mark.parametrize("as_npz", [False, True])
@pytest.mark.parametrize(
    ("colour", "background", "expected"),
    [(40, "auto", 255), (250, "auto", 0), (250, "white", 255), (40, "black", 0)],
)
def test_what_is_transparent_contrasts_or_becomes_what_is_asked_for(
    tmp_path, caplog, as_npz, colour, background, expected
):
    pixels = np.where(SHAPE[..., None], [colour] * 3 + [255], [128, 128, 128, 0]).astype(np.uint8)
    save(tmp_path / "set" / "a" / "1.png", pixels)
    np.savez(tmp_path / "set.npz", images=pixels[None], labels=[0])
    path = str(tmp_path / ("set.npz" if as_npz else "set"))
    image = load_own(path, background=background).images[0]
    assert (image == np.where(SHAPE, colour, expected)[..., None]).all()
    told = f"transparent becomes {'black' if colour == 250 else 'white'}" in caplog.text
    assert told == (background == "auto")
    dataset = load_own(path, background=background)
    assert {"white": 255, "black": 0}[dataset.background] == expected
    opaque = load_own(path, channels=4)
    assert opaque.background is None
    np.testing.assert_array_equal(opaque.images[0], pixels)
    assert load_own(path, channels=4, img_size=3).images[0, 0, 0, 3] < 3


@pytest.mark.parametrize(
    ("arrays", "low", "high"),
    [
        ([np.int32([[0, 51]]), np.int32([[255, 102]])], 0, 255),
        ([np.int32([[0, 51]]), np.int32([[256, 65_535]])], 0, 65_535),
        ([np.int32([[0, 70_000]]), np.int32([[-70_000, 7]])], -70_000, 70_000),
        ([np.float32([[0, 0.2]]), np.float32([[1, 0.4]])], 0, 1),
        ([np.float32([[0, 0.2]]), np.float32([[1.5, 2]])], 0, 255),
        ([np.float32([[-3, 1]]), np.float32([[0, 2]])], -3, 2),
        ([np.uint16([[0, 9]]), np.uint16([[3000, 8]])], 0, 65_535),
    ],
)
def test_grey_of_more_bits_is_scaled_by_the_whole_data_set(tmp_path, caplog, arrays, low, high):
    for i, array in enumerate(arrays):
        save(tmp_path / "set" / "a" / f"{i}.tif", array)
    dataset = load_folder(tmp_path / "set", img_size=(1, 2))
    expected = np.rint((np.stack(arrays).astype(float) - low) * (255 / (high - low)))
    np.testing.assert_array_equal(dataset.images[..., 0], expected)
    assert f"grey from {low:g}..{high:g}" in caplog.text


@pytest.mark.parametrize("mode", ["gif", "webp", "tif"])
@pytest.mark.parametrize("is_grey", [True, False])
def test_grey_in_a_mode_of_colour_is_grey(tmp_path, mode, is_grey):
    """A palette, CMYK, and a format without grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8).repeat(3, axis=2)
    if not is_grey:
        pixels[:4, :4, 0] = 255 - pixels[:4, :4, 0]
    picture = Image.fromarray(pixels)
    picture = picture.convert("CMYK") if mode == "tif" else picture
    picture = picture.quantize(64) if mode == "gif" else picture
    (tmp_path / "set" / "a").mkdir(parents=True)
    picture.save(tmp_path / "set" / "a" / f"1.{mode}")
    save(tmp_path / "set" / "b" / "1.png", pixels[..., 0])
    with Image.open(tmp_path / "set" / "a" / f"1.{mode}") as saved:
        assert saved.mode in ("P", "CMYK", "RGB")
    assert load_folder(tmp_path / "set").images.shape[-1] == (1 if is_grey else 3)


def test_a_picture_need_not_be_square(tmp_path, caplog):
    wide = np.random.default_rng(0).integers(0, 256, (20, 60), np.uint8)
    save(tmp_path / "set" / "a" / "1.png", wide)
    save(tmp_path / "set" / "a" / "2.png", np.ascontiguousarray(wide.T))
    for size, crop in (
        ((20, 30), wide[:, 15:45]),
        ((20, 10), wide[:, 25:35]),
        ((10, 60), wide[5:15]),
    ):
        images = load_folder(tmp_path / "set", img_size=size).images[..., 0]
        np.testing.assert_array_equal(images[0], crop)
        assert images[1].std() > 5
        images = load_folder(tmp_path / "set", img_size=size[::-1]).images[..., 0]
        np.testing.assert_array_equal(images[1], crop.T)
    assert load_folder(tmp_path / "set").images.shape[1:] == (20, 20, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for i, kind in enumerate(("png", "webp")):
        save(tmp_path / "turned" / "a" / f"{i}.{kind}", wide, exif=exif, lossless=True)
    caplog.clear()
    for size in ((60, 20), None):  # theirs
        turned = load_folder(tmp_path / "turned", img_size=size).images[..., 0]
        assert (turned == np.rot90(wide, -1)).all()
    assert "resized" not in caplog.text
    save(tmp_path / "long" / "a" / "1.png", np.zeros((10, 129), np.uint8))
    assert load_folder(tmp_path / "long").images.shape[1:] == (10, 10, 1)


def test_unreadable_files_can_be_left_out(tmp_path, caplog):
    for i, picture in enumerate(grey(*range(6))):
        save(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", picture)
    for i in (0, 3):
        file = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        file.write_bytes(file.read_bytes()[: 40 if i else 10])
    (tmp_path / "set" / "b" / "9.png").symlink_to("nothing")
    reasons = (
        r"3 pictures cannot be read: a/0\.png \(.*, b/3\.png \(.*, b/9\.png \(\[Errno 2\] No such"
    )
    with pytest.raises(DataError, match=reasons):
        load_folder(tmp_path / "set")
    progress = []
    dataset = load_folder(
        tmp_path / "set", skip_unreadable=True, on_progress=lambda *done: progress.append(done)
    )
    assert values_of(dataset) == {2: "a", 4: "a", 1: "b", 5: "b"}
    assert "left out 3 pictures that cannot be read: a/0.png (" in caplog.text
    assert progress[-1] == (7, 7)
    caplog.clear()
    again = load_folder(tmp_path / "set", skip_unreadable=True)  # from the cache
    assert again.identity() == dataset.identity()
    assert "from the cache" in caplog.text
    assert "left out 3 pictures that cannot be read: a/0.png (" in caplog.text


# The cache


@pytest.fixture
def pictures(tmp_path):
    """A folder of two pictures, of the values 1 and 2, in files of one length."""
    for i, picture in enumerate(grey(1, 2)):
        save(tmp_path / "set" / "ab"[i] / "1.bmp", picture)
    return tmp_path / "set"


def entries(tmp_path):
    return sorted((tmp_path / "cache" / "pictures").iterdir())


def test_what_has_not_changed_is_not_decoded_again(pictures, tmp_path, monkeypatch, caplog):
    dataset = load_folder(pictures)
    (entry,) = entries(tmp_path)
    with monkeypatch.context() as patches:
        patches.setattr(folder, "_read", lambda *_: pytest.fail("it was read again"))
        again = load_folder(pictures)
        load_folder(pictures, img_size=4, channels=1)  # as was decided
        patches.chdir(tmp_path)
        load_folder("set")
    for options in ({"channels": 3}, {"channels": 4}, {"channels": 3, "background": "black"}):
        changed = load_folder(pictures, **options)
        assert changed.images.shape[-1] == options["channels"]
    assert changed.background == "black"
    load_folder(pictures)
    assert again.identity() == dataset.identity()
    assert (again.class_names, again.source) == (dataset.class_names, dataset.source)
    save(pictures / "a" / "1.bmp", *grey(7))
    os.utime(pictures / "a" / "1.bmp", ns=(1, 1))
    assert values_of(load_folder(pictures)) == {7: "a", 2: "b"}
    (pictures / "a" / "1.bmp").rename(pictures / "b" / "2.bmp")
    save(pictures / "a" / "1.bmp", *grey(8))
    assert values_of(load_folder(pictures)) == {8: "a", 2: "b", 7: "b"}
    assert load_folder(pictures, img_size=2).images.shape == (3, 2, 2, 1)
    assert entries(tmp_path) == [entry]  # each replaced the one before


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 is not enough", None])
def test_a_broken_cache_costs_a_line(pictures, tmp_path, caplog, damage):
    load_folder(pictures)
    (entry,) = entries(tmp_path)
    content = bytearray(entry.read_bytes())
    content[content.index(b"NUMPY", 900) + 130] ^= 1  # in the images
    entry.write_bytes(content if damage is None else damage)
    assert values_of(load_folder(pictures)) == {1: "a", 2: "b"}
    assert "the cached copy of" in caplog.text
    caplog.clear()
    assert values_of(load_folder(pictures)) == {1: "a", 2: "b"}
    assert "from the cache" in caplog.text


def test_without_a_place_for_the_cache_pictures_are_read(pictures, tmp_path, caplog):
    (tmp_path / "cache").write_text("in the way")
    assert values_of(load_folder(pictures)) == {1: "a", 2: "b"}
    assert "cannot keep the images" in caplog.text


def test_entries_of_folders_that_are_gone_are_removed(pictures, tmp_path):
    load_folder(pictures)
    pictures.rename(tmp_path / "moved")
    unfinished = tmp_path / "cache" / "pictures" / ".other.npz"
    unfinished.touch()  # by another process
    load_folder(tmp_path / "moved")
    unfinished.unlink()
    assert len(entries(tmp_path)) == 1


def test_what_is_read_at_once_is_not_kept(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(picture_cache, "_WORTH_SECONDS", 60)
    load_folder(pictures)
    assert not (tmp_path / "cache").exists()
    assert picture_cache.load(pictures, "train", "mark", crops.NATIVE) is None


def test_each_part_of_a_folder_is_kept(tmp_path, caplog):
    for part in ("train", "test"):
        save(tmp_path / "set" / part / "a" / "1.png", *grey(1))
    for split in ("train", "test", "train", "test"):
        load_folder(tmp_path / "set", split=split)
    assert len(entries(tmp_path)) == 2
    assert caplog.text.count("from the cache") == 2


def test_images_begin_where_jax_uses_them_without_a_copy():
    images = [stack.empty_images((1, n, n, 3)) for n in range(1, 400, 9)]
    assert all(array.ctypes.data % 64 == 0 for array in images)
