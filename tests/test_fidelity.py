"""A bundle against full precision: the printed difference is the difference, at the arm."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import edit_manifest, load_cases

from benchmarks.cli import main
from edge.arm_profile import ArmSeat
from edge.bundle import file_sha256, open_bundle
from edge.joint_frame import JointFrame
from edge.kinematics import Frames
from edge.normalization import choose_tag
from edge.profile import load_profile
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.observations import RecordedObservation, Sampling, recorded_observations
from quantization.fidelity.open_loop import Conditions, measure_open_loop
from quantization.fidelity.robot_units import DEGREES, PERCENT, RobotUnits

EPISODES, STEPS = 2, 3
CLOSE_S = 0.2  # between observations; six of the eight actions of the reference's chunks


def observations(bundle, close_s=CLOSE_S):
    """Two short episodes of smooth pictures that change a little, and of joints that move."""
    tag = only_tag(bundle)
    for episode in range(EPISODES):
        random = np.random.default_rng(episode)
        picture = random.integers(0, 256, (2, 6, 8, 3)).repeat(16, axis=1).repeat(16, axis=2)
        for step in range(STEPS):
            picture[0, :32, 32 * step : 32 * step + 32] = random.integers(0, 256, 3)
            yield RecordedObservation(
                episode=episode,
                t_s=step * close_s,
                images=tuple(picture.astype(np.uint8)),
                task="put the red cube in the bin",
                state=tag.state.unnormalize(random.uniform(-1, 1, 6)).astype(np.float64),
            )


def only_tag(bundle):
    return choose_tag(open_bundle(bundle).tags, None)


def compare(bundle, against, **conditions):
    return measure_open_loop(bundle, against, observations(against), Conditions(**conditions))


def amounts(pair):
    return asdict(pair.error).values()


def test_a_bundle_differs_from_itself_by_nothing_while_other_noise_does(bundles):
    report = compare(bundles(), bundles())
    for part in (*report.joints, report.action_share, report.tip_mm):
        assert set(amounts(part)) == {0.0}
        assert part.spread.max > part.spread.mean > 0
    assert report.depth_codes_equal == report.depth_codes_equal_spread == 1
    assert report.gripper.sides_equal == 1
    assert report.seam_velocity.bundle == report.seam_velocity.against
    assert report.seam_velocity.against != report.seam_velocity.other_noise
    assert (report.episodes, report.observations, report.undecodable) == (EPISODES, 6, 0)


def test_fewer_bits_mean_a_larger_difference_that_is_repeatable(bundles):
    four, again = (compare(bundles(recipe="int4"), bundles()) for _ in range(2))
    assert four == again
    eight = compare(bundles(recipe="int8"), bundles())
    assert four.tip_mm.error.mean > eight.tip_mm.error.mean > 0
    assert four.action_share.error.mean > eight.action_share.error.mean > 0
    assert four.tip_mm.spread == eight.tip_mm.spread
    assert four.depth_codes_equal < 1
    other = compare(bundles(recipe="int4"), bundles(), seed=1)
    assert other.tip_mm != four.tip_mm


def test_a_damaged_bundle_shows(bundles, copy):
    file = copy / "expert.onnx.data"
    weights = np.fromfile(file, np.float32)
    (weights * 1.2).astype(np.float32).tofile(file)
    edit_manifest(
        copy, lambda content: content["files"][file.name].update(sha256=file_sha256(file))
    )
    damaged, small = compare(copy, bundles()), compare(bundles(recipe="int8"), bundles())
    assert damaged.tip_mm.error.mean > 3 * small.tip_mm.error.mean
    assert damaged.depth_codes_equal == 1  # the expert has no part in them


def test_seams_count_only_where_a_chunk_follows_another_in_time(bundles):
    late = measure_open_loop(bundles(), bundles(), observations(bundles(), close_s=1.0))
    assert late.seam_velocity is None


def test_discrete_actions_have_no_spread_and_undecodable_ones_are_counted(bundles):
    bundle = bundles("action_tokens")
    asked = Conditions(actions="discrete", depth="off")
    cases = load_cases("action_tokens", "discrete")
    written = [
        RecordedObservation(
            episode=number + EPISODES,
            t_s=0.0,
            images=tuple(case.images),
            task=case.meta["task"],
            state=case.arrays["state"].astype(np.float64),
        )
        for number, case in enumerate(cases)
        if case.depth == "off"
    ]
    report = measure_open_loop(bundle, bundle, [*observations(bundle), *written], asked)
    assert (report.actions, report.observations) == ("discrete", len(written))
    assert (report.undecodable, report.undecodable_alone) == (EPISODES * STEPS, 0)
    assert report.tip_mm.error.max == report.tip_mm.spread.max == 0
    with pytest.raises(FidelityError, match="none of 6 observations was answered with action"):
        measure_open_loop(bundle, bundle, observations(bundle), asked)


def test_no_observation_is_an_error(bundles):
    with pytest.raises(FidelityError, match="no observation was given"):
        measure_open_loop(bundles(), bundles(), [])


@pytest.fixture
def units(bundles):
    return RobotUnits(only_tag(bundles()), load_profile("sim").arm)


def test_tips_are_where_the_arm_has_them_not_the_checkpoint(units):
    arm = load_profile("sim").arm
    poses = np.random.default_rng(0).uniform(-40, 40, (5, 6))
    frames = Frames([ArmSeat("arm", (0.0, 0.0, 0.0), 0.0)], 5)
    frames.place(poses)
    wanted = np.array([frames.tip_m(pose) for pose in range(5)]) * 1e3
    actions = JointFrame(arm.signs, arm.offsets_deg).model_from_arm(poses)
    np.testing.assert_allclose(units.tips_mm(actions)[:, 0], wanted, atol=1e-9)
    assert np.abs(units.tips_mm(poses)[:, 0] - wanted).max() > 50  # the frames do differ


def test_a_turn_of_the_pan_moves_the_tip_by_its_chord(units):
    actions = np.tile(units.ranges / 4, (1, 1))
    turned = actions + np.array([10.0, 0, 0, 0, 0, 0])
    tip_m = units.tips_mm(actions)[0, 0] / 1e3
    radius_m = np.hypot(tip_m[0] - 0.0388353, tip_m[1])  # from the axis, see edge.kinematics
    chord_mm = 2e3 * radius_m * np.sin(np.deg2rad(5))
    assert units.tip_distances_mm(turned, actions)[0, 0] == pytest.approx(chord_mm, rel=1e-4)


def test_units_are_those_of_the_arm_or_as_trained(bundles, units):
    assert units.units == (DEGREES,) * 5 + (PERCENT,)
    assert units.grippers == (5,)
    two_arms = load_profile("sim").arm
    other = RobotUnits(only_tag(bundles()), replace(two_arms, joints=two_arms.joints * 2))
    assert not other.knows_tips
    assert set(other.units) == {"as trained"}


def test_a_gripper_that_wavers_about_the_middle_does_not_flip(bundles, units):
    tag = only_tag(bundles())
    levels = np.array([-1, -0.1, 0.1, -0.1, 0.5, 0.1, -0.1, -0.5])
    chunk = tag.action.unnormalize(np.outer(levels, np.ones(6)))
    sides = units.open_grippers(chunk)[:, 0]
    assert sides.tolist() == [False, False, False, False, True, True, True, False]


def test_observations_of_a_dataset_are_in_the_checkpoints_frame(bundles, tiny_dataset):
    from tiny_dataset import TASKS, picture, states

    tag = only_tag(bundles())
    found = list(recorded_observations(tiny_dataset, tag, Sampling(samples=9, replan_s=0.5)))
    assert len(found) == len({(seen.episode, seen.t_s) for seen in found}) > 3
    for seen in found:
        frame = round(seen.t_s * 30)
        recorded = states(seen.episode, {0: 42, 1: 38, 2: 46}[seen.episode])[frame]
        np.testing.assert_allclose(
            seen.state, recorded * [1, -1, 1, 1, 1, 1] + [0, 90, 90, 0, 0, 0], atol=1e-4
        )
        assert seen.task == TASKS[seen.episode % 2]
        for camera, image in enumerate(seen.images):
            wanted = picture(camera, seen.episode, frame)
            assert np.abs(image.astype(int) - wanted).mean() < 8
    steps = [b.t_s - a.t_s for a, b in pairwise(found) if a.episode == b.episode]
    assert steps
    assert steps == pytest.approx([0.5] * len(steps))
    assert list(recorded_observations(tiny_dataset, tag, Sampling(samples=2)))[1:]


def test_a_dataset_of_another_robot_is_refused(bundles, tiny_dataset):
    tag = only_tag(bundles())
    with pytest.raises(FidelityError, match="recorded in the frame of so101, not so101_old"):
        list(recorded_observations(tiny_dataset, tag, embodiment="so101_old"))
    with pytest.raises(FidelityError, match="norm tag yam_dual_molmoact2, the bundle"):
        list(recorded_observations(tiny_dataset, tag, embodiment="yam_bimanual"))


def refusal(capsys, *arguments):
    assert main(["fidelity", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_command_prints_a_table_and_one_json_line_and_writes_a_file(
    bundles, tiny_dataset, tmp_path, capsys
):
    file = tmp_path / "report.json"
    arguments = [bundles(recipe="int4"), "--against", bundles(), "--episodes", tiny_dataset]
    options = ["--samples", "3", "--sensitivity", "--layer-samples", "1", "--by-block"]
    command = [*map(str, arguments), *options, "--json", str(file)]
    assert main(["fidelity", *command]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    report = json.loads(lines[-1])
    assert report == json.loads(file.read_text())
    assert report["closed_loop"] is None
    for joint in report["open_loop"]["joints"]:
        assert any(line.startswith(joint["name"]) for line in lines[:-1])
    assert report["layers"][0]["tip_error_mm"] >= report["layers"][-1]["tip_error_mm"] >= 0
    assert "exists already" in refusal(capsys, *command)


def test_bundles_of_different_checkpoints_are_refused(bundles, tiny_dataset, capsys):
    arguments = [bundles("one_camera_crops"), "--against", bundles(), "--episodes", tiny_dataset]
    assert "come from different checkpoints" in refusal(capsys, *arguments)


def test_a_folder_that_is_no_dataset_is_refused(bundles, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="datasets are read on the workstation")
    arguments = [bundles(), "--against", bundles(), "--episodes", tmp_path]
    assert "no meta/info.json" in refusal(capsys, *arguments)


def test_a_runtime_that_cannot_read_datasets_says_what_can(bundles, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "training.datasets.checks", None)  # as if it lacked a package
    said = refusal(capsys, bundles(), "--against", bundles(), "--episodes", tmp_path)
    assert f"{tmp_path}: " in said
    assert "is not installed, which reads it; datasets need the workstation environment" in said


def test_something_has_to_be_asked_for(bundles, capsys):
    assert "nothing to measure" in refusal(capsys, bundles(), "--against", bundles())


@pytest.mark.parametrize("option", ["--samples", "--trials", "--workers", "--layer-samples"])
@pytest.mark.parametrize("text", ["0", "-3", "many"])
def test_a_count_that_is_no_count_is_bad_usage(option, text):
    with pytest.raises(SystemExit) as end:
        main(["fidelity", "a", "--against", "b", option, text])
    assert end.value.code == 2
