import dataclasses
from importlib import resources
from pathlib import Path

import pytest
import yaml
from gate_caller import two_arm_profile

from edge.config_section import ProfileError
from edge.profile import load_profile, shipped_profiles

ARM_TEXT = resources.files("profiles").joinpath("arms", "so101.yaml").read_text("utf-8")
SIM_TEXT = resources.files("profiles").joinpath("sim.yaml").read_text("utf-8")
BOARD_TEXT = resources.files("profiles").joinpath("boards", "sim_host.yaml").read_text("utf-8")


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    else:
        yield path


def own_profile(folder: Path, **texts: str) -> Path:
    """Write a profile whose board and arm lie beside it; pass texts to replace a file."""
    sim = texts.get("sim", SIM_TEXT)
    sim = sim.replace("board: sim_host", "board: board.yaml")
    sim = sim.replace("arm: so101\n", "arm: a.yaml\n")
    (folder / "board.yaml").write_text(texts.get("board", BOARD_TEXT))
    (folder / "a.yaml").write_text(texts.get("arm", ARM_TEXT))
    (folder / "own.yaml").write_text(sim)
    return folder / "own.yaml"


def edited(text: str, path: tuple, change) -> str:
    values = yaml.safe_load(text)
    place = values
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    return yaml.safe_dump(values, sort_keys=False)


def test_every_shipped_profile_loads():
    assert {"sim", "so101"} <= set(shipped_profiles())
    for name in shipped_profiles():
        profile = load_profile(name)
        assert profile.name == name
        assert [joint.servo_id for joint in profile.arm.bus_joints(0)] == [1, 2, 3, 4, 5, 6]
        assert profile.cameras


def test_own_profile_with_its_own_parts_equals_the_shipped_one(tmp_path):
    own = load_profile(own_profile(tmp_path))
    assert own.arm == load_profile("sim").arm
    assert own.board == load_profile("sim").board


def test_so100_is_a_so101_with_other_ranges(tmp_path):
    so100 = load_profile(own_profile(tmp_path, sim=SIM_TEXT.replace("so101", "so100"))).arm
    so101 = load_profile("sim").arm
    assert so100.name == "so100"
    assert so100.derating == so101.derating
    differing = [a.name for a, b in zip(so100.joints, so101.joints, strict=True) if a != b]
    assert differing == ["elbow_flex", "wrist_roll"]


def test_own_arm_may_change_one_value_of_a_shipped_one(tmp_path):
    text = "name: mine\nbased_on: so101\nworkspace: {table_m: null}\njoints: {gripper: {id: 9}}\n"
    arm = load_profile(own_profile(tmp_path, arm=text)).arm
    so101 = load_profile("sim").arm
    assert arm.workspace == dataclasses.replace(so101.workspace, table_m=None)
    assert [joint.servo_id for joint in arm.joints] == [1, 2, 3, 4, 5, 9]
    assert arm.joints[:5] == so101.joints[:5]


def test_based_on_is_followed_beside_the_file_and_not_in_a_circle(tmp_path):
    (tmp_path / "b.yaml").write_text("name: b\nbased_on: a.yaml\n")
    with pytest.raises(ProfileError) as error:
        load_profile(own_profile(tmp_path, arm="name: a\nbased_on: b.yaml\n"))
    assert str(error.value) == (
        f"{tmp_path}/a.yaml: based_on: 'b.yaml' leads back to this file; remove one"
    )
    with pytest.raises(ProfileError, match="no arm named 'so10'; shipped: so100"):
        load_profile(own_profile(tmp_path, arm="name: a\nbased_on: so10\n"))


def test_two_arms_have_the_joints_of_one_twice_each_on_its_own_bus(tmp_path):
    arm, one = two_arm_profile(tmp_path).arm, load_profile("sim").arm
    own_names = [joint.name for joint in one.joints]
    assert (arm.n_buses, one.n_buses) == (2, 1)
    assert [seat.name for seat in arm.arms] == ["left", "right"]
    assert [joint.name for joint in arm.joints] == [
        f"{side}_{name}" for side in ("left", "right") for name in own_names
    ]
    for bus in (0, 1):
        joints = arm.bus_joints(bus)
        assert joints == arm.joints[6 * bus : 6 * bus + 6]
        assert [joint.own_name for joint in joints] == own_names
        assert [joint.servo_id for joint in joints] == [1, 2, 3, 4, 5, 6]
    assert arm.signs == one.signs * 2
    assert arm.offsets_deg == one.offsets_deg * 2


@pytest.mark.parametrize("path", list(leaves(yaml.safe_load(ARM_TEXT))), ids=".".join)
def test_no_value_of_an_arm_has_a_default(tmp_path, path):
    arm = edited(ARM_TEXT, path, lambda place, key: place.pop(key))
    with pytest.raises(ProfileError) as error:
        load_profile(own_profile(tmp_path, arm=arm))
    assert "a.yaml" in str(error.value)
    assert path[-1] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", list(leaves(yaml.safe_load(BOARD_TEXT))), ids=".".join)
