"""Which rungs a run may use, and the file that says so."""

import dataclasses
import re

import pytest
from ladder_settings import LADDER

from edge.gate_entry import FAILED, PASSED, UNJUDGED, Asked, GateCheck
from edge.inspect_bundle import describe_bundle
from edge.ladder_profile import Rung
from edge.ladder_rungs import Acting, usable_rungs
from edge.manifest import read_manifest
from edge.profile import load_profile
from edge.rung_verdicts import (
    LADDER_NAME,
    RungVerdict,
    read_verdicts,
    settings_of,
    verdicts_text,
)

SIM = load_profile("sim")  # 10 pictures a second, 1 s old at most
ASKED = Asked("continuous", "so101", "incremental")
FREE = ["draft_window 8", "speed_share 0.5", "hold"]
NEEDY = ["max_policy_hz 2", "depth_every_calls 4", "depth_max_cells 3", "flow_steps 5"]
RUNGS = (
    *LADDER.rungs[:3],
    Rung("depth_max_cells", 3.0),
    *LADDER.rungs[4:],
)
SMALL = dataclasses.replace(LADDER, rungs=RUNGS)


@pytest.fixture
def acting(copy):
    return Acting(copy, read_manifest(copy), ASKED, 1.0, SIM.cameras)


def verdict_on(rungs, drop=0.0, **changes):
    checks = {"success_drop_points": GateCheck(drop, 4.0, False)}
    values = {
        "settings": settings_of(rungs),
        "verdict": PASSED if drop <= 4.0 else FAILED,
        "checks": checks,
        "actions": "continuous",
        "depth": "incremental",
        "norm_tag": "so101",
        "trials": 150,
        "seed": 0,
        "replan_s": 0.2,
        "latency_s": 0.1,
        "machine": "a machine",
        "judged_at": "2026-01-01T00:00:00+00:00",
        "judged_by": "molmoact-edge 0",
    }
    return RungVerdict(**{**values, **changes})


def write(acting, *verdicts):
    text = verdicts_text(acting.manifest, verdicts)
    (acting.bundle / LADDER_NAME).write_text(text)
    return text


def used(acting, accept=(), ladder=SMALL):
    rungs, lines = usable_rungs(ladder, acting, "my_board", accept)
    return [rung.name for rung in rungs], lines


def test_rungs_that_were_never_tried_are_left_out_with_the_remedy(acting):
    names, lines = used(acting)
    assert names == FREE
    assert lines[0] == (
        "left out: max_policy_hz 2, depth_every_calls 4, depth_max_cells 3, flow_steps 5, "
        "camera_hz 5: never validated with this bundle, way of acting, depth and rungs before"
    )
    assert lines[-1] == (
        f"'molmoact-quantize ladder {acting.bundle} --profile my_board' validates rungs; "
        "--accept-unjudged uses them all the same"
    )
    assert len(lines) == 2
    names, lines = used(acting, (UNJUDGED,))
    assert names == [rung.name for rung in RUNGS]
    assert lines == []


def test_rung_is_used_when_it_passed_together_with_those_before_it_that_are_used(acting):
    write(acting, *(verdict_on(RUNGS[:level]) for level in (2, 3, 4)))
    assert used(acting)[0] == ["draft_window 8", *NEEDY[:3], "speed_share 0.5", "hold"]
    write(acting, *(verdict_on(RUNGS[:level]) for level in (2, 4)))  # the third alone is missing
    assert used(acting)[0] == ["draft_window 8", NEEDY[0], "speed_share 0.5", "hold"]


def test_rung_that_failed_is_left_out_and_those_behind_it_are_judged_without_it(acting):
    without = (*RUNGS[:2], RUNGS[3])
    write(acting, verdict_on(RUNGS[:2]), verdict_on(RUNGS[:3], drop=7.5), verdict_on(without))
    names, lines = used(acting)
    assert names == ["draft_window 8", NEEDY[0], NEEDY[2], "speed_share 0.5", "hold"]
    assert lines[0] == (
        "left out: depth_every_calls 4: failed its trials on 2026-01-01: "
        "success_drop_points 7.5 (limit 4)"
    )
    assert NEEDY[1] in used(acting, (FAILED,))[0]
    assert NEEDY[1] not in used(acting, (UNJUDGED,))[0]


