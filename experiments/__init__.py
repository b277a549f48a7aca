"""The commands: each top-level module is one, run as `python -m experiments.<name>`."""

import sys
from types import TracebackType


def _hide_interrupt(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)


if sys.argv[0] == "-m":  # a command's imports, before shared/command_line.py can catch Ctrl-C
    sys.excepthook = _hide_interrupt
