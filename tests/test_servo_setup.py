"""`molmoact-arm setup`: one servo at a time gets its id and rate."""

import contextlib

import pytest
from scripted_console import ScriptedConsole

from firmware_bridge import registers, setup_command
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import JOINTS
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Faults
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import BusError, PortError
from firmware_bridge.port_options import UserError
from firmware_bridge.servo_setup import ServoSetup


class Bench:
    """A bus on which other servos can be plugged in; `setup` works on it."""

    def __init__(self, servos=None):
        self.servos = servos or factory_servo()
        self.opened = []
        self.setup = ServoSetup(self.open_at, sleep=lambda s: self.servos.advance(s))

    def open_at(self, baud_rate):
        self.opened.append(baud_rate)
        transport = MemoryTransport(self.servos, baud_rate)
        return Bus(transport, clock=transport.clock)

    def plug(self, servos):
        self.servos = servos
        return ""


def factory_servo(servo_id=1, baud_index=0, model=777):
    return with_ids(servo_id, baud_index=baud_index, model=model)


def with_ids(*ids, baud_index=0, model=777, faults=None):
    servos = EmulatedBus(RotorPlant(len(ids), start_deg=range(len(ids))), list(ids), faults)
    for servo in servos.servos:
        servo.restore_eeprom({registers.BAUD_RATE: baud_index, registers.MODEL_NUMBER: model})
    return servos


def stored(servos):
    """Return id, baud index and lock after the servo has been without power."""
    servos.power_cycle()
    servo = servos.servos[0]
    return [servo.value(r) for r in (registers.ID, registers.BAUD_RATE, registers.LOCK)]


@pytest.mark.parametrize("baud_index", range(len(registers.BAUD_RATES)))
@pytest.mark.parametrize("old_id", [0, 1, 6, 253])
def test_a_servo_is_found_and_set_whatever_its_id_and_rate(old_id, baud_index):
    bench = Bench(factory_servo(old_id, baud_index))
    found = bench.setup.find()
    assert (found.state.servo_id, found.baud_rate) == (
        old_id,
        registers.BAUD_RATES[baud_index],
    )
    assert bench.setup.assign(found, 6) == ((old_id, baud_index) != (6, 0))
    assert bench.servos.servos[0].value(registers.LOCK) == 1
    assert stored(bench.servos) == [6, 0, 1]


def test_torque_is_off_before_the_memory_is_unlocked():
    bench = Bench()
    bench.servos.servos[0].write(registers.GOAL_POSITION.address, b"\x00\x08")
    bench.setup.assign(bench.setup.find(), 3)
    assert bench.servos.servos[0].value(registers.TORQUE_ENABLE) == 0


def test_a_servo_that_is_right_already_is_only_locked():
    bench = Bench(factory_servo(4))
    bench.servos.servos[0].write(registers.LOCK.address, b"\x00")
    assert bench.setup.assign(bench.setup.find(), 4) is False
    assert bench.servos.servos[0].value(registers.LOCK) == 1


def test_another_model_is_refused_by_name_and_left_alone():
    bench = Bench(factory_servo(1, model=2825))
    with pytest.raises(UserError, match=r"an sts3250 \(model 2825\), the arm needs an sts3215"):
        bench.setup.assign(bench.setup.find(), 6)
    assert stored(bench.servos)[0] == 1


@pytest.mark.parametrize("ids", [(1, 2), (3, 4, 5), (1, 253)])
def test_more_than_one_servo_is_refused_with_their_ids(ids):
    with pytest.raises(UserError, match=rf"\(ids {', '.join(map(str, ids))}\); plug in only one"):
        Bench(with_ids(*ids)).setup.find()


def test_two_servos_with_one_id_are_refused():
    bench = Bench(with_ids(1, 1))
    with pytest.raises(UserError, match="more than one servo answers"):
        bench.setup.find()


