import gc
import math
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from loop_rig import (
    ARM,
    HOME,
    NAMES,
    PERIOD_S,
    PROFILE,
    Forgetful,
    Rig,
)

from edge.black_box import BlackBox
from edge.joints import JointIoError, StopRequested
from edge.safety import Outcome, SafetyGate


def test_ticks_keep_their_absolute_schedule():
    rig = Rig()
    rig.chunk()
    end = rig.run(1.0)
    assert (end.how, end.reason) == ("time", "1 s are over")
    ticks = rig.box.columns()
    assert len(ticks["t_s"]) == 30
    np.testing.assert_allclose(np.diff(ticks["t_s"]), PERIOD_S, atol=1e-9)
    np.testing.assert_allclose(ticks["late_s"], 0.0, atol=1e-9)
    np.testing.assert_allclose(ticks["read_s"], 0.002, atol=1e-9)
    np.testing.assert_allclose(ticks["write_s"], 0.001, atol=1e-9)
    assert rig.box.missed_ticks == 0
    assert rig.arm.soft_stops == 1


def test_missed_ticks_are_counted_and_skipped_and_never_replayed():
    def stall(tick, rig):
        if tick == 5:
            rig.clock.now_s += 4.5 * PERIOD_S

    rig = Rig(stall)
    rig.chunk()
    rig.run(1.0)
    # The stalled tick ends 4.5 periods late: three whole periods were lost, one tick is just late.
    assert rig.box.missed_ticks == 3
    ticks = rig.box.columns()
    assert len(ticks["t_s"]) == 30 - 3
    np.testing.assert_array_equal(ticks["slot"], [*range(6), *range(9, 30)])
    after_deadline_s = ticks["t_s"] - ticks["t_s"][0] - ticks["slot"] * PERIOD_S
    assert np.all(after_deadline_s > -1e-9)
    assert np.all(after_deadline_s < PERIOD_S)
    # The gate hears of the whole stall, not only of what is left of it after the skipped ticks.
    assert ticks["late_s"][6] == pytest.approx(4.5 * PERIOD_S + 0.003 - PERIOD_S)


def test_stall_over_the_end_counts_only_the_ticks_that_were_due():
    def stall(tick, rig):
        if tick == 27:
            rig.clock.now_s += 10.0

    rig = Rig(stall)
    rig.chunk()
    rig.run(1.0)
    assert rig.box.n_ticks == 28
    assert rig.box.missed_ticks == 2


def test_missing_chunk_holds_the_measured_position():
    rig = Rig()
    rig.run(0.5)
    assert rig.box.outcome_counts[Outcome.HOLD] == 15
    for _, goal in rig.arm.written:
        np.testing.assert_allclose(goal, HOME)


def test_stale_chunk_holds_where_the_arm_is_then():
    rig = Rig()
    target = HOME + np.array([2.0, 0, 0, 0, 0, 0])
    rig.chunk(target, n_actions=10)
    rig.run(1.0)
    outcomes = rig.box.columns()["outcome"]
    assert Outcome.PASS in outcomes[:10]
    assert np.all(outcomes[10:] == Outcome.HOLD)
    np.testing.assert_allclose(rig.arm.written[-1][1], target)


def test_measurements_reach_the_policy_every_tick():
    rig = Rig()
    rig.run(0.5)
    assert len(rig.feed.observed) == 15
    np.testing.assert_array_equal(rig.feed.observed[0][0], HOME)


def test_policy_fault_holds_then_stops_with_its_reason():
    def fail(tick, rig):
        if tick == 3:
            rig.feed.fault = "policy failed: out of memory"

    rig = Rig(fail)
    rig.chunk(HOME + 1.0)
    end = rig.run(5.0)
    assert (end.how, end.reason) == ("stop", "policy failed: out of memory")
    assert rig.arm.soft_stops == 1
    held_s = rig.box.outcome_counts[Outcome.HOLD] * PERIOD_S
    assert held_s == pytest.approx(ARM.safety.fault_hold_s, abs=2 * PERIOD_S)


