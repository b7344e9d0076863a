"""How well a checkpoint says the depth codes that the annotation has.

Two figures: with the right codes before each (teacher-forced), and on its own (greedy). What it
says on its own is found without decoding step by step: say all codes given a draft, take what was
said as the next draft, until nothing changes. A code is final once those before it are, so that
ends, with exactly the greedy codes, after at most one pass more than there are cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.datasets.mixture import MixtureContext
from training.datasets.robot_source import RobotSource
from training.datasets.settings import parse_mixture
from training.depth.annotations import DepthAnnotations
from training.errors import TrainingError
from training.examples.batch import Batch
from training.examples.collate import Collator
from training.examples.robot_text import DEPTH_ACT
from training.model.load import load_model


@dataclass(frozen=True, slots=True)
class SaidCodes:
    """Codes of some frames, all (frames, cells) int64 unless said otherwise."""

    buffer: np.ndarray  # what was to be said
    fresh: np.ndarray
    changed: np.ndarray  # (frames, cells) bool, since the call before
    forced: np.ndarray  # said with the right codes before
    greedy: np.ndarray  # said alone
    usual: np.ndarray  # (cells,) the most frequent code of each cell in the episodes before


class CodeSpeaker:
    """A checkpoint that is asked for the depth codes of frames of a dataset."""

    def __init__(self, checkpoint: Path, dataset: Path, annotations: Path, embodiment: str) -> None:
        """Open everything; raise `TrainingError`."""
        self.annotations = DepthAnnotations.open(annotations, dataset)
        robot = {
            "robot": str(dataset),
            "embodiment": embodiment,
            "depth": str(annotations),
            "styles": {DEPTH_ACT: 1.0},
        }
        settings = parse_mixture({"judged": robot}, file="depth report").robots[0]
        context = MixtureContext(0, checkpoint, checkpoint / "norm_stats.json")
        self._source = RobotSource(settings, context)
        self._collate = Collator(checkpoint)
        self._model = load_model(checkpoint).eval()
        config = self._model.config
        if config.depth_token_start_id is None:
            raise TrainingError(f"{checkpoint} has no depth tokens; give one that was trained with")
        self._first, self._codes = int(config.depth_token_start_id), int(config.num_depth_tokens)

    def said(self, frames: Sequence[tuple[int, int]]) -> SaidCodes:
        """Ask for the codes of (episode, frame) pairs."""
        asked = [self._ask(episode, frame) for episode, frame in frames]
        forced, greedy = (np.stack(codes) for codes in zip(*asked, strict=True))
        known = self.annotations
        return SaidCodes(
            buffer=np.stack([known.codes(*frame) for frame in frames]),
            fresh=np.stack([known.codes(*frame, "fresh") for frame in frames]),
            changed=np.stack([known.changed(*frame) for frame in frames]),
            forced=forced,
            greedy=greedy,
            usual=self._usual(min(episode for episode, _ in frames)),
        )

    def _ask(self, episode: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes said teacher-forced and alone, (cells,) each."""
        row = int(self._source.rows.starts[episode]) + frame
        example = self._source.example_at(0, row, DEPTH_ACT, np.random.default_rng(0))
        batch = self._collate([example])
        ids = batch.labels[0]
        places = ((ids >= self._first) & (ids < self._first + self._codes)).nonzero().squeeze(1)
        draft = ids[places] - self._first
        forced = said = self._say(batch, places, draft)
        for _ in range(len(places)):
            if torch.equal(said, draft):
                break
            draft, said = said, self._say(batch, places, said)
        return forced.numpy(), said.numpy()

    @torch.inference_mode()
    def _say(self, batch: Batch, places: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
        """Return the preferred code of each place when `draft` stands in all of them."""
        inputs = dict(batch.model_inputs)
        inputs["input_ids"] = inputs["input_ids"].clone()
        inputs["input_ids"][0, places] = draft + self._first
        logits = self._model(**inputs, use_cache=False, logits_to_keep=places - 1).logits
        return logits[0, :, self._first : self._first + self._codes].argmax(dim=-1)

    def _usual(self, first_judged: int) -> np.ndarray:
        """Return each cell's most frequent code in the episodes before; in all when none is."""
        info = self.annotations.info
        episodes = range(first_judged or len(info.episode_frames))
        codes = np.concatenate([self.annotations.episode(number).buffer for number in episodes])
        counts = np.zeros((info.cells, info.codes), np.int64)
        np.add.at(counts, (np.arange(info.cells)[None], codes), 1)
        return counts.argmax(axis=1)
