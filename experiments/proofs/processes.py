"""Work in processes of its own: timers that sleep between their turns, and calls that may fail.

What runs in a process is a function of a module, since it is sent there by its name.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cgan_jax.checks import one_line
from cgan_jax.errors import CGANError, RunError

Timer = Callable[[int], float]
"""Trains for so many steps; returns steps per second."""

Result = TypeVar("Result")


@contextlib.contextmanager
def in_own_process(side: Callable[..., Timer], *args: Any) -> Iterator[Timer]:
    """The timer `side(*args)`, in a process that sleeps between its turns.

    The timer raises RunError once its process has ended.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(side, args, there))
    process.start()
    there.close()  # so that the end of the process is noticed here

    def measure(steps: int) -> float:
        try:
            here.send(steps)
            return here.recv()
        except (EOFError, OSError):
            raise _ended(process) from None

    try:
        yield measure
    finally:
        with contextlib.suppress(OSError):
            here.send(None)
        process.join()


def _serve(side: Callable[..., Timer], args: tuple[Any, ...], pipe: Any) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # the command that started it says so
        measure = side(*args)
        while (steps := pipe.recv()) is not None:
            pipe.send(measure(steps))


def isolated(work: Callable[..., Result], *args: Any, timeout: float = 600.0) -> Result:
    """What `work(*args)` returns in a process of its own.

    Args:
        work: the function. If it calls `os.setsid`, its own processes end with it.
        args: its arguments.
        timeout: in seconds.

    Raises:
        RunError: it raised an error, which is in the message, its process died, or it took longer.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(work, args, there))
    process.start()
    there.close()
    try:
        if not here.poll(timeout):
            raise RunError(f"it was ended after {timeout:g} s")
        result, error = here.recv()
        process.join(10)
    except EOFError:
        raise _ended(process) from None
    finally:
        _end(process)
    if error:
        raise RunError(error)
    return result


def _call(work: Callable[..., Any], args: tuple[Any, ...], pipe: Any) -> None:
    try:
        pipe.send((work(*args), None))
    except CGANError as error:
        pipe.send((None, one_line(error)))
    except Exception as error:
        traceback.print_exc()
        pipe.send((None, one_line(f"{type(error).__name__}: {error}")))


def _end(process: Any) -> None:
    """End a process, and its group if it leads one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _ended(process: Any) -> RunError:
    process.join()
    code = process.exitcode
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    return RunError(f"its process ended {how}")