def test_policy_that_never_answers_stops_after_the_longest_hold():
    rig = Rig()
    rig.feed.trouble = "camera wrist: newest frame is 900 ms old, limit 500"
    end = rig.run(60.0)
    assert end.how == "stop"
    assert end.reason.startswith("held for 10.0 s, limit 10.0: camera wrist: newest frame")


def test_one_lost_reply_changes_nothing():
    def lose_one(tick, rig):
        if tick in (0, 7):
            raise JointIoError("servo 3: no reply")

    rig = Rig(lose_one)
    rig.chunk()
    assert rig.run(1.0).how == "time"
    assert rig.box.read_errors == 2
    assert rig.box.outcome_counts[Outcome.HOLD] == 0


def test_silent_bus_holds_then_stops_with_the_bus_error():
    def go_silent(tick, rig):
        if tick >= 5:
            raise JointIoError("servo 3: no reply in 5.0 ms")

    rig = Rig(go_silent)
    rig.chunk()
    end = rig.run(5.0)
    assert end.how == "stop"
    assert "servo 3: no reply in 5.0 ms" in end.reason
    assert rig.box.outcome_counts[Outcome.HOLD] > 0
    assert rig.box.n_ticks < 20


def test_bus_that_is_dead_from_the_start_stops_without_writing():
    def dead(tick, rig):
        raise JointIoError("port is gone")

    rig = Rig(dead)
    end = rig.run(5.0)
    assert end.reason == "every read failed for 300 ms: port is gone"
    assert rig.arm.written == []


def test_writes_that_fail_for_long_stop():
    rig = Rig()
    rig.chunk()

    def refuse(positions):
        raise JointIoError("write: input/output error")

    rig.arm.write = refuse
    end = rig.run(5.0)
    assert end.reason == "every write failed for 300 ms: write: input/output error"


def test_measured_nan_stops_and_names_the_joint():
    def break_encoder(tick, rig):
        if tick == 2:
            rig.arm.positions[1] = np.nan

    rig = Rig(break_encoder)
    rig.chunk()
    end = rig.run(1.0)
    assert (end.how, end.reason) == ("stop", "shoulder_lift: measured position is nan")
    assert len(rig.arm.written) == 2


def test_signal_ends_the_loop_and_softens_the_arm():
    rig = Rig(lambda tick, rig: rig.stop.set() if tick == 4 else None)
    rig.chunk()
    end = rig.run(None)
    assert end.how == "signal"
    assert rig.box.n_ticks == 5
    assert rig.arm.soft_stops == 1


def test_bug_in_a_tick_still_softens_the_arm_and_is_not_hidden():
    def break_code(tick, rig):
        raise ZeroDivisionError("a bug")

    rig = Rig(break_code)
    switch_interval_s = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError):
        rig.run(1.0)
    assert rig.arm.soft_stops == 1
    assert sys.getswitchinterval() == switch_interval_s
    assert gc.get_freeze_count() == 0


def test_failed_soft_stop_is_reported_beside_the_reason():
    rig = Rig()

    def refuse():
        raise JointIoError("port is gone")

    rig.arm.soft_stop = refuse
    end = rig.run(0.1)
    assert end.how == "time"
    assert end.soft_stop_error == "port is gone"


def test_full_box_keeps_the_newest_ticks_and_all_counts():
    rig = Rig()
    rig.chunk()
    rig.box = rig.loop._box = BlackBox(10, NAMES, 2)
    rig.run(1.0)
    ticks = rig.box.columns()
    assert len(ticks["t_s"]) == 10
    assert np.all(np.diff(ticks["t_s"]) > 0)
    assert rig.box.n_ticks == 30
    assert rig.box.outcome_counts.sum() == 30


