"""Atomic writes, and errors that name the file."""

import errno

import pytest

from cgan_jax.errors import RunError
from cgan_jax.files import atomic_write, write_errors


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    (tmp_path / "a.png").write_text("old")
    with atomic_write(tmp_path / "a.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("new")
        assert (tmp_path / "a.png").read_text() == "old"
    assert (tmp_path / "a.png").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_missing_folders_are_created(tmp_path):
    with atomic_write(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "new" / "a.txt").read_text() == "x"


def test_a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail_in_the_middle():
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("hal")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError) as caught:
        fail_in_the_middle()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert "a.txt cannot be written: No space left on device" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(ZeroDivisionError), write_errors(tmp_path):
        1 / 0  # noqa: B018
