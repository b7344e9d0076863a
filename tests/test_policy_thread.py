import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from edge.camera import Frame
from edge.chunks import ChunkBuffer
from edge.errors import ObservationError
from edge.policy_thread import PolicyThread, Request
from edge.profile import load_profile

PROFILE = load_profile("sim")
ARM_STATE = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
MODEL_STATE = np.array([10.0, 70.0, 120.0, 40.0, 50.0, 60.0])


@dataclass
class Result:
    actions: np.ndarray
    depth_codes: np.ndarray | None = None
    stages: dict = field(default_factory=lambda: {"vision": 0.1})
    depth_passes: int = 3
    changed_cells: int = 7
    moved_cells: int = 4
    prompt_tokens: int = 500
    asked_cells: np.ndarray | None = None


class FakePolicy:
    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.committed = []

    def act(self, images, task, state, norm_tag, depth, *, committed, committed_weights):
        self.asked.append((images, task, state, norm_tag, depth))
        self.committed.append((committed, committed_weights))
        return self.answer()

    def reset(self):
        self.asked.append("reset")


class FakeCamera:
    def __init__(self, frame=None):
        self.frame = frame

    def latest(self):
        return self.frame

    def close(self):
        pass


class Rig:
    def __init__(self, answer, now_s=100.0):
        self.now_s = now_s
        self.policy = FakePolicy(answer)
        image = np.zeros((4, 4, 3), np.uint8)
        self.cameras = [FakeCamera(Frame(image, now_s - 0.02, 5)) for _ in PROFILE.cameras]
        self.chunks = ChunkBuffer(6, 30.0, 0.0, 10.0)
        self.thread = PolicyThread(
            self.policy,
            self.cameras,
            PROFILE,
            self.chunks,
            Request("pick the red cube", "so101", "incremental"),
            clock=lambda: self.now_s,
        )


def still():
    return Result(np.tile(MODEL_STATE, (30, 1)).astype(np.float32))


def test_state_goes_to_the_policy_in_its_frame_and_actions_come_back_in_the_arms():
    rig = Rig(still)
    rig.thread.observe(ARM_STATE, 99.99)
    assert rig.thread.call_once()
    images, task, state, norm_tag, depth = rig.policy.asked[0]
    assert len(images) == 2
    assert (task, norm_tag, depth) == ("pick the red cube", "so101", "incremental")
    np.testing.assert_allclose(state, MODEL_STATE)
    np.testing.assert_allclose(rig.chunks.goal_at(100.0), ARM_STATE, atol=1e-5)
    call = rig.thread.calls[0]
    assert (call.depth_passes, call.changed_cells, call.moved_cells) == (3, 7, 4)
    assert call.prompt_tokens == 500
    assert call.stages_s == {"vision": 0.1}
    assert call.state_age_s == pytest.approx(0.01)
    assert call.frame_ages_s == pytest.approx((0.02, 0.02))


def test_warm_up_leaves_no_chunk_no_record_and_no_memory():
    rig = Rig(still)
    assert rig.thread.warm_up() == "no servo state yet"
    rig.thread.observe(ARM_STATE, 99.99)
    assert rig.thread.warm_up() is None
    assert rig.policy.asked[-1] == "reset"
    assert rig.thread.n_calls == 0
    assert rig.chunks.goal_at(100.0) is None


def test_another_task_is_asked_from_the_next_call_on_without_the_codes_of_the_last():
    rig = Rig(still)
    rig.thread.observe(ARM_STATE, 99.99)
    rig.thread.call_once()
    rig.thread.ask("touch the blue cube")
    rig.thread.call_once()
    rig.thread.call_once()
    asked = [entry if entry == "reset" else entry[1] for entry in rig.policy.asked]
    assert asked == ["pick the red cube", "reset", "touch the blue cube", "touch the blue cube"]
    assert rig.policy.asked[-1][3:] == ("so101", "incremental")


def test_measurement_is_copied_when_it_is_left():
    rig = Rig(still)
    state = ARM_STATE.copy()
    rig.thread.observe(state, 99.99)
    state[:] = 0.0
    rig.thread.call_once()
    np.testing.assert_allclose(rig.policy.asked[0][2], MODEL_STATE)


def test_policy_is_not_asked_without_a_state():
    rig = Rig(still)
    assert not rig.thread.call_once()
    assert rig.thread.trouble == "no servo state yet"


def test_policy_is_not_asked_on_stale_or_missing_inputs():
    rig = Rig(still)
    rig.thread.observe(ARM_STATE, 99.0)
    assert not rig.thread.call_once()
    assert rig.thread.trouble == "servo state is 1000 ms old, limit 100 ms"
    rig.thread.observe(ARM_STATE, 100.0)
    rig.cameras[1].frame = Frame(np.zeros((4, 4, 3), np.uint8), 98.0, 1)
    assert not rig.thread.call_once()
    assert rig.thread.trouble == "camera wrist: newest frame is 2000 ms old, limit 1000"
    rig.cameras[1].frame = None
    assert not rig.thread.call_once()
    assert rig.thread.trouble == "camera wrist: no frame yet"
    rig.cameras[1].frame = rig.cameras[0].frame
    assert rig.thread.call_once()
    assert rig.thread.trouble is None


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ObservationError("norm_tag 'x' is unknown"), "policy failed: norm_tag 'x' is unknown"),
        (RuntimeError("bad\n  alloc"), "policy failed: RuntimeError: bad alloc"),
    ],
)
def test_failing_policy_ends_the_thread_with_its_fault(error, fault):
    def fail():
        raise error

    rig = Rig(fail)
    rig.thread.observe(ARM_STATE, 100.0)
    rig.thread.start()
    assert _wait_for(lambda: rig.thread.fault)
    assert rig.thread.fault == fault
    assert rig.thread.stop(5.0)
    assert (rig.thread.fault_trace is None) == isinstance(error, ObservationError)


