import contextlib
import itertools
import random

import pytest
from emulated_arm import IDS, memory_bus

from firmware_bridge import packets, registers
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.errors import (
    BusError,
    BusTimeout,
    ChecksumMismatch,
    EchoError,
    PortError,
    WrongServoId,
)
from firmware_bridge.late_replies import LATEST_S
from firmware_bridge.packets import Instruction, StatusBit
from firmware_bridge.registers import CONTROL_TABLE, Access

TRY_MS = 20.6


def late(ids, delay_ms, count=1, after=0):
    return Faults(
        replies=(ReplyFault("late", frozenset(ids), delay_ms=delay_ms, count=count, after=after),)
    )


def test_ping_read_and_write_reach_the_servo():
    bus, transport = memory_bus()
    assert bus.ping(3).error == 0
    assert bus.read(3, registers.MODEL_NUMBER) == 777
    bus.write(3, registers.TORQUE_LIMIT, 321)
    assert transport.bus.servos[2].value(registers.TORQUE_LIMIT) == 321
    assert bus.read(3, registers.TORQUE_LIMIT) == 321


def test_sync_write_and_sync_read_reach_all_servos():
    bus, _ = memory_bus()
    bus.sync_write(registers.TORQUE_LIMIT, {servo_id: 100 * servo_id for servo_id in IDS})
    replies = bus.sync_read(registers.TORQUE_LIMIT.address, 2, IDS)
    values = [registers.TORQUE_LIMIT.decode(reply.data) for reply in replies.values()]
    assert list(replies) == list(IDS)
    assert values == [100, 200, 300, 400, 500, 600]


def test_reg_write_waits_for_action():
    bus, _ = memory_bus()
    bus.reg_write(1, registers.TORQUE_LIMIT, 250)
    assert bus.read(1, registers.REG_WRITE_FLAG) == 1
    assert bus.read(1, registers.TORQUE_LIMIT) == 1000
    bus.action()
    assert bus.read(1, registers.TORQUE_LIMIT) == 250
    assert bus.read(1, registers.REG_WRITE_FLAG) == 0


def test_fault_bits_arrive_with_the_data_they_came_with():
    bus, _ = memory_bus(Faults(servos={2: ServoFaults(status_bits=0x20)}))
    assert bus.read(2, registers.MODEL_NUMBER) == 777
    assert bus.status_bits[2] == StatusBit.OVERLOAD
    replies = bus.sync_read(56, 15, IDS)
    assert [replies[servo_id].error for servo_id in IDS] == [0, 0x20, 0, 0, 0, 0]


def test_missing_servo_costs_at_most_its_deadline():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    started_s = transport.clock()
    with pytest.raises(BusTimeout) as caught:
        bus.ping(3)
    assert (transport.clock() - started_s) * 1000.0 <= 2 * TRY_MS
    assert str(caught.value) == (
        "servo 3: no reply in 40.3 ms after 2 tries (memory, 1000000 baud); check power and "
        "cabling, or run 'molmoact-arm scan --port memory'"
    )
    assert caught.value.servo_ids == (3,)


def test_sync_read_returns_the_servos_behind_a_missing_one_within_one_deadline():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    for _ in range(3):
        started_s = transport.clock()
        assert sorted(bus.sync_read(56, 15, IDS)) == [1, 2, 4, 5, 6]
        assert (transport.clock() - started_s) * 1000.0 <= TRY_MS + 2.0


def test_sync_read_gets_around_a_missing_servo_that_silences_those_behind_it():
    bus, _ = memory_bus(Faults(missing=frozenset([3]), silent_after_missing=True))
    answered = [sorted(bus.sync_read(56, 15, IDS)) for _ in range(6)]
    assert answered[0] == [1, 2]
    assert answered[-1] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    "register", [registers.FIRMWARE_MAJOR_VERSION, registers.P_COEFFICIENT, CONTROL_TABLE[-1]]
)
def test_servos_are_never_asked_for_more_than_their_table(register):
    # What they do then is not documented. Reads of a silent servo vary in length.
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    for _ in range(40):
        with pytest.raises(BusTimeout):
            bus.read(3, register, tries=1)
        assert 3 not in bus.sync_read(56, 15, IDS, deadline_s=transport.clock() + 0.01)
    transport.bus.replace_faults(Faults())
    transport.sleep(LATEST_S)
    assert bus.read(3, register) == transport.bus.servos[2].value(register)
    assert len(bus.sync_read(56, 15, IDS)) == 6
    blocks = [(frame[5], frame[6]) for frame in transport.sent]
    assert len(set(blocks)) > 30
    assert max(start + length for start, length in blocks) <= registers.TABLE_END


