"""Writing a run's page at the end of a command that changed the run."""

import logging
from pathlib import Path

from cgan_jax.checks import one_line


def write_or_warn(path: Path) -> Path | None:
    """Write a run's page, and warn where that fails; the page, or None."""
    try:
        from cgan_jax.reporting.page import write_report

        return write_report(path)
    except Exception as error:
        logging.getLogger("cgan_jax").warning(
            "%s has no new report.html: %s. To make it: python -m %s %s",
            *(path, one_line(error), "experiments.report", path),
        )
        return None
