"""Read an arm file: every key, its allowed range, and what must fit together."""

from __future__ import annotations

from edge import kinematics
from edge.arm_profile import (
    KINEMATICS_SO101,
    ArmingLimits,
    ArmProfile,
    ArmSeat,
    Derating,
    JointProfile,
    RealTimeChunking,
    SafetyTimes,
    StallLimits,
    TemperatureLimits,
    VoltageLimits,
    WatchdogTimes,
    WorkspaceLimits,
)
from edge.config_section import Section

UNIT_SUFFIX = {"degrees": "deg", "percent": "percent"}

# STS3215 at 7.4 V: 52 rpm without load (Feetech data sheet); nothing on this bus turns faster.
FASTEST_DEG_S = 312.0
# Register 85 of the STS3215 (maximum acceleration) at its highest: 254 times 8.79 deg/s2.
HIGHEST_ACCELERATION_DEG_S2 = 2232.0
# With the position gain LeRobot writes (P = 16), 17.4 degrees of error is 80 % duty, where the
# servo's overload protection starts counting; a lead above that could latch it.
LONGEST_LEAD_DEG = 17.4
PERCENT_PER_DEG = 100.0 / 110.0  # SO-101 gripper: 110 degrees of travel is 100 percent
# A watchdog that is quicker than this ends runs over a tick or two that came late.
LEAST_SILENT_PERIODS = 3


def arm_from_section(section: Section) -> ArmProfile:
    """Read an arm file's keys; ProfileError names file, key and what is allowed."""
    control_hz = section.number("control_hz", 1.0, 200.0)
    arms = _arms(section)
    joints = _joints(section, arms)
    signs, offsets_deg = _checkpoint_frame(section.child("checkpoint_frame"), joints, len(arms))
    workspace = section.optional_child("workspace")
    return ArmProfile(
        name=section.text("name"),
        control_hz=control_hz,
        action_hz=section.number("action_hz", 1.0, 200.0),
        seam_blend_s=section.number("seam_blend_s", 0.0, 1.0),
        real_time_chunking=_real_time_chunking(section.child("real_time_chunking")),
        signs=signs,
        offsets_deg=offsets_deg,
        safety=_safety_times(section.child("safety")),
        derating=_derating(section.child("derating")),
        stall=_stall(section.child("stall")),
        workspace=None if workspace is None else _workspace(workspace, joints),
        watchdog=_watchdog(section.child("watchdog"), control_hz),
        arming=_arming(section.child("arming")),
        arms=arms,
        joints=joints,
    )


def _arms(section: Section) -> tuple[ArmSeat, ...]:
    arms = tuple(_seat(seat) for seat in section.children("arms"))
    section.refuse_twins("arms", [arm.name for arm in arms])
    return arms


def _seat(section: Section) -> ArmSeat:
    x_m, y_m, z_m = section.numbers("base_m", 3, -5.0, 5.0)
    seat = ArmSeat(section.text("name"), (x_m, y_m, z_m), section.number("turned_deg", -180, 180))
    section.finish()
    return seat


def _joints(section: Section, arms: tuple[ArmSeat, ...]) -> tuple[JointProfile, ...]:
    child = section.child("joints")
    names = child.names()
    if not names:
        raise section.fail("joints", "no joint is listed; at least one is needed")
    parts = {name: child.child(name) for name in names}
    read = {name: _joint(parts[name]) for name in names}
    section.refuse_twins("joints", [str(values["servo_id"]) for values in read.values()])
    return tuple(
        JointProfile(
            name=name if len(arms) == 1 else f"{arm.name}_{name}",
            own_name=name,
            bus=bus,
            **read[name],
        )
        for bus, arm in enumerate(arms)
        for name in names
    )


