"""A run as one web page, report.html, in its folder: rewritten from what the folder holds now.

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
    """Write report.html into run folders, as training and evaluating do at their end.

    Examples:
      python -m experiments.report runs/fashion_cgan
      python -m experiments.report runs/sweep          a folder of run folders
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or folders of run folders."""


def main() -> None:
    folders = runs_in(parse(Flags, MODULE).runs)
    if not folders:
        raise RunError("no run was named\nexpected at least one run folder\nName one.")

    from cgan_jax.reporting.page import write_page

    for folder in folders:
        page = write_page(folder.path)
        size = page.stat().st_size
        text = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
        print(f"{page} ({text}): open it in a browser.")


if __name__ == "__main__":
    run(main)
