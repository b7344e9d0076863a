"""Faults on the wire of the emulated bus: what becomes of requests and replies."""

import pytest
from emulated_arm import FEEDBACK, TORQUE_LIMIT, answer, bus_of, goal_frame

from firmware_bridge import packets, registers
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.packets import ping


def test_truncated_reply_is_the_start_of_the_true_one():
    whole = bus_of().handle(ping(2))
    bus = bus_of()
    bus.inject(ReplyFault("truncate", frozenset([2])))
    lengths = set()
    for _ in range(50):
        data = bus.handle(ping(2))
        assert whole.startswith(data)
        lengths.add(len(data))
    assert lengths == set(range(1, len(whole)))
    assert len(bus.handle(ping(1))) == 6


def test_noise_comes_before_a_reply_that_is_whole():
    bus = bus_of()
    bus.inject(ReplyFault("noise"))
    whole = bus_of().handle(FEEDBACK)
    data = bus.handle(FEEDBACK)
    assert len(whole) + 6 <= len(data) <= len(whole) + 48
    assert data.endswith(whole[-21:])


def test_deaf_servo_neither_acts_nor_answers_and_only_that_often():
    bus = bus_of()
    bus.inject(ReplyFault("deaf", frozenset([2]), count=2))
    data = {servo_id: registers.TORQUE_LIMIT.encode(77) for servo_id in (1, 2)}
    bus.handle(packets.sync_write(TORQUE_LIMIT, data))
    assert bus.handle(ping(2)) == b""
    assert answer(bus, 2, registers.TORQUE_LIMIT) == 1000
    assert answer(bus, 1, registers.TORQUE_LIMIT) == 77
    assert bus.fired["deaf"] == 2


def test_dropped_reply_was_acted_upon():
    bus = bus_of()
    bus.inject(ReplyFault("drop", count=1))
    assert bus.handle(packets.write(1, TORQUE_LIMIT, b"\x4d\x00")) == b""
    assert answer(bus, 1, registers.TORQUE_LIMIT) == 77


def test_servos_of_one_id_collide_and_a_zero_wins():
    bus = bus_of(2)
    bus.inject(Event("register", ids=frozenset([2]), register="id", value=1))
    bus.handle(goal_frame(1, 2500))
    bus.advance(0.3)
    alone = bus_of(1).handle(ping(1))
    seen = {bus.handle(ping(1)) for _ in range(20)}
    assert alone in seen
    shifted = bytes(a & b for a, b in zip(alone + b"\xff", b"\xff" + alone, strict=True))
    assert seen == {alone, shifted}
    assert bus.handle(ping(2)) == b""


def test_servo_at_another_rate_hears_only_that():
    bus = bus_of(2, Faults(servos={2: ServoFaults(registers={"baud_rate": 1})}))
    assert bus.handle(ping(1), 1_000_000) != b""
    assert bus.handle(ping(2), 1_000_000) == b""
    assert bus.handle(ping(2), 500_000) != b""
    assert bus.handle(ping(1), 500_000) == b""


@pytest.mark.parametrize(("table", "rate"), [("vendor", 57_600), ("lerobot", 38_400)])
def test_what_a_slow_baud_rate_means_can_be_chosen(table, rate):
    faults = Faults(slow_baud_rates=table, servos={1: ServoFaults(registers={"baud_rate": 6})})
    assert bus_of(1, faults).handle(ping(1), rate) != b""


def test_echo_comes_before_the_reply_and_ends():
    bus = bus_of(1)
    bus.inject(Event("echo", duration_s=0.1))
    assert bus.handle(ping(1)) == ping(1) + bytes.fromhex("ffff010200fc")
    bus.advance(0.2)
    assert bus.handle(ping(1)) == bytes.fromhex("ffff010200fc")


def test_replies_on_their_way_are_lost_with_the_port():
    bus = bus_of(1, byte_timing=True)
    bus.inject(ReplyFault("late", delay_ms=50))
    bus.handle(ping(1))
    bus.inject(Event("unplug", duration_s=0.01))
    assert bus.advance(0.2) == b""


def test_adapter_hands_bytes_over_once_a_millisecond():
    bus = bus_of(6, Faults(adapter_ms=1.0), byte_timing=True)
    bus.advance(0.00025)
    bus.handle(FEEDBACK)
    arrivals = {}
    for _ in range(60):
        data = bus.advance(0.00005)
        if data:
            arrivals[round(bus.now_s * 1000, 3)] = len(data)
    # 140 us of request and 210 us a reply, from 0.25 ms on: two replies are in after 1 ms.
    assert arrivals == {1.0: 42, 2.0: 84}


def test_rules_that_are_used_up_are_forgotten():
    bus = bus_of(1)
    for _ in range(300):
        bus.inject(ReplyFault("drop", count=1))
        assert bus.handle(ping(1)) == b""
    assert bus.handle(ping(1)) != b""
    assert bus.fired == {"drop": 300}
