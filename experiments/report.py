"""A run as one web page, report.html, in its folder: made anew from what the folder holds now.

python -m experiments.report runs/fashion_cgan
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cgan_jax.errors import RunError
from cgan_jax.runs.folder import runs_in
from experiments.shared.command_line import parse, run

MODULE = "experiments.report"


@dataclass(frozen=True)
class Flags:
    """Write report.html into run folders. Training and evaluating do so by themselves.

    Examples:
      python -m experiments.report runs/fashion_cgan
      python -m experiments.report runs/sweep          a folder of run folders
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or folders of run folders."""


def main() -> None:
    folders = runs_in(parse(Flags, MODULE).runs)
    if not folders:
        raise RunError("there is no run\nexpected at least one run folder\nName one.")

    from cgan_jax.reporting.page import write_report

    for folder in folders:
        page = write_report(folder.path)
        print(f"{page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser.")


if __name__ == "__main__":
    run(main)
