"""Energy of an action: power over what the arm executed, or a reason why there is none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from benchmarks.energy import energy_per_action
from edge.board_state import BoardState
from edge.safety import Outcome


def at(t_s, total_mw, note="VDD_IN"):
    return BoardState(t_s=t_s, total_mw=total_mw, power_note=note)


def ticks(rate_hz=10, seconds=4, outcome=Outcome.PASS, chunk=0):
    t_s = 50.0 + np.arange(rate_hz * seconds) / rate_hz
    return {
        "t_s": t_s,
        "outcome": np.full(len(t_s), int(outcome), np.int8),
        "chunk": np.full(len(t_s), chunk, np.int32),
    }


def energy_of(samples, loop_ticks=None, idle=(), simulated=False):
    return energy_per_action(idle, samples, loop_ticks or ticks(), simulated=simulated)


def test_a_simulated_arm_is_said_to_be_in_the_figure():
    samples = [at(51.0, 1000.0), at(52.0, 1000.0)]
    assert energy_of(samples).reason == "VDD_IN, idle included"
    assert energy_of(samples, simulated=True).reason == "VDD_IN, idle and the simulator included"


def test_power_between_samples_is_their_mean():
    samples = [at(51.0, 1000.0), at(52.0, 3000.0), at(53.0, 3000.0)]
    energy = energy_of(samples, idle=[at(40.0, 500.0)])
    assert energy.windows_mj == [pytest.approx(200.0), pytest.approx(300.0)]
    assert energy.mj_per_action == pytest.approx(5000.0 / 20)
    assert (energy.idle_mw, energy.loop_mw) == (500.0, pytest.approx(2500.0))


def test_samples_outside_the_ticks_do_not_count():
    samples = [at(45.0, 9000.0), at(51.0, 1000.0), at(52.0, 1000.0), at(60.0, 9000.0)]
    assert energy_of(samples).mj_per_action == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("outcome", "chunk", "executed"),
    [
        (Outcome.PASS, 0, True),
        (Outcome.CLAMP, 3, True),
        (Outcome.HOLD, 0, False),
        (Outcome.STOP, 0, False),
        (Outcome.PASS, -1, False),
    ],
)
def test_only_goals_of_the_policy_that_reached_the_bus_are_actions(outcome, chunk, executed):
    samples = [at(51.0, 1000.0), at(52.0, 1000.0)]
    energy = energy_of(samples, ticks(outcome=outcome, chunk=chunk))
    assert (energy.mj_per_action is not None) == executed
    if not executed:
        assert energy.reason == "the arm executed no action of the policy"


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([at(51.0, None, "no rail"), at(52.0, None, "no rail")], "no rail"),
        ([at(51.0, 1000.0)], "fewer than two readings of power fell into the loop"),
    ],
)
def test_without_power_there_is_a_reason(samples, reason):
    energy = energy_of(samples)
    assert (energy.mj_per_action, energy.reason) == (None, reason)
