"""Helpers for messages and for paths. test_bad_input.py has the checks of values."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from cgan_jax.checks import (
    Count,
    Widths,
    as_path,
    check_fields,
    errors_as,
    plural,
    with_article,
)
from cgan_jax.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((1, "image"), "1 image"),
        ((0, "image"), "0 images"),
        ((2000, "image"), "2,000 images"),
        ((1, "class", "classes"), "1 class"),
        ((2, "class", "classes"), "2 classes"),
    ],
)
def test_plural(words, expected):
    assert plural(*words) == expected


@pytest.mark.parametrize("expected", ["an int", "an OptimizerConfig", "a dict", "a ModelConfig"])
def test_with_article(expected):
    assert with_article(expected.split()[1]) == expected


def test_as_path_expands_the_home_of_files_and_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/a/b.png", "out") == tmp_path / "a" / "b.png"
    assert as_path(Path("~"), "workdir") == tmp_path
    assert as_path("a~/b", "out") == Path("a~/b")


def test_errors_of_other_libraries_become_ours(tmp_path):
    """Without naming the file twice; the library's own errors and unlisted ones pass."""
    file = tmp_path / "absent"
    with pytest.raises(DataError) as caught, errors_as(DataError, f"no {file}", "expected\nDo"):
        file.read_bytes()
    assert str(caught.value) == f"no {file}: No such file or directory\nexpected\nDo"
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(DataError, match=f"odd: .*{file}"), errors_as(DataError, "odd", "expected"):
        file.read_bytes()
    with pytest.raises(ConfigError, match="^mine$"), errors_as(DataError, "what", "expected"):
        raise ConfigError("mine")
    with pytest.raises(KeyError), errors_as(DataError, "what", "expected", (OSError, ValueError)):
        raise KeyError("other")


@dataclass(frozen=True)
class Sizes:
    """Fields of the kinds that configurations and flags have."""

    _: KW_ONLY
    count: Annotated[Count | None, "a note"] = None
    widths: Widths = (1,)
    channels: Literal[1, 3] | None = None
    name: str = "any"


def test_fields_are_checked_by_their_types():
    sizes = Sizes(count=np.int64(3), widths=[np.int32(4)], channels=3, name=0)
    check_fields(sizes)
    assert (type(sizes.count), sizes.widths, sizes.name) == (int, (4,), 0)
    check_fields(Sizes())
    wrong = [({"count": 0}, "count must be an integer of at least 1, not 0\nOmit it")]
    wrong += [({"channels": bad}, "channels must be one of 1, 3, not ") for bad in (2, True, "3")]
    wrong += [({"widths": bad}, "widths must be integers above 0") for bad in (4, (), (0,))]
    for fields, message in wrong:
        with pytest.raises(ConfigError, match=message):
            check_fields(Sizes(**fields))
