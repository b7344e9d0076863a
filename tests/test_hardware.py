from functools import cache

import pytest

from edge.board_profile import board_modes, load_board, shipped_boards
from edge.config_section import ProfileError
from edge.hardware import DERIVED, KINDS, UNVERIFIED, Figure
from edge.profile import load_profile, shipped_profiles
from edge.profile_record import profile_from_record, record_from_profile

REFUSED = "orin_nano_4gb"
# (operations a clock of a tensor core SM in INT8, CUDA cores an SM), by compute capability.
CORES = {"8.7": (4096, 128), "7.2": (2048, 64), "11.0": (16384, 128)}
FIGURE = "{value: 7000, kind: measured, source: here}"


@cache
def hardware(name):
    return load_board(name).hardware


def known():
    return [name for name in shipped_boards() if name != REFUSED and hardware(name)]


def own_board(folder, hardware_text):
    path = folder / "board.yaml"
    path.write_text(f"name: mine\nbased_on: orin_nano_8gb_25w\n{hardware_text}")
    return path


@pytest.mark.parametrize("name", known())
def test_derived_figures_of_a_mode_follow_from_those_beside_them(name):
    board = hardware(name)
    mode = board.power_mode
    if mode is None:
        assert board.module == name
        return
    assert name.startswith(board.module)
    expected = {}
    if None not in (board.bus_bits.value, mode.emc_mhz.value):
        expected["bandwidth_gb_s"] = board.bus_bits.value / 8 * 2 * mode.emc_mhz.value / 1e3
    capability = board.compute_capability.values
    if capability and None not in (mode.sms.value, mode.gpu_mhz.value):
        operations, cores = CORES[capability[0]]
        clock = mode.sms.value * mode.gpu_mhz.value
        expected["int8_tops"] = operations * clock / 1e6
        expected["fp16_tflops"] = operations / 2 * clock / 1e6
        expected["fp32_gflops"] = 2 * cores * clock / 1e3
    for key, value in expected.items():
        figure = getattr(mode, key)
        assert figure.value == pytest.approx(value, rel=0.01)
        assert figure.kind in (DERIVED, UNVERIFIED)
    if mode.sms.value is not None and board.sm_count.value is not None:
        assert mode.sms.value <= board.sm_count.value


@pytest.mark.parametrize("name", known())
def test_a_board_says_how_far_each_of_its_figures_can_be_trusted(name):
    board = hardware(name)
    records = [board] if board.power_mode is None else [board, board.power_mode]
    figures = [
        value
        for record in records
        for value in (getattr(record, field) for field in type(record).__dataclass_fields__)
        if hasattr(value, "kind")
    ]
    assert len(figures) >= 12
    for figure in figures:
        assert figure.kind in KINDS
        assert figure.kind != "measured", "nobody has measured any of these boards"
        assert len(figure.source) > 20, "a text that can be looked up, not a key"


def test_a_module_starts_in_one_mode_of_each_state_it_can_be_flashed_in():
    for module in {hardware(name).module for name in known()}:
        modes = board_modes(module)
        starts = [mode for mode in modes.values() if mode.is_default]
        states = [mode.needs_super for mode in starts]
        assert len(states) == len(set(states))
        names = [(mode.name, mode.needs_super) for mode in modes.values()]
        assert len(names) == len(set(names)), "a mode's name and state must tell which it is"
        if any(mode.needs_super for mode in modes.values()) and module != "agx_orin_32gb":
            assert set(states) == {True, False}


def test_modes_of_one_name_differ_by_the_super_state():
    modes = board_modes("orin_nano_8gb")
    plain, flashed = modes["orin_nano_8gb_15w"], modes["orin_nano_8gb_15w_super"]
    assert plain.name == flashed.name == "15W"
    assert (plain.needs_super, flashed.needs_super) == (False, True)
    assert (plain.gpu_mhz.value, flashed.gpu_mhz.value) == (625, 612)
    assert (plain.is_default, flashed.is_default) == (True, False)


