"""A user for the practice device, where root can make one; what is root's is not its own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from deploy.device.interpreter import SUPPORTED

NAME = "molmoact-practice"
_SYSTEM_PYTHON = "/usr/bin/python3"  # others may lie where only their owner can look
_ASK = "import sys; print('%d.%d' % sys.version_info[:2])"


class PracticeUser:
    """`name` is None, and `python` this one, where no user can be made."""

    def __init__(self, folder: Path) -> None:
        """Make the user if it could look into `folder`; one that is left over is used again."""
        version = _version_of(_SYSTEM_PYTHON)
        self.name: str | None = None
        self.python, self.python_version = sys.executable, _version_of(sys.executable)
        open_to_all = all(above.stat().st_mode & stat.S_IXOTH for above in folder.parents)
        able = os.geteuid() == 0 and shutil.which("useradd") is not None
        if able and open_to_all and version in SUPPORTED:
            words = ["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", NAME]
            subprocess.run(words, capture_output=True, check=False)
            # No password, but not locked either: sshd refuses locked users.
            done = subprocess.run(["usermod", "--password", "*", NAME], check=False)
            if done.returncode == 0:
                self.name = NAME
                self.python, self.python_version = _SYSTEM_PYTHON, version

    def remove(self) -> None:
        """Take the user away again."""
        if self.name is not None:
            subprocess.run(["userdel", self.name], capture_output=True, check=False)


def _version_of(python: str) -> str:
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
