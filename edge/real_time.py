"""Ask the operating system for a punctual control thread, and say what it refused.

Nothing here is needed for safety: what is refused costs punctuality, which is measured, and the
run goes on without. Every refusal comes with its remedy. Everything is put back at the end.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from edge.board_profile import BoardProfile, RealTimeProfile

# From the Linux headers sys/mman.h and linux/prctl.h.
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
PR_SET_TIMERSLACK = 29
CAP_IPC_LOCK = 14
NICE_WITHOUT_FIFO = -10
# How long a thread may keep the interpreter while the control thread is due; Python's default of
# 5 ms is a sixth of a 30 Hz tick.
SWITCH_INTERVAL_S = 0.0005
GARBAGE_OBJECTS = 5_000  # young objects before a collection is worth its time
GARBAGE_SPARE_S = 0.004


@contextmanager
def punctual(settings: RealTimeProfile) -> Iterator[list[str]]:
    """Set up the calling thread and its process; give one line for each thing asked.

    Call it where all long-lived threads run already: a reserved processor is taken from them.
    """
    with ExitStack() as undo:
        lines = []
        if settings.fifo_priority is not None:
            lines.append(_be_first(settings.fifo_priority, undo))
        if settings.cpus is not None:
            lines.append(_reserve(settings.cpus, undo))
        if settings.lock_memory:
            lines.append(_lock_memory(undo))
        _wake_exactly(undo)
        yield lines


@contextmanager
def quiet_interpreter() -> Iterator[Callable[[float], None]]:
    """Keep garbage collection and other threads' turns out of the ticks.

    What exists already is never looked at again. Young objects are collected only when the
    function given is called with the seconds left until the next tick, and they suffice.
    """
    switch_interval_s = sys.getswitchinterval()
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield _SpareTime().use
    finally:
        sys.setswitchinterval(switch_interval_s)
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def leave_room(board: BoardProfile) -> BoardProfile:
    """Return the board with one engine thread per processor that is not reserved."""
    if board.threads is not None or board.real_time.cpus is None:
        return board
    left = len(os.sched_getaffinity(0) - set(board.real_time.cpus))
    return replace(board, threads=max(1, left))


class _SpareTime:
    def __init__(self) -> None:
        self._longest_s = 0.0

    def use(self, spare_s: float) -> None:
        if gc.get_count()[0] < GARBAGE_OBJECTS or spare_s < GARBAGE_SPARE_S + 2 * self._longest_s:
            return
        started_s = time.monotonic()
        gc.collect(1)
        self._longest_s = max(self._longest_s, time.monotonic() - started_s)


def _be_first(priority: int, undo: ExitStack) -> str:
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        # Reset on fork: threads and programs started from here are ordinary again.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        remedy = (
            "in a container give it the capability SYS_NICE"
            if os.geteuid() == 0
            else "set LimitRTPRIO=98 in the systemd unit, or '$USER - rtprio 98' in "
            "/etc/security/limits.d and log in again"
        )
        return (
            f"priority: SCHED_FIFO {priority} refused ({error.strerror}), {_be_nice(undo)}; "
            f"{remedy}"
        )
    undo.callback(_quietly, os.sched_setscheduler, 0, policy, parameters)
    return f"priority: SCHED_FIFO {priority}"


def _be_nice(undo: ExitStack) -> str:
    before = os.getpriority(os.PRIO_PROCESS, 0)  # on Linux of this thread
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE_WITHOUT_FIFO)
    except OSError:
        return "and so is a lower nice value"
    undo.callback(_quietly, os.setpriority, os.PRIO_PROCESS, 0, before)
    return f"nice {NICE_WITHOUT_FIFO} instead"


def _reserve(cpus: tuple[int, ...], undo: ExitStack) -> str:
    usable = os.sched_getaffinity(0)
    mine, others = usable & set(cpus), usable - set(cpus)
    asked = ", ".join(str(cpu) for cpu in cpus)
    if mine != set(cpus) or not others:
        listed = ", ".join(str(cpu) for cpu in sorted(usable))
        return (
            f"processor: {asked} cannot be reserved, this process may use {listed} and the engine "
            "needs one; correct real_time.cpus in the board profile"
        )
    control = threading.get_native_id()
    for thread in sorted(int(entry.name) for entry in Path("/proc/self/task").iterdir()):
        with suppress(OSError):  # a thread that has just ended
            before = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, mine if thread == control else others)
            undo.callback(_quietly, os.sched_setaffinity, thread, before)
    return f"processor: {asked} for the control thread alone"


def _lock_memory(undo: ExitStack) -> str:
    # On fault: what is used stays, what was only mapped, such as an embedding table, is not read.
    flags = MCL_CURRENT | MCL_ONFAULT
    if _may_lock_everything():
        # With a limit, memory asked for beyond it would be refused in the middle of the run.
        flags |= MCL_FUTURE
    libc = _libc()
    if libc.mlockall(flags) != 0:
        reason = os.strerror(ctypes.get_errno())
        return (
            f"memory: locking refused ({reason}, limit {_lock_limit_text()}); set "
            "LimitMEMLOCK=infinity in the systemd unit, or '$USER - memlock unlimited' in "
            "/etc/security/limits.d and log in again"
        )
    undo.callback(libc.munlockall)
    return "memory: locked" + ("" if flags & MCL_FUTURE else ", what is used by now")


def _may_lock_everything() -> bool:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_IPC_LOCK & 1)
    return False


def _lock_limit_text() -> str:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return "none" if limit == resource.RLIM_INFINITY else f"{limit // 1024} kB by 'ulimit -l'"


def _wake_exactly(undo: ExitStack) -> None:
    """Let this thread's sleeps end when they should; Linux rounds ordinary ones up by 50 us."""
    libc = _libc()
    if libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0) == 0:
        undo.callback(libc.prctl, PR_SET_TIMERSLACK, 0, 0, 0, 0)  # 0: what it was at the start


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _quietly(function: Callable[..., object], *arguments: object) -> None:
    with suppress(OSError):
        function(*arguments)
