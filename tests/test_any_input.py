"""Arbitrary input raises only the library's errors, in three lines at most.

data/test_idx.py has the properties of idx files, test_bad_input.py the ordinary mistakes.
"""

import contextlib
import io
import json
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from cgan_jax.config import TrainConfig, from_dict, leaves, to_dict
from cgan_jax.data import Dataset, debian, load_folder, load_npz, tfds_files
from cgan_jax.data.spec import FASHION_MNIST
from cgan_jax.errors import ConfigError, DataError, RunError
from cgan_jax.interop import load_state_dict
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import label_ids
from experiments.fashion_cgan import Flags
from experiments.shared.settings import settings as settings_of
from experiments.shared.training_flags import parse_job

settings.register_profile("any input", deadline=None, max_examples=200)
any_input = settings(settings.get_profile("any input"))

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, 2**31, 2**32])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@contextlib.contextmanager
def only(kind: type[Exception]):
    """Accept only this kind of error, with a message of one to three lines."""
    caught = None
    try:
        yield
    except kind as error:
        caught = error
    assert caught is None or type(caught) is kind
    assert caught is None or 0 < len(str(caught).splitlines()) <= 3, caught


def table(names, values=JSON):
    """Tables with some of these names, so that their values are read."""
    return st.dictionaries(st.sampled_from(names), values, max_size=4)


SETTINGS = [name.rpartition(".")[2] for name, _ in leaves(TrainConfig())]
CONFIGURATIONS = table(
    [*SETTINGS, "model", "optimizer"], JSON | NUMBERS | table(SETTINGS, JSON | NUMBERS)
)


@given(CONFIGURATIONS | JSON)
@example({"optimizer": {"lr": 10**400}})
@any_input
def test_any_table_is_a_configuration_or_refused(values):
    with only(ConfigError):
        config = from_dict(values)
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
        hash(config)
        config.check_data(60_000)


NAMES = ("T-shirt/top", "Trouser", "Ankle boot")
LABELS = SCALARS | st.sampled_from(NAMES) | st.integers(-1, 3) | st.binary() | JSON


@given(LABELS | st.lists(LABELS), st.lists(st.text(max_size=9), min_size=1) | st.just(NAMES))
@example("9" * 5000, NAMES)
@example([np.zeros((2, 2)), np.zeros((2, 3))], NAMES)
@any_input
def test_any_label_is_a_class_or_refused(labels, names):
    with only(ConfigError):
        ids = label_ids(labels, names)
        assert ids.dtype == np.int32
        assert ids.ndim == 1
        assert all(0 <= class_id < len(names) for class_id in ids)


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_dims=4, max_side=3)) | LABELS)
@any_input
def test_any_array_is_labels_or_refused(labels):
    with only(ConfigError):
        label_ids(labels, NAMES)


@given(
    hnp.arrays(st.just(np.uint8) | hnp.scalar_dtypes(), hnp.array_shapes(max_dims=5)) | JSON,
    hnp.arrays(hnp.integer_dtypes() | hnp.scalar_dtypes(), hnp.array_shapes(max_dims=2)) | JSON,
    st.lists(st.text(max_size=9)) | JSON,
)
@example([[[0]], [[0], [1]]], [0], ["a"])
@example([[[0]]], [0], ["\udcff"])
@any_input
def test_any_arrays_are_a_dataset_or_refused(images, labels, class_names):
    with only(DataError):
        dataset = Dataset.from_arrays(images, labels, class_names)
        assert dataset.images.dtype == np.uint8
        assert dataset.labels.max() < len(dataset.class_names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("any-input")


def as_bytes(value) -> bytes:
    return json.dumps(value).encode()


RUNS = table(["format", "config", "class_names", "environment"], st.just(1) | JSON | CONFIGURATIONS)


@given(st.binary() | (RUNS | JSON).map(as_bytes))
@example(b'{"format": 1, "config": {}, "class_names": ["a"], "environment": "x"}')
@example(b"[" * 99_999)
@any_input
def test_any_file_is_a_configuration_or_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with only(RunError):
        RunFolder.open(folder)


SPLITS = st.lists(table(["name", "shardLengths"], st.just("train") | st.lists(NUMBERS) | JSON))
INFOS = table(["name", "fileFormat", "splits"], st.just("array_record") | JSON | SPLITS)


@given(st.binary() | INFOS.map(as_bytes))
@example(b'{"name": "a", "splits": [{"name": "train", "shardLengths": [Infinity]}]}')
@any_input
def test_any_file_is_a_description_of_tfds_or_refused(folder, content):
    (folder / "dataset_info.json").write_bytes(content)
    with only(DataError):
        tfds_files.n_examples("fashion_mnist", folder)


def packed(arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


SMALL = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4))
ARRAYS = hnp.arrays(st.sampled_from(["u1", "i4", "f4", "U3"]), SMALL)
ARRAYS |= hnp.arrays(st.sampled_from(["u1", "i8", "f4", "U3", "S2"]), st.integers(0, 4))
PACKED = st.dictionaries(
    st.sampled_from(["images", "labels", "class_names"]), ARRAYS, max_size=3
).map(packed)


