"""A comparison asks both sides the same, and says what it asked."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REFERENCE

pytest.importorskip("onnx")

from benchmarks.cli import main
from benchmarks.errors import PeerError
from benchmarks.peer_bundle import measure_bundle
from benchmarks.peer_figures import ScenarioFigures, SideFigures, Spread
from benchmarks.peer_job import (
    ALL_DIFFER,
    BLOCK,
    DEPTH_SCENARIOS,
    FIRST_FRAME,
    NO_DEPTH,
    SCATTERED,
    STILL,
    THIRD_DIFFER,
    Call,
    Job,
    altered_codes,
    draw_scene,
    read_job,
    with_twins,
    write_job,
)
from benchmarks.peer_process import BUNDLE, Watched, run_side
from benchmarks.peer_rows import compare
from edge.images import changed_cells

CHECKPOINT = REFERENCE / "three_cameras" / "checkpoint"  # 9 depth cells
NANO = REFERENCE.parent.parent / "checkpoints" / "nano"
STATE = np.zeros(6)


def job(bundle=None, **changes):
    given = {
        "checkpoint": str(CHECKPOINT),
        "bundle": str(bundle),
        "profile": "sim",
        "norm_tag": "so100_so101_molmoact2",
        "threads": 1,
        "calls": 1,
        "prompt_tokens": 50,
        "seed": 0,
    }
    return Job(**{**given, **changes})


def scene(cells=9, percent=30, place=BLOCK, cameras=3, seed=0):
    return draw_scene(cells, percent, place, cameras, STATE, seed)


@pytest.mark.parametrize("place", [BLOCK, SCATTERED])
@pytest.mark.parametrize(("cells", "percent", "count"), [(100, 30, 30), (9, 30, 3), (16, 100, 16)])
def test_as_many_cells_change_as_asked(place, cells, percent, count):
    drawn = scene(cells, percent, place)
    changed = changed_cells(drawn.pictures[0], drawn.before, cells)
    assert np.count_nonzero(changed) == count


def test_a_block_of_changed_cells_is_a_rectangle_of_neighbours():
    drawn = scene(100, 30)
    cells = np.flatnonzero(changed_cells(drawn.pictures[0], drawn.before, 100))
    rows, columns = np.divmod(cells, 10)
    assert (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == 30


@pytest.mark.parametrize(
    ("scenario", "count"), [(FIRST_FRAME, 0), (STILL, 0), (THIRD_DIFFER, 10), (ALL_DIFFER, 30)]
)
def test_as_many_codes_of_changed_cells_are_altered_as_the_scenario_says(scenario, count):
    codes, changed = np.arange(100) % 128, np.arange(40, 70)
    draft = altered_codes(codes, changed, scenario, 128, seed=0)
    differ = np.flatnonzero(draft != codes)
    assert len(differ) == count
    assert set(differ) <= set(changed)
    assert draft.min() >= 0
    assert draft.max() < 128


def test_every_counted_call_has_a_twin_without_depth():
    asked = []

    def run(scenario):
        asked.append(scenario)
        return Call(float(len(asked)), {}, 0, 0, 0)

    done = with_twins([STILL], 2, run)
    assert asked == [NO_DEPTH, STILL, STILL, NO_DEPTH, STILL, NO_DEPTH]  # two to warm up
    assert [(call.call_s, call.twin_s) for call in done[STILL]] == [(3, 4), (5, 6)]
    assert [call.call_s for call in done[NO_DEPTH]] == [4, 6]


def test_a_job_comes_back_from_its_folder_as_it_was(tmp_path):
    drawn = scene()
    write_job(tmp_path, job(), drawn)
    read, arrays = read_job(tmp_path)
    assert read == job()
    np.testing.assert_array_equal(arrays.pictures, drawn.pictures)
    np.testing.assert_array_equal(arrays.before, drawn.before)


def test_a_bundle_moves_as_many_codes_as_the_scenario_asks(bundles):
    drawn = scene()
    answer = measure_bundle(job(bundles("three_cameras")), drawn)
    assert set(answer.calls) == {NO_DEPTH, *DEPTH_SCENARIOS}
    moved = {name: calls[0].moved_cells for name, calls in answer.calls.items()}
    assert (moved[STILL], moved[THIRD_DIFFER], moved[ALL_DIFFER]) == (0, 1, 3)
    changed = {name: calls[0].changed_cells for name, calls in answer.calls.items()}
    assert changed == {NO_DEPTH: 0, FIRST_FRAME: 9, STILL: 0, THIRD_DIFFER: 3, ALL_DIFFER: 3}
    assert len(answer.one_token_s) == 10 * (1 + len(answer.calls[NO_DEPTH]))


def test_a_side_that_fails_is_one_line_with_its_reason(tmp_path):
    with pytest.raises(PeerError, match=r"^bundle: .*no such bundle") as failure:
        run_side(BUNDLE, job(tmp_path / "no"), scene(), tmp_path / "side")
    assert "\n" not in str(failure.value)


def figures(name, *, call_ms, adds_ms=None, prefill_ms=10.0, anon_mib=1000.0, token_ms=1.0):
    """Make a side up; `call_ms` and `adds_ms` by scenario."""
    return SideFigures(
        name=name,
        form="",
        versions={},
        load_s=1.0,
        watched=Watched(anon_mib, None, None),
        scenarios={
            scenario: ScenarioFigures(
                call_ms=Spread(value, value, value),
                stages_ms={"depth": Spread(1.0, 1.0, 1.0)},
                depth_adds_ms=Spread(*[(adds_ms or {}).get(scenario, 1.0)] * 3),
                depth_passes=1.0,
                changed_cells=1.0,
                moved_cells=None,
                moved_cells_asked=None,
            )
            for scenario, value in call_ms.items()
        },
        prefill_ms=Spread(prefill_ms, prefill_ms, prefill_ms),
        one_token_ms=Spread(token_ms, token_ms, token_ms),
        codes_as_lerobot=None,
        notes=[],
    )


def test_rows_say_which_goal_was_met():
    public = figures(
        "lerobot",
        call_ms={FIRST_FRAME: 400.0, THIRD_DIFFER: 200.0, STILL: 130.0},
        adds_ms={THIRD_DIFFER: 100.0},
    )
    ours = figures(
        "small",
        call_ms={FIRST_FRAME: 100.0, THIRD_DIFFER: 80.0, ALL_DIFFER: 80.0, STILL: 50.0},
        adds_ms={THIRD_DIFFER: 9.0, STILL: 12.5},
        anon_mib=3433.0,
    )
    llama = figures("llama.cpp", call_ms={}, prefill_ms=14.0)
    rows = {(row.name, row.peer): row for row in compare([public, ours, llama])}

    def cell(name, peer="lerobot"):
        found = rows[name, peer].bundles["small"]
        return found.value, found.ratio, found.met

    assert cell("whole call, first frame") == (100.0, 4.0, True)
    assert cell("whole call, a third of the codes differ") == (80.0, 2.5, False)
    assert cell("whole call, all codes differ") == (80.0, 2.5, True)
    assert cell("what depth adds, a third differ") == (9.0, pytest.approx(11.1, 0.01), True)
    assert cell("what depth adds to a still scene")[::2] == (0.25, False)
    assert cell("prefill", "llama.cpp") == (10.0, pytest.approx(1.4), False)
    assert cell("peak RssAnon")[2] is True  # 3433 MiB are 3.5998 GB
    assert cell("whole call, no depth") == (None, None, None)


def test_rows_of_a_peer_that_took_no_part_hold_no_ratio():
    rows = compare([figures("lerobot", call_ms={}), figures("small", call_ms={})])
    cells = [row.bundles["small"] for row in rows if row.peer == "llama.cpp"]
    assert [cell.value for cell in cells] == [10.0, 1.0]
    assert {(cell.ratio, cell.met) for cell in cells} == {(None, None)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(CHECKPOINT), "no"], "no such bundle"),
        ([str(CHECKPOINT), "no", "--scratch", "nowhere"], "no such folder"),
        ([str(CHECKPOINT), "a/no", "b/no"], "same name"),
        ([str(CHECKPOINT), "no", "--profile", "unknown"], "unknown"),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.peer.importlib.util.find_spec", lambda _name: object())
    assert main(["peer", *arguments, "--no-llama"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("molmoact-bench: error: ")
    assert message in error


def test_llama_cpp_asked_for_but_not_there_is_an_error_that_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(
        "benchmarks.peer.importlib.util.find_spec",
        lambda name: None if name == "llama_cpp" else object(),
    )
    assert main(["peer", str(CHECKPOINT), "no", "--llama"]) == 2
    assert "llama-cpp-python is not installed; install it" in capsys.readouterr().err


def test_llama_cpp_measures_the_checkpoints_decoder_and_takes_its_file_away(tmp_path):
    pytest.importorskip("llama_cpp")
    from benchmarks.peer_llama import measure_llama

    answer = measure_llama(job(checkpoint=str(NANO), calls=2), scene(), tmp_path)
    assert (len(answer.prefill_s), len(answer.one_token_s)) == (2, 30)
    assert "table of 128 rows" in answer.notes[0]  # as many as there are depth codes
    assert list(tmp_path.iterdir()) == []
