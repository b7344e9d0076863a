"""`molmoact-flash fleet`: the same release on many devices, through Ansible."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import string
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from deploy.build_command import add_contents, options_from
from deploy.device.interpreter import SUPPORTED
from deploy.errors import FlashError
from deploy.host_arguments import say
from deploy.push import mib
from deploy.release_build import build_release

NOT_TRIED = "not tried: stopped before it"
_ANSIBLE = "ansible-playbook"
_RANGE = re.compile(r"\[(?:([0-9]*):([0-9]+)|([A-Za-z]):([A-Za-z]))(?::([1-9][0-9]*))?\]")


def add_fleet(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "fleet",
        help="the same on many devices: canaries first, in batches, stop at the first failure",
        description="Push a release to every device of an Ansible inventory, or roll all of them "
        "back. Devices of the group 'canary' come first, one after the other; the first failure "
        "ends it, and the other devices keep what they run.",
        epilog="example: molmoact-flash fleet inventory.yaml --bundle bundle/ --profile so101",
    )
    command.add_argument("inventory", type=Path, help="Ansible inventory in YAML")
    add_contents(command, required=False)
    command.add_argument(
        "--release",
        type=Path,
        action="append",
        default=[],
        help="a folder of 'molmoact-flash build'; one for each kind of device",
    )
    command.add_argument("--machine", choices=("aarch64", "x86_64"), default="aarch64")
    command.add_argument("--python", choices=SUPPORTED, default="3.10", help="default 3.10")
    command.add_argument("--rollback", action="store_true", help="each to its release before")
    command.add_argument(
        "--batches",
        default="1,25%",
        help="devices at a time after the canaries, the last for all the rest (default 1,25%%)",
    )
    command.add_argument("--change-profile", metavar="NAME", help="the present one, to replace it")
    command.add_argument("--settle-s", type=float, help="how long each must stay up (default 10)")


def run_fleet(args: argparse.Namespace) -> int:
    """Flash the fleet, print a line a device; 2 when any of them failed or was not tried."""
    hosts = inventory_hosts(args.inventory)
    program = _find_ansible()
    with tempfile.TemporaryDirectory(prefix="molmoact-fleet-") as name:
        results = Path(name) / "results"
        results.mkdir()
        variables = {
            "molmoact_command": [sys.executable, "-m", "deploy.cli"],
            "molmoact_verb": "rollback" if args.rollback else "push",
            "molmoact_words": _words(args, Path(name)),
            "molmoact_batches": _batches(args.batches),
            "molmoact_results": str(results),
        }
        stated = Path(name) / "variables.json"
        stated.write_text(json.dumps(variables))
        playbook = resources.files("deploy").joinpath("fleet", "flash.yml")
        with resources.as_file(playbook) as path:
            command = [program, "-i", str(args.inventory), str(path), "-e", f"@{stated}"]
            environment = dict(os.environ, ANSIBLE_NOCOWS="1", PYTHONPATH=_import_path())
            done = subprocess.run(command, check=False, env=environment, stdout=sys.stderr)
        table = [_row(host, results / f"{host}.json") for host in hosts]
    print("\n".join(line for _, line in table))
    good = sum(1 for fine, _ in table if fine)
    print(f"{good} of {len(table)} devices done")
    return 0 if done.returncode == 0 and good == len(table) else 2


def inventory_hosts(path: Path) -> list[str]:
    """Return the devices of a YAML inventory, in its order; FlashError when there are none."""
    try:
        stated = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FlashError(f"{path}: cannot read the inventory ({error})") from error
    found: dict[str, None] = {}
    for group in (stated or {}).values() if isinstance(stated, dict) else ():
        _gather(group, found)
    if not found:
        raise FlashError(f"{path}: no devices; see docs/flash.md for the form of an inventory")
    return list(found)


def _gather(group: Any, found: dict[str, None]) -> None:
    if isinstance(group, dict):
        for pattern in group.get("hosts") or {}:
            found.update(dict.fromkeys(_expanded(str(pattern))))
        for child in (group.get("children") or {}).values():
            _gather(child, found)


def _expanded(pattern: str) -> list[str]:
    """Return the devices that Ansible reads in `robot-[1:3]`, `robot-[01:10:3]` or `arm-[a:c]`."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last, first_letter, last_letter, step = found.groups()
    if first_letter:
        letters = string.ascii_letters
        chosen = letters[letters.index(first_letter) : letters.index(last_letter) + 1]
        values = list(chosen[:: int(step or 1)])
    else:
        width = len(first) if first.startswith("0") else 0
        numbers = range(int(first or 0), int(last) + 1, int(step or 1))
        values = [str(number).zfill(width) for number in numbers]
    before, behind = pattern[: found.start()], pattern[found.end() :]
    return [host for value in values for host in _expanded(before + value + behind)]


def _words(args: argparse.Namespace, scratch: Path) -> list[str]:
    settle = [] if args.settle_s is None else ["--settle-s", f"{args.settle_s:g}"]
    if args.rollback:
        return settle
    releases = list(args.release)
    if bool(releases) == (args.bundle is not None):
        raise FlashError("give either --release, or --bundle and --profile")
    if not releases:
        if args.profile is None:
            raise FlashError("--bundle needs --profile")
        release = build_release(
            options_from(args, args.machine, args.python), scratch / "release", say
        )
        releases = [release.folder]
    change = ["--change-profile", args.change_profile] if args.change_profile else []
    return [*(f"--release={path.resolve()}" for path in releases), *change, *settle]


def _batches(text: str) -> list[int | str]:
    batches: list[int | str] = []
    for word in text.split(","):
        number = word.strip().removesuffix("%")
        if not number.isdecimal() or not int(number):
            raise FlashError(f"--batches {text}: numbers or percentages above 0 are needed")
        batches.append(f"{number}%" if word.strip().endswith("%") else int(number))
    return batches


def _find_ansible() -> str:
    beside = Path(sys.executable).parent / _ANSIBLE
    program = str(beside) if beside.exists() else shutil.which(_ANSIBLE)
    if program is None:
        raise FlashError(
            "ansible-playbook is missing; pip install --constraint constraints/fleet.txt "
            "'ansible-core>=2.17'"
        )
    return program


def _import_path() -> str:
    """Let the processes that Ansible starts find this program, installed or not."""
    here = str(Path(__file__).parent.parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _row(host: str, path: Path) -> tuple[bool, str]:
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False, f"{host:<24} {NOT_TRIED}"
    if "error" in result:
        return False, f"{host:<24} FAILED: {result['error']}"
    sent = f", sent {mib(result['sent_bytes'])}" if "sent_bytes" in result else ""
    return True, f"{host:<24} runs {result['release']}{sent} in {result['seconds']:.1f} s"
