"""Faults of the emulated bus in the supply, at the joints and at the port."""

import math

import pytest
from emulated_arm import FEEDBACK, IDS, TORQUE_LIMIT, answer, bus_of, goal_frame, memory_bus

from firmware_bridge import packets, registers
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Event, Faults, FaultsError, ReplyFault, ServoFaults
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import PortError
from firmware_bridge.packets import FrameParser, StatusBit, ping


def test_faults_reach_a_servo_by_the_id_it_started_with():
    bus = bus_of(2)
    bus.inject(Event("register", ids=frozenset([2]), register="id", value=9))
    bus.inject(Event("status", ids=frozenset([2]), value=2))
    assert bus.handle(ping(9))[4] == StatusBit.ENCODER
    bus.inject(Event("silent", ids=frozenset([2])))
    assert bus.handle(ping(9)) == b""


def test_mixed_firmware():
    faults = Faults(servos={3: ServoFaults(registers={"firmware_minor_version": 9})})
    bus = bus_of(6, faults)
    versions = [answer(bus, servo_id, registers.FIRMWARE_MINOR_VERSION) for servo_id in IDS]
    assert versions == [10, 10, 9, 10, 10, 10]


def test_brown_out_silences_everybody_and_leaves_ram_defaults():
    bus, transport = memory_bus()
    for servo_id in IDS:
        bus.write(servo_id, registers.GOAL_POSITION, 2100)
        bus.write(servo_id, registers.TORQUE_LIMIT, 77)
        bus.write(servo_id, registers.ACCELERATION, 20)
    transport.bus.inject(Event("brown_out", at_s=0.2, duration_s=0.5))
    transport.sleep(0.19)
    assert set(bus.sync_read(56, 2, IDS)) == set(IDS)
    transport.sleep(0.1)
    assert transport.bus.handle(FEEDBACK) == b""
    transport.sleep(0.5)
    for servo_id in IDS:
        assert bus.read(servo_id, registers.TORQUE_ENABLE) == 0
        assert bus.read(servo_id, registers.TORQUE_LIMIT) == (500 if servo_id == 6 else 1000)
        assert bus.read(servo_id, registers.ACCELERATION) == 0
        assert bus.read(servo_id, registers.LOCK) == 1


def test_loose_cable_reboots_only_what_is_behind_it():
    bus = bus_of()
    bus.handle(packets.sync_write(TORQUE_LIMIT, dict.fromkeys(IDS, b"\x4d\x00")))
    bus.inject(Event("brown_out", duration_s=0.1, ids=frozenset([4, 5, 6])))
    assert len(FrameParser().feed(bus.handle(FEEDBACK))) == 3
    bus.advance(0.2)
    limits = [answer(bus, servo_id, registers.TORQUE_LIMIT) for servo_id in IDS]
    assert limits == [77, 77, 77, 1000, 1000, 500]


def test_weak_supply_browns_out_when_all_motors_push():
    plant = RotorPlant(6, stops_deg=[[-1, 1]] * 6)
    bus = EmulatedBus(plant, faults=Faults(supply_ohm=0.8))
    bus.handle(goal_frame(1, 2600))
    bus.advance(0.1)
    assert len(FrameParser().feed(bus.handle(FEEDBACK))) == 6
    for servo_id in IDS:
        bus.handle(goal_frame(servo_id, 2600))
    bus.advance(0.1)
    assert bus.handle(FEEDBACK) == b""
    assert bus.fired["brown_out_by_load"] == 1
    bus.advance(1.0)
    assert [answer(bus, servo_id, registers.TORQUE_ENABLE) for servo_id in IDS] == [0] * 6


def test_supply_that_stays_too_low_reboots_the_servos_again_and_again():
    bus = bus_of(1)
    bus.inject(Event("sag", value=3.0))
    bus.advance(4.5)
    assert bus.fired["brown_out_by_load"] in (5, 6)
    assert bus.handle(ping(1)) == b""


