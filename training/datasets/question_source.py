"""Examples from questions and answers: JSON lines beside their pictures.

    {"images": ["pictures/000.jpg"], "question": "Which cube is nearer?", "answer": "The red one.",
     "kind": "depth order"}

A question without pictures has an empty list. With `"goes_on": true` the answer follows the words
of the question at once, in the same turn: what is learnt then belongs to these words, wherever they
stand in a prompt. All `*.jsonl` files of the folder are read, in order
of their names; a picture's path is relative to the folder. Further keys are for whoever judges the
answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge.errors import one_line, shown
from edge.prompt import is_text
from training.datasets.augmentation import Augmentation, augment
from training.datasets.dataset_files import DatasetError
from training.datasets.settings import QuestionSettings
from training.examples.example import Example
from training.examples.robot_text import END_OF_TURN

_KEYS = {"images", "question", "answer", "kind"}


@dataclass(frozen=True, slots=True)
class Question:
    """One question."""

    images: tuple[Path, ...]
    question: str
    answer: str
    kind: str
    goes_on: bool = False  # the answer belongs to the same turn


class QuestionSource:
    """A folder of questions as a source of examples, each drawn alike."""

    def __init__(
        self, settings: QuestionSettings, augmentation: Augmentation | None = None
    ) -> None:
        """Read and check every line; raise `DatasetError`."""
        self.name = settings.name
        self.questions = read_questions(settings.folder)
        # Where things are is what is asked, so a picture keeps its geometry.
        self._augmentation = augmentation

    def example(self, number: int, rng: np.random.Generator) -> Example:
        """Draw a question."""
        question = self.questions[int(rng.integers(len(self.questions)))]
        images = [read_picture(path) for path in question.images]
        if self._augmentation is not None:
            images = [
                augment(image, self._augmentation, rng, keep_geometry=True) for image in images
            ]
        return Example(
            number=number,
            source=self.name,
            images=tuple(images),
            question=prompt_text(question),
            answer=question.answer + END_OF_TURN,
            chunk=None,
        )


def prompt_text(question: Question) -> str:
    """Write the prompt behind the pictures."""
    begun = f"<|im_start|>user\n{question.question}"
    return begun if question.goes_on else f"{begun}{END_OF_TURN}\n<|im_start|>assistant\n"


def read_questions(folder: Path) -> list[Question]:
    """Read all questions of a folder; raise `DatasetError` with file and line."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DatasetError(f"{folder}: no *.jsonl file; give a folder of questions")
    questions = []
    for file in files:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{file}: cannot be read ({one_line(error)})") from None
        questions += [
            _question(folder, line, f"{file}: line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    if not questions:
        raise DatasetError(f"{folder}: its *.jsonl files hold no question")
    return questions


def read_picture(path: Path) -> np.ndarray:
    """Read a picture, (height, width, 3) uint8 RGB; raise `DatasetError`."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DatasetError(f"{path}: not a picture that can be read; write it again")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _question(folder: Path, line: str, where: str) -> Question:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{where}: not JSON ({one_line(error)})") from None
    if not isinstance(values, dict) or not set(values) >= _KEYS:
        raise DatasetError(f"{where}: {shown(values)}; an object with {', '.join(sorted(_KEYS))}")
    for key in ("question", "answer", "kind"):
        if not is_text(values[key]) or not values[key].strip():
            raise DatasetError(f"{where}: {key} is {shown(values[key])}; a text is needed")
    images = values["images"]
    if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
        raise DatasetError(f"{where}: images is {shown(images)}; a list of paths is needed")
    paths = tuple(folder / name for name in images)
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"{where}: images names {path}, which is missing")
    goes_on = values.get("goes_on", False)
    if not isinstance(goes_on, bool):
        raise DatasetError(f"{where}: goes_on is {shown(goes_on)}; true or false is needed")
    return Question(paths, values["question"], values["answer"], values["kind"], goes_on)
