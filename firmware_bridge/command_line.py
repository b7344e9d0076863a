"""What every command of this project does with a wrong word: one line, exit 2."""

from __future__ import annotations

import argparse
from typing import NoReturn

EXIT_USAGE = 2


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
