"""How predictions are printed: one board in full, or a line for each of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.machine_limits import CPU, GPU, MATRIX_S, UNITS, Limits, limits_of_mode
from benchmarks.predict import CHANGED, FIRST, NO_DEPTH, STILL, BoardPrediction, UnitPrediction
from benchmarks.workload import STAGES

_GIB = 2**30
_HEAD = "predicted from bytes and operations, not measured"
_GPU_NOTE = (
    "gpu: what an engine that ran there could do; the engine of this version runs on the processor"
)
_SHOWN = (FIRST, CHANGED, STILL)


def print_board(predicted: BoardPrediction) -> None:
    """Print everything that is predicted for one board."""
    hardware, mode = predicted.hardware, predicted.hardware.power_mode
    print(_HEAD)
    print(f"board {predicted.board}: {hardware.name}, mode {mode.name or 'not named'}")
    scene = predicted.scene
    print(
        f"recipe {predicted.recipe}; {scene.crops} crops, {scene.prompt_tokens} prompt tokens, "
        f"{scene.horizon} actions"
    )
    need = predicted.need
    print(
        f"memory {need.total / _GIB:.2f} GiB: weights {need.weights / _GIB:.2f}, keys and values "
        f"{need.cache / _GIB:.2f}, results between layers {need.work / _GIB:.2f}, program "
        f"{need.program / _GIB:.2f}; usable {_usable(predicted)}"
    )
    for unit in UNITS:
        print()
        _print_unit(predicted, predicted.units[unit])


def print_boards(predictions: Sequence[BoardPrediction], refused: dict[str, str]) -> None:
    """Print a line for each board."""
    print(_HEAD)
    print(_GPU_NOTE)
    print("basis: the least sure of the board's figures, processor / gpu; shares: docs/profiles.md")
    print("whole call: first frame / a third of the cells changed / still scene")
    print(
        f"\n{'board':<30}{'needs':>7}{'usable':>8}  {'processor, s':<26}{'Hz':>5}  "
        f"{'gpu, s':<20}{'Hz':>5}  basis"
    )
    for predicted in predictions:
        print(_line(predicted))
    for name, reason in refused.items():
        print(f"{name:<30}refused: {reason}")


def markdown_rows(predictions: Sequence[BoardPrediction]) -> list[str]:
    """Return the same lines as rows of a Markdown table, as docs/profiles.md has them."""
    rows = [
        "| board | needs GiB | usable GiB | processor: first / third / still, s | Hz "
        "| gpu: first / third / still, s | Hz | basis |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for predicted in predictions:
        cells = [
            f"`{predicted.board}`",
            f"{predicted.need.total / _GIB:.1f}",
            _usable_number(predicted),
        ]
        for unit in UNITS:
            cells += [_calls(predicted, unit), _hz(predicted, unit)]
        rows.append(f"| {' | '.join([*cells, _basis(predicted)])} |")
    return rows


def as_json(predicted: BoardPrediction) -> dict[str, Any]:
    """Return the figures of one board as JSON has them, null where nothing is known."""
    return {
        "board": predicted.board,
        "label": "predicted",
        "recipe": predicted.recipe,
        "scene": asdict(predicted.scene),
        "need_bytes": asdict(predicted.need),
        "usable_mib": predicted.usable.value,
        "fitting_recipe": predicted.fitting_recipe,
        "units": {
            name: {
                **asdict(unit),
                "call_ms": {scenario: unit.call_ms(scenario) for scenario in unit.stages_ms},
                "replans_hz": {
                    scenario: predicted.replans_hz(name, scenario) for scenario in unit.stages_ms
                },
            }
            for name, unit in predicted.units.items()
        },
    }


def _print_unit(predicted: BoardPrediction, unit: UnitPrediction) -> None:
    if unit.unit == GPU:
        print(_GPU_NOTE)
    if unit.reason is not None:
        print(f"{unit.unit}: nothing predicted; {unit.reason}")
        return
    fits = {True: "fits", False: "does not fit", None: "usable memory is not known"}[unit.fits]
    print(f"{unit.unit}, {fits}; least sure of the board's figures: {unit.kind}")
    print(
        f"{'milliseconds':<16}"
        + "".join(f"{name:>10}" for name in (*STAGES, "call"))
        + f"{'replans/s':>11}"
    )
    for scenario, stages in unit.stages_ms.items():
        cells = [*(stages[stage] for stage in STAGES), unit.call_ms(scenario)]
        hz = predicted.replans_hz(unit.unit, scenario)
        print(f"{scenario:<16}" + "".join(f"{ms:>10.1f}" for ms in cells) + f"{hz:>11.2f}")
    slow = [name for name in unit.stages_ms if unit.call_ms(name) > predicted.max_chunk_age_s * 1e3]
    if slow:
        print(
            f"too slow for this profile ({', '.join(slow)}): actions older than max_chunk_age_s, "
            f"{predicted.max_chunk_age_s:g} s, are not followed"
        )
    limits = limits_of_mode(predicted.hardware.power_mode, unit.unit)
    assert isinstance(limits, Limits)
    print(f"  {MATRIX_S.value * 1e6:.0f} us ({MATRIX_S.kind}): {MATRIX_S.source}")
    for share in limits.shares:
        print(f"  share {share.value:.2f} ({share.kind}): {share.source}")


def _line(predicted: BoardPrediction) -> str:
    cells = [
        f"{predicted.board:<30}",
        f"{predicted.need.total / _GIB:>7.1f}",
        f"{_usable_number(predicted):>8}",
        f"  {_calls(predicted, CPU):<26}{_hz(predicted, CPU):>5}",
        f"  {_calls(predicted, GPU):<20}{_hz(predicted, GPU):>5}",
        f"  {_basis(predicted)}",
    ]
    return "".join(cells)


def _calls(predicted: BoardPrediction, name: str) -> str:
    unit = predicted.units[name]
    if unit.fits is False:
        other = predicted.fitting_recipe
        return f"does not fit; {other} would" if other and name == CPU else "does not fit"
    if unit.reason is not None:
        return "-"
    shown = [name for name in _SHOWN if name in unit.stages_ms] or [NO_DEPTH]
    return " / ".join(f"{unit.call_ms(scenario) / 1e3:.2f}" for scenario in shown)


def _hz(predicted: BoardPrediction, name: str) -> str:
    unit = predicted.units[name]
    if unit.fits is False or unit.reason is not None:
        return "-"
    scenario = CHANGED if CHANGED in unit.stages_ms else NO_DEPTH
    return f"{predicted.replans_hz(name, scenario):.2f}"


def _basis(predicted: BoardPrediction) -> str:
    return " / ".join(predicted.units[unit].kind or "-" for unit in UNITS)


def _usable(predicted: BoardPrediction) -> str:
    usable = predicted.usable
    number = _usable_number(predicted)
    return "not known" if number == "-" else f"{number} GiB ({usable.kind}: {usable.source})"


def _usable_number(predicted: BoardPrediction) -> str:
    usable = predicted.usable.value
    return "-" if usable is None else f"{usable / 1024:.1f}"