def test_sagging_supply_is_read_flagged_and_weakens_the_motors():
    bus, transport = memory_bus(plant=RotorPlant(6))
    transport.bus.inject(Event("sag", value=3.9, duration_s=1.0))
    bus.write(1, registers.GOAL_POSITION, 3000)
    transport.sleep(0.4)
    assert bus.read(1, registers.PRESENT_VOLTAGE) in (38, 39)
    assert bus.status_bits[1] == StatusBit.VOLTAGE
    assert 0 < bus.read(1, registers.PRESENT_VELOCITY) < 1100
    transport.sleep(0.8)
    assert bus.read(1, registers.PRESENT_VOLTAGE) >= 119


def test_servos_of_the_7v4_build_complain_about_12_volts():
    kit = bus_of(2, Faults(build="7.4v"))
    assert (answer(kit, 1, registers.PRESENT_VOLTAGE), kit.handle(ping(1))[4]) == (50, 0)
    assert answer(kit, 1, registers.MAX_VOLTAGE_LIMIT) == 80
    wrong = bus_of(2, Faults(build="7.4v", supply_v=12.0))
    assert wrong.handle(ping(1))[4] == StatusBit.VOLTAGE


def test_servos_keep_their_build_and_its_supply_when_the_faults_are_replaced():
    bus = bus_of(1, Faults(build="7.4v"))
    bus.replace_faults(Faults())
    bus.advance(0.01)
    assert (answer(bus, 1, registers.PRESENT_VOLTAGE), bus.handle(ping(1))[4]) == (50, 0)


def test_voltage_fault_cuts_the_drive_where_it_is_an_unloading_condition():
    own = ServoFaults(registers={"unloading_condition": 1})
    plant = RotorPlant(2, stops_deg=[[-1, 1]] * 2)
    bus = EmulatedBus(plant, faults=Faults(supply_v=15.0, servos={1: own}))
    for servo_id in (1, 2):
        bus.handle(goal_frame(servo_id, 2600))
    bus.advance(0.1)
    assert answer(bus, 1, registers.PRESENT_LOAD) == 0
    assert answer(bus, 2, registers.PRESENT_LOAD) > 900


def test_hot_servo_cuts_out_and_says_so():
    plant = RotorPlant(2, stops_deg=[[-1, 1]] * 2)
    bus = EmulatedBus(plant)
    bus.handle(goal_frame(1, 2600))
    bus.inject(Event("hot", ids=frozenset([1])))
    bus.advance(0.1)
    assert answer(bus, 1, registers.PRESENT_TEMPERATURE) == 75
    assert bus.handle(ping(1))[4] == StatusBit.TEMPERATURE
    assert answer(bus, 1, registers.PRESENT_LOAD) == 0


def test_hot_servo_that_carries_on_still_says_so():
    bus = EmulatedBus(
        RotorPlant(1, stops_deg=[[-1, 1]]), faults=Faults(over_temperature="carries_on")
    )
    bus.handle(goal_frame(1, 2600))
    bus.inject(Event("hot"))
    bus.advance(0.1)
    assert bus.handle(ping(1))[4] == StatusBit.TEMPERATURE
    assert answer(bus, 1, registers.PRESENT_LOAD) > 900


def test_overload_thrown_at_a_moving_servo_makes_it_weak():
    plant = RotorPlant(1, stops_deg=[[-1, 1]])
    bus = EmulatedBus(plant)
    bus.handle(goal_frame(1, 2600))
    bus.inject(Event("overload", at_s=0.5))
    bus.advance(0.4)
    assert answer(bus, 1, registers.PRESENT_LOAD) > 900
    bus.advance(0.2)
    assert answer(bus, 1, registers.PRESENT_LOAD) == 200
    assert bus.handle(ping(1))[4] == StatusBit.OVERLOAD


def test_status_bits_for_a_while():
    bus = bus_of(1)
    bus.inject(Event("status", value=3, duration_s=0.1))
    assert bus.handle(ping(1))[4] == 3
    assert bus.handle(packets.read(1, registers.STATUS.address, 1))[5] == 3
    bus.advance(0.2)
    assert bus.handle(ping(1))[4] == 0


