"""The depth report as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def report_text(figures: dict[str, Any]) -> str:
    """Write out the figures of `training.depth.report`."""
    first, past = figures["episodes"]
    parts = [
        f"# Depth codes of {figures['dataset']}",
        f"Episodes {first} to {past - 1}, {figures['frames']} frames; depth from "
        f"{figures['teacher']!r}. Millimetres are absolute errors of pixels nearer than 2 m.",
        _codec(figures["codec"]),
        _carried(figures["carried"], figures["codec"]),
    ]
    if figures["checkpoint"] is not None:
        parts.append(_checkpoint(figures["checkpoint"]))
    return "\n\n".join(parts)


def _codec(codec: dict[str, Any]) -> str:
    return "\n".join(
        [
            "## Codec",
            "",
            "| pictures | error of 255 | mm, mean | median | relative | codes used | perplexity |",
            "|---|---|---|---|---|---|---|",
            f"| {codec['pictures']} | {codec['levels']:.2f} | {_number(codec['mm'])} | "
            f"{_number(codec['median_mm'])} | {_percent(codec['relative'])} | "
            f"{codec['codes_used']} of {codec['codes']} | {codec['perplexity']:.1f} |",
        ]
    )


def _carried(rows: list[dict[str, Any]], codec: dict[str, Any]) -> str:
    thresholds = sorted({row["threshold"] for row in rows})
    intervals = sorted({row["interval"] for row in rows})
    table = {(row["interval"], row["threshold"]): row for row in rows}
    head = "| interval | " + " | ".join(f"{threshold:g}" for threshold in thresholds) + " |"
    line = "|---" * (len(thresholds) + 1) + "|"

    def block(title: str, cell: str, shown: Callable[[float], str]) -> list[str]:
        lines = [title, "", head, line]
        for interval in intervals:
            values = [shown(table[interval, threshold][cell]) for threshold in thresholds]
            lines.append(f"| {interval} | " + " | ".join(values) + " |")
        return [*lines, ""]

    error, unit = ("levels", "of 255") if codec["mm"] is None else ("mm", "mm, mean")
    return "\n".join(
        [
            "## Carried codes",
            "",
            "By frames between two calls, and by the cosine below which a cell counts as changed.",
            "",
            *block("Share of cells changed per call:", "changed_share", _percent),
            *block("Share of codes that are not the fresh ones:", "stale_share", _percent),
            *block(
                f"Depth error of the carried codes, {unit} (fresh codes: {_number(codec[error])}):",
                error,
                _number,
            ),
        ]
    ).rstrip()


def _checkpoint(figures: dict[str, Any]) -> str:
    names = {
        "fresh": "fresh codes",
        "buffer": "carried codes, which were to be said",
        "greedy": "codes said alone",
        "usual": "each cell's most frequent code",
    }
    rows = [
        f"| {text} | {errors['levels']:.2f} | {_number(errors['mm'])} | "
        f"{_number(errors['median_mm'])} |"
        for name, text in names.items()
        for errors in [figures["errors"][name]]
    ]
    return "\n".join(
        [
            "## Codes that the checkpoint says",
            "",
            f"{figures['calls']} calls, compared with codes carried at interval "
            f"{figures['interval']}.",
            "",
            "| right codes | share |",
            "|---|---|",
            f"| with the right ones before each | {_percent(figures['forced_share'])} |",
            f"| the same, only cells that changed | {_percent(figures['forced_changed_share'])} |",
            f"| alone | {_percent(figures['greedy_share'])} |",
            f"| alone, against fresh codes | {_percent(figures['greedy_fresh_share'])} |",
            f"| each cell's most frequent code | {_percent(figures['usual_share'])} |",
            "",
            "| depth decoded from | error of 255 | mm, mean | mm, median |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
