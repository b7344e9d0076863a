"""The simulated arm moved by emulated servos, in memory: goals in, motion out."""

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from firmware_bridge import packets, registers
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.plant import NO_LOAD_SPEED_DEG_S, Plant
from sim.joints import joints_deg_from_positions
from sim.model import World
from sim.plant import MujocoPlant
from sim.reach import PAN_AXIS_X_M, joints_for_tip_deg

TICKS_PER_DEG = 4096 / 360
GOAL_INTERVAL_S = 0.02
READY = joints_deg_from_positions(np.array([3.0, -34.5, 32.8, 57.8, -11.0, 40.0]))


class ArmOnBus:
    """A host that only writes goals and looks at what happened."""

    def __init__(self, seed=0, start_deg=None):
        self.world = World(seed)
        if start_deg is not None:
            self.world.data.qpos[self.world.joint_qpos] = np.deg2rad(start_deg)
        self.bus = EmulatedBus(MujocoPlant(self.world))
        self.goal_deg = self.world.joints_deg()

    def write(self, goal_deg):
        ticks = np.round(2048 + np.asarray(goal_deg) * TICKS_PER_DEG).astype(int)
        data = {i + 1: int(tick).to_bytes(2, "little") for i, tick in enumerate(ticks)}
        self.bus.handle(packets.sync_write(registers.GOAL_POSITION.address, data))

    def move(self, goal_deg, seconds):
        """Glide the goal to `goal_deg`, one write every 20 ms."""
        start_deg, goal_deg = self.goal_deg, np.asarray(goal_deg, dtype=float)
        for step in np.linspace(0.0, 1.0, round(seconds / GOAL_INTERVAL_S) + 1)[1:]:
            self.write(start_deg + step * (goal_deg - start_deg))
            self.bus.advance(GOAL_INTERVAL_S)
        self.goal_deg = goal_deg


def test_the_plant_is_one_for_the_emulated_bus():
    plant: Plant = MujocoPlant(World(seed=0))
    assert plant.n_servos == 6
    for values in (plant.positions_deg(), plant.velocities_deg_s()):
        assert values.shape == (6,)
        assert values.dtype == np.float64


def test_steps_shorter_than_the_physics_add_up():
    world = World(seed=0)
    plant = MujocoPlant(world)
    for _ in range(1000):
        plant.step(np.zeros(6), 0.001)
    assert world.data.time == pytest.approx(1.0)
    plant.step(np.zeros(6), 0.0123)
    assert world.data.time == pytest.approx(1.012)


def test_a_stuck_joint_stays_and_an_outside_torque_moves_one():
    world = World(seed=0)
    plant = MujocoPlant(world)
    plant.stuck[1] = True
    plant.load_nm[4] = 0.5
    before_deg = plant.positions_deg()
    plant.step(np.array([0.0, 0.8, 0.0, 0.0, 0.0, 0.0]), 0.3)
    moved_deg = plant.positions_deg() - before_deg
    assert moved_deg[1] == 0.0
    assert moved_deg[4] > 3.0
    plant.stuck[1] = False
    plant.step(np.array([0.0, 0.8, 0.0, 0.0, 0.0, 0.0]), 0.3)
    assert plant.positions_deg()[1] > before_deg[1] + 5.0


def test_a_full_duty_turns_the_roll_no_faster_than_the_motor_can():
    arm = ArmOnBus(start_deg=[0, -34, 0, 0, -150, 20])
    duty, speeds_deg_s = np.zeros(6), []
    duty[4] = 1.0
    plant = MujocoPlant(arm.world)
    for _ in range(300):
        plant.step(duty, 0.002)
        speeds_deg_s.append(plant.velocities_deg_s()[4])
    # Dry friction of 0.052 N m takes under 2 % of the no-load speed; back-EMF counted twice
    # would halve it.
    assert 0.95 * NO_LOAD_SPEED_DEG_S < max(speeds_deg_s) < NO_LOAD_SPEED_DEG_S


