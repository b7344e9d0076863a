"""States on a pipe, whole or not at all, and pictures from them."""

import os

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

import contextlib

from sim.cameras import StateStream

N_QPOS = 27


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def record(t_s):
    return np.concatenate(([t_s], np.full(N_QPOS, t_s))).astype("<f8").tobytes()


def test_only_the_newest_state_is_kept(pipe):
    stream = StateStream(pipe[0], 1 + N_QPOS)
    for t_s in (1.0, 2.0, 3.0):
        os.write(pipe[1], record(t_s))
    np.testing.assert_array_equal(stream.newest(0.0), np.full(1 + N_QPOS, 3.0))
    assert stream.newest(0.0) is None
    assert stream.is_open


def test_a_state_that_is_not_whole_yet_waits_for_its_rest(pipe):
    stream = StateStream(pipe[0], 1 + N_QPOS)
    os.write(pipe[1], record(1.0) + record(2.0)[:40])
    assert stream.newest(0.0)[0] == 1.0
    assert stream.newest(0.0) is None
    os.write(pipe[1], record(2.0)[40:])
    np.testing.assert_array_equal(stream.newest(0.0), np.full(1 + N_QPOS, 2.0))


def test_the_end_of_the_writer_is_noticed(pipe):
    stream = StateStream(pipe[0], 1 + N_QPOS)
    os.close(pipe[1])
    assert stream.newest(0.0) is None
    assert not stream.is_open


def test_a_state_record_fits_into_one_atomic_write():
    from sim.camera_process import N_BEFORE_QPOS
    from sim.model import World

    assert 8 * (N_BEFORE_QPOS + World(seed=0).model.nq) <= os.pathconf("/", "PC_PIPE_BUF")
