"""The agent's command line: `python3 -I agent.pyz VERB --root FOLDER`.

session     talk to a host over stdin and stdout; fit for a forced command
provision   make this machine a device (root, once)
supervise   keep the service running where there is no systemd
guard       what the unit does before it starts the service
status      print what runs here
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from deploy.device.errors import DeviceError
from deploy.device.guard import guard
from deploy.device.installing import installed_releases
from deploy.device.layout import DEFAULT_ROOT, Layout, read_config
from deploy.device.provisioning import allowed_keys, provision
from deploy.device.service import service_of
from deploy.device.session import Session
from deploy.device.state import read_state
from deploy.device.supervisor import Supervisor
from deploy.device.wire import Wire

EXIT_OK, EXIT_REFUSED = 0, 2


def main(argv: list | None = None) -> int:
    """Run a verb; 0 when it is done, 2 when it was refused or failed."""
    args = _parser().parse_args(argv)
    os.umask(0o022)  # the service's user reads what root installs
    layout = Layout(Path(args.root))
    try:
        if args.verb == "session":
            return _session(layout)
        if args.verb == "provision":
            _provision(layout, args)
        elif args.verb == "supervise":
            return Supervisor(layout, read_config(layout)).run()
        elif args.verb == "guard":
            service = service_of(layout, read_config(layout))
            print(guard(layout, service) or "nothing to undo")
        else:
            _status(layout)
    except (DeviceError, OSError) as error:
        print(f"molmoact-edge agent: error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent.pyz", description="molmoact-edge on a device.")
    verbs = parser.add_subparsers(dest="verb")
    verbs.required = True
    for name in ("session", "provision", "supervise", "guard", "status"):
        verb = verbs.add_parser(name)
        verb.add_argument("--root", default=_own_root())
        if name == "provision":
            verb.add_argument("--keys", required=True, help="file of public keys, one a line")
            verb.add_argument("--push-user", help="who may push over SSH without a password")
            verb.add_argument("--service-user", help="default: molmoact under " + DEFAULT_ROOT)
            verb.add_argument("--python", help="an interpreter for releases")
            verb.add_argument("--forget-state", action="store_true")
    return parser


def _own_root() -> str:
    """An installed agent lies in the root that it serves."""
    archive = Path(sys.argv[0]).resolve()
    return str(archive.parent) if (archive.parent / "config.json").exists() else DEFAULT_ROOT


def _session(layout: Layout) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    source, target = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # no child of ours touches the conversation
    os.dup2(2, 1)
    wire = Wire(source, target)
    try:
        Session(layout, wire).serve()
    except DeviceError as error:
        wire.failed(error)
        return EXIT_REFUSED
    return EXIT_OK


def _provision(layout: Layout, args: argparse.Namespace) -> None:
    lines = Path(args.keys).read_text("utf-8").splitlines()
    provision(
        layout,
        allowed_keys(lines),
        Path(sys.argv[0]),
        args.push_user,
        args.service_user,
        args.python,
        args.forget_state,
        print,
    )


def _status(layout: Layout) -> None:
    state, service = read_state(layout), service_of(layout, read_config(layout)).status()
    print("runs: {} ({})".format(service["release"] or "nothing", service["state"]))
    print(f"current: {layout.current_id() or 'none'}")
    if state.trial is not None:
        print("on trial: {}".format(state.trial["to"]))
    for manifest in installed_releases(layout):
        print(f"installed: {manifest.id}, profile {manifest.profile_name}")
