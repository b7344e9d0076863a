"""How warm, fast and loaded a board is, and whether something slows it down."""

from __future__ import annotations

import gc
import os

import pytest
from fake_board import IDLE_C, FakeBoard
from fake_boards import BOARDS

from edge.board_state import BoardReader, run_command


def opened(root, name):
    board = FakeBoard(root, BOARDS[name])
    return board, BoardReader(board.root, run=board.run, clock=lambda: 12.5)


@pytest.mark.parametrize("name", BOARDS)
def test_a_cool_idle_board_is_not_throttled(tmp_path, name):
    _, reader = opened(tmp_path, name)
    for _ in range(2):
        state = reader.state()
        assert state.throttled is False, state.throttle_reason
        assert state.throttle_reason == ""
    assert set(state.temperatures_c.values()) == {IDLE_C}
    assert state.memory_available_mib == pytest.approx(BOARDS[name].memory_kib / 2048)
    assert state.t_s == 12.5


@pytest.mark.parametrize(
    ("name", "throttle_c", "shutdown_c"),
    [
        ("orin_nano_8gb", 99.0, 104.5),
        ("thor_t5000", 109.0, 113.0),
        ("raspberry_pi_5_8gb", None, 110.0),
        ("pc", None, 120.0),
    ],
)
def test_trip_points_are_those_of_the_board(tmp_path, name, throttle_c, shutdown_c):
    _, reader = opened(tmp_path, name)
    state = reader.state()
    assert (state.throttle_c, state.shutdown_c) == (throttle_c, shutdown_c)
    expected = None if throttle_c is None else throttle_c - IDLE_C
    assert state.headroom_c == expected


def test_headroom_is_that_of_the_zone_nearest_to_its_own_trip(tmp_path):
    board, reader = opened(tmp_path, "thor_t5000")
    board.heat("gpu-thermal", 108.0)  # has no throttle trip of its own
    board.heat("tj-thermal", 101.0)
    state = reader.state()
    assert state.headroom_c == 8.0
    assert state.hottest_c == 108.0


def test_a_sensor_that_is_off_is_left_out(tmp_path):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    board.silence("gpu-thermal")
    assert set(reader.state().temperatures_c) == {"cpu", "soc0", "tj"}
    board.heat("gpu-thermal", 51.0)
    assert reader.state().temperatures_c["gpu"] == 51.0


@pytest.mark.parametrize(
    ("name", "clocks", "caps"),
    [
        (
            "orin_nano_8gb",
            {"cpu": 864.0, "gpu": 459.0},
            {"cpu": 1344.0, "gpu": 918.0, "emc": 3199.0},
        ),
        (
            "thor_t5000",
            {"cpu": 1300.5, "gpu": 693.0, "emc": 2133.0},
            {"cpu": 2601.0, "gpu": 1386.0, "emc": 4266.0},
        ),
        (
            "xavier_nx_8gb",
            {"cpu": 953.6, "gpu": 255.0},
            {"cpu": 1907.2, "gpu": 510.0, "emc": 1600.0},
        ),
        ("raspberry_pi_5_8gb", {"cpu": 1200.0}, {"cpu": 2400.0}),
        ("pc", {"cpu": 2350.0}, {"cpu": 4700.0}),
    ],
)
def test_clocks_and_caps_of_every_generation(tmp_path, name, clocks, caps):
    _, reader = opened(tmp_path, name)
    state = reader.state()
    assert state.clocks_mhz == clocks
    assert state.caps_mhz == caps