def test_no_value_of_a_board_has_a_default(tmp_path, path):
    board = edited(BOARD_TEXT, path, lambda place, key: place.pop(key))
    with pytest.raises(ProfileError, match=rf"board.yaml: {'.'.join(path)}: this key is missing"):
        load_profile(own_profile(tmp_path, board=board))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spinning", 1, "board.yaml: spinning: 1; allowed: true, false"),
        ("draft_window", "fast", "draft_window: 'fast'; allowed: 1 to 4096, measured, null"),
        ("draft_window", 0, "draft_window: 0; allowed: 1 to 4096, measured, null"),
        ("draft_window", True, "draft_window: True; allowed: 1 to 4096, measured, null"),
    ],
)
def test_engine_settings_outside_what_is_allowed_are_named(tmp_path, key, value, message):
    board = edited(BOARD_TEXT, (key,), lambda place, name: place.update({name: value}))
    with pytest.raises(ProfileError) as error:
        load_profile(own_profile(tmp_path, board=board))
    assert message in str(error.value)


@pytest.mark.parametrize("window", [7, None, "measured"])
def test_a_draft_window_is_a_number_nothing_or_measured(tmp_path, window):
    board = edited(BOARD_TEXT, ("draft_window",), lambda place, key: place.update({key: window}))
    assert load_profile(own_profile(tmp_path, board=board)).board.draft_window == window


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("real_time.fifo_priority", 99, "real_time.fifo_priority: 99; allowed: a whole number"),
        ("real_time.cpus", [], "real_time.cpus: []; allowed: a list of whole numbers 0..1023"),
        ("real_time.cpus", [True], "real_time.cpus: [True]; allowed: a list of whole numbers"),
        ("real_time.cpus", 3, "real_time.cpus: 3; allowed: a list of whole numbers 0..1023, or"),
        ("black_box.seconds", 5.0, "black_box.seconds: 5; allowed: 10..7200"),
        ("black_box.keep", 0, "black_box.keep: 0; allowed: a whole number 1..10000"),
        ("black_box.folder", "boxes", "black_box.folder: 'boxes'; allowed: an absolute path, or"),
    ],
)
def test_settings_of_the_control_thread_outside_what_is_allowed_are_named(
    tmp_path, path, value, message
):
    path = path.split(".")
    board = edited(BOARD_TEXT, path, lambda place, key: place.update({key: value}))
    with pytest.raises(ProfileError) as error:
        load_profile(own_profile(tmp_path, board=board))
    assert message in str(error.value)


def test_a_core_may_be_reserved_for_the_control_thread(tmp_path):
    board = edited(
        BOARD_TEXT, ("real_time", "cpus"), lambda place, key: place.update({key: [1, 3]})
    )
    assert load_profile(own_profile(tmp_path, board=board)).board.real_time.cpus == (1, 3)


