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
