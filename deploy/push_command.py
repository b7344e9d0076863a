"""`molmoact-flash push`: a release onto one device."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.build_command import add_contents, options_from
from deploy.device.interpreter import SUPPORTED
from deploy.errors import FlashError
from deploy.host_arguments import add_host, connector, say
from deploy.link import AgentLink
from deploy.push import PushResult, PushWishes, mib, push_release
from deploy.release import Release, open_release
from deploy.release_build import build_release
from deploy.result_file import add_result, reported, write_result


def add_push(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "push",
        help="bring a release to a device",
        description="Build a release for a device, or take one from a folder, send what the device "
        "does not have, install it there, try one inference, switch, and watch that the service "
        "stays up. Whatever fails, the device runs what it ran before.",
        epilog="example: molmoact-flash push user@jetson --profile so101 --bundle bundle/",
    )
    add_host(command)
    add_contents(command, required=False)
    command.add_argument(
        "--release",
        type=Path,
        action="append",
        default=[],
        help="a folder of 'molmoact-flash build'; of several the one made for the device is taken",
    )
    command.add_argument("--older", metavar="ID", help="take this release though it is older")
    command.add_argument(
        "--change-profile", metavar="NAME", help="the device's present profile, to replace it"
    )
    command.add_argument("--settle-s", type=float, help="how long it must stay up (default 10)")
    add_result(command)


def run_push(args: argparse.Namespace) -> None:
    """Push; FlashError says why not."""
    given = bool(args.release)
    wishes = PushWishes(args.older, args.change_profile, args.settle_s)
    with reported(args), tempfile.TemporaryDirectory(prefix="molmoact-release-") as scratch:
        if given == (args.bundle is not None or args.profile is not None):
            raise FlashError("give either --release, or --bundle and --profile")
        if not given and (args.bundle is None or args.profile is None):
            raise FlashError("--bundle and --profile belong together; give both")
        connect = connector(args)
        facts = _facts(connect, args.host)
        if given:
            release = fitting([open_release(folder) for folder in args.release], facts)
        else:
            release = _built_for(facts, args, Path(scratch))
        result = push_release(connect, release, wishes, say)
        print(_in_words(args.host, result))
        write_result(args, as_json(args.host, result))


def best_python(facts: dict[str, Any]) -> str:
    """Return the oldest supported Python of a device; FlashError when it has none."""
    for version in SUPPORTED:
        if version in facts["pythons"]:
            return version
    raise FlashError(
        f"the device has no Python from {SUPPORTED[0]} to {SUPPORTED[-1]}; JetPack 5 has 3.8: "
        "install a newer one there and provision with --python PATH"
    )


def as_json(host: str, result: PushResult) -> dict[str, Any]:
    """Return a result for other programs."""
    return {
        "host": host,
        "release": result.release,
        "before": result.before,
        "signer": result.signer,
        "sent_bytes": result.sent_bytes,
        "total_bytes": result.total_bytes,
        "seconds": round(result.seconds, 2),
        "health": result.health,
    }


def fitting(releases: list[Release], facts: dict[str, Any]) -> Release:
    """Return the release for a device's processor and Python; the only one where none is."""
    for release in releases:
        manifest = release.manifest
        if manifest.machine == facts["machine"] and manifest.python in facts["pythons"]:
            return release
    if len(releases) == 1:
        return releases[0]  # the device says why it does not take it
    made = ", ".join(f"{r.manifest.machine} Python {r.manifest.python}" for r in releases)
    raise FlashError(
        f"no release for {facts['machine']} with Python {', '.join(facts['pythons']) or 'none'}; "
        f"there are: {made}"
    )


def _facts(connect: Callable[[], AgentLink], host: str) -> dict[str, Any]:
    with connect() as link:
        facts = link.ask("facts")
    board = facts["part_number"] or facts["model"] or "no board that says its name"
    l4t = f", L4T {facts['l4t']}" if facts["l4t"] else ""
    say(f"{host}: {facts['machine']}, {board}{l4t}, Python {', '.join(facts['pythons'])}")
    return facts


def _built_for(facts: dict[str, Any], args: argparse.Namespace, scratch: Path) -> Release:
    options = options_from(args, facts["machine"], best_python(facts))
    return build_release(options, scratch / "release", say)


def _in_words(host: str, result: PushResult) -> str:
    before = f", {result.before} before" if result.before else ""
    return (
        f"{host} runs {result.release} (signed by {result.signer}{before}); sent "
        f"{mib(result.sent_bytes)} of {mib(result.total_bytes)} in {result.seconds:.1f} s"
    )