def test_missing_unknown_and_doubled_keys_are_named(tmp_path):
    with pytest.raises(ProfileError, match=r"own.yaml: start_gate_deg: this key is missing"):
        load_profile(own_profile(tmp_path, sim=SIM_TEXT.replace("start_gate_deg: 360.0", "")))
    with pytest.raises(ProfileError, match="unknown key 'colour'"):
        load_profile(own_profile(tmp_path, sim=SIM_TEXT + "\ncolour: red\n"))
    with pytest.raises(ProfileError, match=r"a.yaml: joints.gripper: unknown key 'max_deg'"):
        load_profile(own_profile(tmp_path, arm=ARM_TEXT + "    max_deg: 5\n"))
    with pytest.raises(ProfileError, match=r"own.yaml: line \d+: .*key 'port' is listed twice"):
        load_profile(own_profile(tmp_path, sim=SIM_TEXT + "\nport: given\n"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("control_hz: 30.0", "control_hz: 0", "control_hz: 0; allowed: 1..200"),
        ("control_hz: 30.0", "control_hz: fast", "control_hz: 'fast' is not a number"),
        ("control_hz: 30.0", "control_hz: .nan", "control_hz: nan; allowed: 1..200"),
        ("control_hz: 30.0", "control_hz: true", "control_hz: True is not a number"),
        (
            "max_velocity_deg_s: 90.0",
            "max_velocity_deg_s: 400",
            "joints.shoulder_pan.max_velocity_deg_s: 400; allowed: 0.1..312",
        ),
        (
            "max_lead_deg: 12.0",
            "max_lead_deg: 25",
            "joints.shoulder_pan.max_lead_deg: 25; allowed: 0.1..17.4",
        ),
        ("max_deg: 110.0", "max_deg: -120", "max_deg: -120; allowed: above min_deg plus both"),
        ("id: 2", "id: 1", "joints: '1' is listed twice"),
        ("id: 2", "id: 2.5", "id: 2.5; allowed: a whole number 0..252"),
        ("unit: percent", "unit: radians", "unit: 'radians'; allowed: degrees, percent"),
        ("[1, -1, 1, 1, 1, 1]", "[1, -1, 1]", "signs: [1, -1, 1]; allowed: a list of 6"),
        ("[1, -1, 1, 1, 1, 1]", "[1, 0.5, 1, 1, 1, 1]", "allowed: 1 or -1 for each joint"),
        ("[1, -1, 1, 1, 1, 1]", "[1, 1, 1, 1, 1, -1]", "gripper is in percent"),
        ("stop_state_age_s: 0.3", "stop_state_age_s: 0.1", "allowed: above hold_state_age_s"),
        ("stop_c: 62.0", "stop_c: 50.0", "temperature.stop_c: 50; allowed: above derate_c, 50"),
        ("stop_below_percent: 20.0", "stop_below_percent: 9", "allowed: above slow_below_percent"),
        ("stop_samples: 3", "stop_samples: 1", "stop_samples: 1; allowed: a whole number 2..100"),
        ("[5.0, 6.0, 7.4, 12.0]", "[]", "nominal_v: [] is not a list with numbers"),
        ("[5.0, 6.0, 7.4, 12.0]", "[5, 24]", "nominal_v[1]: 24; allowed: 4..14"),
        ("stop_s: 1.6", "stop_s: 0.4", "stall.stop_s: 0.4; allowed: above after_s, 0.4"),
        (
            "stall_error_deg: 7.0",
            "stall_error_deg: 12.0",
            "stall_error_deg: 12; allowed: below max_lead_deg, 12, which no goal exceeds",
        ),
        (
            "max_acceleration_deg_s2: 600.0",
            "max_acceleration_deg_s2: 3000",
            "joints.shoulder_pan.max_acceleration_deg_s2: 3000; allowed: 10..2232",
        ),
        ("kinematics: so101", "kinematics: ur5", "workspace.kinematics: 'ur5'; allowed: so101"),
        ("table_m: 0.0", "table_m: low", "workspace.table_m: 'low' is not a number"),
        ("  elbow_flex:", "  elbow:", "kinematics: 'so101' needs the joints shoulder_pan, "),
        ("base_m: [0.0, 0.0, 0.0]", "base_m: [0, 0]", "arms[0].base_m: [0, 0]; allowed: a list"),
        ("hold_s: 0.4", "hold_s: 0.09", "watchdog.hold_s: 0.09; allowed: at least 3 control"),
        ("soften_s: 1.5", "soften_s: 0.4", "watchdog.soften_s: 0.4; allowed: above hold_s, 0.4"),
    ],
)
def test_values_out_of_range_name_file_key_and_range(tmp_path, old, new, message):
    assert old in ARM_TEXT
    with pytest.raises(ProfileError) as error:
        load_profile(own_profile(tmp_path, arm=ARM_TEXT.replace(old, new, 1)))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/a.yaml: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port: simulated", "port: /dev/ttyACM0", "port: '/dev/ttyACM0'; allowed: simulated"),
        ("port: simulated", "port: given", r"cameras[0].source: 'frame_file' needs"),
        ("name: wrist", "name: front", "cameras: 'front' is listed twice"),
        ("file: wrist.frame", "file: front.frame", "cameras: 'front.frame' is listed twice"),
        ("source: frame_file", "source: usb", "source: 'usb'; allowed: frame_file, v4l2"),
    ],
)
def test_camera_and_port_mistakes_are_named(tmp_path, old, new, message):
    assert old in SIM_TEXT
    with pytest.raises(ProfileError) as error:
        load_profile(own_profile(tmp_path, sim=SIM_TEXT.replace(old, new, 1)))
    assert message in str(error.value)


def test_profile_that_does_not_exist_names_those_that_do(tmp_path):
    with pytest.raises(ProfileError, match=r"no profile named 'simm'; shipped: .*sim.*so101"):
        load_profile("simm")
    with pytest.raises(ProfileError, match="cannot read the profile: No such file"):
        load_profile(tmp_path / "absent.yaml")
    with pytest.raises(ProfileError, match="no arm named 'so102'; shipped: so100, so101, so"):
        load_profile(own_profile(tmp_path, sim=SIM_TEXT.replace("arm: so101", "arm: so102")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "a: [",
        "just words",
        "a: !!python/name:os.system",
        "a: 2020-13-45",
        "[" * 5000,
        "a: !!int x",
    ],
)
def test_file_that_is_not_a_mapping_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ProfileError) as error:
        load_profile(tmp_path / "bad.yaml")
    assert str(error.value).startswith(f"{tmp_path}/bad.yaml: ")
    assert "\n" not in str(error.value)