def test_lost_reply_in_the_middle_is_asked_for_again_at_once():
    bus, transport = memory_bus(Faults(replies=(ReplyFault("drop", frozenset([4]), count=1),)))
    started_s = transport.clock()
    replies = bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.020)
    assert list(replies) == list(IDS)
    assert len(replies[4].data) == 15
    assert transport.clock() - started_s <= 0.001
    assert [frame[4] for frame in transport.sent] == [Instruction.SYNC_READ] * 2
    assert transport.sent[1][7:-1] == bytes([4])


def test_lost_reply_at_the_end_is_asked_for_again_before_the_deadline():
    bus, transport = memory_bus(Faults(replies=(ReplyFault("drop", frozenset([6]), count=1),)))
    started_s = transport.clock()
    assert list(bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.010)) == list(IDS)
    assert transport.clock() - started_s <= 0.010


@pytest.mark.parametrize("deadline_ms", [0.5, 3, 7, 10, 20, 33])
@pytest.mark.parametrize("missing", [(), (3,), (6,), (1, 2), IDS])
def test_missing_servos_cost_a_tick_at_most_its_deadline(missing, deadline_ms):
    bus, transport = memory_bus(Faults(missing=frozenset(missing)))
    for _ in range(4):
        started_s = transport.clock()
        replies = bus.sync_read(56, 15, IDS, deadline_s=started_s + deadline_ms / 1000.0)
        assert transport.clock() - started_s <= deadline_ms / 1000.0 + 1e-6
        assert sorted(replies) == sorted(set(IDS) - set(missing))


def test_late_replies_do_not_hold_a_tick_beyond_its_deadline():
    faults = Faults(replies=(ReplyFault("late", frozenset([2, 5]), delay_ms=14),))
    bus, transport = memory_bus(faults)
    for _ in range(10):
        started_s = transport.clock()
        replies = bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.010)
        assert transport.clock() - started_s <= 0.010 + 1e-6
        assert {1, 3, 4, 6} <= set(replies)
        transport.sleep(0.010)


def test_servo_that_is_late_for_long_never_answers_an_older_question():
    # 30 ticks a second with all the tries that fit in, every reply a third of a second late.
    bus, transport = memory_bus()
    transport.bus.inject(ReplyFault("late", frozenset([2]), delay_ms=330))
    for _ in range(40):
        started_s = transport.clock()
        assert 2 not in bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.025)
        with pytest.raises(BusTimeout):
            bus.read_bytes(2, 40, 18)
        transport.sleep(max(0.0, started_s + 1 / 30 - transport.clock()))
    transport.bus.replace_faults(Faults())
    transport.sleep(LATEST_S)
    assert bus.read(2, registers.ID) == 2
    assert 2 in bus.sync_read(56, 15, IDS)


def test_nothing_is_sent_after_the_deadline():
    bus, transport = memory_bus()
    assert bus.sync_read(56, 15, IDS, deadline_s=transport.clock()) == {}
    assert transport.sent == []


def test_replies_that_came_while_the_caller_was_away_count():
    bus, transport = memory_bus()
    pending = bus.start_sync_read(56, 15, IDS, deadline_s=transport.clock() + 0.005)
    transport.sleep(0.050)
    assert list(bus.finish_sync_read(pending)) == list(IDS)


def test_misses_are_counted_per_servo_until_it_answers():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    for _ in range(2):
        bus.sync_read(56, 15, IDS)
    with pytest.raises(BusTimeout):
        bus.ping(3)
    assert bus.misses == {1: 0, 2: 0, 3: 3, 4: 0, 5: 0, 6: 0}
    transport.bus.replace_faults(Faults())
    bus.ping(3)
    assert bus.misses[3] == 0


def test_port_that_comes_back_is_used_again():
    bus, transport = memory_bus()
    bus.ping(1)
    transport.bus.inject(Event("unplug", duration_s=1.0))
    transport.sleep(0.01)
    for _ in range(2):
        with pytest.raises(PortError, match="port lost"):
            bus.ping(1)
    assert bus.port_lost
    transport.sleep(1.0)
    assert bus.ping(1).error == 0
    assert not bus.port_lost
    assert bus.counters.reopened == 1


