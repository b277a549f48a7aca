"""The file that a command is asked to write, checked before the work for it begins."""

import os
from pathlib import Path

from cgan_jax.errors import RunError
from cgan_jax.files import check_path


def check_output(file: Path, overwrite: bool) -> None:
    """See whether a file can be written, without writing anything.

    Raises:
        RunError: it exists and is not a file to `overwrite`, or its folder cannot be written.
    """
    check_path(file)
    if file.exists() and not (overwrite and file.is_file()):
        raise RunError(
            f"{file} exists already\nexpected a new file\n"
            "Name another, or replace a file with --overwrite."
        )
    nearest = next(folder for folder in file.absolute().parents if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise RunError(
            f"{file} cannot be written: {nearest} is not a folder that you may write to\n"
            "expected a writable folder\nName another."
        )
