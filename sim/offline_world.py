"""The demo world on its own clock: reset, observe, step, without a port and without waiting.

    world = OfflineWorld()
    world.reset(12, task=Task("put_in_bin", "red"))
    while not world.succeeded:
        observation = world.observe()
        world.step(policy(observation.images, observation.state))

The arm is the one behind the serial port: the same driver arms it and speaks to the same emulated
servos, whose duty turns the same physics, and every goal passes the safety gate first. A step is
one tick of the control loop, 1/30 s. Everything is a function of the arguments of `reset` and of
the goals since.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import mujoco
import numpy as np

from edge.profile import Profile, load_profile
from edge.safety import SafetyGate, TickAges
from edge.verdict import Verdict
from firmware_bridge.arm import Arm
from firmware_bridge.arming import ArmLimits
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.feedback import ArmReading
from sim.camera_process import CAMERA_NAMES
from sim.joints import N_JOINTS
from sim.layout import CUBE_NAMES, mark_of
from sim.model import Truth, World
from sim.pictures import Pictures
from sim.plant import MujocoPlant
from sim.tasks import PUSH_TO_MARK, Referee, Task, hand_touches
from sim.variation import PLAIN_COLOURS, Look, Variation

PROFILE = "sim"
DEFAULT_SIZE = (320, 240)
DEPTH_CAMERA = "front"


class OfflineWorldError(Exception):
    """The world was asked for something it does not have."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy gets to see at one tick; nothing in it is written to again."""

    t_s: float
    images: tuple[np.ndarray, ...]  # (height, width, 3) uint8 RGB each, in order of CAMERA_NAMES
    state: np.ndarray  # (6,) float32 present positions as the bus reports them, degrees and percent
    depth_mm: np.ndarray | None  # (height, width) uint16 of the front camera, when asked for


