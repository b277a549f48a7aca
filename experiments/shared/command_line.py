"""What all commands share: flags from a dataclass, and errors and notices as lines on the screen.

Imports no JAX, so that `--help` and a wrong flag are answered at once.
"""

import contextlib
import errno
import inspect
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from cgan_jax.checks import ImageSize, as_img_size, as_path, check_fields, one_line, short_repr
from cgan_jax.device_errors import ExplainingFilter, explain
from cgan_jax.errors import CGANError, ConfigError, DivergenceError

Flags = TypeVar("Flags")


def parse(
    flags: type[Flags], module: str, args: Sequence[str] | None = None, default: Flags | None = None
) -> Flags:
    """The flags of `python -m module` from a documented dataclass; a wrong one ends with code 2.

    Args:
        flags: the dataclass. Dataclasses in it are groups of flags, whose names have no prefix.
        module: the command.
        args: the command line; by default the program's.
        default: what is not given on the command line; by default the dataclass's defaults.

    Raises:
        ConfigError: a number is out of range, or a flag of several values is given twice.
        DataError: as `expand_home`.
    """
    import tyro

    boxed, text = io.StringIO(), inspect.cleandoc(flags.__doc__ or "")
    for kind in flags.__mro__[:-1]:
        _join_lines_of_help(kind)
    try:
        with contextlib.redirect_stderr(boxed):
            parsed = tyro.cli(
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
    _check(parsed, sys.argv[1:] if args is None else args)
    return expand_home(parsed)


@cache
def _join_lines_of_help(kind: type) -> None:
    """Give each field's description to tyro as one line: it would keep the docstring's breaks."""
    import docstring_parser
    import tyro

    for each in docstring_parser.parse_from_object(kind).params:
        if "\n" in (text := each.description or ""):
            words: Any = tyro.conf.arg(help=" ".join(text.split()))
            old = kind.__annotations__[each.arg_name]
            kind.__annotations__[each.arg_name] = Annotated[old, words]


def expand_home(flags: Flags) -> Flags:
    """The same dataclass with `~` expanded in all its paths, those of nested dataclasses included.

    Raises:
        DataError: a path begins with the home of a user that does not exist.
    """

    def expand(name: str, value: Any) -> Any:
        if isinstance(value, Path):
            return as_path(str(value), name)
        if isinstance(value, tuple):
            return tuple(expand(name, item) for item in value)
        return expand_home(value) if is_dataclass(value) else value

    old: Any = flags
    new = {field.name: expand(field.name, getattr(flags, field.name)) for field in fields(old)}
    return replace(old, **new)


def _check(flags: Any, words: Sequence[str]) -> None:
    """Raises ConfigError for a number out of range, and for a flag of several values that is given
    twice, of which the last would win."""
    check_fields(flags)
    for field in fields(flags):
        value, flag = getattr(flags, field.name), f"--{field.name.replace('_', '-')}"
        if is_dataclass(value):
            _check(value, words)
        is_flat = isinstance(value, tuple) and not any(isinstance(v, tuple) for v in value)
        if is_flat and sum(word.partition("=")[0] == flag for word in words) > 1:
            raise ConfigError(
                f"{flag} is given more than once\nexpected one {flag} with all its values\n"
                f"Write {flag} VALUE VALUE ..."
            )


def parse_size(text: str) -> ImageSize:
    """A size of images from a flag: "32", or "64x48", height first.

    Raises:
        ConfigError: anything else.
    """
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text, re.ASCII)
    size = as_img_size([int(side or match[1]) for side in match.groups()]) if match else None
    if size is None:
        raise ConfigError(
            "img_size must be an integer of at least 1, or height x width, such as 64x48, "
            f"not {short_repr(text)}\nOmit it for the size that the images have."
        )
    return size


def check_each_once(name: str, values: Sequence[object], hint: str) -> None:
    """Raises ConfigError for a flag of several values that has none, or the same one twice."""
    if not values or len(set(values)) < len(values):
        raise ConfigError(
            f"{name} is {' '.join(map(str, values)) or 'empty'}\n"
            f"expected at least one, and each of them once\n{hint}"
        )


