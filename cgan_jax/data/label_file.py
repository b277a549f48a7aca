"""A file that names the class of each picture: labels.csv, or StyleGAN's dataset.json.

listing.py finds the pictures.
"""

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cgan_jax.checks import (
    as_int,
    check_class_names,
    errors_as,
    first_names,
    one_line,
    plural,
    short_repr,
)
from cgan_jax.data.class_names import check_different, in_order
from cgan_jax.errors import DataError

CSV, JSON = "labels.csv", "dataset.json"
_log = logging.getLogger("cgan_jax")


def find(folder: Path, names: Iterable[str]) -> Path | None:
    """The label file among the names of the files in a folder, if there is one.

    Raises:
        DataError: there are two.
    """
    found = [name for name in names if name in (CSV, JSON)]
    if len(found) > 1:
        raise DataError(
            f"{folder} holds both {CSV} and {JSON}\nexpected one file of labels\nRemove one."
        )
    return folder / found[0] if found else None


def read(file: Path, pictures: Sequence[str]) -> dict[str, list[str]]:
    """The pictures of each class, in the order of classes.

    Args:
        file: the label file. It may name a picture by its path from the folder of the file, or,
            where no other has the same, by its name alone, with or without its suffix.
        pictures: the paths of all pictures in that folder. Those without a label are left out,
            which is logged.

    Raises:
        DataError: the file cannot be read, or it names pictures that are not there, or one
            picture twice with different classes.
    """
    rows, class_names = _read_json(file) if file.name == JSON else (_read_csv(file), None)
    resolve = _resolver(file.parent, pictures)
    if file.name == CSV and rows and resolve(rows[0][0]) is None and "." not in rows[0][0]:
        del rows[0]  # a header
    if missing := [name for name, _ in rows if resolve(name) is None]:
        is_swapped = all(resolve(class_name) for _, class_name in rows)
        hint = "Swap the columns." if is_swapped else "Correct the names, or remove these labels."
        raise DataError(
            f"{file} has labels of {plural(len(missing), 'missing picture')}: "
            f"{first_names(missing)}\nexpected paths of pictures from {file.parent}, each first "
            f"in its line and followed by its class\n{hint}"
        )
    labels: dict[str, str] = {}
    twice = []
    for name, class_name in rows:
        path = resolve(name)
        assert path is not None
        if labels.setdefault(path, class_name) != class_name:
            twice.append(name)
    if twice:
        raise DataError(
            f"{file} gives {plural(len(twice), 'picture')} two classes: {first_names(twice)}\n"
            "expected one class for each\nRemove the wrong labels."
        )
    if not labels:
        raise DataError(f"{file} holds no label\nexpected one for each picture\nAdd them.")
    if unlabelled := [name for name in pictures if name not in labels]:
        names = [os.path.relpath(name, file.parent) for name in unlabelled]
        what = plural(len(names), "picture")
        _log.info("%s: left out %s without a label: %s", file, what, first_names(names))
    used = set(labels.values())
    order = [name for name in class_names if name in used] if class_names else in_order(used)
    classes: dict[str, list[str]] = {name: [] for name in check_class_names(order, str(file))}
    for path in sorted(labels):
        classes[labels[path]].append(path)
    return classes


def _resolver(folder: Path, pictures: Sequence[str]) -> Callable[[str], str | None]:
    """A function that finds the path of a picture by what a label file calls it."""
    paths: dict[str, str | None] = {}  # None where several have the name
    exact = {}
    for path in pictures:
        place = PurePosixPath(os.path.relpath(path, folder).replace(os.sep, "/"))
        exact[str(place)] = path
        for name in {str(place.with_suffix("")), place.name, place.stem}:
            paths[name] = None if name in paths else path
    paths |= exact
    return lambda name: paths.get(str(PurePosixPath(name.replace("\\", "/"))))


def _read_csv(file: Path) -> list[tuple[str, str]]:
    """The file name and the class of each line, a header included."""
    then = (
        "expected two columns, file name and class, separated by commas, in UTF-8\n"
        "Save it so, with quotes around a name that has a comma."
    )
    rows = []
    with errors_as(DataError, f"{file} cannot be read", then, (OSError, ValueError, csv.Error)):
        text = file.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        delimiter = next((mark for mark in ",;\t" if mark in head), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if len(cells) != 2 and any(cells):
                raise ValueError(f"line {reader.line_num} has {plural(len(cells), 'column')}")
            if any(cells):
                rows.append((cells[0], " ".join(cells[1].split())))
        if empty := [name for name, class_name in rows if not class_name]:
            raise ValueError(f"no class is given for {first_names(empty)}")
    return rows


def _read_json(file: Path) -> tuple[list[tuple[str, str]], list[str] | None]:
    """The file name and the class of each picture; the names of all classes if they are given."""
    then = (
        'expected {"labels": [["picture.png", 0], ...]}, and optionally "class_names": ["cat", '
        "...]\nCount the classes from 0, with one integer for each picture."
    )
    with errors_as(
        DataError, f"{file} cannot be read", then, (OSError, ValueError, RecursionError)
    ):
        content: Any = json.loads(file.read_bytes())
        if not isinstance(content, dict) or not isinstance(content.get("labels"), list):
            raise ValueError("it has no list of labels")
        names = content.get("class_names")
        if names is not None:
            names = list(check_class_names(names, str(file)))
            check_different(names, str(file))
        rows = []
        for row in content["labels"]:
            path, label = row if isinstance(row, list) and len(row) == 2 else (None, None)
            number = as_int(label)
            if not isinstance(path, str) or number is None or number < 0:
                raise ValueError(f"{short_repr(row)} is not a picture and its class")
            if names and number >= len(names):
                raise ValueError(f"{one_line(path, 60)} has class {number} of {len(names)}")
            rows.append((path, names[number] if names else str(number)))
    return rows, names