def _joint(section: Section) -> dict:
    unit = section.text("unit", tuple(UNIT_SUFFIX))
    suffix = UNIT_SUFFIX[unit]
    in_percent = unit == "percent"
    lowest, highest = (0.0, 100.0) if in_percent else (-360.0, 360.0)
    scale = PERCENT_PER_DEG if in_percent else 1.0
    fastest, strongest = FASTEST_DEG_S * scale, HIGHEST_ACCELERATION_DEG_S2 * scale
    longest = LONGEST_LEAD_DEG * scale
    values = {
        "servo_id": section.integer("id", 0, 252),
        "unit": unit,
        "min_position": section.number(f"min_{suffix}", lowest, highest),
        "max_position": section.number(f"max_{suffix}", lowest, highest),
        "margin": section.number(f"margin_{suffix}", 0.0, 20.0),
        "max_velocity": section.number(f"max_velocity_{suffix}_s", 0.1, fastest),
        "max_acceleration": section.number(f"max_acceleration_{suffix}_s2", 10.0, strongest),
        "max_lead": section.number(f"max_lead_{suffix}", 0.1, longest),
        "stall_current_ma": section.number("stall_current_ma", 20.0, 3000.0),
        "stall_error": section.number(f"stall_error_{suffix}", 0.1, longest),
        "stall_velocity": section.number(f"stall_velocity_{suffix}_s", 0.1, fastest),
        "torque_limit_permille": section.integer("torque_limit_permille", 10, 1000),
    }
    least = values["min_position"] + 2 * values["margin"]
    if values["max_position"] <= least:
        raise section.fail(
            f"max_{suffix}",
            f"{values['max_position']:g}; allowed: above min_{suffix} plus both margins, {least:g}",
        )
    if values["stall_error"] >= values["max_lead"]:
        raise section.fail(
            f"stall_error_{suffix}",
            f"{values['stall_error']:g}; allowed: below max_lead_{suffix}, "
            f"{values['max_lead']:g}, which no goal exceeds",
        )
    section.finish()
    return values


