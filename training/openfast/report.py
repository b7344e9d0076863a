"""An action tokenizer beside others on chunks that none of them was fitted on.

The others: one that sees every robot padded to 32 dims, one fitted to each robot alone, and plain
256-bin tokens. All share its scale and size of vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.action_tokens import ActionTokenizer
from training.openfast.chunks import DatasetChunks, PaddedChunks
from training.openfast.draw import Source, apportion, draw_jobs
from training.openfast.fit import FittedTokenizer, fit
from training.openfast.measure import Codec, Measured, Padded, PlainBins, measure
from training.openfast.runners import Runner
from training.openfast.units import dim_units

PADDED_DIMS = 32  # arXiv 2605.02881
_FIT, _HELD_OUT, _REPLACEMENTS = range(3)  # what a draw is for


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenizer on one dataset."""

    source: Source
    tokenizer: str
    measured: Measured


def fit_on_sources(
    sources: Sequence[Source], chunks: int, seed: int, runner: Runner, scale: float, vocab: int
) -> FittedTokenizer:
    """Fit a tokenizer on `chunks` chunks drawn from the sources by weight."""
    return fit(_fit_draw(sources, chunks, seed), runner, scale, vocab)


def make_report(
    tokens: ActionTokenizer,
    sources: Sequence[Source],
    *,
    chunks: int,
    fit_chunks: int,
    seed: int,
    runner: Runner,
) -> list[Row]:
    """Measure a tokenizer and its rivals on `chunks` held-out chunks of each source.

    The rivals are fitted on `fit_chunks` chunks each, drawn by weight: of all sources, or of those
    of one robot.
    """
    rival = {"scale": tokens.scale, "vocab_size": tokens.vocab_size}
    mixture = _fit_draw(sources, fit_chunks, seed)
    padded = fit([PaddedChunks(job, PADDED_DIMS) for job in mixture], runner, **rival).opened()
    alone = {}
    for robot in dict.fromkeys(_robot(source) for source in sources):
        own = [source for source in sources if _robot(source) == robot]
        alone[robot] = fit(_fit_draw(own, fit_chunks, seed), runner, **rival).opened()
    rows = []
    for number, source in enumerate(sources):
        codecs: dict[str, Codec] = {
            "OpenFAST": tokens,
            f"padded to {PADDED_DIMS} dims": Padded(padded, PADDED_DIMS),
            "this robot's own": alone[_robot(source)],
            "256 bins": PlainBins(),
        }
        rng = np.random.default_rng((seed, _HELD_OUT, number))
        held_out = np.concatenate(
            [job.read() for job in draw_jobs(source, chunks, rng, held_out=True)]
        )
        for name, codec in codecs.items():
            replacing = np.random.default_rng((seed, _REPLACEMENTS, number))
            rows.append(Row(source, name, measure(codec, held_out, source.normalizer, replacing)))
    return rows


def tokens_table(rows: Iterable[Row]) -> str:
    """Print one line a tokenizer and dataset: tokens, error, failures."""
    lines = [
        "| dataset | tokenizer | tokens, mean | p95 | joints, deg: mean | p95 | max | "
        "gripper, %: mean | p95 | max | undecodable | one token replaced |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        measured = row.measured
        cells = [row.source.name, row.tokenizer, f"{measured.tokens_mean:.1f}"]
        cells += [f"{measured.tokens_p95:.0f}"]
        cells += _figures(_in_unit(row, "deg")) + _figures(_in_unit(row, "%"))
        cells += [f"{measured.undecodable:.2%}", f"{measured.undecodable_replaced:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def joints_table(rows: Iterable[Row], tokenizer: str = "OpenFAST") -> str:
    """Print one line a dim: what the tokenizer loses there."""
    lines = ["| dataset | dim | unit | mean | p95 | max |", "|---|---|---|--:|--:|--:|"]
    for row in rows:
        if row.tokenizer != tokenizer:
            continue
        embodiment = row.source.dataset.embodiment
        for dim, unit in enumerate(dim_units(embodiment)):
            figures = _figures(row.measured.errors[..., dim] * unit.factor)
            cells = [row.source.name, embodiment.action_names[dim], unit.unit, *figures]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _fit_draw(sources: Sequence[Source], chunks: int, seed: int) -> list[DatasetChunks]:
    counts = apportion(chunks, [source.weight for source in sources])
    jobs = []
    for number, (source, count) in enumerate(zip(sources, counts, strict=True)):
        jobs += draw_jobs(
            source, count, np.random.default_rng((seed, _FIT, number)), held_out=False
        )
    return jobs


def _robot(source: Source) -> str:
    return source.dataset.embodiment.name


def _in_unit(row: Row, unit: str) -> np.ndarray:
    units = dim_units(row.source.dataset.embodiment)
    return np.concatenate(
        [
            row.measured.errors[..., dim].reshape(-1) * each.factor
            for dim, each in enumerate(units)
            if each.unit == unit
        ]
        or [np.empty(0)]
    )


def _figures(errors: np.ndarray) -> list[str]:
    if not errors.size:
        return ["-"] * 3
    return [f"{x:.2f}" for x in (errors.mean(), np.percentile(errors, 95), errors.max())]