@pytest.mark.parametrize(
    ("name", "rails", "total_mw", "note"),
    [
        ("orin_nano_8gb", {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}, 4.984 * 1204, "VDD_IN"),
        (
            "agx_orin_64gb",
            {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"},
            19 * 300 + 5 * 790,
            "sum of 4 rails",
        ),
        ("thor_t5000", {"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN"}, 20 * 2500, "VIN"),
        ("pc", set(), None, "no power monitor"),
    ],
)
def test_power_is_the_feeding_rail_or_the_sum_and_says_which(tmp_path, name, rails, total_mw, note):
    _, reader = opened(tmp_path, name)
    state = reader.state()
    assert set(state.power_mw) == rails
    assert state.total_mw == (None if total_mw is None else pytest.approx(total_mw))
    assert state.power_note.startswith(note)


def test_a_sum_lacks_a_rail_that_does_not_answer(tmp_path):
    board, reader = opened(tmp_path, "agx_orin_64gb")
    board.draw("VDD_CPU_CV", "")
    state = reader.state()
    assert state.total_mw is None
    assert state.power_note == "no total: VDD_CPU_CV did not answer"


def test_changing_readings_are_followed(tmp_path):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    before = reader.state()
    board.draw("VDD_IN", 2408)
    board.heat("tj-thermal", 97.5)
    after = reader.state()
    assert after.total_mw == pytest.approx(2 * before.total_mw)
    assert after.headroom_c == 1.5


def test_a_cooling_device_that_throttles_says_so_and_fans_do_not(tmp_path):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    board.cool_by("pwm-fan", 7)
    board.cool_by("hot-surface-alert", 1)
    assert reader.state().throttled is False
    board.cool_by("gpu-throttle-alert", 2)
    state = reader.state()
    assert state.throttled is True
    assert state.throttle_reason == "gpu-throttle-alert in state 2"
    board.cool_by("gpu-throttle-alert", 0)
    assert reader.state().throttled is False


@pytest.mark.parametrize(("unit", "mhz", "allowed"), [("gpu", 612, 918), ("cpu", 1113.6, 1344)])
def test_a_cap_below_the_power_mode_is_throttling(tmp_path, unit, mhz, allowed):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    board.cap(unit, mhz)
    state = reader.state()
    assert state.throttled is True
    assert state.throttle_reason == f"{unit} capped at {mhz:.0f} MHz, mode 25W allows {allowed}"


def test_another_power_mode_is_not_throttling(tmp_path):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    board.set_mode(0)
    assert reader.mode_limits().name == "15W"
    assert reader.state().throttled is False


def test_a_busy_gpu_below_its_cap_is_throttled_only_when_it_lasts(tmp_path):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    board.run_gpu(408, load_permille=990)
    assert reader.state().throttled is False  # the governor may still be on its way up
    state = reader.state()
    assert state.throttled is True
    assert state.throttle_reason == "gpu busy at 408 of 918 MHz"
    board.run_gpu(918, load_permille=990)
    assert reader.state().throttled is False


def test_over_current_counters_count_from_the_last_reading(tmp_path):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    assert reader.state().over_current_events == {"oc1": 0, "oc2": 0, "oc3": 0}
    board.over_current("oc2", 10)
    state = reader.state()
    assert state.over_current_events["oc2"] == 3
    assert state.throttle_reason == "oc2: 3 events"
    assert reader.state().throttled is False


def test_short_over_currents_are_counted_but_no_throttling(tmp_path):
    board, reader = opened(tmp_path, "orin_nano_8gb")
    board.over_current("oc3", 4000)
    state = reader.state()
    assert state.over_current_events["oc3"] == 3993
    assert state.throttled is False


def test_a_raspberry_pi_is_asked_for_its_flags_and_old_ones_do_not_count(tmp_path):
    board, reader = opened(tmp_path, "raspberry_pi_5_8gb")
    board.set_flags(0x50000)  # under-voltage and throttling have been, and are over
    assert reader.state().throttled is False
    board.set_flags(0x50005)
    assert reader.state().throttle_reason == "firmware: under-voltage; firmware: throttled"


def test_a_board_without_witnesses_does_not_know(tmp_path):
    (tmp_path / "proc").mkdir()
    assert BoardReader(tmp_path).state().throttled is None


def test_files_stay_open_and_close(tmp_path):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    _, reader = opened(tmp_path, "agx_orin_64gb")
    with reader:
        reader.state()
        held = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            reader.state()
        assert len(os.listdir("/proc/self/fd")) == held > before
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_command_that_is_absent_or_fails_says_nothing():
    assert run_command(("no-such-command-anywhere",)) is None
    assert run_command(("false",)) is None
    assert run_command(("echo", "throttled=0x0")) == "throttled=0x0\n"
