"""What a terminal sees of a command: lines, signals, exit codes.

Results go to standard output by `tell`, all else to standard error by `say`. Text that comes from
files never steers the terminal, and streams that are closed, full or of another encoding never end
in a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from unidino_fast.errors import OutputError, UnidinoError, UsageError
from unidino_fast.files import reason_of
from unidino_fast.names import one_line, place_left_out, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

INTERRUPTED = 130
TERMINATED = 143
_MOST_LINES = 20
_TyperFault: type[Exception] = typer.BadParameter.__mro__[2]
"""`ClickException`, base of all that Typer says about arguments: it has no public name there."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: the end of an allotted time, handled as Ctrl-C is."""


_raised: list[KeyboardInterrupt] = []
"""What Ctrl-C and SIGTERM have raised during this command."""


@contextmanager
def _careful_streams() -> Iterator[None]:
    """Lets any text be printed, and turns SIGTERM into an interruption that is cleaned up after.

    That it came, or Ctrl-C, is kept for `heed_interruption`. Where the terminal's encoding lacks a
    character, its escape is shown.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    ours = [
        (signal.SIGINT, signal.default_int_handler, _interrupt),
        (signal.SIGTERM, signal.SIG_DFL, _terminate),
    ]
    in_charge = [
        (number, usual, handler)
        for number, usual, handler in ours
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) == usual
    ]
    for number, _, handler in in_charge:
        signal.signal(number, handler)
    before, sys.unraisablehook = sys.unraisablehook, _unraisable
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number, usual, _ in in_charge:
            signal.signal(number, usual)
        _raised.clear()


def _interrupt(*_: object) -> None:
    _raised.append(KeyboardInterrupt())
    raise _raised[-1]


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows cleans up
    _raised.append(Terminated())
    raise _raised[-1]


def _unraisable(dropped: sys.UnraisableHookArgs) -> None:
    """Says what Python drops, but for interruptions, which are kept."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)


def heed_interruption() -> None:
    """Raises again what Ctrl-C or SIGTERM has raised: to be called between steps of long work.

    Python drops an exception that comes up in a finalizer or in a callback of its garbage
    collection, as `distributed` has one, and goes on.
    """
    if _raised:
        raise _raised[-1]


class Commands(TyperGroup):
    """Commands that end with a line when they are interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was asked for."""
        with interruptible():
            return super().invoke(ctx)


@contextmanager
def interruptible(afterwards: str | Callable[[], str] = "") -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block with one line that says how things stand afterwards.

    What is to be found out then is given as a function.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        how = afterwards if isinstance(afterwards, str) else afterwards()
        say(f"interrupted{': ' if how else ''}{how}")
        code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
        raise typer.Exit(code) from None


def run(app: typer.Typer) -> None:
    """Runs a command line: whatever goes wrong on purpose becomes one line and an exit code."""
    arguments = sys.argv[1:]
    show_traceback = "--traceback" in arguments  # which may stand anywhere
    arguments = [argument for argument in arguments if argument != "--traceback"]
    with _careful_streams():
        try:
            code = app(args=arguments, prog_name="unidino-fast", standalone_mode=False)
        except (UnidinoError, OSError, _TyperFault) as error:
            if show_traceback:
                raise
            code = _explain(error)
    sys.exit(code or 0)


def say(text: str) -> None:
    """One line on standard error, where standard output is for results; lost if that is closed."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)


def say_some(kind: str, lines: Sequence[str]) -> None:
    """The first lines of a kind, each after its name, and how many more the manifest holds."""
    for line in lines[:_MOST_LINES]:
        say(f"{kind}: {line}")
    if len(lines) > _MOST_LINES:
        say(f"{kind}: and {len(lines) - _MOST_LINES} more (all in manifest.json)")


def say_left_out(reasons: Mapping[str, str], place: str) -> None:
    """Why some wells or fields are in no table, each behind the name of its plate or nothing."""
    say_some("left out", [f"{place}{place_left_out(name)}: {why}" for name, why in reasons.items()])


def tell(text: str) -> None:
    """A result on standard output, at once; nothing in it steers the terminal.

    Raises:
        BrokenPipeError: nobody reads it any more.
        OutputError: it cannot be written.
    """
    if sys.stdout is None:
        return
    try:
        print("\n".join(printable(line) for line in text.split("\n")), flush=True)
    except OSError as error:
        _forget_output()
        if error.errno == errno.EPIPE:
            raise
        raise OutputError(
            f"standard output cannot be written ({reason_of(error)}): send it elsewhere"
        ) from error


def _forget_output() -> None:
    """Sends what is still to be printed to nowhere, so that leaving does not fail on it again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> int:
    """Says an error in one line; returns the exit code."""
    if isinstance(error, UnidinoError):
        say(f"unidino-fast: {error}")
        code = error.exit_code
    elif isinstance(error, OSError):
        if error.errno != errno.EPIPE:  # `unidino-fast info ... | head`: nobody listens
            where = error.filename or "a file or stream"
            say(f"unidino-fast: {where}: {reason_of(error)}: --traceback shows what needed it")
        _forget_output()  # Typer may have printed the help to it
        code = 1
    else:
        say(f"unidino-fast: {_usage_fault(error)}")
        code = UsageError.exit_code
    return code


def _usage_fault(error: Exception) -> str:
    """What Typer found wrong with the arguments, in the form of our own errors."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "unidino-fast"
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    text = text.replace("Value error, ", "").rstrip(".")
    return f"{text[:1].lower()}{text[1:]}: see {command} --help"