def test_blocked_joint_does_not_move_until_it_is_free():
    bus, transport = memory_bus(plant=RotorPlant(6))
    transport.bus.inject(Event("block", ids=frozenset([2]), duration_s=0.5))
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2200))
    transport.sleep(0.4)
    assert bus.read(2, registers.PRESENT_POSITION) == 2048
    assert bus.read(2, registers.PRESENT_LOAD) > 400
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2200, abs=5)
    transport.sleep(1.0)
    assert bus.read(2, registers.PRESENT_POSITION) == pytest.approx(2200, abs=5)


def test_push_moves_a_limp_joint_to_its_stop_and_ends():
    plant = RotorPlant(1, stops_deg=[[-30, 40]])
    bus = EmulatedBus(plant)
    bus.inject(Event("push", value=0.5, duration_s=2.0))
    bus.advance(1.9)
    assert plant.positions_deg()[0] == pytest.approx(40, abs=0.5)
    bus.advance(0.2)
    assert plant.load_nm[0] == 0.0


def test_unplugged_port_is_lost_until_it_is_opened_again_and_servos_go_on():
    plant = RotorPlant(6)
    transport = MemoryTransport(EmulatedBus(plant))
    transport.write(goal_frame(1, 2600))
    transport.bus.inject(Event("unplug", at_s=0.05, duration_s=0.5))
    transport.sleep(0.1)
    for call in (
        lambda: transport.write(FEEDBACK),
        lambda: transport.read(10, 0.1),
        transport.flush_input,
    ):
        with pytest.raises(PortError, match="port lost"):
            call()
    assert not transport.reopen()
    transport.sleep(0.5)
    with pytest.raises(PortError):
        transport.write(FEEDBACK)
    assert transport.reopen()
    transport.write(FEEDBACK)
    assert len(FrameParser().feed(transport.read(1000, 0.1))) == 6
    assert plant.positions_deg()[0] > 20.0


def test_events_at_random_come_as_often_as_asked_and_alike_for_a_seed():
    def times(seed):
        faults = Faults(seed=seed, events=(Event("brown_out", every_s=0.5, duration_s=0.01),))
        bus, found = bus_of(1, faults), []
        for _ in range(6000):
            bus.advance(0.001)
            if bus.fired["brown_out"] > len(found):
                found.append(round(bus.now_s, 3))
        return found

    assert times(1) == times(1) != times(2)
    assert 6 <= len(times(1)) <= 20


def test_replacing_the_faults_ends_the_old_ones():
    plant = RotorPlant(2)
    bus = EmulatedBus(plant, faults=Faults(missing=frozenset([1]), echo=True))
    bus.inject(
        Event("push", value=0.3),
        Event("block"),
        Event("silent"),
        Event("status", value=2),
        ReplyFault("drop"),
        Event("unplug", at_s=5.0),
    )
    bus.advance(0.1)
    bus.replace_faults(Faults())
    assert bus.handle(ping(1)) == bytes.fromhex("ffff010200fc")
    assert plant.load_nm[0] == 0.0
    assert not plant.stuck.any()
    bus.advance(10.0)
    assert not bus.unplugged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "melt"}, "kind is 'melt', allowed is brown_out or"),
        ({"kind": "hot", "duration_s": 1.0}, "hot takes no duration_s"),
        ({"kind": "hot", "value": 300}, r"hot has value 300, allowed is 0\.\.200"),
        ({"kind": "sag"}, r"sag has value None, allowed is 0\.\.30"),
        ({"kind": "sag", "value": math.nan}, "sag has value nan"),
        ({"kind": "block", "value": 1}, "block takes no value"),
        ({"kind": "block", "register": "id"}, "only 'register' has one"),
        ({"kind": "register", "value": 1}, "register None"),
        ({"kind": "register", "register": "ide", "value": 1}, "register is 'ide'"),
        ({"kind": "register", "register": "id", "value": 300}, r"id: 300 is outside 0\.\.255"),
    ],
)
def test_event_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(FaultsError, match=message):
        Event(**arguments)
