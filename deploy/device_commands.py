"""What is asked of a device that has releases: status, rollback, run, prune, keys."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from deploy.device.settings import ACCEPTABLE, DEPTH_MODES
from deploy.errors import FlashError
from deploy.host_arguments import add_host, connector
from deploy.push import mib
from deploy.result_file import add_result, reported, write_result
from firmware_bridge.command_line import one_or_more

KEPT_RELEASES = 3


def add_device_commands(commands: argparse._SubParsersAction) -> None:
    """Describe the commands."""
    status = _add(commands, "status", "say what runs on a device")
    status.add_argument("--json", action="store_true", help="print all of it as one JSON object")
    rollback = _add(commands, "rollback", "go back to the release before, or to one by name")
    rollback.add_argument("--to", metavar="ID", help="an installed release, as 'status' lists them")
    rollback.add_argument("--settle-s", type=float, help="how long it must stay up (default 10)")
    add_result(rollback)
    _add_run(commands)
    prune = _add(commands, "prune", "remove old releases and contents from a device")
    prune.add_argument(
        "--keep",
        type=one_or_more,
        default=KEPT_RELEASES,
        help=f"of the newest releases (default {KEPT_RELEASES}); the current one and the one "
        "before always stay",
    )
    _add(commands, "keys", "list the keys that a device trusts")


def _add(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example: molmoact-flash {name} user@jetson",
    )
    add_host(command)
    return command


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="give a device's service its task, or take it away",
        description="Store the task, ports and calibrations of this one robot on the device and "
        "start its service anew. With a task the arm moves, also after every boot.",
        epilog="example: molmoact-flash run user@jetson --task 'put the red cube in the bin' "
        "--calibration arm.json",
    )
    add_host(run)
    task = run.add_mutually_exclusive_group(required=True)
    task.add_argument("--task", metavar="WORDS", help="what to do, in plain words")
    task.add_argument("--stop", action="store_true", help="no task: the arm is let down")
    run.add_argument("--arm-port", action="append", help="default /dev/molmoact-arm; once an arm")
    run.add_argument("--calibration", type=Path, action="append", metavar="FILE")
    run.add_argument(
        "--depth", choices=DEPTH_MODES, help="(default: as before; at first, as the gate judged)"
    )
    run.add_argument("--accept", choices=ACCEPTABLE, action="append", help="as 'molmoact-edge run'")


def run_status(args: argparse.Namespace) -> None:
    """Print what runs there."""
    with connector(args)() as link:
        status = link.ask("status")
    print(json.dumps(status) if args.json else "\n".join(status_lines(args.host, status)))


def status_lines(host: str, status: dict[str, Any]) -> list[str]:
    """Return a status for people."""
    service = status["service"]
    says = f": {service['says']}" if service["says"] else ""
    lines = [
        f"{host}: {service['release'] or 'nothing'} {service['state']}{says}",
        f"  current    {status['current'] or 'none'}",
        f"  before     {status['previous'] or 'none'}",
        f"  profile    {status['profile'] or 'none yet'}",
        f"  installed  {', '.join(status['releases']) or 'none'}",
        f"  service    {service['kind']}, started anew {service['restarts']} times",
        f"  task       {'; '.join(status['settings']['tasks']) or 'none'}",
        f"  accepts    {', '.join(status['settings']['accept']) or 'no bundle but a passed one'}",
    ]
    if status["trial"]:
        lines.insert(1, f"  on trial   {status['trial']['to']}, not confirmed yet")
    if status["busy"]:
        lines.append(f"  busy       {status['busy']}")
    lines += [
        f"  {entry['utc']}  {entry['what']} {entry['release'] or 'nothing'}"
        for entry in status["history"][-5:]
    ]
    return lines


def run_rollback(args: argparse.Namespace) -> None:
    """Go back."""
    wishes = {"to": args.to} | ({} if args.settle_s is None else {"settle_s": args.settle_s})
    started_s = time.monotonic()
    with reported(args), connector(args)() as link:
        done = link.ask("rollback", **wishes)
        print(f"{args.host} runs {done['release']}")
        seconds = round(time.monotonic() - started_s, 2)
        write_result(args, {"host": args.host, "release": done["release"], "seconds": seconds})


def run_run(args: argparse.Namespace) -> None:
    """Store settings; FlashError when a calibration cannot be read."""
    settings: dict[str, Any] = {"tasks": [args.task] if args.task else []}
    settings["accept"] = args.accept or []  # never left over from a task before
    if args.arm_port:
        settings["ports"] = args.arm_port
    if args.depth:
        settings["depth"] = args.depth
    if args.calibration:
        settings["calibrations"] = [_text(path) for path in args.calibration]
    with connector(args)() as link:
        service = link.ask("settings", settings=settings)["service"]
    says = f" ({service['says']})" if service["says"] else ""
    print(f"{args.host}: {args.task or 'no task; the arm is let down'}{says}")


def run_prune(args: argparse.Namespace) -> None:
    """Prune."""
    with connector(args)() as link:
        done = link.ask("prune", keep=args.keep)
    print(f"{args.host}: {mib(done['freed_bytes'])} freed")


def run_keys(args: argparse.Namespace) -> None:
    """List the trusted keys."""
    with connector(args)() as link:
        keys = link.ask("keys")["keys"]
    for key in keys:
        print(f"{key['name']}  {key['kind']} {key['key']}")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise FlashError(f"{path}: cannot read the calibration ({error})") from error
