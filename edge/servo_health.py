"""What the servos say about themselves: fault bits, heat and the supply, as slowness or a stop.

Heat and a sagging supply take speed and lead away little by little; the arm stops only at the end
of the line, and never for a single odd measurement. Fault bits are held at once, because a servo
that cut its torque must not find a goal far away when it comes back, and stop the arm when they
stay.
"""

from __future__ import annotations

import math

import numpy as np

from edge.arm_profile import ArmProfile
from edge.joints import JointReading
from edge.verdict import NOTHING, Finding, Outcome, Rule

# Bits of the STS3215's status byte (Feetech memory table, register 65).
BIT_TEXTS = {
    0x01: "a supply outside its limits",
    0x02: "a broken encoder",
    0x04: "too much heat",
    0x08: "too much current",
    0x20: "overload",
}
# The supply is judged by its own measurements: this bit alone holds, and does not stop.
VOLTAGE_BIT = 0x01


def fault_text(bits: int) -> str:
    """Name the fault bits of a status byte."""
    known = [text for bit, text in BIT_TEXTS.items() if bits & bit]
    unknown = bits & ~sum(BIT_TEXTS)
    return " and ".join(known + ([f"status bits {unknown:#x}"] if unknown else []))


class ServoHealth:
    """Look at each new measurement; say what to do, and how much speed and lead are left."""

    def __init__(self, arm: ArmProfile) -> None:
        n_joints = len(arm.joints)
        self._names = [joint.name for joint in arm.joints]
        self._derating = arm.derating
        self._fault_stop_s = arm.safety.servo_fault_stop_s
        buses = [joint.bus for joint in arm.joints]
        self._joints_of_bus = [
            slice(buses.index(bus), buses.index(bus) + buses.count(bus))
            for bus in range(arm.n_buses)
        ]
        self._nominal_v: list[float] = []
        self._low_samples = [0] * arm.n_buses
        self._faulty_since_s = [math.nan] * n_joints
        self._hot_since_s = math.nan
        self._most_share, self._most_by = 1.0, NOTHING  # what others leave of the speed, and why
        self.speed_share = 1.0  # of the whole arm
        self.lead_shares = np.ones(n_joints)
        self.slowed_by = NOTHING  # why speed_share is below 1
        self.finding = NOTHING  # the gravest of the last measurement

    def slow_to(self, share: float) -> None:
        """Leave this share of the speed at most, whatever the servos say."""
        slower = Finding(Outcome.CLAMP, Rule.LADDER, value=share, limit=1.0)
        self._most_share, self._most_by = share, slower if share < 1.0 else NOTHING

    def observe(self, reading: JointReading) -> None:
        """Judge a measurement that was not seen before; fields finite."""
        self.speed_share, self.slowed_by = self._most_share, self._most_by
        faults = self._faults(reading)
        heat = self._heat(reading)
        supply = self._supply(reading)
        self.finding = max(faults, heat, supply, key=_gravity)

    def _faults(self, reading: JointReading) -> Finding:
        if not reading.status.any():
            for joint, since_s in enumerate(self._faulty_since_s):
                if since_s == since_s:
                    self._faulty_since_s[joint] = math.nan
            return NOTHING
        worst = NOTHING
        for joint, bits in enumerate(reading.status.tolist()):
            if not bits:
                self._faulty_since_s[joint] = math.nan
                continue
            outcome = Outcome.HOLD
            if bits == VOLTAGE_BIT:
                self._faulty_since_s[joint] = math.nan
            else:
                if math.isnan(self._faulty_since_s[joint]):
                    self._faulty_since_s[joint] = reading.t_s
                if reading.t_s - self._faulty_since_s[joint] > self._fault_stop_s:
                    outcome = Outcome.STOP
            if outcome > worst.outcome:
                worst = self._fault(outcome, joint, bits)
        return worst

    def _fault(self, outcome: Outcome, joint: int, bits: int) -> Finding:
        text = fault_text(bits)
        if outcome is Outcome.STOP:
            text += f" for longer than {self._fault_stop_s:g} s"
        return Finding(outcome, Rule.SERVO_FAULT, self._names[joint], float(bits), 0.0, part=text)

    def _heat(self, reading: JointReading) -> Finding:
        limits = self._derating.temperature
        hottest_c = float(reading.temperatures_c.max())
        if hottest_c <= limits.derate_c:
            self._hot_since_s = math.nan
            self.lead_shares.fill(1.0)
            return NOTHING
        joint = int(np.argmax(reading.temperatures_c))
        span_c = limits.stop_c - limits.derate_c
        left = np.clip((limits.stop_c - reading.temperatures_c) / span_c, 0.0, 1.0)
        lead_share = self._derating.lead_share
        np.copyto(self.lead_shares, lead_share + (1.0 - lead_share) * left)
        slow = Finding(
            Outcome.CLAMP,
            Rule.TEMPERATURE,
            self._names[joint],
            hottest_c,
            limits.derate_c,
            part="; slowed down",
        )
        self._slow_down(float(left[joint]), slow)
        if hottest_c <= limits.stop_c:
            self._hot_since_s = math.nan
            return NOTHING
        if math.isnan(self._hot_since_s):
            self._hot_since_s = reading.t_s
        stops = reading.t_s - self._hot_since_s > limits.stop_after_s
        return slow._replace(
            outcome=Outcome.STOP if stops else Outcome.HOLD,
            limit=limits.stop_c,
            part=f" for longer than {limits.stop_after_s:g} s" if stops else "",
        )

    def _supply(self, reading: JointReading) -> Finding:
        limits = self._derating.voltage
        if not self._nominal_v:
            self._nominal_v = [
                _nearest(limits.nominal_v, float(np.median(reading.voltages_v[joints])))
                for joints in self._joints_of_bus
            ]
        worst = NOTHING
        for bus, joints in enumerate(self._joints_of_bus):
            nominal_v = self._nominal_v[bus]
            slow_v = nominal_v * (1.0 - limits.slow_below_percent / 100.0)
            lowest_v = float(reading.voltages_v[joints].min())
            if lowest_v >= slow_v:
                self._low_samples[bus] = 0
                continue
            stop_v = nominal_v * (1.0 - limits.stop_below_percent / 100.0)
            joint = joints.start + int(np.argmin(reading.voltages_v[joints]))
            found = Finding(
                Outcome.CLAMP,
                Rule.VOLTAGE,
                self._names[joint],
                lowest_v,
                slow_v,
                part=f" of nominally {nominal_v:g} V; slowed down",
            )
            self._slow_down(max(0.0, (lowest_v - stop_v) / (slow_v - stop_v)), found)
            self._low_samples[bus] = self._low_samples[bus] + 1 if lowest_v < stop_v else 0
            if self._low_samples[bus] >= limits.stop_samples:
                worst = found._replace(
                    outcome=Outcome.STOP,
                    limit=stop_v,
                    part=f" of nominally {nominal_v:g} V, {self._low_samples[bus]} times in a row",
                )
        return worst

    def _slow_down(self, left: float, why: Finding) -> None:
        share = self._derating.speed_share + (1.0 - self._derating.speed_share) * left
        if share < self.speed_share:
            self.speed_share, self.slowed_by = share, why


def _gravity(finding: Finding) -> int:
    return finding.outcome


def _nearest(values: tuple[float, ...], wanted: float) -> float:
    return min(values, key=lambda value: abs(value - wanted))
