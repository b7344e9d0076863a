import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import registers
from firmware_bridge.registers import (
    CONTROL_TABLE,
    int_from_sign_magnitude,
    sign_magnitude_from_int,
)


def test_registers_do_not_overlap():
    occupied = [
        address
        for entry in CONTROL_TABLE
        for address in range(entry.address, entry.address + entry.size)
    ]
    assert len(occupied) == len(set(occupied))


@given(st.sampled_from([10, 11, 15]), st.data())
def test_sign_magnitude_survives_a_round_trip(sign_bit, data):
    limit = (1 << sign_bit) - 1
    value = data.draw(st.integers(-limit, limit))
    assert int_from_sign_magnitude(sign_magnitude_from_int(value, sign_bit), sign_bit) == value


def test_negative_values_are_not_twos_complement():
    assert registers.GOAL_POSITION.encode(-2500) == bytes.fromhex("c489")
    assert registers.PRESENT_LOAD.decode(bytes.fromhex("6404")) == -100


def test_homing_offset_beyond_its_magnitude_is_refused():
    with pytest.raises(ValueError, match=r"homing_offset: 2048 is outside -2047\.\.2047"):
        registers.HOMING_OFFSET.encode(2048)


def test_unsigned_register_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r"torque_enable: -1 is outside 0\.\.255"):
        registers.TORQUE_ENABLE.encode(-1)


def test_feedback_block_is_what_one_read_fetches():
    assert (registers.FEEDBACK_ADDRESS, registers.FEEDBACK_BYTES) == (56, 15)


def test_control_table_agrees_with_lerobot():
    tables = pytest.importorskip("lerobot.motors.feetech.tables")
    ours = {entry.name: entry for entry in CONTROL_TABLE}
    renamed = {
        "velocity_closed_loop_p_proportional_coefficient": "velocity_p_coefficient",
        "velocity_closed_loop_i_integral_coefficient": "velocity_i_coefficient",
        "moving_velocity": "moving_velocity_threshold",
    }
    not_needed = {"dts", "velocity_unit_factor", "hts"}
    for name, (address, size) in tables.STS_SMS_SERIES_CONTROL_TABLE.items():
        key = name.strip().lower()
        if key not in not_needed:
            entry = ours[renamed.get(key, key)]
            assert (entry.address, entry.size) == (address, size), name
    for name, sign_bit in tables.STS_SMS_SERIES_ENCODINGS_TABLE.items():
        assert ours[name.lower().replace("_speed", "_velocity")].sign_bit == sign_bit, name
