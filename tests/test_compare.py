"""`molmoact-bench compare`: a change is told from noise, and what cannot be compared is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.compare import ACROSS, compare_reports
from benchmarks.errors import ProfileBenchError
from benchmarks.profile_report import SCHEMA
from benchmarks.repeat_spread import ratio_of_medians

CALL_MS = 100.0


def noise(seed, n=30, spread=0.03, memory=0.6):
    """Repeats around 1 that remember the one before, as those of a warm board do."""
    random = np.random.default_rng(seed)
    values, last = [], 0.0
    for _ in range(n):
        last = memory * last + random.normal(0.0, spread)
        values.append(1.0 + last)
    return np.array(values)


def report(seed=0, **changes):
    stages = {
        "preprocess": CALL_MS * 0.002 * noise(seed + 1),
        "vision": CALL_MS * 0.2 * noise(seed + 2),
        "prefill": CALL_MS * 0.6 * noise(seed + 3),
        "depth": np.zeros(30),
        "call": CALL_MS * noise(seed + 4),
    }
    made = {
        "schema": SCHEMA,
        "labels": {"machine": "a board", "servos": "emulated", "foreign": None},
        "machine": {
            "name": "a board",
            "cpu": "cores",
            "cores": 6,
            "memory_mib": 7620.0,
            "power_mode": "25W",
            "commit": "abc",
            "onnxruntime": "1.23.0",
            "python": "3.10.12",
            "kernel": "5.15",
            "jetpack": "6.2",
            "active_sms": 8,
        },
        "bundle": {"files_sha256": "00ff", "recipe": "int4"},
        "profile": {"name": "orin_nano_8gb_25w", "control_hz": 30.0, "threads": 5},
        "stages": [
            {
                "cameras": 2,
                "changed_percent": None,
                "horizon": 30,
                "repeats_ms": {name: values.tolist() for name, values in stages.items()},
            }
        ],
        "loop": {
            "depth": "off",
            "task": "put",
            "seconds": 30.0,
            "stopped": None,
            "row": {
                "control_hz": 30.0,
                "ticks": 890,
                "missed": 10,
                "held": 20,
                "policy_calls": 150,
            },
            "repeats": {
                "tick lateness": (0.2 * noise(seed + 5)).tolist(),
                "policy call": (120 * noise(seed + 6)).tolist(),
            },
        },
        "energy": {"windows_mj": (150 * noise(seed + 7)).tolist()},
        "memory": {"loop": {"anon_mib": 900.0}},
        "board": {"throttled": False, "throttle_reasons": []},
    }
    made.update(changes)
    return made


def slower(before, factor, *path):
    changed = copy.deepcopy(before)
    values = changed
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = [value * factor for value in values[path[-1]]]
    return changed


def verdicts(before, after, **options):
    return {c.name: c.verdict for c in compare_reports(before, after, **options).changes}


def test_the_same_measurement_again_has_nothing_worse():
    found = compare_reports(report(0), report(100))
    assert found.worse == []
    assert {"vision, no depth", "energy of an action", "own memory, loop"} <= {
        change.name for change in found.changes
    }
    assert "depth, no depth" not in {change.name for change in found.changes}


def test_a_slower_stage_is_worse_and_a_faster_one_better():
    before = report(0)
    after = slower(report(100), 1.3, "stages", 0, "repeats_ms", "prefill")
    after = slower(after, 0.7, "stages", 0, "repeats_ms", "vision")
    found = verdicts(before, after)
    assert found["prefill, no depth"] == "worse"
    assert found["vision, no depth"] == "better"
    assert found["call, no depth"] not in ("worse", "better")


@pytest.mark.parametrize(
    "path",
    [("energy", "windows_mj"), ("loop", "repeats", "policy call")],
    ids=lambda path: path[-1],
)
def test_everything_with_repeats_can_become_worse(path):
    changed = compare_reports(report(0), slower(report(100), 1.3, *path))
    assert len(changed.worse) == 1


def test_the_percentage_is_what_is_allowed():
    before, after = report(0), slower(report(100), 1.2, "stages", 0, "repeats_ms", "call")
    assert verdicts(before, after, fail_over_percent=5.0)["call, no depth"] == "worse"
    assert verdicts(before, after, fail_over_percent=40.0)["call, no depth"] == "same"


def test_a_change_inside_the_noise_is_no_regression():
    random = np.random.default_rng(3)
    before, after = report(0), report(100)
    for side, scale in ((before, 100.0), (after, 112.0)):
        values = scale * random.lognormal(0.0, 0.6, 12)
        side["stages"][0]["repeats_ms"]["call"] = values.tolist()
    assert verdicts(before, after)["call, no depth"] == "unclear"


def test_a_difference_that_does_not_matter_is_none():
    before = report(0)  # 0.2 ms of a call of 100 ms, and of a tick of 33 ms
    after = slower(report(0), 1.5, "stages", 0, "repeats_ms", "preprocess")
    after = slower(after, 1.5, "loop", "repeats", "tick lateness")
    found = verdicts(before, after)
    assert found["preprocess, no depth"] == "same"
    assert found["tick lateness, loop"] == "same"
    after = slower(after, 4.0, "loop", "repeats", "tick lateness")
    assert verdicts(before, after)["tick lateness, loop"] == "worse"


def test_too_few_repeats_are_not_judged():
    before, after = report(0), report(100)
    after["stages"][0]["repeats_ms"]["vision"] = [500.0] * 9
    change = next(c for c in compare_reports(before, after).changes if c.name.startswith("vision"))
    assert (change.verdict, change.note) == ("not judged", "fewer than 10 repeats")


def test_memory_is_one_figure_judged_by_percent():
    after = report(100)
    after["memory"]["loop"]["anon_mib"] = 1000.0
    found = verdicts(report(0), after)
    assert found["own memory, loop"] == "worse"
    after["memory"]["loop"]["anon_mib"] = 920.0
    assert verdicts(report(0), after)["own memory, loop"] == "same"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"missed": 40}, "ticks missed, loop"),
        ({"held": 90}, "ticks held, loop"),
        ({"policy_calls": 120}, "from call to call, loop"),
        ({"policy_calls": 0}, "from call to call, loop"),
    ],
)
def test_a_loop_that_misses_holds_or_calls_less_is_worse(changes, name):
    before, after = report(0), report(100)
    after["loop"]["row"].update(changes)
    assert [c.name for c in compare_reports(before, after).worse] == [name]
    assert verdicts(after, before)[name] == "better"


def test_a_tick_or_a_call_more_or_less_is_chance():
    before, after = report(0), report(100)
    before["loop"]["row"].update(missed=0, policy_calls=5)
    after["loop"]["row"].update(missed=1, held=50, policy_calls=4)
    assert compare_reports(before, after).worse == []
    after["loop"]["row"]["policy_calls"] = 3
    assert len(compare_reports(before, after).worse) == 1


def test_a_loop_that_was_stopped_is_worse_and_said(tmp_path, capsys):
    before, after = report(0), report(100)
    after["loop"].update(stopped="shoulder_pan: blocked", seconds=2.0)
    after["loop"]["row"].update(ticks=60, missed=0, held=1, policy_calls=10)
    found = compare_reports(before, after)
    assert [change.name for change in found.worse] == ["stops of the loop"]
    assert found.cautions == ["the loop was stopped in the second profile: shoulder_pan: blocked"]
    assert compare_reports(after, after).worse == []
    sides = written(tmp_path / "a", before), written(tmp_path / "b", after)
    assert main(["compare", *sides]) == 1
    json.loads(capsys.readouterr().out.strip().splitlines()[-1], parse_constant=pytest.fail)


def test_false_alarms_are_as_rare_as_promised_although_neighbours_are_alike():
    alarms = sum(
        bool(compare_reports(report(s), report(s + 1000), fail_over_percent=0.0).worse)
        for s in range(0, 400, 10)
    )
    assert alarms <= 4  # of 40; 1 or 2 are expected, 5 with a chance of less than 1 in 100


def test_one_quantity_of_many_is_hardly_ever_worse_without_a_change():
    confidence = 1 - 0.05 / 14
    alarms = sum(
        ratio_of_medians(noise(seed), noise(seed + 5000), confidence).low > 1.0
        for seed in range(300)
    )
    assert alarms <= 2  # of 300, where 0.5 are expected


def test_a_ratio_and_its_interval_hold_the_truth():
    held = 0
    for seed in range(40):
        ratio = ratio_of_medians(noise(seed), 1.1 * noise(seed + 500), 0.95)
        held += ratio.low <= 1.1 <= ratio.high
    assert held >= 34  # of 40; 38 are expected


def test_a_median_of_zero_has_no_ratio():
    assert ratio_of_medians([0.0] * 20, [1.0] * 20, 0.95) is None


@pytest.mark.parametrize("what", ACROSS)
def test_another_machine_mode_bundle_or_profile_is_refused_unless_named(what):
    after = report(100)
    if what == "machine":
        after["machine"]["cores"] = 8
    elif what == "mode":
        after["machine"]["power_mode"] = "15W"
    elif what == "bundle":
        after["bundle"]["files_sha256"] = "11ee"
    else:
        after["profile"]["name"] = "sim"
    with pytest.raises(ProfileBenchError, match=f"another {what}.*--across {what}"):
        compare_reports(report(0), after)
    assert compare_reports(report(0), after, across=[what]).changes


def test_what_else_differs_is_said():
    after = report(100)
    after["machine"]["onnxruntime"] = "1.31.1"
    after["profile"]["threads"] = 4
    after["board"] = {"throttled": True, "throttle_reasons": ["gpu capped"]}
    after["loop"]["depth"] = "full"
    found = compare_reports(report(0), after)
    assert found.differs == ["onnxruntime: 1.23.0 and 1.31.1", "profile's threads: 5 and 4"]
    assert any("throttled in the second profile: gpu capped" in line for line in found.cautions)
    assert any("loops are not compared" in line for line in found.cautions)
    assert not any(
        "loop" in change.name and "memory" not in change.name for change in found.changes
    )


def test_stages_are_compared_where_one_has_no_loop():
    found = compare_reports(report(0), report(100, loop=None))
    names = {change.name for change in found.changes}
    assert "call, no depth" in names
    assert "policy call, loop" not in names


def written(folder, made):
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(made))
    return str(folder)


def test_the_exit_code_tells_a_regression(tmp_path, capsys):
    before = written(tmp_path / "a", report(0))
    same = written(tmp_path / "b", report(100))
    slow = slower(report(100), 1.5, "stages", 0, "repeats_ms", "call")
    worse = written(tmp_path / "c", slow)
    assert main(["compare", before, same]) == 0
    assert main(["compare", before, worse, "--fail-over", "5%"]) == 1
    out = capsys.readouterr().out
    assert "\n1 worse, " in out
    last = json.loads(out.strip().splitlines()[-1])
    assert (last["bench"], last["regressions"]) == ("compare", 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1", "no JSON"),
        ('{"schema": "other"}', "schema is 'other'"),
        (json.dumps({"schema": SCHEMA, "stages": 3}), "is not as 'molmoact-bench profile'"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, capsys, content, problem):
    good = written(tmp_path / "a", report(0))
    bad = tmp_path / "bad.json"
    bad.write_text(content)
    assert main(["compare", good, str(bad)]) == 2
    assert main(["compare", str(bad), good]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2
    assert problem in errors[0]


def test_a_report_that_is_not_there_is_refused(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "gone"), str(tmp_path / "gone")]) == 2
    assert "cannot read the report" in capsys.readouterr().err
