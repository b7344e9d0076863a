"""Several tasks on one arm, one after the other: whose turn it is, and what came of each.

A turn is over when its time is up, or sooner when a judge says that the task is done. Only the
simulated arm has a judge, the referee of its world; nobody guesses from pictures or joints. The
arm is not let down between turns: it follows its newest actions until those for the next task come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DONE, TIME_UP, RUN_ENDED = "done", "time up", "run ended"
JUDGED, NOT_JUDGED, SPOILED = "judged", "not judged", "spoiled"
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a judge said of a task: JUDGED from now on, DONE, SPOILED, or NOT_JUDGED at all."""

    number: int  # of the task
    event: str
    t_s: float  # on time.monotonic
    why: str = ""


class Judge(Protocol):
    """Somebody who sees whether a task is done; neither method blocks."""

    def judge(self, number: int, task: str) -> None:
        """Judge this task from now on, and no other any more."""
        ...

    def rulings(self) -> Sequence[Ruling]:
        """Return what was found since the last call."""
        ...


@dataclass(slots=True)
class Turn:
    """One task of a run; times on time.monotonic, None while it has not come to that."""

    number: int
    task: str
    began_s: float | None = None
    ended_s: float | None = None
    ended: str | None = None  # DONE, TIME_UP or RUN_ENDED
    done_s: float | None = None
    judged: bool = False
    note: str = ""  # why it was not judged, or can no longer be done

    @property
    def succeeded(self) -> bool | None:
        """Whether the task was done; None when nobody judged it."""
        return self.done_s is not None if self.judged else None

    def outcome_at(self, t_s: float) -> str:
        """Say in a few words how it stood at a moment."""
        if self.began_s is None or t_s < self.began_s:
            return "waiting"
        if self.done_s is not None and t_s >= self.done_s:
            return f"done in {self.done_s - self.began_s:.1f} s"
        if self.ended_s is None or t_s < self.ended_s:
            return f"{t_s - self.began_s:.1f} s"
        return "not judged" if self.succeeded is None else "not done"


class TaskTurns:
    """The turns of one run; the control loop calls `look` at every tick, which never waits."""

    def __init__(
        self,
        tasks: Sequence[str],
        task_s: float | None,
        judge: Judge | None,
        ask: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        """Give every task `task_s` at most; without, the first one lasts as long as the run.

        `ask` tells the policy what to do now, `say` a person what happened; neither may block.
        """
        self.turns = tuple(Turn(number, task) for number, task in enumerate(tasks))
        self.over = ""  # why the run should end: no turn is left
        self._task_s = task_s
        self._judge = judge
        self._ask = ask
        self._say = say
        self._now: Turn | None = None
        self._next_poll_s = 0.0

    def look(self, now_s: float) -> Sequence[str]:
        """Go on to the next task when this one is over; return what happened, mostly nothing."""
        if self.over or (now_s < self._next_poll_s and not self._time_is_up(now_s)):
            return ()
        if self._now is None:
            return self._begin(self.turns[0], now_s)
        self._next_poll_s = now_s + POLL_S
        turn = self._now
        happened = self._hear()
        if self._task_s is not None and (turn.done_s is not None or self._time_is_up(now_s)):
            happened += self._next(turn, now_s)
        return happened

    def end(self, now_s: float) -> Sequence[str]:
        """Close the turn in which the run ends; what is found later does not count."""
        turn, happened = self._now, []
        if turn is not None and turn.ended is None:
            turn.ended_s, turn.ended = now_s, RUN_ENDED
            happened = self._hear()
        self._now, self.over = None, self.over or RUN_ENDED
        return happened

    def records(self) -> list[dict[str, Any]]:
        """Return the turns as plain values; seconds since the first began, None where not begun."""
        first_s = self.turns[0].began_s
        return [
            {
                "task": turn.task,
                "began_s": _since(turn.began_s, first_s),
                "seconds": _since(turn.ended_s, turn.began_s),
                "ended": turn.ended,
                "done_after_s": _since(turn.done_s, turn.began_s),
                "succeeded": turn.succeeded,
                "note": turn.note,
            }
            for turn in self.turns
        ]

    def _begin(self, turn: Turn, now_s: float) -> list[str]:
        turn.began_s, self._now = now_s, turn
        self._ask(turn.task)
        if self._judge is not None:
            self._judge.judge(turn.number, turn.task)
        return [self._told(turn, f": {turn.task}")] if len(self.turns) > 1 else []

    def _next(self, turn: Turn, now_s: float) -> list[str]:
        turn.ended_s, turn.ended = now_s, TIME_UP if turn.done_s is None else DONE
        happened = []
        if turn.ended == TIME_UP:
            verdict = " not done" if turn.judged else ""
            happened.append(self._told(turn, f"{verdict}: its {self._task_s:g} s are up"))
        if turn is self.turns[-1]:
            self.over = self._summary()
        else:
            happened += self._begin(self.turns[turn.number + 1], now_s)
        return happened

    def _hear(self) -> list[str]:
        rulings = () if self._judge is None else self._judge.rulings()
        noted = [self._note(ruling) for ruling in rulings if self._counts(ruling)]
        return [text for text in noted if text]

    def _counts(self, ruling: Ruling) -> bool:
        """Whether it is about a turn that was not over by then."""
        if not 0 <= ruling.number < len(self.turns):
            return False
        turn = self.turns[ruling.number]
        return turn.began_s is not None and (turn.ended_s is None or ruling.t_s <= turn.ended_s)

    def _note(self, ruling: Ruling) -> str:
        turn = self.turns[ruling.number]
        if ruling.event == JUDGED:
            turn.judged = True
            return ""
        if ruling.event == DONE:
            turn.done_s = ruling.t_s
            return self._told(turn, f" done after {turn.done_s - turn.began_s:.1f} s")
        turn.note = ruling.why
        return self._told(turn, f" is {ruling.event}: {ruling.why}")

    def _told(self, turn: Turn, what: str) -> str:
        count = len(self.turns)
        text = f"task {turn.number + 1} of {count}{what}" if count > 1 else f"task{what}"
        self._say(text)
        return text

    def _time_is_up(self, now_s: float) -> bool:
        turn = self._now
        return (
            turn is not None and self._task_s is not None and now_s >= turn.began_s + self._task_s
        )

    def _summary(self) -> str:
        count = len(self.turns)
        judged = [turn for turn in self.turns if turn.judged]
        over = "the task is over" if count == 1 else f"all {count} tasks are over"
        if not judged:
            return over
        return f"{over}, {sum(turn.succeeded for turn in judged)} of {len(judged)} done"


def _since(t_s: float | None, from_s: float | None) -> float | None:
    return None if t_s is None or from_s is None else round(t_s - from_s, 3)