def picture():
    stream = io.BytesIO()
    Image.effect_noise((9, 9), 50).save(stream, "png")
    return stream.getvalue()


@st.composite
def damaged(draw, files):
    content = bytearray(draw(files))
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))])


@given(st.binary() | PACKED | damaged(PACKED))
@any_input
def test_any_file_is_an_npz_file_of_images_or_refused(folder, content):
    (folder / "set.npz").write_bytes(content)
    with only(DataError):
        load_npz(folder / "set.npz")


@given(st.binary() | damaged(st.just(picture())))
@any_input
def test_any_file_is_a_picture_or_refused(folder, content):
    (folder / "photos" / "a").mkdir(parents=True, exist_ok=True)
    (folder / "photos" / "a" / "1.png").write_bytes(content)
    with only(DataError):
        load_folder(folder / "photos", img_size=8)


CELLS = st.sampled_from(["a.png", "a", "b/a", "x", "", ",", "\n", "\t", '"', "\r"]) | st.text(
    max_size=4
)


@given(st.binary() | st.lists(CELLS).map(lambda cells: "".join(cells).encode()))
@any_input
def test_any_table_names_the_classes_or_is_refused(folder, content):
    (folder / "table").mkdir(exist_ok=True)
    (folder / "table" / "a.png").write_bytes(picture())
    (folder / "table" / "labels.csv").write_bytes(content)
    with only(DataError):
        assert len(load_folder(folder / "table")) == 1


LABEL = st.sampled_from(["a.png", "a", 0, 1, 10**400]) | JSON
LABELLED = table(["labels", "class_names"], st.lists(st.lists(LABEL, max_size=3) | JSON) | JSON)


@given(st.binary() | (LABELLED | JSON).map(as_bytes))
@example(b'{"labels": [["a.png", 0]], "class_names": ["a", "a"]}')
@example(b"[" * 99_999)
@any_input
def test_any_json_names_the_classes_or_is_refused(folder, content):
    (folder / "labelled").mkdir(exist_ok=True)
    (folder / "labelled" / "a.png").write_bytes(picture())
    (folder / "labelled" / "dataset.json").write_bytes(content)
    with only(DataError):
        assert len(load_folder(folder / "labelled")) == 1


@given(st.binary(), table(["a", "__metadata__"], table(["dtype", "shape", "data_offsets"])) | JSON)
@any_input
def test_any_file_holds_weights_or_is_refused(folder, content, header):
    head, file = as_bytes(header), folder / "weights.safetensors"
    for data in (content, len(head).to_bytes(8, "little") + head + content):
        file.write_bytes(data)
        with only(DataError):
            load_state_dict(file)


NAMES = [*Flags.__dataclass_fields__, *(each.flag for each in settings_of(PRESETS["report"]))]
FLAGS = st.sampled_from([f"--{name.replace('_', '-')}" for name in NAMES])


@pytest.mark.slow
@given(st.lists(FLAGS | st.text(max_size=9) | (st.integers() | st.floats()).map(str)))
@settings(any_input, max_examples=50)
def test_any_flags_are_taken_or_refused(words):
    streams = [io.StringIO(), io.StringIO()]
    code = 0
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            with only(DataError), only(ConfigError):
                parse_job(Flags, "experiments.fashion_cgan", words)
        except SystemExit as end:
            code = end.code
    if code:
        assert (code, streams[0].getvalue()) == (2, "")
        assert 0 < len(streams[1].getvalue().splitlines()) <= 3


# An archive: names that lead outside, absolute names, links and devices, intact or damaged

WANTED = f".{FASHION_MNIST.debian_dir}/{FASHION_MNIST.splits['train'].images.name}.gz"
# All of them within PLACE, so that broken code does no harm.
PLACES = ["../../evil", "PLACE/evil", "./link", "./link/in", "a/../../b", WANTED]
MEMBERS = st.tuples(
    st.sampled_from(PLACES) | st.text(max_size=9).map(lambda name: name.replace("/", "-")),
    st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]),
    st.sampled_from(["PLACE", "..", WANTED, "PLACE/secret"]),
    st.binary(max_size=9),
)


def archive(place: str, members) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, link, content in members:
            member = tarfile.TarInfo(name.replace("PLACE", place))
            member.type, member.size = kind, len(content)
            member.linkname = link.replace("PLACE", place)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@given(
    st.lists(MEMBERS, max_size=4), st.integers(0, 3000), st.binary(max_size=9), st.integers(0, 600)
)
@any_input
def test_any_archive_is_read_or_refused_and_writes_nowhere(members, at, put_in, left_out):
    with TemporaryDirectory() as place:
        package = Path(place, "a", "b", "package.tar")
        package.parent.mkdir(parents=True)
        data = archive(place, members)
        package.write_bytes(data[:at] + put_in + data[at + left_out :])
        with only(DataError), contextlib.chdir(package.parent):
            debian._unpack(FASHION_MNIST, package)
        left = sorted(path.name for path in Path(place).rglob("*"))
        wanted = [name for name in left if name == Path(WANTED).name]
        assert left == ["a", "b", "package", "package.tar", *wanted]
