"""Runs on a board that throttles: what the arm, the policy and the records make of each rung."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from ladder_settings import LADDER, with_ladder
from run_rig import FakePolicy, Rig, run

import edge.run
from edge.box_reader import read_box
from edge.cli import main
from edge.ladder_profile import Rung
from edge.replay_gate import recorded_profile, rerun_gate
from edge.report import format_report

CALM = SimpleNamespace(headroom_c=40.0, throttled=False, throttle_reason="")
THROTTLED = SimpleNamespace(headroom_c=2.0, throttled=True, throttle_reason="gpu clock capped")
QUICK = dataclasses.replace(
    LADDER,
    late_call_share=None,  # a busy machine is none of these tests' business
    late_tick_share=None,
    least_step_s=0.05,
    quiet_s=0.1,
    max_quiet_s=0.2,
    hold_quiet_s=0.1,
    window_s=2.0,
)


class Board:
    """Throttles for so many looks."""

    throttled_looks = 10**9

    def __init__(self):
        Board.closed = False
        self.looks = 0

    def state(self):
        self.looks += 1
        return THROTTLED if self.looks <= self.throttled_looks else CALM

    def close(self):
        Board.closed = True


class PacedPolicy(FakePolicy):
    """Takes an effort, and turns the arm by so many degrees an action."""

    turn_deg = 0.0

    def __init__(self):
        super().__init__()
        self.efforts = []
        self.bundle.tags["tag"].n_action_steps = 30
        model = self.bundle.manifest.model
        model.flow_steps, model.depth_cells = 10, 100

    def act(self, *args, effort=None, **words):
        self.efforts.append(effort)
        answer = super().act(*args, **words)
        answer.actions[:, 0] += self.turn_deg * np.arange(30)
        return answer


@pytest.fixture
def rig(monkeypatch):
    monkeypatch.setattr("edge.ladder_watch.LOOK_S", 0.02)
    monkeypatch.setattr(edge.run, "BoardReader", Board)
    monkeypatch.setattr("edge.ladder_rungs.read_verdicts", lambda *_: ([], None))
    rig = Rig(monkeypatch)
    rig.policy = PacedPolicy()
    return rig


def quick(*rungs):
    return with_ladder(dataclasses.replace(QUICK, rungs=rungs or LADDER.rungs))


def test_throttling_board_gives_up_rung_by_rung_and_says_so_everywhere(rig, tmp_path):
    result, lines = run(
        rig,
        quick(*LADDER.rungs[:-1]),
        seconds=1.5,
        accept=("unjudged",),
        black_box=tmp_path / "run.box",
    )
    assert result.end.how == "time"
    ladder = result.report["ladder"]
    names = [rung.name for rung in LADDER.rungs[:-1]]
    assert ladder["rungs"] == names
    assert [step["rung"] for step in ladder["steps"]] == names
    assert ladder["level"] == 7
    said = [line for line in lines if line.startswith("ladder: down")]
    assert len(said) == 7
    assert said[0].endswith("draft_window 8 (level 1 of 7): the board throttles (gpu clock capped)"
                            "; 2.0 C to the trip point, limit 5.0 C")  # fmt: skip
    box = read_box(tmp_path / "run.box")
    assert [text for _, _, text in box.view.events() if text.startswith("ladder")] == said
    levels = box.view.columns()["level"]
    assert levels[-1] == 7
    assert np.all(np.diff(levels.astype(int)) >= 0)
    assert rig.policy.efforts[0] is None  # nothing was given up before the first step
    assert rig.policy.efforts[-1] == dataclasses.replace(
        rig.policy.efforts[-1], draft_window=8, depth_every_calls=4, flow_steps=5
    )
    text = format_report(result.report)
    assert "ladder         level 7 of 7 at the end" in text
    assert " s  down to level 3 (depth_every_calls 4): the board throttles" in text
    assert Board.closed


def test_calls_come_no_more_often_than_the_rung_allows(rig):
    result, _ = run(rig, quick(Rung("max_policy_hz", 1.5)), seconds=2.5, accept=("unjudged",))
    starts = [call.started_s for call in result.calls]
    assert np.diff(starts)[1:].min() > 1 / 1.5 - 0.05


def test_slower_motion_goes_through_the_gates_own_limits_and_replays_to_the_bit(rig, tmp_path):
    rig.policy.turn_deg = 1.5  # 45 deg/s, within the joint's own limit
    result, _ = run(
        rig, quick(Rung("speed_share", 0.25)), seconds=1.2, black_box=tmp_path / "run.box"
    )
    assert result.report["safety"]["clamps"]["ladder"]["shoulder_pan"] > 0
    box = read_box(tmp_path / "run.box")
    ticks = box.view.columns()
    slow = np.flatnonzero(ticks["speed_share"] == 0.25)
    speed = np.abs(np.diff(ticks["written"][slow[15:], 0])) / np.diff(ticks["checked_s"][slow[15:]])
    limit = recorded_profile(box).arm.joints[0].max_velocity
    assert speed.max() <= 0.25 * limit + 1e-6
    assert rerun_gate(box, recorded_profile(box))["n_differences"] == 0


def test_hold_stops_the_calls_and_is_left_when_the_board_is_well_again(
    rig, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Board, "throttled_looks", 25)
    result, lines = run(rig, quick(Rung("hold", 1.0)), seconds=2.0, black_box=tmp_path / "run.box")
    assert result.end.how == "time"
    down, up = result.report["ladder"]["steps"]
    assert (down["to_level"], up["to_level"]) == (1, 0)
    assert up["at_s"] > 25 * 0.02
    began = [call.started_s for call in result.calls]
    box = read_box(tmp_path / "run.box")
    ticks = box.view.columns()
    held = ticks["t_s"][ticks["level"] == 1]
    assert not [t_s for t_s in began if held[0] + 0.05 < t_s < held[-1] - 0.05]
    assert [t_s for t_s in began if t_s > held[-1]]
    outcomes = ticks["outcome"][ticks["level"] == 1]
    assert set(outcomes) == {box.card["outcomes"].index("hold")}
    assert ticks["outcome"][-1] < 2
    assert any("hold: the ladder holds the arm: the board throttles" in text
               for _, _, text in box.view.events())  # fmt: skip
    assert main(["replay", str(tmp_path / "run.box"), "--gate"]) == 0
    out = capsys.readouterr().out
    assert "ladder: up again, hold taken back (level 0 of 1)" in out
    assert " 0 verdicts differ from the recorded ones" in out
    assert sum(line.startswith("ladder: up") for line in lines) == 1


def test_hold_that_lasts_ends_softly(rig):
    profile = quick(Rung("hold", 1.0))
    safety = dataclasses.replace(profile.arm.safety, max_hold_s=0.5)
    profile = dataclasses.replace(profile, arm=dataclasses.replace(profile.arm, safety=safety))
    result, _ = run(rig, profile, seconds=20.0)
    assert result.end.how == "stop"
    assert "held for 0.5 s, limit 0.5: the ladder holds the arm: the board throttles" in (
        result.end.reason
    )
    assert rig.arm.log[-2:] == ["soft stop", "close"]


def test_rungs_that_were_never_validated_are_left_out_and_the_run_goes_on(rig):
    result, lines = run(rig, quick(), seconds=0.3)
    assert lines.count("ladder: draft_window 8, speed_share 0.5, hold") == 1
    left_out = [line for line in lines if line.startswith("ladder: left out: max_policy_hz 2, ")]
    assert len(left_out) == 1
    assert result.report["ladder"]["rungs"] == ["draft_window 8", "speed_share 0.5", "hold"]
    assert left_out[0].removeprefix("ladder: ") in result.report["ladder"]["left_out"]


def test_without_a_ladder_nobody_reads_the_board_and_nothing_changes(rig, monkeypatch):
    def opened():
        raise AssertionError("the board was read")

    monkeypatch.setattr(edge.run, "BoardReader", opened)
    result, lines = run(rig, with_ladder(None))
    assert result.report["ladder"] is None
    assert not [line for line in lines if "ladder" in line]
    assert set(rig.policy.efforts) == {None}
    assert "ladder" not in format_report(result.report)
