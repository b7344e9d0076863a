"""Turns a joint that was moved by hand through its whole range into an entry of a calibration.

The encoder counts 0..4095 and starts again. LeRobot chooses the homing offset from the middle pose
and takes the lowest and highest reading of the sweep; where the range crosses the end of the scale
on the way, that gives a range of nearly a full turn (lerobot issues 3586 and 3587). Here the sweep
is followed across the end, and the offset is chosen when the range is known: LeRobot's own where
the range then fits the scale, else the one that puts the middle of the range in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge.calibration import DEGREES_PER_TICK, MAX_HOMING_OFFSET, MAX_TICK
from firmware_bridge.registers import TICKS_PER_TURN

# Where LeRobot puts the middle pose: int(4095 / 2).
MIDDLE_TICK = 2047
# A joint that went further between two readings may have gone round the other way.
MAX_STEP_TICKS = TICKS_PER_TURN // 4
MAX_GAP_S = 0.3
UNMOVED_DEG = 5.0
# What each joint can do by the SO-101 model, in degrees; wrist_roll is not swept.
TRAVEL_DEG = {
    "shoulder_pan": 220.0,
    "shoulder_lift": 200.0,
    "elbow_flex": 193.6,
    "wrist_flex": 190.0,
    "gripper": 110.0,
}
TOO_SMALL, TOO_LARGE = 0.7, 1.25
# Where a folded arm's joints stand in their ranges: upper arm back, forearm on it, jaw closed.
FOLDED_LOW, FOLDED_HIGH = ("shoulder_lift", "gripper"), ("elbow_flex",)
FOLDED_SHARE = 0.35

TRAP_NOTE = (
    "the encoder stands at 4095 in the middle pose, for which LeRobot's rule wants the homing "
    "offset 2048; the servo holds 2047 at most ('Magnitude 2048 exceeds 2047'), so 2047 is used, "
    "0.1 deg beside it"
)
CENTRED_NOTE = (
    "its range goes over the end of the encoder's scale when the middle pose is taken for the "
    "middle; the middle of the range is taken instead"
)


class JointSweep:
    """The lowest and highest position of a joint, counted on over the end of the scale.

    Positions are raw encoder ticks, without homing offset. `unsure` says why the way between two
    readings cannot be told, None when it can.
    """

    def __init__(self, raw_ticks: int, t_s: float) -> None:
        self.present = self.low = self.high = raw_ticks % TICKS_PER_TURN
        self.unsure: str | None = None
        self._t_s = t_s

    @property
    def span_ticks(self) -> int:
        """How far apart the ends are."""
        return self.high - self.low

    @property
    def span_deg(self) -> float:
        """How far apart the ends are, in degrees."""
        return self.span_ticks * DEGREES_PER_TICK

    def add(self, raw_ticks: int, t_s: float) -> None:
        """Follow the joint to where it is now."""
        half = TICKS_PER_TURN // 2
        step = (raw_ticks - self.present + half) % TICKS_PER_TURN - half
        if abs(step) > MAX_STEP_TICKS:
            self.unsure = (
                f"it went {abs(step) * DEGREES_PER_TICK:.0f} deg between two readings; move slowly"
            )
        elif t_s - self._t_s > MAX_GAP_S:
            self.unsure = f"no reading for {t_s - self._t_s:.1f} s; check its plug"
        self._t_s = t_s
        self.present += step
        self.low = min(self.low, self.present)
        self.high = max(self.high, self.present)

    def share_of(self, raw_ticks: int) -> float:
        """Return where a position lies in the range, 0 at its low and 1 at its high end.

        What lies outside belongs to the nearer end.
        """
        above_low = (raw_ticks - self.low) % TICKS_PER_TURN
        if above_low > (self.span_ticks + TICKS_PER_TURN) / 2:
            above_low -= TICKS_PER_TURN
        return above_low / max(1, self.span_ticks)


@dataclass(frozen=True, slots=True)
class Placement:
    """A homing offset and the range it gives; `note` says where it departs from LeRobot's."""

    homing_offset: int
    range_min: int
    range_max: int
    note: str | None = None


def place_sweep(sweep: JointSweep, middle_raw: int) -> Placement:
    """Choose offset and range for a swept joint whose middle pose was at `middle_raw`.

    Raises ValueError when the joint turned further than a range can say.
    """
    if sweep.span_ticks >= MAX_TICK:
        raise ValueError(f"turned {sweep.span_deg:.0f} deg, a range holds less than a full turn")
    middle = sweep.low + (middle_raw - sweep.low) % TICKS_PER_TURN
    placed = _placed(sweep, middle)
    if middle <= sweep.high and placed.range_min >= 0 and placed.range_max <= MAX_TICK:
        return placed
    centred = _placed(sweep, (sweep.low + sweep.high) // 2)
    return Placement(
        centred.homing_offset, centred.range_min, centred.range_max, centred.note or CENTRED_NOTE
    )


def place_full_turn(middle_raw: int) -> Placement:
    """Choose the offset of a joint that may turn freely, as LeRobot does for wrist_roll."""
    offset, shift = _offset(middle_raw)
    return Placement(offset, 0, MAX_TICK, TRAP_NOTE if shift else None)


def sweep_problems(joint: str, sweep: JointSweep) -> list[str]:
    """Return what speaks against the range of a swept joint."""
    if sweep.unsure:
        return [sweep.unsure]
    travel_deg = TRAVEL_DEG[joint]
    if sweep.span_deg < UNMOVED_DEG:
        return ["it was not moved; is it the joint with this id?"]
    if sweep.span_deg < TOO_SMALL * travel_deg:
        return [
            f"moved {sweep.span_deg:.0f} deg, it can do about {travel_deg:.0f}; move it to both "
            "its ends"
        ]
    if sweep.span_deg > TOO_LARGE * travel_deg:
        return [
            f"moved {sweep.span_deg:.0f} deg, it can do about {travel_deg:.0f}; is its horn loose?"
        ]
    return []


def folded_problem(joint: str, sweep: JointSweep, folded_raw: int) -> str | None:
    """Return what is wrong if a joint of the folded arm stands at the wrong end of its range."""
    share = sweep.share_of(folded_raw)
    wrong = (joint in FOLDED_LOW and share > FOLDED_SHARE) or (
        joint in FOLDED_HIGH and share < 1.0 - FOLDED_SHARE
    )
    if not wrong:
        return None
    end = "low" if joint in FOLDED_LOW else "high"
    return (
        f"stands at {100 * share:.0f} % of its range in the folded arm, should be at its {end} end;"
        " it was not folded, or the servo is mounted the other way round"
    )


def _placed(sweep: JointSweep, anchor: int) -> Placement:
    offset, shift = _offset(anchor)
    return Placement(
        homing_offset=offset,
        range_min=MIDDLE_TICK + shift - (anchor - sweep.low),
        range_max=MIDDLE_TICK + shift + (sweep.high - anchor),
        note=TRAP_NOTE if shift else None,
    )


def _offset(anchor: int) -> tuple[int, int]:
    """Return the offset that shows `anchor` as the middle tick, and by how much it misses."""
    offset = (anchor - MIDDLE_TICK) % TICKS_PER_TURN
    if offset > MAX_HOMING_OFFSET + 1:
        return offset - TICKS_PER_TURN, 0
    return (MAX_HOMING_OFFSET, 1) if offset == MAX_HOMING_OFFSET + 1 else (offset, 0)
