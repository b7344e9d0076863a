"""What the servos feel, sample by sample, judged; only reads, so that nothing is disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import JOINTS, Calibration, position_from_ticks
from firmware_bridge.exchange import Reply
from firmware_bridge.feedback import MA_PER_RAW
from firmware_bridge.registers import FEEDBACK_ADDRESS, FEEDBACK_BYTES, Register
from firmware_bridge.servo_checkup import LOW_SUPPLY_V, SUPPLY_V
from firmware_bridge.servo_state import build_of
from firmware_bridge.soft_stop import status_text

# Limits derate from 50 C on and the servos cut out at 70 C.
WARM_C, HOT_C = 50, 60
# Raw 100 and 200 of the 415 that a stalled motor draws at 12 V; unloaded moves stay below 15.
HIGH_CURRENT_MA, STALL_CURRENT_MA = 650.0, 1300.0
# Share of the servo's own overload threshold.
NEAR_OVERLOAD = 0.8
# Columns of the table between joint and notes.
WIDTHS = (9, 8, 7, 7, 6, 5, 8, 9)


@dataclass(frozen=True, slots=True)
class ServoHealth:
    """One servo at one time; all but the counts is None while it is silent.

    `position` is in degrees or gripper percent with a calibration, else in ticks; `speed` in ticks
    per second; `load` the motor duty -1..1; `notes` say what is not as it should be.
    """

    servo_id: int
    joint: str
    position: float | None
    speed: int | None
    load: float | None
    current_ma: float | None
    voltage_v: float | None
    temperature_c: int | None
    torque: bool | None
    status: str | None
    lost: int
    asked: int
    notes: tuple[str, ...]

    @property
    def silent(self) -> bool:
        """Whether it did not answer."""
        return self.position is None


class HealthMonitor:
    """Takes samples of the servos on `bus`; their ids are those of `calibration`, else 1..6."""

    def __init__(self, bus: Bus, calibration: Calibration | None = None) -> None:
        self._bus = bus
        self._calibration = calibration
        self.names = (
            dict(enumerate(JOINTS, start=1))
            if calibration is None
            else {calibration[joint].id: joint for joint in JOINTS}
        )
        self._lost = dict.fromkeys(self.names, 0)
        self._asked = 0
        self._builds: dict[int, str] = {}
        self._overload: dict[int, float] = {}

    def sample(self) -> list[ServoHealth]:
        """Read all servos once, in two requests; silent ones are in the result too.

        Raises PortError. What a servo is made for is asked when it is first heard.
        """
        ids = list(self.names)
        self._asked += 1
        replies = self._bus.sync_read(FEEDBACK_ADDRESS, FEEDBACK_BYTES, ids)
        torque = self._bus.sync_read(registers.TORQUE_ENABLE.address, 1, ids)
        for servo_id in ids:
            self._lost[servo_id] += servo_id not in replies
        self._learn([servo_id for servo_id in replies if servo_id not in self._builds])
        return [self._judged(servo_id, replies, torque) for servo_id in ids]

    def _learn(self, servo_ids: list[int]) -> None:
        if not servo_ids:
            return
        limits = self._bus.sync_read(registers.MAX_VOLTAGE_LIMIT.address, 1, servo_ids)
        overloads = self._bus.sync_read(registers.OVERLOAD_TORQUE.address, 1, servo_ids)
        for servo_id in servo_ids:
            if servo_id in limits and servo_id in overloads:
                self._builds[servo_id] = build_of(limits[servo_id].data[0] / 10.0)
                self._overload[servo_id] = overloads[servo_id].data[0] / 100.0

    def _judged(
        self, servo_id: int, replies: Mapping[int, Reply], torque: Mapping[int, Reply]
    ) -> ServoHealth:
        counts = {"lost": self._lost[servo_id], "asked": self._asked}
        joint = self.names[servo_id]
        reply = replies.get(servo_id)
        if reply is None:
            silent = dict.fromkeys(
                ("position", "speed", "load", "current_ma", "voltage_v", "temperature_c"), None
            )
            return ServoHealth(
                servo_id, joint, **silent, torque=None, status=None, **counts, notes=("no reply",)
            )
        load = _field(reply, registers.PRESENT_LOAD) / 1000.0
        current_ma = abs(_field(reply, registers.PRESENT_CURRENT)) * MA_PER_RAW
        voltage_v = _field(reply, registers.PRESENT_VOLTAGE) / 10.0
        temperature_c = _field(reply, registers.PRESENT_TEMPERATURE)
        status = reply.error | _field(reply, registers.STATUS)
        return ServoHealth(
            servo_id=servo_id,
            joint=joint,
            position=self._position(joint, _field(reply, registers.PRESENT_POSITION)),
            speed=_field(reply, registers.PRESENT_VELOCITY),
            load=load,
            current_ma=current_ma,
            voltage_v=voltage_v,
            temperature_c=temperature_c,
            torque=torque[servo_id].data[0] != 0 if servo_id in torque else None,
            status=status_text(status) if status else "ok",
            **counts,
            notes=tuple(self._notes(servo_id, load, current_ma, voltage_v, temperature_c, status)),
        )

    def _position(self, joint: str, ticks: int) -> float:
        if self._calibration is None:
            return float(ticks)
        return position_from_ticks(joint, self._calibration[joint], ticks)

    def _notes(
        self,
        servo_id: int,
        load: float,
        current_ma: float,
        voltage_v: float,
        temperature_c: int,
        status: int,
    ) -> list[str]:
        notes = []
        if status:
            notes.append(f"reports {status_text(status)}")
        if temperature_c >= WARM_C:
            notes.append(f"{'hot' if temperature_c >= HOT_C else 'warm'}, {temperature_c} C")
        build = self._builds.get(servo_id)
        if build and voltage_v > SUPPLY_V[build][1]:
            notes.append(f"{voltage_v:.1f} V is too much for its {build} build")
        elif build and voltage_v < LOW_SUPPLY_V[build]:
            notes.append(f"{voltage_v:.1f} V is low for its {build} build")
        if current_ma >= HIGH_CURRENT_MA:
            word = "stalls" if current_ma >= STALL_CURRENT_MA else "works hard"
            notes.append(f"{word}, {current_ma:.0f} mA")
        overload = self._overload.get(servo_id, 1.0)
        if abs(load) >= NEAR_OVERLOAD * overload > 0.0:
            notes.append(f"load {abs(load):.0%}, overload from {overload:.0%} on")
        return notes


def health_json(sample: list[ServoHealth], t_s: float) -> dict[str, object]:
    """Return a sample as JSON would have it."""
    return {"t_s": round(t_s, 3), "servos": [asdict(servo) for servo in sample]}


def health_table(sample: list[ServoHealth], position_unit: str) -> list[str]:
    """Return a sample as lines of a table."""
    head = ("id", "joint", position_unit, "tick/s", "load", "mA", "V", "C", "torque", "lost")
    rows = [(*head, "notes")]
    for servo in sample:
        count = f"{servo.lost}/{servo.asked}"
        if servo.silent:
            figures = ("-",) * 7
        else:
            torque = "-" if servo.torque is None else "on" if servo.torque else "off"
            figures = (
                f"{servo.position:.1f}",
                str(servo.speed),
                f"{servo.load:.0%}",
                f"{servo.current_ma:.0f}",
                f"{servo.voltage_v:.1f}",
                str(servo.temperature_c),
                torque,
            )
        rows.append((str(servo.servo_id), servo.joint, *figures, count, "; ".join(servo.notes)))
    return [
        f"{row[0]:>2}  {row[1]:<14}"
        + "".join(f"{text:>{width}}" for text, width in zip(row[2:10], WIDTHS, strict=True))
        + f"  {row[10]}".rstrip()
        for row in rows
    ]


def _field(reply: Reply, register: Register) -> int:
    start = register.address - FEEDBACK_ADDRESS
    return register.decode(reply.data[start : start + register.size])
