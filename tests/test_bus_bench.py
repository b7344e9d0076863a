"""Bus figures: the bytes on the wire, every way does its work, the report is whole."""

import json

import pytest

from benchmarks import bus_timing
from benchmarks.bus_emulator import emulated_bus
from benchmarks.bus_ways import Way, lerobot_ways, our_ways, wire_bytes
from benchmarks.cli import main
from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import BusError
from firmware_bridge.transport import SerialTransport


@pytest.fixture
def small(monkeypatch):
    """One arm, one turn, without LeRobot."""
    monkeypatch.setattr(bus_timing, "LAYOUTS", ((6, 1),))
    monkeypatch.setattr(bus_timing, "TURNS", 1)
    monkeypatch.setattr(bus_timing, "WARM_UP_CYCLES", 1)
    monkeypatch.setattr(bus_timing, "lerobot_ways", list)


def test_wire_limit_is_counted_from_the_frames():
    # Sync read of n: 8 + n bytes and n replies of 6 + 15; sync write: 8 + 3 n.
    block = our_ways(6, 1)[0]
    assert wire_bytes(block, 6) == 14 + 6 * 21 + 26
    assert wire_bytes(block, 12) == 20 + 12 * 21 + 44
    seven = Way("seven", ((56, 2), (58, 2), (60, 2), (62, 1), (63, 1), (65, 1), (69, 2)), None)
    assert wire_bytes(seven, 6) == 7 * (14 + 6 * 6) + 6 * 11 + 26


@pytest.mark.parametrize(("servos", "buses"), [(6, 1), (12, 1)])
def test_every_way_of_ours_reads_and_writes_on_the_emulated_bus(servos, buses, tmp_path):
    with emulated_bus(tmp_path / "port", servos) as port:
        for way in our_ways(servos, buses):
            with way.open([port], servos) as cycle:
                cycle()
        bus = Bus(SerialTransport(port))
        assert [bus.read(servo, registers.ID) for servo in (1, servos)] == [1, servos]
        goals = [bus.read(servo, registers.GOAL_POSITION) for servo in range(1, servos + 1)]
        assert all(goals)
        bus.close()


def test_a_cycle_gets_answers_from_both_arms(tmp_path):
    (way,) = our_ways(6, 2)
    with (
        emulated_bus(tmp_path / "left", 6) as left,
        emulated_bus(tmp_path / "right", 6) as right,
        way.open([left, right], 6) as cycle,
    ):
        cycle()


def test_every_way_of_lerobot_runs_too(tmp_path):
    pytest.importorskip("scservo_sdk")
    pytest.importorskip("lerobot.motors.feetech")
    ways = lerobot_ways()
    assert [way.name for way in ways] == [
        "LeRobot: position",
        "LeRobot: block",
        "LeRobot: 7 reads",
    ]
    with emulated_bus(tmp_path / "port", 12) as port:
        for way in ways:
            with way.open([port], 12) as cycle:
                cycle()


def test_report_has_every_cycle_and_says_that_servos_are_emulated(small, capsys):
    assert main(["bus", "--cycles", "7"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.strip().splitlines()
    report = json.loads(lines[-1])
    assert (report["bench"], report["servos"], report["lerobot"]) == ("bus", "emulated", False)
    assert [row["way"] for row in report["rows"]] == ["bytes alone", "Arm: block"]
    for row in report["rows"]:
        assert row["cycles"] + row["failed"] == 7
        assert row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["wire_ms"] == pytest.approx(1.66)
    assert "servos emulated" in lines[0]
    assert "measured without" in captured.out


def test_failed_cycles_are_counted_and_not_timed(small, monkeypatch):
    def open_failing(ports, servos):
        from contextlib import nullcontext

        turn = iter(range(1000))

        def cycle():
            if next(turn) % 2:
                raise BusError("silent")

        return nullcontext(cycle)

    block = ((56, 15),)
    monkeypatch.setattr(bus_timing, "our_ways", lambda *_: [Way("half", block, open_failing)])
    (row,) = bus_timing.measure_bus(20, lambda _: None).rows
    assert (row.cycles, row.failed) == (10, 10)
