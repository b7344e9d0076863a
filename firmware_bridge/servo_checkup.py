"""What can be wrong with servos that answer: what they are and what they feel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from firmware_bridge import registers
from firmware_bridge.findings import Finding, fail, or_ok, warn
from firmware_bridge.packets import StatusBit
from firmware_bridge.registers import STS3215_MODEL_NUMBER
from firmware_bridge.servo_state import ServoState
from firmware_bridge.soft_stop import status_text

States = Sequence[ServoState]
Names = Mapping[int, str]

SUPPLY_V = {"7.4 V": (4.5, 8.0), "12 V": (10.0, 13.5)}
# A tenth under what the build is run on; the 7.4 V build is run on anything from 5 V up.
LOW_SUPPLY_V = {"7.4 V": 4.8, "12 V": 10.8}
CABLE_DROP_V = 0.5
WARM_C, HOT_C = 50, 55
REMEDIES = {
    StatusBit.VOLTAGE: "check the supply's voltage under load and the cables",
    StatusBit.ENCODER: "its encoder does not read; replace the servo",
    StatusBit.TEMPERATURE: "let it cool down",
    StatusBit.CURRENT: "free the joint, then switch the arm's power off and on",
    StatusBit.OVERLOAD: "take the load off the joint, then switch the arm's power off and on",
}


def check_identity(states: States, names: Names) -> list[Finding]:
    """Judge models, firmware and builds."""
    return [*_check_models(states, names), *_check_versions(states, names)]


def check_feelings(states: States, names: Names) -> list[Finding]:
    """Judge supply, temperature and fault bits."""
    volts = [state.supply_v for state in states]
    warmth = [state.temperature_c for state in states]
    return [
        *or_ok(_supply(states, names), "supply", f"{min(volts):.1f}..{max(volts):.1f} V"),
        *or_ok(_temperatures(states, names), "temperature", f"{min(warmth)}..{max(warmth)} C"),
        *or_ok(_faults(states, names), "status", "no servo reports a fault"),
    ]


def who(state: ServoState, names: Names) -> str:
    """Return how a servo is called in a finding."""
    return f"servo {state.servo_id} ({names[state.servo_id]})"


def _check_models(states: States, names: Names) -> list[Finding]:
    findings = []
    for state in states:
        model = state[registers.MODEL_NUMBER]
        if model != STS3215_MODEL_NUMBER:
            findings.append(
                fail(
                    who(state, names),
                    f"is an {state.model_name} ({model})",
                    f"the arm needs an sts3215 ({STS3215_MODEL_NUMBER})",
                )
            )
    return or_ok(
        findings, "model", f"sts3215, {' and '.join(_by(states, lambda state: state.build))} build"
    )


def _check_versions(states: States, names: Names) -> list[Finding]:
    findings, versions, builds = (
        [],
        _by(states, lambda state: state.firmware),
        _by(states, lambda state: state.build),
    )
    if len(versions) > 1:
        findings.append(
            fail(
                "firmware",
                f"differs: {_groups(versions)}",
                "update them to one version with Feetech's FD program; LeRobot refuses a mixture",
            )
        )
    if len(builds) > 1:
        findings.append(
            warn(
                "model",
                f"builds differ: {_groups(builds)}",
                "one supply cannot suit both; see that no 7.4 V servo gets 12 V",
            )
        )
    return or_ok(findings, "firmware", ", ".join(versions))


def _supply(states: States, names: Names) -> Iterator[Finding]:
    volts = {state.servo_id: state.supply_v for state in states}
    for state in states:
        build, supply_v = state.build, volts[state.servo_id]
        low_v, high_v = SUPPLY_V[build]
        reads = f"supply {supply_v:.1f} V"
        if supply_v > high_v:
            yield fail(
                who(state, names),
                f"{reads}, its {build} build takes {high_v:g} V at most",
                "unplug it",
            )
        elif supply_v < low_v:
            yield fail(
                who(state, names),
                f"{reads}, its {build} build needs {low_v:g} V",
                "check the supply",
            )
        elif supply_v < LOW_SUPPLY_V[build]:
            yield warn(
                who(state, names),
                f"{reads} is low for its {build} build",
                "the supply sags; use one of 5 A or more, with short cables",
            )
    lowest = min(volts, key=volts.__getitem__)
    if max(volts.values()) - volts[lowest] > CABLE_DROP_V:
        yield warn(
            f"servo {lowest} ({names[lowest]})",
            f"{max(volts.values()) - volts[lowest]:.1f} V less than the best servo",
            "a plug or cable before it is bad",
        )


def _temperatures(states: States, names: Names) -> Iterator[Finding]:
    for state in states:
        temperature_c = state.temperature_c
        if temperature_c > HOT_C:
            yield fail(
                who(state, names),
                f"temperature {temperature_c} C, arming allows {HOT_C} C",
                "let it cool down; a hot joint that does nothing is blocked or carries too much",
            )
        elif temperature_c >= WARM_C:
            yield warn(who(state, names), f"temperature {temperature_c} C", "let it cool down")


def _faults(states: States, names: Names) -> Iterator[Finding]:
    for state in states:
        if state.status:
            remedies = [text for bit, text in REMEDIES.items() if state.status & bit]
            yield fail(
                who(state, names),
                f"reports {status_text(state.status)}",
                "; ".join(remedies) or "switch the arm's power off and on",
            )


def _by(states: States, key: Callable[[ServoState], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for state in states:
        groups.setdefault(key(state), []).append(state.servo_id)
    return groups


def _groups(groups: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(
        f"{value} in servo {' '.join(map(str, servo_ids))}" for value, servo_ids in groups.items()
    )
