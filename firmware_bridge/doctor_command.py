"""`molmoact-arm doctor`: what is wrong with an arm, and how to mend it."""

from __future__ import annotations

import argparse
from typing import Any

from firmware_bridge.calibration import load_calibration
from firmware_bridge.calibration_files import add_calibration_options, read_path
from firmware_bridge.command_line import EXIT_USAGE
from firmware_bridge.console import Console, Terminal, confirmed
from firmware_bridge.doctor import Doctor
from firmware_bridge.findings import Finding, Level, worst
from firmware_bridge.port_options import UserError, add_port_options, number_in, open_bus

READS = 100


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong with an arm and how to mend it",
        description="Check an arm before it is driven: port, adapter, ids, cables, supply, "
        "temperature, settings, calibration, and what the last program left behind. One line a "
        "finding; exit 0 when none says fail. Nothing moves, and nothing is written without --fix.",
        epilog="example: molmoact-arm doctor --port /dev/ttyACM0 --calibration arm.json",
    )
    parser.add_argument("--port", required=True)
    add_calibration_options(parser)
    parser.add_argument(
        "--fix", action="store_true", help="mend what can be mended without moving, asking each"
    )
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    parser.add_argument(
        "--reads",
        type=lambda text: int(number_in(1, 100_000, "reads")(text)),
        default=READS,
        metavar="N",
        help="read every servo so often to find bad cables (default %(default)s)",
    )
    add_port_options(parser, other_rates=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Examine the arm; return 0 unless something fails, then 2."""
    console = Terminal()
    if arguments.fix and not arguments.yes and not console.interactive:
        raise UserError("--fix asks before it writes; run it in a terminal, or give --yes")
    path = read_path(arguments)
    doctor = Doctor(
        lambda baud_rate: open_bus(arguments.port, arguments, baud_rate),
        calibration=load_calibration(path) if path else None,
        echo=arguments.echo,
        reads=arguments.reads,
    )
    findings = report(console, doctor, arguments.port)
    if arguments.fix and mend(console, doctor, findings, ask=not arguments.yes):
        findings = report(console, doctor, arguments.port)
    return EXIT_USAGE if worst(findings) is Level.FAIL else 0


def report(console: Console, doctor: Doctor, port: str) -> list[Finding]:
    """Print findings as they are made, and how many there were."""
    findings = []
    for finding in doctor.examine(port):
        console.say(finding.line)
        findings.append(finding)
    n_fails, n_warnings = (
        sum(finding.level is level for finding in findings) for level in (Level.FAIL, Level.WARN)
    )
    verdict = "not fit to be driven" if n_fails else "fit to be driven"
    console.say(f"{verdict}: {n_fails} fail, {n_warnings} warn")
    return findings


def mend(console: Console, doctor: Doctor, findings: list[Finding], *, ask: bool) -> bool:
    """Mend what can be mended; return whether anything was."""

    def agreed(what: str) -> bool:
        if not ask:
            console.say(f"mending {what}")
            return True
        return confirmed(console, f"mend {what}?")

    if not any(finding.mends for finding in findings):
        console.say("nothing of it can be mended from here")
        return False
    return doctor.mend(findings, agreed, console.say) > 0
