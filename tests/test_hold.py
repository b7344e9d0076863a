from emulated_arm import IDS, memory_bus, torque_enables, writes

from firmware_bridge import registers
from firmware_bridge.emulator.faults import Faults
from firmware_bridge.hold import hold

GOAL = registers.GOAL_POSITION.address


def energised(**faults):
    bus, transport = memory_bus(Faults(**faults))
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2500))
    transport.sleep(0.05)
    transport.sent.clear()
    return bus, transport


def goals_sent(transport):
    return [(servo, value) for address, servo, value in writes(transport) if address == GOAL]


def test_every_moving_servo_is_told_to_stay_where_it_is():
    bus, transport = energised()
    present = {servo: bus.read(servo, registers.PRESENT_POSITION) for servo in IDS}
    transport.sent.clear()
    hold(bus, IDS, {})
    sent = dict(goals_sent(transport))
    assert all(abs(sent[servo] - present[servo]) < 30 for servo in IDS)


def test_repeated_hold_does_not_follow_the_arm():
    bus, transport = energised()
    goals = {}
    hold(bus, IDS, goals)
    first = dict(goals_sent(transport))
    transport.sleep(0.5)
    transport.sent.clear()
    hold(bus, IDS, goals)
    assert dict(goals_sent(transport)) == first


def test_servo_without_torque_gets_no_goal_that_would_switch_it_on():
    bus, transport = memory_bus()
    hold(bus, IDS, {})
    assert goals_sent(transport) == []
    assert torque_enables(transport) == [0] * 6


def test_silent_servo_does_not_keep_the_others_from_being_held():
    bus, transport = energised(missing=frozenset({3}))
    hold(bus, IDS, {})
    assert {servo for servo, _ in goals_sent(transport)} == {1, 2, 4, 5, 6}
