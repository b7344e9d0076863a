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
    error, unit = ("levels", "of 255") if codec["mm"] is None else ("mm", "mm, mean")
    return "\n".join(
        [
            "## Carried codes",
            "",
            "By frames between two calls, and by the cosine below which a cell counts as changed.",
            "",
            *_block(rows, "Share of cells changed per call:", "changed_share", _percent),
            *_block(rows, "Share of codes that are not the fresh ones:", "stale_share", _percent),
            *_block(
                rows, f"Depth error, {unit}:", error, _number, {"fresh codes": f"fresh_{error}"}
            ),
        ]
    ).rstrip()


def _block(
    rows: list[dict[str, Any]],
    title: str,
    cell: str,
    shown: Callable[[float], str],
    last: dict[str, str] | None = None,
) -> list[str]:
    """Write a table by interval and threshold; `last` has columns that know no threshold."""
    thresholds = sorted({row["threshold"] for row in rows})
    table = {(row["interval"], row["threshold"]): row for row in rows}
    last = last or {}
    lines = [
        title,
        "",
        "| " + " | ".join(["interval", *(f"{value:g}" for value in thresholds), *last]) + " |",
        "|---" * (1 + len(thresholds) + len(last)) + "|",
    ]
    for interval in sorted({row["interval"] for row in rows}):
        values = [table[interval, threshold][cell] for threshold in thresholds]
        values += [table[interval, thresholds[0]][name] for name in last.values()]
        lines.append(f"| {interval} | " + " | ".join(map(shown, values)) + " |")
    return [*lines, ""]


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
