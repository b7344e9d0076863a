"""What the fault campaign stands on: a practice device, releases, and the judge."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.device.errors import DeviceError
from deploy.device.installing import installed_manifest
from deploy.device.layout import Layout
from deploy.device.release_manifest import BUNDLE
from deploy.errors import FlashError
from deploy.link import AgentLink
from deploy.practice_device import PracticeDevice
from deploy.practice_release import HEALTHY, make_key, practice_release
from deploy.practice_user import PracticeUser
from deploy.push import PushResult, PushWishes, push_release
from deploy.release import Release

SETTLE_S, START_S = 0.5, 5.0
_PATIENCE_S = 120.0
WATCH = "watch"  # the part of `activate` after the switch
_DISK_MIB = 320


@dataclass(frozen=True, slots=True)
class Verdict:
    """What runs after a fault, and whether that is one complete release that says so."""

    runs: str | None
    lost: str  # why a release counts as lost, "" when none is


class CampaignRig:
    """One device and everything that is done to it."""

    def __init__(self, folder: Path) -> None:
        """Make a device behind sshd in `folder`; as root on a disk and for a user of its own."""
        self.key, self.foreign_key = make_key(folder, "release"), make_key(folder, "foreign")
        folder.chmod(0o755)
        self.disk = _small_disk(folder / "disk")
        self.user = PracticeUser(folder.resolve())
        python = self.user.python
        self._python_version = self.user.python_version
        self.device = PracticeDevice(
            folder / "disk" / "device", [self.key], python, python, self.user.name
        )
        self.device.serve()
        self.layout = Layout(self.device.root)
        self._folder = folder
        self._number = 0
        self.links: list[AgentLink] = []

    @property
    def conditions(self) -> str:
        """Say what this machine allowed."""
        disk = "no disk of its own" if self.disk is None else f"a disk of {_DISK_MIB} MiB"
        return f"as user {self.user.name or 'who runs this'}, {disk}"

    def release(self, behaviour: str = HEALTHY, key: Path | None = None, **other: str) -> Release:
        """Make the next release."""
        self._number += 1
        folder = self._folder / f"release{self._number}"
        other.setdefault("python", self._python_version)
        return practice_release(folder, self._number, key or self.key, behaviour, **other)

    def push(
        self,
        release: Release,
        at: dict[str, Callable[[], None]] | None = None,
    ) -> PushResult:
        """Push without taking a lost connection up again; `at` a phase something may happen."""
        happens = dict(at or {})

        def seen(phase: str) -> None:
            if phase in happens:
                happens.pop(phase)()

        def heard(line: str) -> None:
            if "switched to" in line:
                seen(WATCH)

        wishes = PushWishes(settle_s=SETTLE_S, start_s=START_S)
        return push_release(
            lambda: self.connect(heard), release, wishes, lambda line: None, seen, tries=1
        )

    def connect(self, say: Callable[[str], None] = lambda line: None) -> AgentLink:
        """Open a session that `cut` can tear."""
        link = self.device.connect(say)
        self.links.append(link)
        return link

    def cut(self) -> None:
        """Tear the newest connection."""
        self.links[-1].cut()

    def kill_agent(self) -> None:
        """Kill every session on the device, without a word."""
        for pid in self.device.agent_pids():
            _kill(pid)

    def kill_supervisor(self) -> None:
        """Kill the supervisor; the service goes with it."""
        _kill(self.device.supervisor_pid())

    def kill_all(self) -> None:
        """Kill everything on the device at once, as a reset does."""
        self.kill_supervisor()
        self.kill_agent()

    def push_in_a_process(self, release: Release) -> subprocess.Popen:
        """Push from a process that can be killed."""
        program = (
            "import sys; from pathlib import Path; from deploy.link import AgentLink; "
            "from deploy.push import PushWishes, push_release; "
            "from deploy.release import open_release\n"
            "words = sys.argv[2:]\n"
            "push_release(lambda: AgentLink(words, lambda line: print(line, flush=True)), "
            f"open_release(Path(sys.argv[1])), PushWishes(settle_s={SETTLE_S}), "
            "lambda line: None, lambda phase: print(phase, flush=True), tries=1)"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program, str(release.folder), *self.device.session_words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def fill_disk(self) -> None:
        """Leave the device's disk without room."""
        if self.disk is None:
            raise FlashError("the device has no disk of its own here; that needs root")
        ballast = self.disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for chunk in (bytes(1 << 20), b"0"):
                with suppress(OSError):
                    while file.write(chunk):
                        pass

    def empty_disk(self) -> None:
        """Give the room back."""
        if self.disk is not None:
            with suppress(FileNotFoundError):
                (self.disk / "ballast").unlink()

    def give_to_device(self, path: Path) -> None:
        """Let the device's user own what was put into its folders from outside."""
        if self.user.name is not None:
            shutil.chown(path, self.user.name)

    def judge(self, allowed: set[str]) -> Verdict:
        """Say what runs once the dust has settled, before and after somebody asks for the status.

        `allowed` are the releases that may run now.
        """
        if not _wait(lambda: not self.device.agent_pids()):
            return Verdict(None, "a session does not end")
        lost = self._complete()
        with self.connect() as link:
            status = link.ask("status")
        if not lost and not _wait(self._is_up):
            lost = f"the service does not run: {self.device.running()}"
        running = self.device.running()
        with self.connect() as link:
            status = link.ask("status")
        lost = lost or self._complete()
        if not lost and running["process"] not in allowed:
            lost = f"runs {running['process']}, none of {', '.join(sorted(allowed))}"
        if not lost and not (
            running["process"] == running["link"] == status["current"] == status["confirmed"]
        ):
            lost = f"says {status['current']}, runs {running['process']}"
        if not lost and status["trial"] is not None:
            lost = "a trial is left over"
        return Verdict(running["process"], lost)

    def close(self) -> None:
        """End everything and give disk and user back."""
        self.device.close()
        self.user.remove()
        if self.disk is not None:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)

    def _is_up(self) -> bool:
        running = self.device.running()
        return running["state"] == "running" and running["process"] == running["link"]

    def _complete(self) -> str:
        """Return what is wrong with the release that the link names."""
        current = self.layout.current_id()
        if current is None:
            return "no release is current"
        try:
            manifest = installed_manifest(self.layout, current)
        except DeviceError as error:
            return str(error)
        for file in manifest.under(BUNDLE):
            content = (self.layout.release(current) / file.path).read_bytes()
            if hashlib.sha256(content).hexdigest() != file.sha256:
                return f"{current}: {file.path} is altered"
        return ""


def _small_disk(folder: Path) -> Path | None:
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return None
    words = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "molmoact-campaign", str(folder)]
    done = subprocess.run(words, capture_output=True, check=False)
    return folder if done.returncode == 0 else None


def _wait(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _kill(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
