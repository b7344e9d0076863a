"""Specialise then rehearse, against joint training and against specialising alone.

    general -> specialise -> rehearse
            -> joint

Every stage is `molmoact-train run` with its recipe, in a process of its own, as many at a time as
there are to run. What is asked after each stage is the test halves of the question sets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.molmoer.evaluate_command import as_record, evaluate
from training.molmoer.question import Split
from training.molmoer.question_set import SUBJECTS, SetSettings, write_question_set
from training.molmoer.scoring import Score, best_constant, read_asked
from training.trainer.recipe import read_recipe

HALVES = tuple(split.value for split in Split)
TABLE, RECORD = "table.md", "table.json"
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage of the comparison."""

    name: str
    start: str | None  # the stage whose checkpoint it goes on from; None: the recipe's own start
    said: str  # how the table names what was done until then


STAGES = (
    StageRun("general", None, "general (the start)"),
    StageRun("specialise", "general", "specialise"),
    StageRun("joint", "general", "joint, as many steps as both"),
    StageRun("rehearse", "specialise", "specialise, then rehearse"),
)
AT_ONCE = (("general",), ("specialise", "joint"), ("rehearse",))
CONSTANT = "one answer a kind"  # without looking: the best that can be had so
ROWS = (CONSTANT, "general", "specialise", "rehearse", "joint")


@dataclass(frozen=True, slots=True)
class TableSettings:
    """How the comparison is run."""

    recipes: Path  # folder of the stages' recipes
    questions: Path | None  # sets made before; None: make them
    train: int  # questions of each set to make
    test: int
    seed: int
    threads: int  # of all processes together
    changes: tuple[str, ...]  # key=value for every recipe
    limit: int | None  # questions to ask of each set after each stage

    def recipe(self, stage: StageRun) -> Path:
        """Give the path of a stage's recipe."""
        return self.recipes / f"{stage.name}.yaml"


def run_table(out: Path, settings: TableSettings) -> None:
    """Run what is not done yet in `out`, ask, and write the table; print what happens.

    A stage that was cut short goes on where it was. Raises TrainingError when a stage fails or the
    table is already there.
    """
    if (out / TABLE).exists():
        raise TrainingError(f"{out / TABLE} already exists; remove it or choose another output")
    steps = {stage.name: _steps(stage, settings) for stage in STAGES}
    if settings.questions is not None:
        _check_sets(settings.questions)
    out.mkdir(parents=True, exist_ok=True)
    questions = _questions(out, settings)
    for names in AT_ONCE:
        waiting = [stage for stage in STAGES if stage.name in names]
        _run(out, [stage for stage in waiting if not _is_done(out, stage)], questions, settings)
    scores = {
        CONSTANT: {
            subject: best_constant(read_asked(questions / subject / "test", settings.limit))
            for subject in SUBJECTS
        },
        **{stage.name: _ask(out, stage, questions, settings) for stage in STAGES},
    }
    record = {
        name: {
            "steps": steps.get(name, 0),
            **{
                subject: {k: as_record(s) for k, s in kinds.items()}
                for subject, kinds in by.items()
            },
        }
        for name, by in scores.items()
    }
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    table = table_text(scores, steps)
    unfinished = out / f".{TABLE}"
    unfinished.write_text(table, encoding="utf-8")
    unfinished.rename(out / TABLE)
    print(table)


def table_text(
    scores: Mapping[str, Mapping[str, Mapping[str, Score]]], steps: Mapping[str, int]
) -> str:
    """Write the tables in Markdown: each stage by subject, then each kind by stage."""
    said = {CONSTANT: CONSTANT, **{stage.name: stage.said for stage in STAGES}}
    lines = [
        f"| trained | steps | {' | '.join(SUBJECTS)} |",
        f"|---|--:|{'--:|' * len(SUBJECTS)}",
    ]
    for name in ROWS:
        cells = [_with_interval(scores[name][subject]["all"]) for subject in SUBJECTS]
        lines.append(f"| {said[name]} | {_steps_until(name, steps)} | {' | '.join(cells)} |")
    lines += ["", f"| kind | {' | '.join(ROWS)} |", f"|---|{'--:|' * len(ROWS)}"]
    for subject in SUBJECTS:
        for kind in scores[ROWS[0]][subject]:
            if kind != "all":
                cells = [_percent(scores[name][subject][kind]) for name in ROWS]
                lines.append(f"| {subject}: {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _steps(stage: StageRun, settings: TableSettings) -> int:
    return read_recipe(settings.recipe(stage), list(settings.changes)).steps


def _steps_until(name: str, steps: Mapping[str, int]) -> int:
    if name == CONSTANT:
        return 0
    start = next(stage.start for stage in STAGES if stage.name == name)
    return steps[name] + (0 if start is None else _steps_until(start, steps))


def _check_sets(questions: Path) -> None:
    for folder in (questions / subject / half for subject in SUBJECTS for half in HALVES):
        if not folder.is_dir():
            raise TrainingError(
                f"{folder}: no such folder; make it with 'molmoact-train questions', or leave "
                "--questions out"
            )


def _questions(out: Path, settings: TableSettings) -> Path:
    if settings.questions is not None:
        return settings.questions
    for subject in SUBJECTS:
        folder = out / "questions" / subject
        if not folder.exists():
            started = time.monotonic()
            of_set = SetSettings(subject, settings.train, settings.test, settings.seed, 120)
            write_question_set(folder, of_set, settings.threads)
            print(f"questions/{subject}: {time.monotonic() - started:.0f} s", flush=True)
    return out / "questions"


def _is_done(out: Path, stage: StageRun) -> bool:
    return (out / stage.name / "checkpoint").is_dir()


def _run(out: Path, stages: Sequence[StageRun], questions: Path, settings: TableSettings) -> None:
    """Run stages side by side; when one fails the others are stopped."""
    if not stages:
        return
    threads = max(1, settings.threads // len(stages))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    started = time.monotonic()
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for stage in stages:
            command = _command(out, stage, questions, settings)
            with (out / f"{stage.name}.log").open("ab") as log:
                running[stage.name] = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
        while running:
            time.sleep(_POLL_S)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode:
                    raise TrainingError(f"{name} failed: {_last_line(out / f'{name}.log')}")
                print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def _command(out: Path, stage: StageRun, questions: Path, settings: TableSettings) -> list[str]:
    run = out / stage.name
    recipe = settings.recipe(stage)
    changes = list(settings.changes)
    if stage.start is not None:
        changes.append(f"from={out / stage.start / 'checkpoint'}")
    for source in read_recipe(recipe, changes).mixture.questions:
        changes.append(f"data.{source.name}.questions={questions / source.name / 'train'}")
    command = [sys.executable, "-m", "training.cli", "run", str(recipe), "--out", str(run)]
    command += ["--workers", "0"]
    command += [part for change in changes for part in ("--set", change)]
    return [*command, "--resume"] if run.exists() else command


def _ask(
    out: Path, stage: StageRun, questions: Path, settings: TableSettings
) -> dict[str, dict[str, Score]]:
    checkpoint = out / stage.name / "checkpoint"
    return {
        subject: evaluate(checkpoint, questions / subject / "test", limit=settings.limit)[0]
        for subject in SUBJECTS
    }


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _with_interval(score: Score) -> str:
    low, high = score.interval
    return f"{_percent(score)} ({100 * low:.0f} to {100 * high:.0f})"


def _percent(score: Score) -> str:
    return f"{100 * score.accuracy:.0f} %"
