"""The API reference: pdoc makes it of the docstrings, and no public name is without one."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cgan_jax

ROOT = Path(__file__).parents[1]
TABLES = {"LOSSES": "losses", "PRESETS": "config"}  # described where they are defined
MODULES = {name for name in cgan_jax.__all__ if inspect.ismodule(getattr(cgan_jax, name))}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of pages, made by CONTRIBUTING.md's command."""
    folder = tmp_path_factory.mktemp("api")
    command = [sys.executable, "-m", "pdoc", "-d", "google", "cgan_jax", "-o", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")  # warnings go there
    return folder


@pytest.mark.slow
def test_every_public_name_is_described(pages):
    for name in MODULES:
        assert 'class="docstring"' in (pages / f"cgan_jax/{name}.html").read_text(encoding="utf-8")
    for name in set(cgan_jax.__all__) - MODULES:
        page = f"cgan_jax/{TABLES[name]}.html" if name in TABLES else "cgan_jax.html"
        text = (pages / page).read_text(encoding="utf-8")
        [section] = re.findall(rf'<section id="{name}">(.*?)</section>', text, flags=re.DOTALL)
        assert 'class="docstring"' in section, name


@pytest.mark.slow
def test_lists_of_arguments_are_recognised(pages):
    text = (pages / "cgan_jax.html").read_text(encoding="utf-8")
    assert text.count(">Arguments:</h") > 10
    assert not re.search(r"<p>(Args|Returns|Raises|Attributes):", text)


def test_help_tells_what_each_name_is_for():
    """Not what dataclasses and named tuples say of themselves, and all methods are included."""
    assert {"callbacks", "metrics"} <= MODULES
    for name in sorted(set(cgan_jax.__all__) - MODULES - set(TABLES)):
        named = getattr(cgan_jax, name)
        assert described(named), name
        for method, function in vars(named).items() if inspect.isclass(named) else ():
            mine = getattr(function, "__module__", "").startswith("cgan_jax")
            if mine and not method.startswith("_") and callable(function):
                assert described(getattr(named, method)), f"{name}.{method}"


def described(named):
    text = inspect.getdoc(named) or ""
    return len(text.split()) > 3 and not text.startswith(f"{getattr(named, '__name__', '')}(")