def test_port_lost_while_servos_answer_is_a_port_error():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    pending = bus.start_sync_read(56, 15, IDS)
    transport.bus.inject(Event("unplug", duration_s=0.5))
    with pytest.raises(PortError):
        bus.finish_sync_read(pending)
    assert bus.port_lost
    transport.sleep(1.0)
    assert sorted(bus.sync_read(56, 15, IDS)) == [1, 2, 4, 5, 6]


def test_dropped_reply_is_asked_for_again():
    bus, _ = memory_bus(Faults(replies=(ReplyFault("drop", frozenset([2]), count=1),)))
    assert bus.read(2, registers.MODEL_NUMBER) == 777
    assert bus.counters.retries == 1


@pytest.mark.parametrize("delay_ms", [21, 25, 30, 41, 55, 75])
def test_late_reply_is_never_taken_for_the_next_one(delay_ms):
    # Voltage and temperature are both one byte of the same servo: only the order tells them apart.
    bus, transport = memory_bus(late([2], delay_ms, count=2, after=1))
    expected = {
        registers.PRESENT_VOLTAGE: 120,
        registers.PRESENT_TEMPERATURE: 24,
        registers.P_COEFFICIENT: 16,
        registers.D_COEFFICIENT: 32,
    }
    for register in itertools.islice(itertools.cycle(expected), 40):
        with contextlib.suppress(BusTimeout):
            assert bus.read(2, register) == expected[register]
        transport.sleep(0.002)
    assert bus.counters.retries >= 1


def test_late_sync_read_replies_are_not_taken_for_the_next_ones():
    bus, transport = memory_bus(late([4], 24))
    assert 4 not in bus.sync_read(registers.PRESENT_VOLTAGE.address, 1, IDS)
    transport.sleep(0.010)
    replies = bus.sync_read(registers.PRESENT_TEMPERATURE.address, 1, IDS)
    assert [reply.data for reply in replies.values()] == [bytes([24])] * 6


def test_late_acknowledgement_does_not_confirm_the_next_write():
    # The first write's answer comes while the second, which the servo never hears, waits for its.
    bus, _ = memory_bus(
        Faults(
            replies=(
                ReplyFault("late", frozenset([2]), delay_ms=30, count=1),
                ReplyFault("deaf", frozenset([2]), after=1, count=1),
            )
        )
    )
    with pytest.raises(BusTimeout):
        bus.write(2, registers.TORQUE_LIMIT, 111, tries=1)
    with contextlib.suppress(BusTimeout):
        bus.write(2, registers.TORQUE_LIMIT, 222, tries=1)
        assert bus.read(2, registers.TORQUE_LIMIT) == 222


@pytest.mark.parametrize("seed", range(12))
def test_no_request_is_ever_answered_by_another_ones_reply(seed):
    choose = random.Random(seed)
    faults = Faults(
        seed=seed,
        replies=tuple(
            ReplyFault(kind, probability=0.06, delay_ms=choose.uniform(1, 90))
            if kind == "late"
            else ReplyFault(kind, probability=0.04)
            for kind in ("late", "drop", "corrupt", "truncate", "noise", "deaf")
        ),
    )
    bus, transport = memory_bus(faults)
    still = [
        entry
        for entry in CONTROL_TABLE
        if entry.access is Access.EEPROM and entry is not registers.BAUD_RATE
    ]
    done = 0
    for _ in range(150):
        servo_id, register = choose.choice(IDS), choose.choice(still)
        servo = transport.bus.servos[servo_id - 1]
        with contextlib.suppress(BusTimeout, ChecksumMismatch):
            match choose.randrange(5):
                case 0:
                    limit = choose.randrange(1000)
                    bus.write(servo_id, registers.TORQUE_LIMIT, limit)
                    assert servo.value(registers.TORQUE_LIMIT) == limit
                case 1:
                    bus.ping(servo_id)
                case 2:
                    deadline_s = bus.clock() + 0.012
                    replies = bus.sync_read(
                        register.address, register.size, IDS, deadline_s=deadline_s
                    )
                    assert bus.clock() <= deadline_s + 1e-6
                    for reply in replies.values():
                        truth = transport.bus.servos[reply.servo_id - 1].value(register)
                        assert register.decode(reply.data) == truth
                case _:
                    assert bus.read(servo_id, register) == servo.value(register)
            done += 1
        transport.sleep(choose.choice([0.0, 0.002, 0.01]))
    assert done > 100
    assert bus.counters.retries > 0
    assert bus.counters.strays > 0
    assert bus.counters.bad_checksums > 0