def test_policy_that_breaks_in_the_warm_up_is_told_in_one_line():
    def fail():
        raise RuntimeError("bad\n  alloc")

    rig = Rig(fail)
    rig.thread.observe(ARM_STATE, 100.0)
    assert rig.thread.warm_up() == "policy failed: RuntimeError: bad alloc"
    assert "RuntimeError" in rig.thread.fault_trace


def test_chunk_of_the_wrong_width_is_a_fault():
    rig = Rig(lambda: Result(np.zeros((30, 7), np.float32)))
    rig.thread.observe(ARM_STATE, 100.0)
    rig.thread.start()
    assert _wait_for(lambda: rig.thread.fault)
    assert rig.thread.fault.startswith("policy failed: ValueError")
    rig.thread.stop(5.0)


def test_thread_that_was_never_started_stops_at_once():
    assert Rig(still).thread.stop(0.1)


def test_calls_start_no_faster_than_the_board_allows():
    rig = Rig(still)
    rig.thread._clock = time.monotonic
    started_s = time.monotonic()
    for camera in rig.cameras:
        camera.frame = Frame(camera.frame.image, started_s, 0)
    rig.thread.observe(ARM_STATE, started_s + 0.4)
    rig.thread.start()
    assert _wait_for(lambda: len(rig.thread.calls) >= 3)
    rig.thread.stop(5.0)
    starts = [call.started_s for call in rig.thread.calls]
    assert np.diff(starts).min() >= 1.0 / PROFILE.board.max_policy_hz - 0.01


@pytest.mark.parametrize(
    ("call_s", "wait_s"),
    # The board allows a call every 0.2 s; a chunk of 30 actions at 30 Hz lasts 1 s.
    [(0.05, 0.15), (0.5, 0.0), (0.9, 0.0), (1.0, 1.0), (5.0, 1.0)],
)
def test_model_slower_than_its_chunks_looks_again_when_the_arm_stands_still(call_s, wait_s):
    rig = Rig(still)

    def slow():
        rig.now_s += call_s
        return still()

    rig.policy.answer = slow
    rig.thread.observe(ARM_STATE, 100.0)
    rig.thread.call_once()
    next_s = rig.thread._next_start_s()
    assert max(0.0, next_s - rig.now_s) == pytest.approx(wait_s)
    if call_s >= 1.0:
        assert rig.chunks.goal_at(next_s - 1e-6) is not None
        assert rig.chunks.goal_at(next_s + 1e-6) is None


def test_call_is_told_what_the_arm_does_until_it_is_ready_in_the_policys_frame():
    rig = Rig(still)
    rig.thread.observe(ARM_STATE, 100.0)
    rig.thread.call_once()
    assert rig.policy.committed == [(None, None)]  # nothing moves yet
    plan = ARM_STATE + np.arange(30)[:, None]
    rig.chunks.put(plan, 100.0, 100.0)
    rig.now_s = 100.2
    rig.thread.observe(ARM_STATE, 100.15)
    rig.thread.call_once()
    committed, weights = rig.policy.committed[1]
    moved = np.array([4.5, -4.5, 4.5, 4.5, 4.5, 4.5])  # at 30 actions a second, 1 each
    np.testing.assert_allclose(committed[0], MODEL_STATE + moved, atol=1e-6)
    assert len(committed) == len(weights)
    # 0.05 s since the observation, none for a call: between actions 1 and 2.
    assert (rig.thread.calls[1].n_held, rig.thread.calls[1].foreseen_s) == (3, 0.0)


def test_held_chunk_leaves_no_gap_at_its_seam_unless_it_comes_too_late():
    rig = Rig(still)
    for number, call_s in enumerate([0.1, 0.05, 0.3]):

        def jump(number=number, call_s=call_s):
            rig.now_s += call_s
            actions = still().actions + 10.0 * number
            committed, weights = rig.policy.committed[-1]
            if committed is not None:
                held = np.flatnonzero(weights == 1.0)
                actions[held] = committed[held]
            return Result(actions)

        rig.policy.answer = jump
        rig.thread.observe(ARM_STATE, rig.now_s)
        rig.thread.call_once()
    gaps = [call.seam_gap for call in rig.thread.calls]
    np.testing.assert_allclose(gaps, [0.0, 0.0, 10.0], atol=1e-4)
    assert rig.thread.calls[2].foreseen_s == pytest.approx(0.05)


def test_warm_up_and_a_standing_arm_commit_to_nothing():
    rig = Rig(still)
    rig.thread.observe(ARM_STATE, 100.0)
    rig.thread.warm_up()
    rig.thread.call_once()
    rig.now_s = 102.0  # the chunk lasted 1 s
    for camera in rig.cameras:
        camera.frame = Frame(camera.frame.image, 102.0, 6)
    rig.thread.observe(ARM_STATE, 102.0)
    rig.thread.call_once()
    assert [committed for committed, _ in rig.policy.committed] == [None] * 3
    assert [call.n_held for call in rig.thread.calls] == [0, 0]


def _wait_for(condition, deadline_s=10.0):
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.005)
    return True
