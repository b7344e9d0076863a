"""What can be wrong between the adapter and the servos: echo, ids, rates, plugs and cables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from firmware_bridge.bus import Bus
from firmware_bridge.findings import Finding, fail, ok, warn
from firmware_bridge.line_probe import ReplyCount, broadcast_ping, echoes
from firmware_bridge.servo_survey import answering_ids, buses_at_other_rates
from firmware_bridge.transport import DEFAULT_BAUD_RATE

# LeRobot repeats a read twice; what is lost more often than this stops its loop every minute.
FAIL_SHARE = 0.05
# Of collided replies of two servos hardly one is whole; of a loose plug most are.
CLASH_SHARE = 0.5


def check_echo(bus: Bus, told: bool) -> Finding | None:
    """Say whether the adapter echoes other than the user said; None when it is as said."""
    found = echoes(bus)
    if found and not told:
        return fail(
            "adapter",
            "returns every byte sent",
            "set its jumper to USB (B on Waveshare's), or give --echo",
        )
    if told and not found:
        return fail("adapter", "returns nothing of what is sent", "leave --echo out")
    return None


def check_ids(
    open_at: Callable[[int], Bus], names: Mapping[int, str]
) -> tuple[list[int], list[Finding]]:
    """Return the ids that answer, and findings about the others. Raises PortError.

    `names` maps the arm's ids to joints, in the order of the chain. Servos that are missing are
    looked for at other rates too.
    """
    with contextlib.closing(open_at(DEFAULT_BAUD_RATE)) as bus:
        present = answering_ids(bus, list(names))
        heard = {frame.servo_id for frame in broadcast_ping(bus).frames}
        strangers = answering_ids(bus, sorted(heard - set(names)))
    missing = [servo_id for servo_id in names if servo_id not in present]
    findings = [
        warn("bus", f"servo {other} is not one of the arm's", "unplug it, or run setup for it")
        for other in strangers
    ]
    if not missing:
        return present, [ok("bus", f"servos {_listed(present)} answer"), *findings]
    elsewhere = {
        servo_id: other.transport.baud_rate
        for other in buses_at_other_rates(open_at, DEFAULT_BAUD_RATE)
        for servo_id in answering_ids(other, missing)
    }
    for servo_id, baud_rate in elsewhere.items():
        findings.append(
            fail(
                _who(servo_id, names),
                f"answers at {baud_rate} baud, not at {DEFAULT_BAUD_RATE}",
                f"plug it in alone and run 'molmoact-arm setup --only --joint {names[servo_id]}'",
            )
        )
    silent = [servo_id for servo_id in missing if servo_id not in elsewhere]
    if silent:
        findings.append(
            fail("bus", f"no answer from {_who(silent, names)}", _silence(silent, names, strangers))
        )
    return present, findings


def check_replies(counts: Mapping[int, ReplyCount], names: Mapping[int, str]) -> list[Finding]:
    """Say whose replies are lost or damaged, and where in the chain that begins."""
    asked = max((count.asked for count in counts.values()), default=0)
    bad = {servo_id: count for servo_id, count in counts.items() if count.bad}
    if not bad:
        return [ok("cable", f"no reply lost or damaged in {asked} reads of every servo")]
    findings = []
    for servo_id, count in bad.items():
        text = (
            f"{count.bad} of {count.asked} replies bad ({count.lost} lost, {count.damaged} damaged,"
            f" {count.doubled} doubled)"
        )
        alone = len(bad) == 1
        if alone and (count.doubled or count.damaged > CLASH_SHARE * count.asked):
            remedy = f"two servos may have id {servo_id}: plug them in one at a time and run setup"
            findings.append(fail(_who(servo_id, names), text, remedy))
            continue
        level = fail if count.bad > FAIL_SHARE * count.asked else warn
        findings.append(level(_who(servo_id, names), text, _cable(bad, counts, names)))
    return findings


def _silence(silent: Sequence[int], names: Mapping[int, str], strangers: Sequence[int]) -> str:
    if strangers and len(silent) == len(strangers):
        return (
            f"servo {_listed(strangers)} answers instead: plug it in alone and run "
            f"'molmoact-arm setup --only --joint {names[silent[0]]}'"
        )
    return _where(silent, names, "check the power supply, its switch and the adapter's cable")


def _cable(bad: Iterable[int], counts: Mapping[int, ReplyCount], names: Mapping[int, str]) -> str:
    # Only servos that answer are counted; the chain goes on behind the bad ones if a good one does.
    return _where(
        [servo_id for servo_id in names if servo_id in bad or servo_id not in counts],
        names,
        "check the adapter's cable to the first servo and the power supply",
    )


def _where(troubled: Sequence[int], names: Mapping[int, str], all_text: str) -> str:
    """Say where to look: the chain is the order of `names`, and trouble goes on to its end."""
    chain = list(names)
    first = chain.index(troubled[0])
    if len(troubled) == len(chain):
        return all_text
    if first > 0 and list(troubled) == chain[first:]:
        before = chain[first - 1]
        return f"check the cable between servos {before} and {troubled[0]}, and its plugs"
    return "check its plugs, and that its LED is lit"


def _who(servo_ids: int | Sequence[int], names: Mapping[int, str]) -> str:
    ids = [servo_ids] if isinstance(servo_ids, int) else servo_ids
    return ", ".join(f"servo {servo_id} ({names[servo_id]})" for servo_id in ids)


def _listed(ids: Iterable[int]) -> str:
    return " ".join(str(servo_id) for servo_id in ids)