def fail(message: str, code: int = 2) -> NoReturn:
    """End the program with a message, without the colours that an error of a library may have."""
    plain = re.sub(r"\x1b\[[0-9;]*m?", "", message)
    print(f"error: {plain}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # which Python would report after this
        _discard_output()
    raise SystemExit(code)


def run(main: Callable[[], Any]) -> NoReturn:
    """Run a command: the library's notices and errors become lines on the screen."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as by >&-
            nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, used until the end
            setattr(sys, name, nothing)
    sys.unraisablehook = _unraisable
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises what it logs as an error
    logging.getLogger("jax._src.xla_bridge").addFilter(ExplainingFilter())
    notices = logging.getLogger("cgan_jax")
    notices.addHandler(logging.StreamHandler(sys.stderr))
    notices.setLevel(logging.INFO)
    notices.propagate = False
    code: Any = 0
    try:
        try:
            main()
        except SystemExit as end:  # after --help or a stop
            code = end.code
        sys.stdout.flush()
    except DivergenceError as error:
        fail(str(error), code=1)
    except CGANError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # the reader of a pipe, such as `| head`, has gone
        _discard_output()
        raise SystemExit(128 + 13) from None  # as after SIGPIPE, which Windows does not have
    except Exception as error:
        device_problem = explain(error) if isinstance(error, RuntimeError) else None
        if problem := _output_problem(error) or device_problem or _platform_problem():
            fail(problem)
        raise
    raise SystemExit(code)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _output_problem(error: Exception) -> str | None:
    """What is wrong with the device of the output; None of other errors. Files have RunErrors."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the output cannot be written: {error.strerror}\nFree some space, or redirect it."
    return None


def _platform_problem() -> str | None:
    """Why JAX cannot use the platforms in JAX_PLATFORMS; None if it can."""
    jax, platforms = sys.modules.get("jax"), os.environ.get("JAX_PLATFORMS")
    if jax is None or not platforms:
        return None
    try:
        jax.devices()
    except Exception:  # JAX raises several kinds, some without a message
        jax.config.update("jax_platforms", "")
        usable = sorted({device.platform for device in jax.devices()})
        return (
            f"JAX_PLATFORMS is {platforms}, which JAX cannot use here\n"
            f"expected {' or '.join(usable)}\n"
            "Unset it; or, on a machine with a GPU, install the extra cuda12 or cuda13."
        )
    return None


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Hides a complaint of Orbax's event loop: it closes while a damaged checkpoint is read."""
    if "Event loop is closed" not in str(error.exc_value):
        sys.__unraisablehook__(error)


def _headline(boxed: str) -> str:
    """The first paragraph in the box that tyro draws around an error, and its suggestion."""
    paragraphs = [""]
    for line in boxed.splitlines():
        line = line.strip("│ ")
        # The box is made of hyphens if the terminal's encoding has no lines.
        if line.startswith(("╭─", "──", "╰─")) or (line and not line.strip("-")):
            paragraphs.append("")
        else:
            paragraphs[-1] += f" {line}"
    titles = ("Argument helptext", "For full helptext")
    words = [p.strip() for p in paragraphs[1:] if not p.strip().startswith(titles)]
    text = " ".join(words[:2]) or boxed.strip() or "the flags could not be read"
    return one_line(_reworded(text), 480)


def _reworded(text: str) -> str:
    """An error of tyro's about a flag that may be left out, without the types that it tried."""
    pattern = r"(--[\w-]+): no type matching {None}\|(FLOAT|INT) could .*? from \['(.*?)'\]"
    if match := re.search(pattern, text):
        kind = {"FLOAT": "a number", "INT": "an integer"}[match[2]]
        return f"{match[1]} must be {kind}, not {short_repr(match[3])}"
    pattern = r"invalid choice (.+) for argument '(--[\w-]+)'.* one of \((.*'None'.*)\)"
    if match := re.search(pattern, text):
        words = sorted(set(re.findall(r"'(.*?)'", match[3])) - {"None"})
        return f"{match[2]} must be one of {', '.join(words)}, not {match[1]}"
    return text
