"""Programs with watchdogs, killed while they drive an arm, as the fault campaign does it."""

import pytest

from benchmarks import fault_campaign_process
from benchmarks.errors import BusBenchError
from benchmarks.fault_campaign_process import WAYS, crash_programs
from edge.profile import load_profile

TIMES = load_profile("so101").arm.watchdog


def test_killed_and_frozen_programs_leave_no_torque(monkeypatch):
    monkeypatch.setattr(fault_campaign_process, "LATEST_S", 1.5)
    said = []
    results = crash_programs(1, 3, "so101", TIMES, said.append)
    assert [result.way for result in results] == list(WAYS)
    for result in results:
        assert (result.crashes, result.torque_left_on) == (1, 0), result.examples
    assert said == ["killing programs: 1 of 1"]


def test_program_that_does_not_start_is_an_error_not_a_result():
    with pytest.raises(BusBenchError, match="did not start"):
        crash_programs(1, 3, "nowhere", TIMES, lambda _: None)