def test_corrupt_replies_are_named_as_such():
    bus, _ = memory_bus(Faults(seed=3, replies=(ReplyFault("corrupt", frozenset([5])),)))
    with pytest.raises(ChecksumMismatch, match=r"servo 5: reply damaged, checksum wrong after 2"):
        bus.read(5, registers.PRESENT_POSITION)


def test_one_corrupt_reply_costs_a_retry_and_no_more():
    bus, _ = memory_bus(Faults(seed=3, replies=(ReplyFault("corrupt", count=1),)))
    assert bus.read(5, registers.MODEL_NUMBER) == 777


def test_echoing_adapter_is_understood_when_announced():
    bus, _ = memory_bus(Faults(echo=True), echo=True)
    assert bus.ping(1).error == 0
    assert bus.read(1, registers.PRESENT_POSITION) == 2105
    bus.sync_write(registers.TORQUE_LIMIT, dict.fromkeys(IDS, 300))
    assert bus.read(6, registers.TORQUE_LIMIT) == 300
    assert sorted(bus.sync_read(56, 15, IDS)) == list(IDS)


@pytest.mark.parametrize(
    "request_servos",
    [
        lambda bus: bus.ping(1),
        lambda bus: bus.ping(9),
        lambda bus: bus.read(1, registers.PRESENT_POSITION),
        lambda bus: bus.read(1, registers.PRESENT_VOLTAGE),
        lambda bus: bus.write(1, registers.TORQUE_LIMIT, 100),
        lambda bus: bus.sync_read(56, 15, IDS),
        lambda bus: bus.sync_read(56, 15, (9,)),
    ],
)
def test_echo_that_nobody_announced_is_named_and_never_a_reply(request_servos):
    bus, _ = memory_bus(Faults(echo=True))
    with pytest.raises(EchoError, match=r"every read seems to report 'encoder' .* use --echo"):
        request_servos(bus)


def test_echo_announced_but_absent_is_named():
    bus, _ = memory_bus(echo=True)
    with pytest.raises(EchoError, match="does not return what is sent although --echo says so"):
        bus.ping(1)


def test_reply_equal_to_the_request_is_not_taken_for_an_echo():
    # A servo with a voltage fault answers a ping with the ping's own bytes.
    bus, transport = memory_bus(Faults(servos={1: ServoFaults(status_bits=1)}))
    assert bus.ping(1).error == StatusBit.VOLTAGE
    assert transport.sent[0] == packets.status(1, 1)


class Adapter:
    """A transport that answers each request with prepared bytes."""

    name, baud_rate = "adapter", 1_000_000

    def __init__(self, *answers):
        self.now_s = 0.0
        self.answers = list(answers)
        self.waiting = b""

    def clock(self):
        return self.now_s

    def write(self, data):
        self.waiting = self.answers.pop(0) if self.answers else b""

    def read(self, max_bytes, timeout_s):
        data, self.waiting = self.waiting[:max_bytes], self.waiting[max_bytes:]
        self.now_s += 0.001 if data else timeout_s
        return data

    def flush_input(self):
        self.waiting = b""


def adapter_bus(*answers, **options):
    transport = Adapter(*answers)
    return Bus(transport, clock=transport.clock, **options), transport


def test_answer_of_another_servo_is_refused():
    stranger = packets.status(9, 0, b"\x01\x02")
    bus, _ = adapter_bus(stranger, stranger)
    with pytest.raises(WrongServoId, match=r"servo 2: servo 9 answered in its place after 2 tries"):
        bus.read(2, registers.PRESENT_POSITION)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x02\x03", bytes(20)])
def test_answer_of_another_length_is_refused(data):
    bus, _ = adapter_bus(packets.status(2, 0, data))
    with pytest.raises(BusTimeout):
        bus.read(2, registers.PRESENT_POSITION, tries=1)


def test_answer_with_error_bit_7_counts():
    bus, _ = adapter_bus(packets.status(2, 0x80, b"\x01\x02"))
    assert bus.read(2, registers.PRESENT_POSITION) == 0x0201
    assert bus.status_bits[2] == 0x80


