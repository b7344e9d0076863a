"""Write out the record that a program kept in memory, when the program itself is gone.

The memory is a descriptor that the watchdog holds too. Its layout is the program's affair: all that
is known here is where the reason goes, how much to copy, and into which file.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass

COPY_BYTES = 2**20
# File systems without links, such as a memory card's, answer one of these.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class LastWords:
    """What to do with the record: see `write`."""

    n_bytes: int
    reason_offset: int
    reason_bytes: int
    allocated: str  # absolute; a file of `n_bytes` whose space is taken already
    path: str  # absolute; where it is to appear

    def to_json(self) -> bytes:
        """Return it as the message that goes to the watchdog with the descriptor."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LastWords:
        """Read what `to_json` made."""
        return cls(**json.loads(data))

    def write_if_missing(self, descriptor: int, reason: str) -> str:
        """Write the record unless its program has; return what to add to `reason` on the screen."""
        if not os.path.exists(self.allocated):
            return ""
        try:
            self.write(descriptor, reason)
        except OSError as error:
            return f"; black box not written: {error}"
        return f"; black box: {self.path}"

    def write(self, descriptor: int, reason: str) -> None:
        """Put `reason` into the record, copy it into the file, and give the file its name.

        Raises OSError. A file that exists under that name stays as it is.
        """
        # Cut to what fits; a character cut in two is dropped.
        text = reason.encode()[: self.reason_bytes].decode(errors="ignore").encode()
        os.pwrite(descriptor, text.ljust(self.reason_bytes, b"\0"), self.reason_offset)
        file = os.open(self.allocated, os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < self.n_bytes:
                data = os.pread(descriptor, min(COPY_BYTES, self.n_bytes - done), done)
                if not data:
                    break
                done += os.pwrite(file, data, done)
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(self.allocated, self.path)
        except OSError as error:
            if error.errno not in _NO_LINKS or os.path.exists(self.path):
                raise
            os.rename(self.allocated, self.path)
        else:
            os.unlink(self.allocated)
