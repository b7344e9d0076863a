"""What every command of this project does with a wrong word: one line, exit 2."""

from __future__ import annotations

import argparse
import functools
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

EXIT_USAGE = 2
EXIT_UNREAD = 128 + signal.SIGPIPE

_Arguments = ParamSpec("_Arguments")


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that says where the help is."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit 2."""
        command = self.prog.removeprefix("python -m ").split()[0]
        self.exit(EXIT_USAGE, f"{command}: error: {message}; see '{self.prog} --help'\n")


def one_or_more(text: str) -> int:
    """Read a whole number of 1 or more, as the type of an option."""
    return _whole_from(1, text)


def zero_or_more(text: str) -> int:
    """Read a whole number of 0 or more, as the type of an option."""
    return _whole_from(0, text)


def _whole_from(least: int, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return int(text)


def quiet_when_unread(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    """Make a command whose output nobody reads any more (`... | head`) exit 141, as others do."""

    @functools.wraps(main)
    def guarded(*args: _Arguments.args, **options: _Arguments.kwargs) -> int:
        try:
            try:
                return main(*args, **options)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            if not _nobody_reads_output():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
            return EXIT_UNREAD

    return guarded


def _nobody_reads_output() -> bool:
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in waiting.poll(0))
