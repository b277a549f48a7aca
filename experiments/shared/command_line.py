"""What all commands share: flags from a dataclass, errors in a line or two, notices, stop signals.

Imports no JAX, so that `--help` and a wrong flag are answered at once.
"""

import contextlib
import inspect
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

from cgan_jax.checks import check_int, one_line
from cgan_jax.errors import CGANError, ConfigError, DivergenceError

Flags = TypeVar("Flags")


def parse(
    flags: type[Flags],
    module: str,
    args: Sequence[str] | None = None,
    default: Flags | None = None,
) -> Flags:
    """The flags of `python -m module` from a documented dataclass; a wrong one ends with code 2.

    Args:
        flags: the dataclass. Dataclasses in it are groups of flags, whose names have no prefix.
        module: the command.
        args: the command line; by default the program's.
        default: what is not given on the command line; by default the dataclass's defaults.
    """
    import tyro

    boxed, text = io.StringIO(), inspect.cleandoc(flags.__doc__ or "")
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(
                flags,
                prog=f"python -m {module}",
                description=text,
                args=args,
                config=(tyro.conf.OmitArgPrefixes,),
                default=tyro.MISSING_NONPROP if default is None else default,
            )
    except SystemExit as end:
        if end.code:
            fail(f"{_headline(boxed.getvalue())}\nSee python -m {module} --help")
        raise


def check_checkpoint_flags(step: int | None, best: bool) -> None:
    """Raises ConfigError for a --step that is none, or goes with --best."""
    if step is None:
        return
    check_int("step", step, 0, hint="Omit it for the newest checkpoint.")
    if best:
        raise ConfigError("step does not go with --best\nexpected one of them\nOmit one.")


def fail(message: str, code: int = 2) -> NoReturn:
    """End the program with a message."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def run(main: Callable[[], Any]) -> NoReturn:
    """Run a command: the library's notices and errors become lines on the screen."""
    sys.unraisablehook = _unraisable
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises what it logs as an error
    notices = logging.getLogger("cgan_jax")
    notices.addHandler(logging.StreamHandler(sys.stderr))
    notices.setLevel(logging.INFO)
    notices.propagate = False
    try:
        main()
    except DivergenceError as error:
        fail(str(error), code=1)
    except CGANError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # the reader of a pipe, as `| head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    raise SystemExit(0)


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Says nothing of Orbax's event loop, which it closes while a damaged checkpoint is read on."""
    if "Event loop is closed" not in str(error.exc_value):
        sys.__unraisablehook__(error)


class StopSignals:
    """Ctrl-C and SIGTERM as a wish to stop; a second Ctrl-C stops at once.

    Attributes:
        caught: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None

    def __call__(self) -> bool:
        return self.caught is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopSignals"]:
        before = {s: signal.signal(s, self._catch) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number)


def _headline(boxed: str) -> str:
    """The first paragraph in the box that tyro draws around an error, and its suggestion."""
    paragraphs = [""]
    for line in boxed.splitlines():
        line = line.strip("│ ")
        # Where the terminal's encoding lacks lines, the box is made of hyphens.
        if line.startswith(("╭─", "──", "╰─")) or (line and not line.strip("-")):
            paragraphs.append("")
        else:
            paragraphs[-1] += f" {line}"
    titles = ("Argument helptext", "For full helptext")
    words = [p.strip() for p in paragraphs[1:] if not p.strip().startswith(titles)]
    return one_line(" ".join(words[:2]) or boxed.strip() or "the flags could not be read", 480)