def _checkpoint_frame(
    frame: Section, joints: tuple[JointProfile, ...], n_arms: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read signs and offsets, listed for one arm, and return them for all."""
    n_joints = len(joints) // n_arms
    signs = frame.numbers("signs", n_joints, -1.0, 1.0)
    offsets_deg = frame.numbers("offsets_deg", n_joints, -360.0, 360.0)
    if any(abs(sign) != 1.0 for sign in signs):
        raise frame.fail("signs", f"{list(signs)}; allowed: 1 or -1 for each joint")
    for joint, sign, offset in zip(joints, signs, offsets_deg, strict=False):
        if joint.is_gripper and (sign, offset) != (1.0, 0.0):
            raise frame.fail("signs", f"{joint.own_name} is in percent: sign 1 and offset 0 only")
    frame.finish()
    return signs * n_arms, offsets_deg * n_arms


def _real_time_chunking(section: Section) -> RealTimeChunking:
    chunking = RealTimeChunking(
        hold_committed=section.boolean("hold_committed"),
        soft_tail_s=section.number("soft_tail_s", 0.0, 5.0),
    )
    section.finish()
    return chunking


def _safety_times(section: Section) -> SafetyTimes:
    times = SafetyTimes(
        hold_state_age_s=section.number("hold_state_age_s", 0.01, 1.0),
        stop_state_age_s=section.number("stop_state_age_s", 0.02, 5.0),
        max_hold_s=section.number("max_hold_s", 0.1, 120.0),
        fault_hold_s=section.number("fault_hold_s", 0.0, 5.0),
        servo_fault_stop_s=section.number("servo_fault_stop_s", 0.02, 5.0),
        catch_up_s=section.number("catch_up_s", 0.005, 0.5),
        late_tick_s=section.number("late_tick_s", 0.005, 1.0),
        late_ticks=section.integer("late_ticks", 1, 1000),
        late_window_s=section.number("late_window_s", 0.1, 60.0),
    )
    _refuse_unless_above(
        section,
        "stop_state_age_s",
        times.stop_state_age_s,
        "hold_state_age_s",
        times.hold_state_age_s,
    )
    section.finish()
    return times


def _derating(section: Section) -> Derating:
    temperature = section.child("temperature")
    voltage = section.child("voltage")
    derating = Derating(
        speed_share=section.number("speed_share", 0.01, 1.0),
        lead_share=section.number("lead_share", 0.1, 1.0),
        temperature=TemperatureLimits(
            derate_c=temperature.number("derate_c", 20.0, 70.0),
            stop_c=temperature.number("stop_c", 20.0, 70.0),
            stop_after_s=temperature.number("stop_after_s", 0.1, 10.0),
        ),
        voltage=VoltageLimits(
            nominal_v=voltage.number_list("nominal_v", 4.0, 14.0),
            slow_below_percent=voltage.number("slow_below_percent", 1.0, 50.0),
            stop_below_percent=voltage.number("stop_below_percent", 1.0, 60.0),
            # One low sample is a spike of several motors starting; it must never stop the arm.
            stop_samples=voltage.integer("stop_samples", 2, 100),
        ),
    )
    hot, sag = derating.temperature, derating.voltage
    _refuse_unless_above(temperature, "stop_c", hot.stop_c, "derate_c", hot.derate_c)
    _refuse_unless_above(
        voltage,
        "stop_below_percent",
        sag.stop_below_percent,
        "slow_below_percent",
        sag.slow_below_percent,
    )
    for part in (temperature, voltage, section):
        part.finish()
    return derating


def _stall(section: Section) -> StallLimits:
    stall = StallLimits(
        after_s=section.number("after_s", 0.1, 2.0),
        stop_s=section.number("stop_s", 0.2, 30.0),
        squeeze_percent=section.number("squeeze_percent", 0.1, LONGEST_LEAD_DEG * PERCENT_PER_DEG),
    )
    _refuse_unless_above(section, "stop_s", stall.stop_s, "after_s", stall.after_s)
    section.finish()
    return stall


def _workspace(section: Section, joints: tuple[JointProfile, ...]) -> WorkspaceLimits:
    limits = WorkspaceLimits(
        kinematics=section.text("kinematics", (KINEMATICS_SO101,)),
        table_m=section.optional_number("table_m", -5.0, 5.0),
        fingers_over_table_m=section.number("fingers_over_table_m", -0.1, 0.2),
        links_over_table_m=section.number("links_over_table_m", -0.1, 0.2),
        hand_to_body_m=section.number("hand_to_body_m", -0.1, 0.2),
        folded_links_m=section.number("folded_links_m", -0.1, 0.2),
        between_arms_m=section.number("between_arms_m", -0.1, 0.5),
    )
    names = tuple(joint.own_name for joint in joints if joint.bus == 0)
    units = [joint.is_gripper for joint in joints if joint.bus == 0]
    if names != kinematics.JOINTS or units != [name == "gripper" for name in names]:
        wanted = ", ".join(kinematics.JOINTS)
        raise section.fail(
            "kinematics", f"'{limits.kinematics}' needs the joints {wanted}, the last in percent"
        )
    section.finish()
    return limits


def _watchdog(section: Section, control_hz: float) -> WatchdogTimes:
    times = WatchdogTimes(
        hold_s=section.number("hold_s", 0.05, 5.0),
        soften_s=section.number("soften_s", 0.1, 10.0),
        slow_s=section.number("slow_s", 1.0, 10.0),
        replug_s=section.number("replug_s", 0.0, 120.0),
    )
    if times.hold_s < LEAST_SILENT_PERIODS / control_hz:
        raise section.fail(
            "hold_s",
            f"{times.hold_s:g}; allowed: at least {LEAST_SILENT_PERIODS} control periods, "
            f"{LEAST_SILENT_PERIODS / control_hz:.3g}",
        )
    _refuse_unless_above(section, "soften_s", times.soften_s, "hold_s", times.hold_s)
    section.finish()
    return times


def _arming(section: Section) -> ArmingLimits:
    limits = ArmingLimits(
        acceleration_deg_s2=section.number(
            "acceleration_deg_s2", 10.0, HIGHEST_ACCELERATION_DEG_S2
        ),
        max_temperature_c=section.number("max_temperature_c", 20.0, 70.0),
        max_motion_deg=section.number("max_motion_deg", 0.5, 10.0),
        max_position_gain=section.integer("max_position_gain", 1, 254),
        ramp_s=section.number("ramp_s", 0.1, 10.0),
    )
    section.finish()
    return limits


def _refuse_unless_above(
    section: Section, key: str, value: float, lower_key: str, lower: float
) -> None:
    if value <= lower:
        raise section.fail(key, f"{value:g}; allowed: above {lower_key}, {lower:g}")
