"""What `molmoact-arm health` shows, and that it only reads."""

import json

import pytest
from emulated_arm import memory_bus, torque_enables
from scripted_console import ScriptedConsole

from firmware_bridge import registers
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault
from firmware_bridge.health import HealthMonitor, health_json, health_table
from firmware_bridge.health_command import View
from firmware_bridge.packets import FrameParser, Instruction
from firmware_bridge.port_options import UserError


def monitor_of(faults=None, calibration=None):
    bus, transport = memory_bus(faults)
    transport.sleep(0.005)
    return HealthMonitor(bus, calibration), transport


def view_of(faults=None, as_json=False):
    monitor, transport = monitor_of(faults)
    console = ScriptedConsole()
    view = View(
        console,
        monitor,
        as_json=as_json,
        unit="ticks",
        clock=transport.clock,
        sleep=transport.sleep,
    )
    return view, console, transport


def test_a_sample_has_what_the_servos_feel():
    monitor, _ = monitor_of(calibration=default_calibration())
    sample = monitor.sample()
    assert [servo.joint for servo in sample] == list(default_calibration())
    assert sample[0].position == pytest.approx(5.0, abs=0.1)
    assert sample[5].position == pytest.approx(45.5, abs=1.0)
    elbow = sample[2]
    assert (elbow.voltage_v, elbow.temperature_c, elbow.torque, elbow.status) == (
        12.0,
        24,
        False,
        "ok",
    )
    assert all(servo.notes == () for servo in sample)


def test_without_a_calibration_positions_are_ticks():
    monitor, _ = monitor_of()
    assert monitor.sample()[0].position == 2048 + 57


def test_it_only_ever_reads():
    view, _, transport = view_of()
    servos = transport.bus.servos
    servos[1].write(registers.GOAL_POSITION.address, b"\x00\x08")
    before = torque_enables(transport)
    view.watch(2.0)
    assert torque_enables(transport) == before == [0, 1, 0, 0, 0, 0]
    codes = {frame.code for frame in FrameParser().feed(b"".join(transport.sent))}
    assert codes <= {Instruction.READ, Instruction.SYNC_READ}


@pytest.mark.parametrize(
    ("event", "note"),
    [
        (Event("hot", ids=frozenset({3}), value=49), None),
        (Event("hot", ids=frozenset({3}), value=50), "warm, 50 C"),
        (Event("hot", ids=frozenset({3}), value=61), "hot, 61 C"),
        (Event("status", ids=frozenset({3}), value=32), "reports overload"),
        (Event("sag", value=10.0), "10.0 V is low for its 12 V build"),
        (Event("sag", value=15.0), "15.0 V is too much for its 12 V build"),
    ],
)
def test_what_is_not_as_it_should_be_is_noted(event, note):
    monitor, transport = monitor_of()
    transport.bus.inject(event)
    transport.sleep(0.005)
    notes = monitor.sample()[2].notes
    assert (note in notes) if note else notes == ()


def test_a_blocked_joint_is_seen_to_work_hard():
    monitor, transport = monitor_of()
    transport.bus.inject(Event("block", ids=frozenset({2})))
    transport.bus.servos[1].write(registers.GOAL_POSITION.address, (2600).to_bytes(2, "little"))
    transport.sleep(1.0)
    shoulder = monitor.sample()[1]
    assert shoulder.torque is True
    assert any(note.startswith("stalls, ") for note in shoulder.notes)
    assert any(note.endswith("overload from 80% on") for note in shoulder.notes)


def test_silent_servos_are_counted_and_the_others_shown():
    monitor, _ = monitor_of(Faults(missing=frozenset({4})))
    monitor.sample()
    sample = monitor.sample()
    assert [servo.lost for servo in sample] == [0, 0, 0, 2, 0, 0]
    assert sample[3].silent
    assert sample[3].notes == ("no reply",)
    assert sample[4].voltage_v == 12.0


def test_lost_replies_are_counted():
    rule = ReplyFault("drop", ids=frozenset({2}), count=1, after=4)
    monitor, _ = monitor_of(Faults(replies=(rule,)))
    for _ in range(4):
        sample = monitor.sample()
    assert (sample[1].lost, sample[1].asked) == (1, 4)


def test_the_table_has_a_line_a_servo_under_its_head():
    monitor, _ = monitor_of(Faults(missing=frozenset({6})))
    lines = health_table(monitor.sample(), "ticks")
    assert len(lines) == 7
    assert lines[0].split() == [
        *("id", "joint", "ticks", "tick/s", "load", "mA", "V", "C", "torque", "lost", "notes"),
    ]
    assert lines[1].split() == [
        *("1", "shoulder_pan", "2105.0", "0", "0%", "0", "12.0", "24", "off", "0/1"),
    ]
    assert lines[6].split() == ["6", "gripper", *"-------", "1/1", "no", "reply"]


def test_json_is_one_line_a_sample():
    view, console, _ = view_of(as_json=True)
    view.watch(1.0)
    samples = [json.loads(line) for line in console.lines]
    assert len(samples) == 5
    assert samples[1]["t_s"] == pytest.approx(0.2, abs=0.05)
    assert samples[0]["servos"][1]["joint"] == "shoulder_lift"
    assert json.dumps(health_json([], 0.0)) == '{"t_s": 0.0, "servos": []}'


def test_once_refuses_to_call_a_silent_servo_well():
    view, console, _ = view_of()
    view.once()
    assert len(console.lines) == 7
    view, _, _ = view_of(Faults(missing=frozenset({2, 5})))
    with pytest.raises(UserError, match=r"no reply from servo 2 \(shoulder_lift\), 5 \(wrist_rol"):
        view.once()


def test_an_unplugged_port_is_waited_for():
    view, console, transport = view_of()
    transport.bus.inject(Event("unplug", at_s=0.5, duration_s=1.0))
    view.watch(3.0)
    assert any("port lost" in line for line in console.lines)
    assert console.lines[-1].split()[:2] == ["6", "gripper"]
    assert "no reply" not in console.lines[-1]
