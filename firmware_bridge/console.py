"""How a command talks to the person in front of it; tests put a script in its place."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from typing import Protocol

from firmware_bridge.port_options import UserError

YES = frozenset(("y", "yes"))
READ_BYTES = 1024


class Console(Protocol):
    """Says lines, asks questions, and shows a table that changes in place."""

    interactive: bool

    def say(self, line: str = "") -> None:
        """Print a line."""
        ...

    def ask(self, prompt: str) -> str:
        """Return the line that was typed. Raises UserError where nobody can type one."""
        ...

    def pressed(self) -> bool:
        """Return whether Enter was pressed meanwhile; does not wait."""
        ...

    def show(self, lines: Sequence[str]) -> None:
        """Print lines in place of those shown before; `say` and `ask` start below them."""
        ...


class Terminal:
    """The console of standard input and output.

    Without a terminal on both, `interactive` is False: questions raise UserError and tables are
    printed one below the other.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._typed = b""
        self._shown = 0

    def say(self, line: str = "") -> None:
        """Print a line."""
        self._shown = 0
        print(line, flush=True)

    def ask(self, prompt: str) -> str:
        """Return the line that was typed. Raises UserError where nobody can type one."""
        if not self.interactive:
            raise UserError(f"nobody is there to answer {prompt.strip()!r}; run it in a terminal")
        self._shown = 0
        print(prompt, end=" ", flush=True)
        while b"\n" not in self._typed:
            data = os.read(sys.stdin.fileno(), READ_BYTES)
            if not data:
                print()
                raise UserError("input ended before the question was answered; nothing was done")
            self._typed += data
        return self._line()

    def pressed(self) -> bool:
        """Return whether Enter was pressed meanwhile; does not wait."""
        if not self.interactive:
            return False
        if b"\n" not in self._typed and select.select([sys.stdin], [], [], 0.0)[0]:
            data = os.read(sys.stdin.fileno(), READ_BYTES)
            if not data:
                raise UserError("input ended before the question was answered; nothing was done")
            self._typed += data
        if b"\n" not in self._typed:
            return False
        self._line()
        self._shown += self._shown > 0  # the terminal has moved on by a line as well
        return True

    def show(self, lines: Sequence[str]) -> None:
        """Print lines in place of those shown before; `say` and `ask` start below them."""
        if self.interactive and self._shown:
            print(f"\x1b[{self._shown}A\x1b[J", end="")
        print("\n".join(lines), flush=True)
        self._shown = len(lines)

    def _line(self) -> str:
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").strip()


def confirmed(console: Console, question: str) -> bool:
    """Ask a question whose answer is no unless it is yes."""
    return console.ask(f"{question} [y/N]").lower() in YES
