"""Small signed releases that behave as told: what tests and the fault campaign push.

The runtime in them is a few lines that answer the agent's calls as the real one does: `edge.cli
check` prints a result, `edge.service` says that it is ready and gives signs of life.
"""

from __future__ import annotations

import hashlib
import platform
import random
import subprocess
import sys
from pathlib import Path

from deploy.device.release_manifest import AGENT, BUNDLE, WHEELS
from deploy.release import Release, write_release
from deploy.release_build import stated_release, system_parts, unpacked_size
from deploy.robot_wheel import pack_wheel

HEALTHY, SICK, CRASHING, SILENT = "healthy", "sick", "crashing", "silent"
PROFILE = "practice"
FIRST_SEQUENCE = 20260101000000
_CHECK = """import json, sys
if {behaviour!r} == "sick":
    print("molmoact-edge: error: actions are not finite on this machine", file=sys.stderr)
    sys.exit(2)
from pathlib import Path
bundle = Path(sys.argv[2])
print(json.dumps({{"ok": True, "act_s": 0.01, "providers": ["CPUExecutionProvider"],
                   "bytes": sum(f.stat().st_size for f in bundle.iterdir())}}))
"""
_SERVICE = """import os, signal, socket, sys, time
if {behaviour!r} == "crashing":
    sys.exit("this release crashes")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
address = os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1)
notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
while True:
    if {behaviour!r} != "silent":
        notices.sendto(b"READY=1\\nWATCHDOG=1\\nSTATUS=release {number}", address)
    time.sleep(1.0)
"""


def make_key(folder: Path, name: str) -> Path:
    """Make an Ed25519 key without a passphrase; returns the private one, NAME.pub beside it."""
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def practice_release(
    folder: Path,
    number: int,
    key: Path,
    behaviour: str = HEALTHY,
    bundle_kib: int = 256,
    python: str | None = None,
    machine: str | None = None,
    profile: str = PROFILE,
    members: dict[str, bytes] | None = None,
    agent: bytes | None = None,
) -> Release:
    """Write release `number`; most of its bundle and one of its two wheels are in all of them.

    `members` are put into the other wheel besides, and `agent` replaces the present one.
    """
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parts: dict[str, bytes | Path] = {
        BUNDLE + "manifest.json": b'{"practice": %d}\n' % number,
        BUNDLE + "decoder.bin": random.Random(0).randbytes(bundle_kib * 896),
        BUNDLE + "expert.bin": random.Random(number).randbytes(bundle_kib * 128),
    }
    lasting = random.Random(-1).randbytes(bundle_kib * 128)
    wheels = [
        pack_wheel("engine", "1.0", {"engine/__init__.py": b"", "engine/data.bin": lasting}),
        pack_wheel(
            "molmoact_edge",
            f"0.{number}",
            {
                "edge/__init__.py": b"",
                "edge/cli.py": _CHECK.format(behaviour=behaviour).encode(),
                "edge/service.py": _SERVICE.format(behaviour=behaviour, number=number).encode(),
                **(members or {}),
            },
        ),
    ]
    parts |= {WHEELS + name: content for name, content in wheels}
    needs = {
        "unpacked_bytes": sum(unpacked_size(content) for _, content in wheels),
        "memory_mib": 1,
        "provider": None,
        "part_numbers": [],
    }
    stated = stated_release(
        name=f"practice{number}",
        target={"machine": machine or platform.machine(), "python": python or here},
        profile=profile,
        profile_name=profile,
        bundle_sha256=hashlib.sha256(b"%d" % number).hexdigest(),
        needs=needs,
        sequence=FIRST_SEQUENCE + number,
    )
    parts |= system_parts()
    if agent is not None:
        parts[AGENT] = agent
    return write_release(folder, stated, parts, key)
