"""What an arm profile says: joints, rates, joint frame, and every limit the safety gate enforces.

Joints are listed once and hold for every arm of the profile. An only arm's joints keep their plain
names; of several arms, each on a bus of its own, they are called left_gripper, right_gripper.
"""

from __future__ import annotations

from dataclasses import dataclass

KINEMATICS_SO101 = "so101"


@dataclass(frozen=True, slots=True)
class JointProfile:
    """One joint; positions in its own unit, degrees or percent of gripper opening."""

    name: str  # unique in the profile
    own_name: str  # on its own arm, as in that arm's calibration file
    bus: int  # which of the profile's arms it belongs to
    servo_id: int
    unit: str
    min_position: float
    max_position: float
    margin: float
    max_velocity: float  # unit per second
    max_acceleration: float  # unit per second squared
    max_lead: float  # goal minus present
    stall_current_ma: float  # above it, with error and without motion, the joint is blocked
    stall_error: float
    stall_velocity: float
    torque_limit_permille: int  # STS3215 register 48

    @property
    def low(self) -> float:
        """Lowest goal the gate lets through."""
        return self.min_position + self.margin

    @property
    def high(self) -> float:
        """Highest goal the gate lets through."""
        return self.max_position - self.margin

    @property
    def is_gripper(self) -> bool:
        """Whether it opens and closes: 0 percent is closed."""
        return self.unit == "percent"


@dataclass(frozen=True, slots=True)
class SafetyTimes:
    """How long each thing may be missing or late before the gate holds, and before it stops."""

    hold_state_age_s: float
    stop_state_age_s: float
    max_hold_s: float
    fault_hold_s: float
    servo_fault_stop_s: float  # a fault bit that stays for longer stops
    catch_up_s: float  # no tick moves goals by more than this time allows, however late it is
    late_tick_s: float  # a tick later than this is held
    late_ticks: int  # more such ticks than this within late_window_s stop
    late_window_s: float


@dataclass(frozen=True, slots=True)
class TemperatureLimits:
    """From where a hot servo slows the arm, and where it stops it."""

    derate_c: float
    stop_c: float
    stop_after_s: float


@dataclass(frozen=True, slots=True)
class VoltageLimits:
    """How far the supply may sag; the nominal voltage is the nearest of the list at the start."""

    nominal_v: tuple[float, ...]
    slow_below_percent: float  # of nominal, missing
    stop_below_percent: float
    stop_samples: int  # consecutive ones


@dataclass(frozen=True, slots=True)
class Derating:
    """What heat and a sagging supply leave of speed and lead; linear down to these shares."""

    speed_share: float
    lead_share: float
    temperature: TemperatureLimits
    voltage: VoltageLimits


@dataclass(frozen=True, slots=True)
class StallLimits:
    """How long a joint may be blocked."""

    after_s: float  # current, error and no motion for so long are a stall
    stop_s: float  # a joint other than a closing gripper stops the arm after this
    squeeze_percent: float  # what a gripper that met something keeps pressing


@dataclass(frozen=True, slots=True)
class WorkspaceLimits:
    """Least clearances in metres, judged by forward kinematics; see `edge.clearance`."""

    kinematics: str
    table_m: float | None  # height of the table over the bottom of the base
    fingers_over_table_m: float
    links_over_table_m: float
    hand_to_body_m: float
    folded_links_m: float
    between_arms_m: float


@dataclass(frozen=True, slots=True)
class WatchdogTimes:
    """When the watchdog process takes the arm over from a program that is silent or gone."""

    hold_s: float  # silence on the bus after which it holds the arm
    soften_s: float  # silence after which it ends the program and lets the arm down
    slow_s: float  # silence allowed while torque comes and goes, and before the first tick
    replug_s: float  # how long it waits for a port that was unplugged


@dataclass(frozen=True, slots=True)
class ArmingLimits:
    """Under which conditions torque comes on, and how; enforced by the servo bus."""

    acceleration_deg_s2: float  # of the servos' own motion profile
    max_temperature_c: float
    max_motion_deg: float
    max_position_gain: int  # P_Coefficient, for which the leads are reckoned
    ramp_s: float


@dataclass(frozen=True, slots=True)
class RealTimeChunking:
    """How a new chunk is made to go on from the one that the arm follows; see `edge.commitment`."""

    hold_committed: bool
    soft_tail_s: float  # after the held actions, how long the old chunk still draws the new one


@dataclass(frozen=True, slots=True)
class ArmSeat:
    """One arm, on a bus of its own, and where its base stands in the frame all arms share."""

    name: str
    base_m: tuple[float, float, float]
    turned_deg: float  # to the left, seen from above


@dataclass(frozen=True, slots=True)
class ArmProfile:
    """Joints arm by arm in bus order, rates, limits, and the checkpoint's joint frame."""

    name: str
    control_hz: float
    action_hz: float
    seam_blend_s: float
    real_time_chunking: RealTimeChunking
    signs: tuple[float, ...]
    offsets_deg: tuple[float, ...]
    safety: SafetyTimes
    derating: Derating
    stall: StallLimits
    workspace: WorkspaceLimits | None  # None: no forward kinematics, so neither is judged
    watchdog: WatchdogTimes
    arming: ArmingLimits
    arms: tuple[ArmSeat, ...]
    joints: tuple[JointProfile, ...]

    @property
    def n_buses(self) -> int:
        """How many serial ports the profile needs: one for each arm."""
        return len(self.arms)

    def bus_joints(self, bus: int) -> tuple[JointProfile, ...]:
        """Return the joints of one arm, in order; they are consecutive in `joints`."""
        return tuple(joint for joint in self.joints if joint.bus == bus)
