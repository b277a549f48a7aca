"""Images that stay on disk: what is mapped, checked, chosen and held out there."""

import numpy as np
import pytest

from cgan_jax.data import DatasetSource, hold_out, load_npz, mapped, stack
from cgan_jax.errors import DataError
from cgan_jax.training.step import run_keys


def test_images_beyond_half_the_memory_stay_on_disk(tmp_path, monkeypatch):
    """Those of an uncompressed file where they are, and decoded ones in a file of their own."""
    images = np.arange(640).astype(np.uint8).reshape(10, 8, 8)
    np.savez(tmp_path / "set.npz", images=images, labels=[0, 1] * 5)
    monkeypatch.setattr(stack, "machine_memory", lambda: 1000.0)
    monkeypatch.setenv("CGAN_JAX_CACHE", str(tmp_path))
    dataset = load_npz(tmp_path / "set.npz")
    np.testing.assert_array_equal(dataset.images[..., 0], images)
    assert mapped.is_on_disk(dataset.images)
    in_colour = load_npz(tmp_path / "set.npz", img_size=8, channels=3)
    np.testing.assert_array_equal(in_colour.images, np.stack([images] * 3, -1))
    assert mapped.is_on_disk(in_colour.images)


def test_a_compressed_file_is_read_into_memory(tmp_path):
    images = np.arange(640).astype(np.uint8).reshape(10, 8, 8)
    np.savez_compressed(tmp_path / "set.npz", images=images, labels=[0, 1] * 5)
    dataset = load_npz(tmp_path / "set.npz")
    np.testing.assert_array_equal(dataset.images[..., 0], images)
    assert not mapped.is_on_disk(dataset.images)


def test_a_changed_byte_of_a_mapped_file_is_noticed(tmp_path):
    file = tmp_path / "set.npz"
    np.savez(file, images=np.full((10, 8, 8), 77, np.uint8), labels=[0, 1] * 5)
    load_npz(file)
    content = bytearray(file.read_bytes())
    content[content.index(bytes([77] * 64)) + 20] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        load_npz(file)


def test_rows_of_images_on_disk_are_held_out_without_a_copy(tmp_path, monkeypatch):
    """As an array they are the same images, indexed in any way, with the same identity."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(40) % 4)
    whole = load_npz(tmp_path / "set.npz")
    expected = hold_out(whole, 0.25)
    monkeypatch.setattr(mapped, "LARGE", 1)
    parts = hold_out(whole, 0.25, in_place=True)
    for part, same in zip(parts, expected, strict=True):
        assert isinstance(part.images, mapped.MappedRows)
        assert part.identity() == same.identity()
        assert part.images.nbytes == same.images.nbytes
        np.testing.assert_array_equal(part.images, same.images)
        np.testing.assert_array_equal(part.images[1:3, :, 2], same.images[1:3, :, 2])
        np.testing.assert_array_equal(part.images[2, 1, :, 0], same.images[2, 1, :, 0])
        np.testing.assert_array_equal(part.images[[3, 1], :, [0]], same.images[[3, 1], :, [0]])
        np.testing.assert_array_equal(part.images[:, [0, -1]], same.images[:, [0, -1]])
        batches, others = (
            DatasetSource(each, 3, run_keys(0).order, placement="host").batches(0, 2)
            for each in (part, same)
        )
        np.testing.assert_array_equal(batches.images, others.images)
        np.testing.assert_array_equal(batches.labels, others.labels)