@pytest.mark.parametrize("gripper_deg", [0.0, 30.0])
def test_a_stretched_arm_sags_as_much_as_a_real_one(gripper_deg):
    stretched_deg = np.array([0.0, 0.0, 0.0, 0.0, 0.0, gripper_deg])
    arm = ArmOnBus(start_deg=stretched_deg)
    arm.goal_deg = stretched_deg
    arm.move(stretched_deg, 1.5)
    sag_deg = arm.world.joints_deg() - stretched_deg
    assert 1.0 < sag_deg[1] < 6.0
    assert 1.0 < sag_deg[2] < 6.0
    assert abs(sag_deg[0]) < 0.5


def test_a_goal_that_glides_is_followed_to_within_the_sag():
    arm = ArmOnBus()
    arm.move(READY, 2.0)
    arm.move(READY, 0.5)
    error_deg = arm.world.joints_deg() - READY
    assert np.all(np.abs(error_deg) < 5.0)
    assert np.all(np.abs(error_deg[[0, 4]]) < 0.7)


def test_without_torque_the_arm_falls():
    arm = ArmOnBus()
    arm.move(READY, 2.0)
    height_m = arm.world.truth().tip_m[2]
    arm.bus.handle(packets.write(packets.BROADCAST_ID, registers.TORQUE_ENABLE.address, b"\0"))
    arm.bus.advance(2.0)
    assert arm.world.truth().tip_m[2] < height_m - 0.02


def test_a_closed_gripper_pushes_a_cube_along():
    arm = ArmOnBus(seed=3)
    arm.world.data.joint("red_cube").qpos[:3] = [0.24, 0.02, 0.014]
    arm.world.data.joint("green_cube").qpos[:3] = [0.16, 0.20, 0.014]
    before = arm.world.truth()

    def tip_at(y_m, height_m):
        return np.append(joints_for_tip_deg(np.array([0.24, y_m, height_m]), 85.0), 0.0)

    arm.move(tip_at(0.08, 0.08), 2.0)
    arm.move(tip_at(0.08, 0.022), 1.0)
    arm.move(tip_at(0.00, 0.022), 1.5)
    after = arm.world.truth()
    moved_m = np.array(after.cubes_m["red_cube"]) - before.cubes_m["red_cube"]
    assert -0.08 < moved_m[1] < -0.02
    assert abs(moved_m[2]) < 0.005
    np.testing.assert_allclose(after.cubes_m["green_cube"], before.cubes_m["green_cube"], atol=2e-3)


@pytest.mark.parametrize(("seed", "cube"), [(3, "green_cube"), (1, "blue_cube"), (2, "red_cube")])
def test_a_cube_can_be_picked_up_and_dropped_into_the_bin(seed, cube):
    arm = ArmOnBus(seed)
    truth = arm.world.truth()
    x_m, y_m, _ = truth.cubes_m[cube]
    rotation = arm.world.data.body(cube).xmat.reshape(3, 3)
    yaw_deg = np.rad2deg(np.arctan2(rotation[1, 0], rotation[0, 0]))

    def grip_at(x_m, y_m, height_m, gripper_deg, pitch_deg=80.0):
        bearing_rad = np.arctan2(y_m, x_m - PAN_AXIS_X_M)
        # The fixed jaw goes 12 mm nearer to the base than the cube's centre.
        inward_m = 0.012 * np.array([np.cos(bearing_rad), np.sin(bearing_rad)])
        tip_m = np.array([x_m - inward_m[0], y_m - inward_m[1], height_m])
        joints_deg = joints_for_tip_deg(tip_m, pitch_deg)
        # Turn the jaws square to the nearest pair of the cube's faces.
        joints_deg[4] = (yaw_deg + joints_deg[0] + 45.0) % 90.0 - 45.0
        return np.append(joints_deg, gripper_deg)

    arm.move(READY, 1.5)
    arm.move(grip_at(x_m, y_m, 0.08, 45.0), 1.0)
    arm.move(grip_at(x_m, y_m, 0.012, 45.0), 1.0)
    arm.move(grip_at(x_m, y_m, 0.012, 2.0), 1.0)
    arm.move(grip_at(x_m, y_m, 0.09, 2.0), 1.2)
    assert arm.world.truth().cubes_m[cube][2] > 0.05, "the cube was not lifted"
    arm.move(grip_at(0.19, -0.20, 0.11, 2.0, 70.0), 1.5)
    arm.move(grip_at(0.19, -0.20, 0.11, 45.0, 70.0), 1.0)
    assert arm.world.truth().cubes_in_bin == (cube,)
