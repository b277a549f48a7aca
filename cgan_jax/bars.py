"""Bars and durations on the screen. Imports no JAX."""

import sys
import warnings
from typing import Any


def in_notebook() -> bool:
    """Whether the program is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


def work_bar(bar_format: str, **options: Any) -> Any:
    """A tqdm bar that is gone at the end: in a notebook, or on a terminal; nothing elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets a notebook gets the terminal's bar
        from tqdm.auto import tqdm as notebook_bar
    from tqdm import tqdm

    if in_notebook():
        return notebook_bar(leave=False, **options)
    return tqdm(disable=None, bar_format=bar_format, dynamic_ncols=True, leave=False, **options)


def duration(seconds: float) -> str:
    """A duration for people: `12 s`, `3 min 05 s`, `1 h 04 min`."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