def test_two_servos_with_one_id_are_not_believed():
    both = packets.status(2, 0, b"\x01\x02") + packets.status(2, 0, b"\x03\x04")
    bus, _ = adapter_bus(both)
    with pytest.raises(ChecksumMismatch, match="no two servos share an id"):
        bus.read(2, registers.PRESENT_POSITION, tries=1)


def test_damaged_and_partial_echoes_do_not_hide_the_answer():
    answer = packets.status(2, 0, b"\x01\x02")
    request_bytes = packets.read(2, 56, 2)
    bus, _ = adapter_bus(
        request_bytes[3:] + answer, b"\x00" + request_bytes[1:] + answer, echo=True
    )
    for _ in range(2):
        assert bus.read(2, registers.PRESENT_POSITION, tries=1) == 0x0201


def test_servo_that_answers_only_reads_times_out_on_a_write_that_it_carried_out():
    bus, transport = memory_bus(Faults(servos={1: ServoFaults(response_status_level=0)}))
    with pytest.raises(BusTimeout):
        bus.write(1, registers.TORQUE_LIMIT, 200)
    assert bus.read(1, registers.TORQUE_LIMIT) == 200
    assert transport.bus.servos[0].value(registers.TORQUE_LIMIT) == 200


def test_eeprom_is_not_written_when_it_holds_the_value():
    bus, transport = memory_bus()
    assert not bus.write_eeprom(1, registers.P_COEFFICIENT, 16)
    assert [frame[4] for frame in transport.sent] == [packets.Instruction.READ]


def test_eeprom_write_is_kept_through_power_loss_and_locked_again():
    bus, transport = memory_bus()
    assert bus.write_eeprom(1, registers.P_COEFFICIENT, 24)
    assert bus.read(1, registers.LOCK) == 1
    transport.bus.power_cycle()
    assert bus.read(1, registers.P_COEFFICIENT) == 24


def test_eeprom_write_of_the_id_follows_the_servo():
    bus, _ = memory_bus()
    assert bus.write_eeprom(6, registers.ID, 16)
    assert bus.ping(16).servo_id == 16


def test_write_refuses_registers_that_wear():
    bus, transport = memory_bus()
    with pytest.raises(BusError, match="p_coefficient is eeprom; write it with write_eeprom"):
        bus.write(1, registers.P_COEFFICIENT, 24)
    with pytest.raises(BusError, match="torque_enable is ram, not an EEPROM register"):
        bus.write_eeprom(1, registers.TORQUE_ENABLE, 1)
    assert transport.sent == []


@pytest.mark.parametrize("silent_calls", [0, 1, 60])
def test_write_goes_out_even_if_nobody_can_confirm_it(silent_calls):
    # The servo hears, but nothing of it is heard: it must be possible to switch its torque off.
    bus, transport = memory_bus()
    bus.write(3, registers.TORQUE_ENABLE, 1)
    transport.bus.inject(ReplyFault("drop", frozenset([3])))
    for _ in range(silent_calls):
        bus.sync_read(56, 15, IDS)
        with pytest.raises(BusTimeout):
            bus.write(3, registers.GOAL_TIME, 0, tries=1)
    with pytest.raises(BusTimeout):
        bus.write(3, registers.TORQUE_ENABLE, 0)
    assert transport.bus.servos[2].value(registers.TORQUE_ENABLE) == 0


def test_broadcast_torque_off_is_repeated_and_reaches_every_servo():
    bus, transport = memory_bus()
    bus.sync_write(registers.TORQUE_ENABLE, dict.fromkeys(IDS, 1))
    transport.sent.clear()
    bus.broadcast_torque_off()
    assert transport.sent == [bytes.fromhex("fffffe04032800d2")] * 3
    assert all(servo.value(registers.TORQUE_ENABLE) == 0 for servo in transport.bus.servos)


def test_byte_timing_takes_the_time_of_the_wire():
    bus, transport = memory_bus(byte_timing=True)
    started_s = transport.clock()
    bus.sync_read(56, 15, IDS)
    # 14 bytes out, 6 x 21 back: 1.4 ms at 1 Mbps, seen on a clock of 1 ms steps.
    assert 0.0013 <= transport.clock() - started_s <= 0.0031
