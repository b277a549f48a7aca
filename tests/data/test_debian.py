"""The Debian package as a source: fake apt-get and dpkg-deb, and one real run of both."""

import dataclasses
import io
import logging
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from cgan_jax.data import debian, idx, load
from cgan_jax.data.spec import FASHION_MNIST, SplitSpec
from cgan_jax.errors import DataError


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Commands:
    """A folder first on PATH whose apt-get and dpkg-deb are shell scripts."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls = folder / "calls"
        self.apt("case $* in *download*) : > package.deb;; esac")
        self.dpkg("exit 3")

    def apt(self, script: str) -> None:
        self._write("apt-get", f'echo "$PWD $*" >> {self.calls}\n{script}')

    def dpkg(self, script: str) -> None:
        self._write("dpkg-deb", script)

    def serve(self, members: dict[str, bytes | str]) -> None:
        """Let dpkg-deb print a tar archive: bytes are files, text is the target of a link."""
        archive = self.folder / "package.tar"
        with tarfile.open(archive, "w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                if isinstance(content, str):
                    member.type, member.linkname = tarfile.SYMTYPE, content
                    tar.addfile(member)
                else:
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        self.dpkg(f"cat {archive}")

    def _write(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return Commands(folder)


def fetch(spec):
    """Every split of the package."""
    with tempfile.TemporaryDirectory(prefix="cgan_jax-") as root:
        folder = debian.fetch(spec, Path(root))
        files = {split: idx.find(spec, split, folder) for split in spec.splits}
        return {split: idx.read(spec, split, pair) for split, pair in files.items()}


def members(tiny):
    """The files of the package, without its directories."""
    return {
        f".{tiny.spec.debian_dir}/{path.name}": path.read_bytes() for path in tiny.idx_dir.iterdir()
    }


def test_reads_both_splits_and_leaves_nothing(tiny, commands, temporary):
    commands.serve(members(tiny))
    splits = fetch(tiny.spec)
    assert splits.keys() == {"train", "test"}
    for split, arrays in splits.items():
        np.testing.assert_array_equal(arrays.images, tiny.arrays[split].images)
        np.testing.assert_array_equal(arrays.labels, tiny.arrays[split].labels)
    assert not os.listdir(temporary)
    update, download = commands.calls.read_text().splitlines()
    assert update.endswith(" update")
    assert download.endswith(" download dataset-fashion-mnist")


def test_apt_writes_only_to_a_temporary_folder(tiny, commands, temporary, tmp_path):
    commands.apt(
        f"cat $(echo $1 | cut -d= -f2) > {tmp_path}/config\n"
        "case $* in *download*) : > package.deb;; esac"
    )
    commands.serve(members(tiny))
    fetch(tiny.spec)
    config = (tmp_path / "config").read_text().splitlines()
    folders = [
        line.split('"')[1] for line in config if line.startswith("Dir::") and "::status" not in line
    ]
    assert len(folders) == 4
    assert all(folder.startswith(f"{temporary}/") for folder in folders)
    assert commands.calls.read_text().count(f"{temporary}/") == 4


def test_load_keeps_both_splits_of_one_download(tiny, commands, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("cgan_jax.data.tfds_download.prepare", refuse)
    commands.serve(members(tiny))
    train = load()
    np.testing.assert_array_equal(train.images[..., 0], tiny.arrays["train"].images)
    assert train.source == "the Debian package dataset-fashion-mnist, fetched with apt-get"
    calls = commands.calls.read_text()
    np.testing.assert_array_equal(load(split="test").labels, tiny.arrays["test"].labels)
    assert commands.calls.read_text() == calls
    assert "Tiny-MNIST not from a download through TFDS: no network" in caplog.messages


def refuse(*_):
    raise DataError("no network")


def test_other_systems_raise_a_data_error(tiny, commands, monkeypatch):
    monkeypatch.setenv("PATH", str(commands.folder))
    for name in ("apt-get", "dpkg-deb"):
        (commands.folder / name).rename(commands.folder / "away")
        with pytest.raises(DataError, match="has no apt-get or no dpkg-deb"):
            fetch(tiny.spec)
        (commands.folder / "away").rename(commands.folder / name)


APT_FAILURES = {
    "no package": ("echo W: hm >&2; echo E: Unable to locate >&2; exit 100", "E: Unable to locate"),
    "no message": ("exit 7", "exit status 7"),
    "no file": ("exit 0", "it left no package"),
    "update": ("case $* in *update*) echo E: no net >&2;; esac; exit 100", "E: no net"),
}


@pytest.mark.parametrize(("script", "message"), APT_FAILURES.values(), ids=APT_FAILURES)
def test_apt_failures_give_one_line(tiny, commands, temporary, script, message):
    commands.apt(script)
    with pytest.raises(DataError, match=f"could not download .*{message}$") as caught:
        fetch(tiny.spec)
    assert len(str(caught.value).splitlines()) == 1
    assert not os.listdir(temporary)


def test_a_failed_update_of_other_archives_does_not_matter(tiny, commands):
    commands.apt("case $* in *update*) exit 100;; *download*) : > package.deb;; esac")
    commands.serve(members(tiny))
    assert fetch(tiny.spec)


def test_a_hanging_apt_is_killed_with_its_helpers(tiny, commands, monkeypatch, tmp_path):
    monkeypatch.setattr(debian, "_UPDATE_SECONDS", 0.3)
    monkeypatch.setattr(debian, "_DOWNLOAD_SECONDS", 0.3)
    commands.apt(f"(sleep 1; : > {tmp_path}/outlived) &\nsleep 30")
    start = time.monotonic()
    with pytest.raises(DataError, match="no result after 0 s"):
        fetch(tiny.spec)
    assert time.monotonic() - start < 5
    time.sleep(1)
    assert not (tmp_path / "outlived").exists()


def test_a_program_that_cannot_run_is_a_data_error(tiny, commands, monkeypatch):
    monkeypatch.setattr("cgan_jax.data.tfds_download.prepare", refuse)
    monkeypatch.setenv("PATH", str(commands.folder))
    (commands.folder / "apt-get").write_text("#!/no/such/shell\n")
    with pytest.raises(DataError, match="the Debian package .*apt-get"):
        load()


def test_a_package_that_dpkg_cannot_read(tiny, commands):
    commands.dpkg("echo dpkg-deb: error: not a package >&2; exit 2")
    with pytest.raises(DataError, match="cannot read package.deb: dpkg-deb: error: not a package"):
        fetch(tiny.spec)


@pytest.mark.parametrize("output", [b"", b"junk" * 500])
def test_a_package_without_a_tar_archive(tiny, commands, output):
    (commands.folder / "junk").write_bytes(output)
    commands.dpkg(f"cat {commands.folder}/junk")
    with pytest.raises(DataError, match="does not hold a tar archive"):
        fetch(tiny.spec)


def test_members_that_reach_outside_are_never_written_nor_followed(
    tiny, commands, temporary, tmp_path
):
    good = members(tiny)
    name = next(iter(good))
    secret = tmp_path / "secret"
    secret.write_bytes(good[name])
    evil = {f"{tmp_path}/absolute": b"x", "../../climbed": b"x", "./link": "/", "./link/in": b"x"}
    commands.serve(evil | good | {name: str(secret)})
    with pytest.raises(DataError, match=f"lacks {Path(name).name}"):
        fetch(tiny.spec)
    commands.serve(evil | good)
    assert fetch(tiny.spec)
    assert not (tmp_path / "absolute").exists()
    assert not list(tmp_path.rglob("climbed"))
    assert not os.listdir(temporary)


def test_broken_contents_are_refused(tiny, commands):
    for name, data in members(tiny).items():
        commands.serve(members(tiny) | {name: data[:-9]})
        with pytest.raises(DataError, match=f"{Path(name).name} is damaged"):
            fetch(tiny.spec)
    images, labels = tiny.spec.splits["test"]
    split = SplitSpec(images._replace(sha256="0" * 64), labels)
    spec = dataclasses.replace(tiny.spec, splits={**tiny.spec.splits, "test": split})
    commands.serve(members(tiny))
    with pytest.raises(DataError, match="are not Tiny-MNIST's"):
        fetch(spec)


@pytest.mark.slow
def test_the_real_package():
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        with pytest.raises(DataError, match="has no apt-get"):
            fetch(FASHION_MNIST)
        return
    splits = fetch(FASHION_MNIST)
    assert splits["train"].images.shape == (60_000, 28, 28)
    assert splits["test"].labels.shape == (10_000,)
