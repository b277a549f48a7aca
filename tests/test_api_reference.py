"""The API reference: pdoc builds it from docstrings, and every public name has one."""

import inspect
import re
import subprocess
import sys

import pytest

import cgan_jax
from tests.helpers import ROOT

TABLES = {  # the module on whose page each is described, and the description's beginning
    "LOSSES": ("losses", "LOSSES has them by the names that TrainConfig.loss takes"),
    "PRESETS": ("presets", "Named configurations"),
}
MODULES = {name for name in cgan_jax.__all__ if inspect.ismodule(getattr(cgan_jax, name))}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of pages, built by the command that README names."""
    folder = tmp_path_factory.mktemp("api")
    command = "-m pdoc -d google cgan_jax"
    assert f"python {command}" in (ROOT / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *command.split(), "-o", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")  # stderr has the warnings
    return folder


@pytest.mark.slow
def test_every_public_name_is_described(pages):
    for name in MODULES:
        assert 'class="docstring"' in page(pages, f"cgan_jax/{name}")
    for name in set(cgan_jax.__all__) - MODULES - set(TABLES):
        text = page(pages, "cgan_jax")
        [section] = re.findall(rf'<section id="{name}">(.*?)</section>', text, flags=re.DOTALL)
        assert 'class="docstring"' in section, name
    for module, description in TABLES.values():
        assert description in re.sub("<.*?>", "", page(pages, f"cgan_jax/{module}"))


def page(folder, name):
    return (folder / f"{name}.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_lists_of_arguments_are_recognised(pages):
    text = (pages / "cgan_jax.html").read_text(encoding="utf-8")
    assert text.count(">Arguments:</h") > 10
    assert not re.search(r"<p>(Args|Returns|Raises|Attributes):", text)


def test_public_names_have_docstrings():
    """Their own, not those that dataclasses and named tuples generate; and so do all methods."""
    assert {"callbacks", "metrics"} <= MODULES
    for name in sorted(set(cgan_jax.__all__) - MODULES - set(TABLES)):
        public = getattr(cgan_jax, name)
        assert has_docstring(public), name
        for method, function in vars(public).items() if inspect.isclass(public) else ():
            ours = getattr(function, "__module__", "").startswith("cgan_jax")
            if ours and not method.startswith("_") and callable(function):
                assert has_docstring(getattr(public, method)), f"{name}.{method}"


def has_docstring(public):
    text = inspect.getdoc(public) or ""
    return len(text.split()) > 3 and not text.startswith(f"{getattr(public, '__name__', '')}(")