@pytest.mark.parametrize(
    "changes", [{"actions": "discrete"}, {"depth": "full"}, {"norm_tag": "other"}]
)
def test_verdict_on_another_way_of_acting_is_none(acting, changes):
    write(acting, verdict_on(RUNGS[:2], **changes))
    assert NEEDY[0] not in used(acting)[0]


@pytest.mark.parametrize(
    ("changes", "rung", "why"),
    [
        (
            {"asked": dataclasses.replace(ASKED, depth="off")},
            Rung("draft_window", 8.0),
            "depth is off",
        ),
        (
            {"asked": dataclasses.replace(ASKED, depth="off")},
            Rung("depth_every_calls", 2.0),
            "depth is off",
        ),
        ({}, Rung("depth_max_cells", 9999.0), "this bundle has .* depth cells"),
        (
            {"asked": Asked("discrete", "so101", "incremental")},
            Rung("flow_steps", 5.0),
            "have no flow",
        ),
        ({}, Rung("flow_steps", 3.0), "built for 10 flow steps and can run 1, 2, 5 exactly"),
        ({}, Rung("flow_steps", 10.0), "built for 10 flow steps and can run 1, 2, 5 exactly"),
        ({}, Rung("camera_hz", 10.0), "camera front gives 10 pictures a second"),
        ({}, Rung("camera_hz", 1.1), "of camera front would be 1.01 s old, its max_age_s is 1$"),
        ({}, Rung("max_policy_hz", 1.0), "actions of a call last 1 s, then the arm would stand"),
    ],
)
def test_what_the_bundle_cannot_give_up_is_no_rung_whatever_is_accepted(acting, changes, rung, why):
    acting = dataclasses.replace(acting, **changes)
    ladder = dataclasses.replace(LADDER, rungs=(rung,))
    rungs, lines = usable_rungs(ladder, acting, "my_board", (FAILED, UNJUDGED))
    assert rungs == ()
    (line,) = lines
    assert line.startswith(f"left out: {rung.name}: ")
    assert re.search(why, line)


def test_verdicts_come_back_as_they_were_written(acting):
    verdicts = [verdict_on(RUNGS[:2]), verdict_on(RUNGS[:3], drop=9.0)]
    write(acting, *verdicts)
    assert read_verdicts(acting.bundle, acting.manifest) == (verdicts, None)
    (acting.bundle / LADDER_NAME).unlink()
    assert read_verdicts(acting.bundle, acting.manifest) == ([], None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("failed", "passed"), "is not as it was written"),
        (lambda text: text.replace("ladder.v1", "ladder.v9"), "schema is '.*v9', this runtime"),
        (lambda text: "[]", "schema is"),
        (lambda text: text[:-20], "unreadable"),
    ],
)
def test_file_that_was_edited_or_cut_says_nothing_and_why(acting, damage, message):
    text = write(acting, verdict_on(RUNGS[:2], drop=7.0))
    (acting.bundle / LADDER_NAME).write_text(damage(text))
    verdicts, problem = read_verdicts(acting.bundle, acting.manifest)
    assert verdicts == []
    assert LADDER_NAME in problem
    assert re.search(message, problem)
    assert used(acting)[1][0] == problem


def test_verdict_against_its_own_checks_is_refused(acting):
    lying = dataclasses.replace(verdict_on(RUNGS[:2], drop=7.0), verdict=PASSED)
    write(acting, lying)
    assert "its checks say failed" in read_verdicts(acting.bundle, acting.manifest)[1]


def test_file_of_another_bundle_is_no_answer(acting):
    write(acting, verdict_on(RUNGS[:2]))
    source = dataclasses.replace(acting.manifest.source, sha256="0" * 64)
    other = dataclasses.replace(acting.manifest, source=source)
    verdicts, problem = read_verdicts(acting.bundle, other)
    assert verdicts == []
    assert problem.endswith("is of another bundle, or this one was altered since")


def test_inspect_tells_what_trials_said(acting):
    write(acting, verdict_on(RUNGS[:2]), verdict_on(RUNGS[:3], drop=7.5))
    text = describe_bundle(acting.bundle)
    assert "rungs    max_policy_hz 2: passed on 2026-01-01" in text
    assert "hz 2, depth_every_calls 4: failed (success_drop_points 7.5 (limit 4))" in text
    (acting.bundle / LADDER_NAME).write_text("{}")
    assert f"rungs    {acting.bundle / LADDER_NAME}: schema is" in describe_bundle(acting.bundle)