def test_an_empty_bus_is_one_line_after_every_rate():
    bench = Bench(with_ids(1, faults=Faults(missing=frozenset({1}))))
    with pytest.raises(UserError, match="no servo answers at any baud rate; check its plug"):
        bench.setup.find()
    assert len(set(bench.opened)) == 9


def test_an_echoing_adapter_is_refused():
    with pytest.raises(UserError, match="returns every byte sent"):
        Bench(with_ids(1, faults=Faults(echo=True))).setup.find()


def test_a_failure_half_way_leaves_no_servo_unlocked():
    bench = Bench()
    found = bench.setup.find()
    setup = ServoSetup(bench.open_at, sleep=interrupt)
    with pytest.raises(KeyboardInterrupt):
        setup.assign(found, 6)
    assert bench.servos.servos[0].value(registers.LOCK) == 1


def interrupt(_):
    raise KeyboardInterrupt


def test_a_servo_that_answers_under_its_new_id_is_no_error(monkeypatch):
    bench = Bench()
    found = bench.setup.find()
    original = Bus.write_bytes

    def write_bytes(bus, servo_id, address, data, **options):
        original(bus, servo_id, address, data, **options)
        if address in (registers.ID.address, registers.BAUD_RATE.address):
            raise BusError("no acknowledgement")

    monkeypatch.setattr(Bus, "write_bytes", write_bytes)
    assert bench.setup.assign(found, 2)


def test_the_whole_arm_goes_from_gripper_to_shoulder_pan():
    bench = Bench()
    done = []

    def next_servo():
        done.append(bench.servos)
        return bench.plug(factory_servo())

    console = ScriptedConsole([next_servo] * 6)
    setup_command.set_all(console, bench.setup, setup_command._order(None, False), "P")
    ids = [servos.servos[0].servo_id for servos in [*done[1:], bench.servos]]
    assert ids == [6, 5, 4, 3, 2, 1]
    for joint, prompt in zip(reversed(JOINTS), console.prompts, strict=True):
        assert f"plug the {joint} servo, and no other" in prompt
    assert "Chain the servos from shoulder_pan (1, at the adapter) to gripper (6)" in console.text


def test_a_mistake_is_explained_and_asked_for_again():
    bench = Bench()
    console = ScriptedConsole(
        [
            lambda: bench.plug(with_ids(1, 2)),
            lambda: bench.plug(factory_servo(1, model=1284)),
            lambda: bench.plug(factory_servo()),
        ]
    )
    setup_command.set_all(console, bench.setup, ["wrist_roll"], "P")
    assert "more than one servo answers (ids 1, 2)" in console.text
    assert "an scs0009 (model 1284)" in console.text
    assert "wrist_roll is id 5 at 1000000 baud, locked (was id 1 at 1000000 baud" in console.text
    assert len(console.prompts) == 3


def test_a_lost_port_ends_it():
    bench = Bench()
    bench.open_at = lambda baud_rate: (_ for _ in ()).throw(PortError("gone"))
    setup = ServoSetup(bench.open_at)
    with pytest.raises(PortError):
        setup_command.set_all(ScriptedConsole([""]), setup, ["gripper"], "P")


def test_ctrl_c_says_how_to_go_on():
    console = ScriptedConsole([lambda: interrupt(None)])
    with contextlib.suppress(KeyboardInterrupt):
        setup_command.set_all(console, Bench().setup, ["elbow_flex", "shoulder_lift"], "P")
    command = "molmoact-arm setup --port P --joint elbow_flex"
    assert console.lines[-1].strip() == f"to go on from here: {command}"


@pytest.mark.parametrize(
    ("first", "only", "joints"),
    [
        (None, False, list(reversed(JOINTS))),
        ("shoulder_lift", False, ["shoulder_lift", "shoulder_pan"]),
        ("wrist_flex", True, ["wrist_flex"]),
    ],
)
def test_it_can_start_in_the_middle(first, only, joints):
    assert setup_command._order(first, only) == joints
