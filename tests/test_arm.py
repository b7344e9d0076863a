from dataclasses import replace

import numpy as np
import pytest
from emulated_arm import IDS, LIMITS, memory_arm, memory_bus

from firmware_bridge import registers
from firmware_bridge.arm import Arm
from firmware_bridge.calibration import JOINTS
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import ArmMoved, BusTimeout, GoalError, NotArmed, ServoFault
from firmware_bridge.packets import FrameParser, Instruction
from firmware_bridge.soft_stop import soft_stop

START_DEG = [5, -20, 30, 0, 10, 40]
TORQUE_LIMIT = registers.TORQUE_LIMIT.address
GOAL = registers.GOAL_POSITION.address
TORQUE_ENABLE = registers.TORQUE_ENABLE.address


def writes(transport):
    """Return (address, id, value) of every register write, in the order sent."""
    found = []
    for frame in FrameParser().feed(b"".join(transport.sent)):
        params = frame.params
        if frame.code == Instruction.WRITE:
            found.append((params[0], frame.servo_id, int.from_bytes(params[1:], "little")))
        elif frame.code == Instruction.SYNC_WRITE:
            address, length = params[0], params[1]
            for start in range(2, len(params), length + 1):
                value = int.from_bytes(params[start + 1 : start + 1 + length], "little")
                found.append((address, params[start], value))
    return found


def torque_enables(transport):
    return [servo.value(registers.TORQUE_ENABLE) for servo in transport.bus.servos]


def test_reading_has_every_feedback_value_in_joint_order():
    arm, _ = memory_arm()
    reading = arm.read()
    assert reading.positions[:5] == pytest.approx(START_DEG[:5], abs=0.1)
    assert reading.positions[5] == pytest.approx((40 + 10) / 110 * 100, abs=0.1)
    assert reading.voltages_v == pytest.approx([12.0] * 6)
    assert reading.temperatures_c == pytest.approx([24.0] * 6)
    assert reading.status.tolist() == [0] * 6
    for values in (reading.velocities, reading.loads, reading.currents_ma):
        assert values.tolist() == [0.0] * 6


def test_reading_is_one_transaction():
    arm, transport = memory_arm()
    arm.read()
    assert transport.sent == [bytes.fromhex("fffffe0a82380f01020304050619")]


def test_reading_shows_motion_and_load_with_their_signs():
    arm, transport = memory_arm()
    arm.arm()
    arm.write_goals(arm.read().positions + np.array([15, -15, 0, 0, 0, 0]))
    transport.sleep(0.1)
    reading = arm.read()
    assert reading.velocities[0] > 10.0
    assert reading.velocities[1] < -10.0
    assert reading.loads[0] > 0.0 > reading.loads[1]


def test_reading_names_silent_servos():
    arm, _ = memory_arm(Faults(missing=frozenset([2, 5])))
    with pytest.raises(BusTimeout, match="servos 2, 5: no reply in") as caught:
        arm.read()
    assert caught.value.servo_ids == (2, 5)


def test_fault_bits_are_in_the_reading():
    arm, _ = memory_arm(Faults(servos={6: ServoFaults(status_bits=0x04)}))
    assert arm.read().status.tolist() == [0, 0, 0, 0, 0, 4]


def test_arming_lowers_torque_then_sets_goals_then_switches_on_then_raises_torque():
    arm, transport = memory_arm()
    arm.arm()
    phases = [
        (address, servo_id)
        for address, servo_id, _ in writes(transport)
        if address in (TORQUE_LIMIT, GOAL, TORQUE_ENABLE)
    ]
    assert phases[:18] == [
        (address, servo_id) for address in (TORQUE_LIMIT, GOAL, TORQUE_ENABLE) for servo_id in IDS
    ]
    assert {address for address, _ in phases[18:]} == {TORQUE_LIMIT}
    first_limits = [value for address, _, value in writes(transport) if address == TORQUE_LIMIT][:6]
    assert max(first_limits) <= 100
    stored = [servo.value(registers.TORQUE_LIMIT) for servo in transport.bus.servos]
    assert tuple(stored) == LIMITS.torque_limits_per_mille


