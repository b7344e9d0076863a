import ctypes
import dataclasses
import errno
import gc
import os
import sys
import threading

import pytest

import edge.real_time
from edge.board_profile import RealTimeProfile
from edge.profile import load_profile
from edge.real_time import GARBAGE_OBJECTS, leave_room, punctual, quiet_interpreter

NOTHING = RealTimeProfile(fifo_priority=None, cpus=None, lock_memory=False)
MY_CPUS = os.sched_getaffinity(0)


def refuse(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def lines_of(**settings):
    with punctual(dataclasses.replace(NOTHING, **settings)) as lines:
        return lines


@pytest.fixture
def bystander():
    """A thread that runs beside the control thread."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield thread
    end.set()
    thread.join()


def test_nothing_asked_is_nothing_said():
    assert lines_of() == []


def test_refused_priority_names_the_remedy_and_takes_what_it_gets(monkeypatch):
    nice = []
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "setpriority", lambda *arguments: nice.append(arguments[-1]))
    (line,) = lines_of(fifo_priority=40)
    assert line.startswith("priority: SCHED_FIFO 40 refused (Operation not permitted), nice -10")
    assert "LimitRTPRIO=98" in line
    assert "rtprio 98" in line
    assert nice[0] == -10
    assert nice[-1] != -10
    monkeypatch.setattr(os, "setpriority", refuse)
    assert "and so is a lower nice value" in lines_of(fifo_priority=40)[0]


def test_granted_priority_is_for_this_thread_alone_and_put_back(bystander):
    before = os.sched_getscheduler(0)
    with punctual(dataclasses.replace(NOTHING, fifo_priority=3)) as lines:
        if "refused" in lines[0]:
            pytest.skip(lines[0])
        assert lines == ["priority: SCHED_FIFO 3"]
        assert os.sched_getscheduler(0) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        assert os.sched_getscheduler(bystander.native_id) == before
        started = []
        thread = threading.Thread(target=lambda: started.append(os.sched_getscheduler(0)))
        thread.start()
        thread.join()
        assert started == [before]
    assert os.sched_getscheduler(0) == before


@pytest.mark.skipif(len(MY_CPUS) < 2, reason="one processor cannot be reserved")
def test_reserved_processor_is_taken_from_all_other_threads_and_given_back(bystander):
    mine = max(MY_CPUS)
    with punctual(dataclasses.replace(NOTHING, cpus=(mine,))) as lines:
        assert lines == [f"processor: {mine} for the control thread alone"]
        assert os.sched_getaffinity(0) == {mine}
        assert os.sched_getaffinity(bystander.native_id) == MY_CPUS - {mine}
    assert os.sched_getaffinity(0) == MY_CPUS
    assert os.sched_getaffinity(bystander.native_id) == MY_CPUS


def test_processor_that_is_absent_or_the_only_one_is_not_reserved(monkeypatch):
    absent = max(MY_CPUS) + 1
    (line,) = lines_of(cpus=(absent,))
    assert line.startswith(f"processor: {absent} cannot be reserved, this process may use ")
    assert "real_time.cpus" in line
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert "cannot be reserved" in lines_of(cpus=(0,))[0]


class FakeLibc:
    """Answers mlockall with `code` and notes what it was asked."""

    def __init__(self, code):
        self.code = code
        self.flags = None
        self.unlocked = 0

    def mlockall(self, flags):
        self.flags = flags
        ctypes.set_errno(errno.ENOMEM if self.code else 0)
        return self.code

    def munlockall(self):
        self.unlocked += 1

    def prctl(self, *_):
        return 0


@pytest.mark.parametrize(
    ("may", "flags", "text"), [(True, 7, "memory: locked"), (False, 5, "locked, what is used by")]
)
def test_later_memory_is_locked_only_where_no_limit_could_refuse_it(monkeypatch, may, flags, text):
    libc = FakeLibc(0)
    monkeypatch.setattr(edge.real_time, "_libc", lambda: libc)
    monkeypatch.setattr(edge.real_time, "_may_lock_everything", lambda: may)
    (line,) = lines_of(lock_memory=True)
    assert text in line
    assert (libc.flags, libc.unlocked) == (flags, 1)


def test_refused_memory_lock_names_the_limit_and_the_remedy(monkeypatch):
    libc = FakeLibc(-1)
    monkeypatch.setattr(edge.real_time, "_libc", lambda: libc)
    monkeypatch.setattr(edge.real_time.resource, "getrlimit", lambda _: (8 * 2**20, 8 * 2**20))
    (line,) = lines_of(lock_memory=True)
    assert "refused (Cannot allocate memory, limit 8192 kB by 'ulimit -l')" in line
    assert "LimitMEMLOCK=infinity" in line
    assert libc.unlocked == 0


def test_engine_gets_a_thread_per_processor_that_is_left():
    board = load_profile("sim").board
    reserving = dataclasses.replace(board.real_time, cpus=(max(MY_CPUS),))
    open_ended = dataclasses.replace(board, threads=None, real_time=reserving)
    assert leave_room(open_ended).threads == max(1, len(MY_CPUS) - 1)
    for unchanged in (
        dataclasses.replace(open_ended, threads=4),
        dataclasses.replace(board, threads=None),
    ):
        assert leave_room(unchanged) == unchanged


def test_garbage_waits_for_spare_time_and_everything_is_put_back():
    switch_interval_s = sys.getswitchinterval()
    with quiet_interpreter() as use_spare_time:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert sys.getswitchinterval() < switch_interval_s
        litter = [[number] for number in range(2 * GARBAGE_OBJECTS)]
        use_spare_time(0.0005)
        assert gc.get_count()[0] > GARBAGE_OBJECTS
        use_spare_time(0.02)
        assert gc.get_count()[0] < GARBAGE_OBJECTS
        del litter
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert sys.getswitchinterval() == switch_interval_s