def test_a_board_is_a_robot_with_a_so101_and_survives_its_record():
    profile = load_profile("orin_nano_8gb_25w")
    assert profile.name == profile.board.name == "orin_nano_8gb_25w"
    robot = load_profile("so101")
    assert (profile.arm, profile.cameras, profile.port) == (robot.arm, robot.cameras, robot.port)
    assert profile_from_record(record_from_profile(profile), "a box") == profile
    assert not set(shipped_boards()) & set(shipped_profiles())


def test_what_is_known_of_a_board_fits_its_engine_settings():
    for name in known():
        board = load_board(name)
        assert board.bundle_mib <= board.hardware.usable_mib.value - 1024
        assert board.hardware.usable_mib.value < board.hardware.memory_gib.value * 1024
        mode = board.hardware.power_mode
        if mode is not None and mode.cores.value is not None:
            assert board.threads == max(1, mode.cores.value - 1)


def test_a_board_of_4_gb_is_refused_with_the_reason():
    for load in (load_board, load_profile):
        with pytest.raises(ProfileError) as error:
            load(REFUSED)
        assert str(error.value).startswith(
            "profiles/boards/orin_nano_4gb.yaml: Jetson Orin Nano 4GB is refused: 4 GB of memory"
        )


def test_an_own_figure_brings_its_own_kind_and_source(tmp_path):
    text = f"hardware: {{usable_mib: {FIGURE}, sources: {{here: read with free on my board}}}}\n"
    board = load_board(own_board(tmp_path, text)).hardware
    assert board.usable_mib == Figure(7000.0, "measured", "read with free on my board", None)
    assert board.throttle_c == hardware("orin_nano_8gb").throttle_c


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("{value: 7000}", "hardware.usable_mib.kind: this key is missing"),
        ("{value: 7000, kind: guessed, source: x}", "kind: 'guessed'; allowed: measured, publ"),
        ("{value: 7000, kind: measured, source: x}", "source: 'x'; allowed: "),
        ("{value: null, kind: derived, source: bandwidth}", "'derived' without a value; allowed"),
        ("{value: -1, kind: derived, source: bandwidth}", "value: -1; allowed: 0.001..1e+09"),
        ("{value: 0, kind: derived, source: bandwidth}", "value: 0; allowed: 0.001..1e+09"),
        ("{value: 1, kind: derived, source: bandwidth, at: 3}", "unknown key 'at'"),
    ],
)
def test_a_figure_that_does_not_say_enough_is_refused(tmp_path, figure, message):
    with pytest.raises(ProfileError) as error:
        load_board(own_board(tmp_path, f"hardware: {{usable_mib: {figure}}}\n"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_board_is_answered_with_near_names():
    with pytest.raises(ProfileError, match=r"no board named 'orin_nano_25w'; the .*8gb_25w"):
        load_board("orin_nano_25w")
    with pytest.raises(ProfileError, match=r"or a board, the nearest: .*orin_nano_8gb_25w"):
        load_profile("orin_nano_25w")


def test_a_robot_may_be_based_on_another_and_name_a_camera_set(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nbased_on: so101\nboard: agx_orin_64gb_50w\ncameras: front_side_wrist\n"
    )
    profile = load_profile(path)
    assert profile.board.name == "agx_orin_64gb_50w"
    assert [camera.name for camera in profile.cameras] == ["front", "side", "wrist"]
    assert profile.arm == load_profile("so101").arm
    path.write_text("name: mine\nbased_on: so101\ncameras: none\n")
    with pytest.raises(ProfileError, match="no cameras named 'none'; shipped: front,"):
        load_profile(path)


def test_arms_of_7_4_and_12_v_push_alike_and_know_their_supply():
    slow, strong = (load_profile(name).arm for name in ("so101_7v4", "so101_12v"))
    assert slow.derating.voltage.nominal_v == (5.0, 6.0, 7.4)
    assert strong.derating.voltage.nominal_v == (12.0,)
    for weak, joint in zip(slow.joints, strong.joints, strict=True):
        # Stall torques of the data sheets, Nm.
        torque_nm = joint.torque_limit_permille * 2.94e-3
        assert torque_nm == pytest.approx(weak.torque_limit_permille * 1.91e-3, rel=0.01)
        # What a blocked joint can draw must be above what is taken for blocked.
        duty = joint.torque_limit_permille / 1000
        assert joint.stall_current_ma < duty**2 * 2700