def test_arming_reads_back_every_goal_before_torque_on():
    arm, transport = memory_arm()
    arm.arm()
    frames = FrameParser().feed(b"".join(transport.sent))
    for servo_id in IDS:
        codes = [(frame.code, *frame.params[:1]) for frame in frames if frame.servo_id == servo_id]
        goal = codes.index((Instruction.WRITE, GOAL))
        read_back = codes.index((Instruction.READ, GOAL), goal)
        assert goal < read_back < codes.index((Instruction.WRITE, TORQUE_ENABLE))


def test_arming_never_raises_torque_faster_than_the_ramp():
    arm, transport = memory_arm()
    arm.arm()
    ramp = [
        value for address, servo_id, value in writes(transport) if (address, servo_id) == (48, 2)
    ]
    assert ramp == sorted(ramp)
    assert max(np.diff(ramp)) <= (650 - 100) / 20 + 1
    assert transport.clock() >= LIMITS.ramp_s


def test_arming_clears_a_stale_goal_without_moving():
    bus, transport = memory_bus(Faults(servos={1: ServoFaults(torque_on_runs_to_stale_goal=True)}))
    bus.write(1, registers.GOAL_POSITION, 3000)
    transport.sleep(1.0)
    bus.write(1, registers.TORQUE_ENABLE, 0)
    arm = Arm(bus, default_calibration(), LIMITS, clock=transport.clock, sleep=transport.sleep)
    before = arm.read().positions
    arm.arm()
    assert arm.read().positions == pytest.approx(before, abs=0.3)


def test_arm_that_sinks_when_armed_is_made_limp():
    plant = RotorPlant(6, start_deg=START_DEG)
    arm, transport = memory_arm(plant=plant)
    plant.load_nm[1] = 0.9
    with pytest.raises(ArmMoved, match=r"servo 2 \(shoulder_lift\): moved \d+\.\d deg .* allowed"):
        arm.arm()
    assert not arm.armed
    assert torque_enables(transport) == [0] * 6


def change_eeprom(transport, servo_id, register, value):
    transport.bus.servos[servo_id - 1].restore_eeprom({register: value})


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        (registers.MODEL_NUMBER, 1284, "model_number is 1284, must be 777"),
        (registers.FIRMWARE_MINOR_VERSION, 9, r"different firmware .*elbow_flex 3\.9"),
        (registers.HOMING_OFFSET, 40, "homing_offset is 40, must be 0; use this arm's calibration"),
        (registers.MAX_POSITION_LIMIT, 4095, "max_position_limit is 4095, must be 3150"),
        (registers.OPERATING_MODE, 1, "operating_mode is 1, must be 0"),
        (registers.PHASE, 28, "phase is 28, single-turn feedback"),
        (registers.PHASE, 4, "phase is 4, single-turn feedback"),
        (registers.MAX_VOLTAGE_LIMIT, 80, r"reports voltage|supply 12\.0 V, this servo needs 4\.5"),
    ],
)
def test_servo_that_is_not_what_the_calibration_says_is_not_armed(register, value, message):
    arm, transport = memory_arm()
    change_eeprom(transport, 3, register, value)
    with pytest.raises(ServoFault, match=message):
        arm.arm()
    assert writes(transport) == []


def test_servo_with_a_fault_is_not_armed():
    arm, transport = memory_arm(Faults(servos={6: ServoFaults(status_bits=0x20)}))
    with pytest.raises(ServoFault, match=r"servo 6 \(gripper\): reports overload; take its load"):
        arm.arm()
    assert writes(transport) == []


def test_hot_servo_is_not_armed():
    arm, transport = memory_arm()
    transport.bus.servos[2].drive.temperature_c = 57.0
    with pytest.raises(ServoFault, match="temperature 57 C, arming allows up to 50 C; let the arm"):
        arm.arm()


def test_low_supply_is_not_armed():
    arm, transport = memory_arm()
    transport.bus.supply_v = 9.0
    transport.sleep(0.01)
    with pytest.raises(ServoFault, match=r"supply 9\.0 V, this servo needs 10\.0\.\.13\.5 V"):
        arm.arm()


