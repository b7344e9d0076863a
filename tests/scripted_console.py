"""A person at the terminal, as a script: answers in order, and things done meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


class ScriptedConsole:
    """Answers each question with the next of `answers`: a text, or a call that returns one.

    `on_pressed` is asked whether Enter was pressed. Everything said or shown is in `lines`.
    """

    interactive = True

    def __init__(
        self,
        answers: Sequence[str | Callable[[], str]] = (),
        on_pressed: Callable[[], bool] = lambda: True,
    ) -> None:
        self.lines: list[str] = []
        self.prompts: list[str] = []
        self._answers = list(answers)
        self._on_pressed = on_pressed

    def say(self, line: str = "") -> None:
        self.lines.append(line)

    def ask(self, prompt: str) -> str:
        self.prompts.append(prompt)
        assert self._answers, f"not in the script: {prompt}"
        answer = self._answers.pop(0)
        return answer if isinstance(answer, str) else answer()

    def pressed(self) -> bool:
        return self._on_pressed()

    def show(self, lines: Sequence[str]) -> None:
        self.lines.extend(lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def words(self) -> list[str]:
        """Return the lines with one space between words."""
        return [re.sub(r"\s+", " ", line).strip() for line in self.lines]