def test_request_to_stop_ends_the_loop_at_once_with_its_words():
    def ask(tick, rig):
        if tick == 5:
            raise StopRequested("somebody asked for a stop (process 7)")

    rig = Rig(ask)
    rig.chunk()
    end = rig.run(None)
    assert (end.how, end.reason) == ("stop", "somebody asked for a stop (process 7)")
    assert rig.arm.soft_stops == 1
    assert rig.box.text("reason") == end.reason


def test_read_is_bounded_so_that_the_write_still_fits_into_the_tick():
    rig = Rig()
    rig.chunk()
    rig.run(0.1)
    tick_s = rig.box.columns()["t_s"][-1]
    assert tick_s < rig.arm.deadline_s < tick_s + PERIOD_S


def test_gate_hears_how_old_actions_and_pictures_are_and_how_late_the_tick_is():
    heard = []

    class Listener:
        def check(self, goal, reading, now_s, ages, missing):
            heard.append((now_s, ages))
            return SafetyGate(PROFILE).check(None, reading, now_s, ages, missing)

    def stall(tick, rig):
        if tick == 5:
            rig.clock.now_s += 2.0 * PERIOD_S

    rig = Rig(stall)
    rig.loop._gate = Listener()
    put_s = rig.clock.now_s
    rig.chunk(n_actions=20)
    rig.run(1.0)
    now_s, first = heard[0]
    assert first.chunk_s == pytest.approx(now_s - put_s)
    assert first.cameras_s == pytest.approx((0.05, 0.07))
    assert first.late_s == pytest.approx(0.0)
    assert heard[6][1].late_s > PERIOD_S
    assert math.isnan(heard[-1][1].chunk_s)


def test_dead_camera_ages_in_the_box():
    def die(tick, rig):
        if tick == 10:
            rig.cameras[1].died_s = rig.clock.now_s

    rig = Rig(die)
    rig.chunk()
    rig.run(1.0)
    ages_s = rig.box.columns()["camera_ages_s"]
    np.testing.assert_allclose(ages_s[:, 0], 0.05, atol=1e-9)
    assert ages_s[-1, 1] == pytest.approx(19 * PERIOD_S, abs=0.01)


def test_newest_policy_call_is_in_every_row():
    def call(tick, rig):
        if tick in (3, 6):
            stages = {"vision": 0.1, "expert": 0.3}
            rig.feed.calls.append(
                SimpleNamespace(number=tick, started_s=1.0, ended_s=1.5, stages_s=stages)
            )

    rig = Rig(call)
    rig.chunk()
    rig.run(0.3)
    ticks = rig.box.columns()
    np.testing.assert_array_equal(ticks["policy_call"], [-1] * 3 + [3] * 3 + [6] * 3)
    np.testing.assert_array_equal(ticks["policy_stages_s"][5], [np.nan, 0.1, np.nan, np.nan, 0.3])
    assert ticks["policy_s"][8] == 0.5


def test_every_end_is_in_the_box():
    rig = Rig()
    rig.chunk()
    rig.run(0.1)
    assert (rig.box.text("how"), rig.box.text("reason")) == ("time", "0.1 s are over")

    def break_code(tick, rig):
        raise ZeroDivisionError("a bug")

    rig = Rig(break_code)
    with pytest.raises(ZeroDivisionError):
        rig.run(1.0)
    assert rig.box.text("reason") == "the control loop failed: ZeroDivisionError: a bug"


def test_ticks_leave_no_memory_behind():
    """Also no garbage: collection is off while the loop runs."""
    marks = []

    def measure(tick, rig):
        if tick % 100 == 0:
            rig.chunk(n_actions=105)
        if tick in (550, 2550):
            marks.append(tracemalloc.get_traced_memory())
            tracemalloc.reset_peak()

    rig = Rig(measure)
    rig.arm.written = rig.feed.observed = Forgetful()
    rig.chunk()
    tracemalloc.start()
    try:
        rig.run(2600 * PERIOD_S)
    finally:
        tracemalloc.stop()
    (before, _), (after, peak) = marks
    assert after - before < 2000
    assert peak - after < 20_000
