"""What all commands share: flags from a dataclass, errors in a line or two, notices, stop signals.

Imports no JAX, so that `--help` and a wrong flag are answered at once.
"""

import contextlib
import dataclasses
import inspect
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from cgan_jax.checks import as_directory, one_line
from cgan_jax.errors import CGANError, ConfigError, DivergenceError

Flags = TypeVar("Flags")


def parse(flags: type[Flags], module: str, args: list[str] | None = None) -> Flags:
    """The flags of `python -m module` from a documented dataclass; a wrong one ends with code 2."""
    import tyro

    boxed, text = io.StringIO(), inspect.cleandoc(flags.__doc__ or "")
    try:
        with contextlib.redirect_stderr(boxed):
            given = tyro.cli(flags, prog=f"python -m {module}", description=text, args=args)
    except SystemExit as end:
        if end.code:
            fail(f"{_headline(boxed.getvalue())}\nSee python -m {module} --help")
        raise
    _refuse_repeats(given, sys.argv[1:] if args is None else args)
    return _with_homes(given)


def _refuse_repeats(flags: Any, words: list[str]) -> None:
    """Raises ConfigError for a flag of several values that is given twice; the last would win."""
    for field in dataclasses.fields(flags):
        value, flag = getattr(flags, field.name), f"--{field.name.replace('_', '-')}"
        is_flat = isinstance(value, tuple) and not any(isinstance(v, tuple) for v in value)
        if is_flat and sum(word.partition("=")[0] == flag for word in words) > 1:
            raise ConfigError(
                f"{flag} is given more than once\nexpected one {flag} with all its values\n"
                f"Write {flag} VALUE VALUE ..."
            )


def _with_homes(flags: Flags) -> Flags:
    """The flags with `~` in paths expanded, which shells leave in `--out=~/x` or in quotes."""
    paths: dict[str, Any] = {}
    for field in dataclasses.fields(flags):  # type: ignore[arg-type]
        value = getattr(flags, field.name)
        if isinstance(value, Path):
            paths[field.name] = as_directory(value, field.name)
        elif isinstance(value, tuple) and value and isinstance(value[0], Path):
            paths[field.name] = tuple(as_directory(path, field.name) for path in value)
    return dataclasses.replace(flags, **paths)  # type: ignore[type-var]


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