def test_missing_servo_stops_arming():
    arm, transport = memory_arm(Faults(missing=frozenset([4])))
    with pytest.raises(BusTimeout, match="servo 4: no reply"):
        arm.arm()
    assert writes(transport) == []


def test_servo_lost_half_way_leaves_the_others_limp():
    # The last servo goes silent when torque is already on.
    arm, transport = memory_arm(Faults(replies=(ReplyFault("drop", frozenset([6]), after=30),)))
    with pytest.raises(BusTimeout):
        arm.arm()
    assert torque_enables(transport)[:5] == [0] * 5
    assert bytes.fromhex("fffffe04032800d2") in transport.sent


def test_goals_reach_the_joints():
    arm, transport = memory_arm()
    arm.arm()
    goals = np.array([20.0, -30.0, 15.0, -10.0, 0.0, 60.0])
    arm.write_goals(goals)
    transport.sleep(2.0)
    assert arm.read().positions == pytest.approx(goals, abs=0.5)


def test_goals_are_one_frame():
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    arm.write_goals(np.zeros(6))
    assert [frame[4] for frame in transport.sent] == [Instruction.SYNC_WRITE]


def test_goals_beyond_the_range_end_at_the_range():
    arm, transport = memory_arm()
    arm.arm()
    arm.write_goals(np.array([500.0, -500.0, 0.0, 0.0, 0.0, 200.0]))
    goals = [servo.value(registers.GOAL_POSITION) for servo in transport.bus.servos]
    assert goals == [3300, 910, 2048, 2048, 2048, 3186]


@pytest.mark.parametrize(
    "goals",
    [
        [np.nan, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, np.inf],
        [0, 0, -np.inf, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [[0, 0, 0, 0, 0, 0]],
        ["a", 0, 0, 0, 0, 0],
        None,
    ],
)
def test_goals_that_are_not_six_finite_numbers_send_nothing(goals):
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    with pytest.raises(GoalError):
        arm.write_goals(goals)
    assert transport.sent == []


def test_goals_before_arming_send_nothing():
    arm, transport = memory_arm()
    with pytest.raises(NotArmed, match=r"call arm\(\) first"):
        arm.write_goals(np.zeros(6))
    assert transport.sent == []


def test_arming_an_armed_arm_leaves_its_torque_alone():
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    arm.arm()
    assert transport.sent == []


@pytest.mark.parametrize("seed", range(5))
def test_reading_over_a_noisy_bus_is_right_or_an_error(seed):
    plant = RotorPlant(6, start_deg=[5, -20, 30, 0, 10, 40])
    faults = Faults(
        seed=seed,
        replies=(
            ReplyFault("drop", probability=0.03),
            ReplyFault("corrupt", probability=0.03),
            ReplyFault("late", probability=0.03, delay_ms=22 + 9 * seed),
        ),
    )
    arm, transport = memory_arm(faults, plant=plant)
    failures = 0
    for _ in range(150):
        # A shaft that never stands still tells an old answer from a new one.
        plant.load_nm[:] = 0.5
        transport.sleep(0.01)
        before = plant.positions_deg()[:5]
        try:
            reading = arm.read()
        except BusTimeout:
            failures += 1
            continue
        after = plant.positions_deg()[:5]
        assert (reading.positions[:5] > before - 0.2).all()
        assert (reading.positions[:5] < after + 0.2).all()
        if after.max() > 150:
            plant.load_nm[:] = 0.0
            break
    assert failures > 0


def test_soft_stop_fades_then_ends_with_limit_goal_torque_in_that_order():
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    started_s = transport.clock()
    report = arm.soft_stop(ramp_s=1.0)
    assert report.limp_ids == IDS
    assert report.unconfirmed_ids == ()
    assert report.warnings == ()
    assert 1.0 <= transport.clock() - started_s < 1.2
    sent = writes(transport)
    assert [entry[:2] for entry in sent[-18:]] == [
        (address, servo_id) for address in (TORQUE_LIMIT, GOAL, TORQUE_ENABLE) for servo_id in IDS
    ]
    assert [entry[:2] for entry in sent[:6]] == [(GOAL, servo_id) for servo_id in IDS]
    fade = [value for address, servo_id, value in sent if (address, servo_id) == (48, 2)]
    assert fade == sorted(fade, reverse=True)
    assert fade[-1] == 0
    assert torque_enables(transport) == [0] * 6


def test_goal_after_soft_stop_is_refused_and_a_stray_one_moves_nothing():
    arm, transport = memory_arm()
    arm.arm()
    arm.soft_stop(ramp_s=0.0)
    with pytest.raises(NotArmed):
        arm.write_goals(np.zeros(6))
    before = arm.read().positions
    arm.bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2500))
    transport.sleep(1.0)
    assert arm.read().positions == pytest.approx(before, abs=0.1)


