"""A device in a folder of this machine: the real agent, supervisor and sshd, nobody's robot.

With `serve` a real OpenSSH server on loopback stands before it, which lets the given key in for
nothing but the agent's session, the way docs/flash.md tells owners to restrict a key.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from deploy.agent_archive import agent_archive
from deploy.errors import FlashError
from deploy.link import AgentLink, Say, session_command, ssh_command

_READY_S = 10.0
_SSHD_CONFIG = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
LogLevel ERROR
"""


def find_sshd() -> str | None:
    """Return the path of the OpenSSH server, None where it is not installed."""
    return shutil.which("sshd") or next(
        (path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(path)), None
    )


class PracticeDevice:
    """A provisioned root folder; `close` ends everything that runs for it."""

    def __init__(
        self,
        folder: Path,
        keys: list[Path],
        python: str = sys.executable,
        release_python: str = sys.executable,
        user: str | None = None,
    ) -> None:
        """Provision `folder`/root to trust the public `keys`.

        The agent runs on `python`, releases on `release_python`; both, and whoever logs in, as
        `user` where root asks for one.
        """
        self.folder = folder
        self.user = user
        self._release_python = release_python
        self.root = folder / "root"
        self.python = python
        self._sshd: subprocess.Popen | None = None
        self._ssh: list[str] = []
        self.host, self.port, self.options = "", 0, ()
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None:
            shutil.chown(folder, user)
        (folder / "agent.pyz").write_bytes(agent_archive())
        self.provision(keys)

    def provision(self, keys: list[Path]) -> None:
        """Do what `molmoact-flash provision` does on a device."""
        lines = "".join(key.with_suffix(".pub").read_text() for key in keys)
        (self.folder / "keys").write_text(lines)
        archive = self.folder / "agent.pyz"
        command = [self.python, "-I", str(archive), "provision", "--root", str(self.root)]
        command += ["--keys", str(self.folder / "keys"), "--python", self._release_python]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, user=self.user, cwd="/"
        )
        if done.returncode:
            raise FlashError(f"practice device: {done.stderr.strip()}")

    @property
    def host_words(self) -> list[str]:
        """How the device is named on molmoact-flash's command line, after `serve`."""
        words = [self.host, "--port", str(self.port), "--root", str(self.root)]
        words += ["--identity", str(self.folder / "login_key")]
        return words + [f"--ssh-option={option}" for option in self.options]

    @property
    def session_words(self) -> list[str]:
        """The words that start a session."""
        if self._ssh:
            return session_command(self._ssh, str(self.root))
        return [self.python, "-I", str(self.root / "agent.pyz"), "session"]

    def connect(self, say: Say = lambda line: None) -> AgentLink:
        """Open a session."""
        return AgentLink(self.session_words, say)

    def serve(self, restricted: bool = True) -> None:
        """Put an OpenSSH server before the device; FlashError without one.

        Its key opens the agent's session alone, or with `restricted` False everything.
        """
        program = find_sshd()
        if program is None:
            raise FlashError("no sshd here; on Debian and Ubuntu: apt-get install openssh-server")
        for name in ("host_key", "login_key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(words, check=True)
        public = (self.folder / "login_key.pub").read_text()
        forced = f"{self.python} -I {self.root}/agent.pyz session"
        limits = f'restrict,command="{forced}" ' if restricted else ""
        (self.folder / "authorized_keys").write_text(limits + public)
        port = _free_port()
        config = self.folder / "sshd_config"
        config.write_text(_SSHD_CONFIG.format(port=port, folder=self.folder))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "sshd.log").open("wb") as log:
            self._sshd = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stderr=log)
        _wait_for_port(port)
        known = self.folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {(self.folder / 'host_key.pub').read_text()}")
        self.options = (f"UserKnownHostsFile={known}", "LogLevel=ERROR", "ControlPath=none")
        user = self.user or pwd.getpwuid(os.geteuid()).pw_name
        self.host, self.port = f"{user}@127.0.0.1", port
        self._ssh = ssh_command(self.host, port, self.folder / "login_key", self.options)

    def running(self) -> dict[str, object]:
        """Return what runs, seen from outside the agent: link, service and its process."""
        stated: dict[str, object] = {}
        with suppress(OSError, ValueError):
            stated = json.loads((self.root / "run" / "service.json").read_text())
        pid = stated.get("pid")
        command = b""
        if isinstance(pid, int):
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        link = os.path.basename(os.readlink(self.root / "current")) if self._has_link() else None
        process = command.decode().partition("/releases/")[2].split("/")[0] or None
        return {"link": link, "process": process, "state": stated.get("state")}

    def agent_pids(self) -> list[int]:
        """Return the processes of sessions that live."""
        archive, found = str(self.root / "agent.pyz").encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if archive in words and b"session" in words:
                        found.append(int(entry.name))
        return found

    def boot(self) -> None:
        """Start what starts with the machine."""
        command = [self.python, "-I", str(self.root / "agent.pyz"), "supervise"]
        subprocess.Popen(
            [*command, "--root", str(self.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=self.user,
            cwd="/",
        )

    def supervisor_pid(self) -> int | None:
        """Return the supervisor's process."""
        with suppress(OSError, ValueError):
            return int((self.root / "run" / "supervisor.pid").read_text())
        return None

    def close(self) -> None:
        """End sshd, sessions, supervisor and service."""
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd.wait()
        for pid in [*self.agent_pids(), self.supervisor_pid()]:
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + _READY_S
        while self._supervisor_lives() and time.monotonic() < deadline_s:
            time.sleep(0.02)

    def _supervisor_lives(self) -> bool:
        with suppress(OSError):
            words = Path(f"/proc/{self.supervisor_pid()}/cmdline").read_bytes().split(b"\0")
            return b"supervise" in words
        return False

    def _has_link(self) -> bool:
        return os.path.lexists(self.root / "current")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_port(port: int) -> None:
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.05)
    raise FlashError(f"practice device: sshd does not answer on port {port}")
