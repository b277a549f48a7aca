"""Writing a run's page at the end of a command that changed the run."""

import logging
from pathlib import Path

from cgan_jax.checks import one_line


def write_or_warn(run_dir: Path) -> Path | None:
    """Write a run's page and return its path; a failure is a warning, and the path is None."""
    try:
        from cgan_jax.reporting.page import write_page

        return write_page(run_dir)
    except Exception as error:
        logging.getLogger("cgan_jax").warning(
            "%s has no new report.html: %s. To write it: python -m experiments.report %s",
            *(run_dir, one_line(error), run_dir),
        )
        return None