def test_soft_stop_never_energises_a_limp_arm():
    bus, transport = memory_bus()
    soft_stop(bus, IDS, sleep=transport.sleep)
    limits_at_goal = []
    limit = dict.fromkeys(IDS, 1000)
    for address, servo_id, value in writes(transport):
        if address == TORQUE_LIMIT:
            limit[servo_id] = value
        if address == GOAL:
            limits_at_goal.append(limit[servo_id])
    assert limits_at_goal == [0] * 6


@pytest.mark.parametrize("bits", [0x20, 0x04, 0x29])
def test_soft_stop_visits_every_servo_past_a_fault(bits):
    faults = Faults(overload_clears_on="power_cycle", servos={2: ServoFaults(status_bits=bits)})
    bus, transport = memory_bus(faults)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, sleep=transport.sleep)
    assert torque_enables(transport) == [0] * 6
    assert report.limp_ids == IDS
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("servo 2: reports ")


def test_soft_stop_visits_every_servo_past_a_missing_one():
    bus, transport = memory_bus(Faults(missing=frozenset([1, 3])))
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, sleep=transport.sleep)
    assert report.limp_ids == (2, 4, 5, 6)
    assert report.unconfirmed_ids == (1, 3)
    assert len(report.warnings) == 2
    assert transport.sent.count(bytes.fromhex("fffffe04032800d2")) == 3
    assert [torque_enables(transport)[index] for index in (1, 3, 4, 5)] == [0] * 4


def test_soft_stop_reaches_servos_that_do_not_acknowledge():
    bus, transport = memory_bus(
        Faults(servos={servo_id: ServoFaults(response_status_level=0) for servo_id in IDS})
    )
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, sleep=transport.sleep)
    assert report.limp_ids == IDS
    assert torque_enables(transport) == [0] * 6


def test_soft_stop_survives_a_noisy_bus():
    faults = Faults(
        seed=11,
        replies=(
            ReplyFault("drop", probability=0.1),
            ReplyFault("corrupt", probability=0.1),
            ReplyFault("late", probability=0.1, delay_ms=25),
        ),
    )
    bus, transport = memory_bus(faults)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    soft_stop(bus, IDS, sleep=transport.sleep)
    assert torque_enables(transport) == [0] * 6


def test_interrupted_soft_stop_still_cuts_the_torque():
    bus, transport = memory_bus()
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))

    def interrupt(duration_s):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        soft_stop(bus, IDS, sleep=interrupt)
    assert torque_enables(transport) == [0] * 6


def test_close_leaves_an_armed_arm_limp():
    arm, transport = memory_arm()
    arm.arm()
    arm.close()
    assert torque_enables(transport) == [0] * 6
    assert transport.closed


def test_close_does_not_touch_an_arm_that_was_only_read():
    arm, transport = memory_arm()
    arm.read()
    arm.close()
    assert writes(transport) == []


@pytest.mark.parametrize(
    "change",
    [
        {"torque_limits_per_mille": (400,) * 5},
        {"torque_limits_per_mille": (400,) * 5 + (1001,)},
        {"torque_limits_per_mille": (0,) * 6},
        {"acceleration_deg_s2": 0.0},
        {"arming_max_temperature_c": float("nan")},
        {"arming_max_motion_deg": 11.0},
        {"ramp_s": -1.0},
    ],
)
def test_limits_that_make_no_sense_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(LIMITS, **change)


def test_joint_order_is_that_of_the_ids():
    assert [default_calibration()[joint].id for joint in JOINTS] == list(IDS)