class OfflineWorld:
    """One arm on one desk; reset as often as needed, used by one thread."""

    def __init__(
        self, *, size: tuple[int, int] = DEFAULT_SIZE, depth: bool = False, profile: str = PROFILE
    ) -> None:
        """Load the model; pictures of `size` (width, height) are drawn from the first `observe` on.

        `profile` names the profile whose limits the gate enforces.
        """
        self.size = size
        self.world = World()
        self.seed = 0
        self.goal = np.zeros(N_JOINTS)  # sent last; where the arm was armed, before the first
        self.variation: Variation | None = None
        self.mark_m = np.zeros(2)
        self.referee: Referee | None = None
        self._depth = depth
        self._profile = load_profile(profile)
        self._period_s = 1.0 / self._profile.arm.control_hz
        self._look = Look(self.world.model)
        self._pictures: Pictures | None = None
        self._seen: tuple[object, Observation] | None = None
        self.reset(0)

    @property
    def rate_hz(self) -> float:
        """Steps per second of simulated time."""
        return self._profile.arm.control_hz

    @property
    def now_s(self) -> float:
        """Simulated time since the reset began."""
        return self._transport.clock()

    @property
    def succeeded(self) -> bool:
        """Whether the task has been done since the reset."""
        return self.referee is not None and self.referee.succeeded

    @property
    def cubes(self) -> dict[str, str]:
        """The body of the cube of each colour."""
        colours = PLAIN_COLOURS if self.variation is None else self.variation.cube_colours
        return dict(zip(colours, CUBE_NAMES, strict=True))

    def reset(
        self,
        seed: int,
        *,
        task: Task | None = None,
        variation: Variation | None = None,
    ) -> None:
        """Lay out the cubes from `seed`, look like `variation`, and arm the folded arm.

        Raises OfflineWorldError when no cube has the task's colour, or no free way to be pushed.
        """
        self.seed = seed
        self.variation = variation
        self._seen = None
        self._look.apply(variation)
        self.world.reset(seed)
        self._transport = MemoryTransport(EmulatedBus(MujocoPlant(self.world)))
        clock, sleep = self._transport.clock, self._transport.sleep
        self._arm = Arm(
            Bus(self._transport, clock=clock),
            default_calibration(),
            _arm_limits(self._profile),
            clock=clock,
            sleep=sleep,
        )
        self._arm.arm()
        self._gate = SafetyGate(self._profile)
        self._ages = TickAges(0.0, 0.0, (0.0,) * len(self._profile.cameras))
        self._reading = self._arm.read()
        self.goal = self._reading.positions.copy()
        self.referee = None
        if task is not None:
            self.judge(task)

    def judge(self, task: Task) -> None:
        """Watch from now on whether `task` is done; raises what `reset` raises."""
        cubes = self.cubes
        if task.colour not in cubes:
            raise OfflineWorldError(
                f"no {task.colour} cube lies on the desk; there are: {', '.join(cubes)}"
            )
        cube = cubes[task.colour]
        if task.kind == PUSH_TO_MARK:
            mark_m = mark_of(self.seed, CUBE_NAMES.index(cube))
            if mark_m is None:
                raise OfflineWorldError(
                    f"layout {self.seed} has no free way to push the {task.colour} cube; "
                    "choose another"
                )
            self.mark_m = mark_m
            self._seen = None
            self._look.show_mark((float(mark_m[0]), float(mark_m[1])))
        self.referee = Referee(self.world, task, cube, self.mark_m)

    def observe(self) -> Observation:
        """Draw what the cameras see and return it with the present positions.

        Asked again before anything has moved, it returns the same.
        """
        data = self.world.data
        moment = (self.now_s, data.qpos.tobytes())
        if self._seen is not None and self._seen[0] == moment:
            return self._seen[1]
        if self._pictures is None:
            self._pictures = Pictures(self.world.model, self.size)
        mujoco.mj_kinematics(self.world.model, data)
        mujoco.mj_comPos(self.world.model, data)
        mujoco.mj_camlight(self.world.model, data)
        images, depth_mm = [], None
        for camera in CAMERA_NAMES:
            if self._depth and camera == DEPTH_CAMERA:
                image, depth_mm = self._pictures.draw_with_depth(data, camera)
            else:
                image = self._pictures.draw(data, camera)
            images.append(image)
        seen = Observation(self.now_s, tuple(images), self.state(), depth_mm)
        self._seen = moment, seen
        return seen

    def state(self) -> np.ndarray:
        """Return the present positions, (6,) float32, as the bus reported them last."""
        return self._reading.positions.astype(np.float32)

    def reading(self) -> ArmReading:
        """Return everything that the servos reported last."""
        return self._reading

    def step(self, goal: np.ndarray) -> Verdict:
        """Send a goal (6,) as far as the gate lets it, and go on by one tick.

        The verdict's goal is what was sent; after a stop nothing is sent any more.
        """
        started_s = self.now_s
        verdict = self._gate.check(
            np.asarray(goal, dtype=np.float64), self._reading, started_s, self._ages, ""
        )
        if verdict.goal is not None:
            self._arm.write_goals(verdict.goal)
            np.copyto(self.goal, verdict.goal)
        self._transport.sleep(started_s + self._period_s - self.now_s)
        self._reading = self._arm.read()
        if self.referee is not None:
            self.referee.look()
        return verdict

    def slow_to(self, speed_share: float) -> None:
        """Leave the arm this share of its speed limits at most, until the next reset."""
        self._gate.slow_to(speed_share)

    def fork(self) -> OfflineWorld:
        """Return a world that is where this one is, and goes its own way from here.

        It has the model in common, so its looks too, and it draws no pictures.
        """
        shared = (self.world.model, self._look, self._profile)
        memo: dict[int, object] = {id(one): one for one in shared}
        memo.update({id(one): None for one in (self._pictures, self._seen) if one is not None})
        return copy.deepcopy(self, memo)

    def limits(self) -> np.ndarray:
        """Return the least and the greatest goals that the gate allows, (2, 6)."""
        joints = self._profile.arm.joints
        return np.array([[joint.low for joint in joints], [joint.high for joint in joints]])

    def touching(self, cube: str) -> tuple[bool, bool]:
        """Say which part of the hand touches the body `cube`: the fixed finger, the jaw."""
        model = self.world.model
        finger, jaw = (
            hand_touches(self.world, model.body(cube).id, [model.body(part).id])
            for part in ("gripper", "jaw")
        )
        return finger, jaw

    def holds_a_cube(self) -> bool:
        """Whether a cube is between the jaws and both touch it."""
        return any(all(self.touching(cube)) for cube in CUBE_NAMES)

    def truth(self) -> Truth:
        """Return what only a simulator knows."""
        return self.world.truth()

    def close(self) -> None:
        """Free what the pictures are drawn with."""
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None


def _arm_limits(profile: Profile) -> ArmLimits:
    joints, arming = profile.arm.joints, profile.arm.arming
    return ArmLimits(
        torque_limits_per_mille=tuple(joint.torque_limit_permille for joint in joints),
        acceleration_deg_s2=arming.acceleration_deg_s2,
        arming_max_temperature_c=arming.max_temperature_c,
        arming_max_motion_deg=arming.max_motion_deg,
        max_position_gain=arming.max_position_gain,
        ramp_s=arming.ramp_s,
    )
