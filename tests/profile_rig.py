"""A profile measured on a fake board: a real policy, and a run of the loop that is made up."""

from __future__ import annotations

import numpy as np
from fake_board import FakeBoard

from benchmarks.board_sampler import BoardSampler
from benchmarks.predict import predict_row
from benchmarks.profile_run import ProfileOptions, measure_profile
from edge.board_state import BoardReader
from edge.loop import LoopEnd
from edge.policy_thread import PolicyCall
from edge.run import RunResult
from edge.safety import Outcome

TICKS, RATE_HZ, TICK_S, LATE_S = 90, 30.0, 0.004, 0.0002
END = LoopEnd("time", "3 s are over")
READ_S, DECIDE_S, WRITE_S = 0.002, 0.0005, 0.0015


class FakeRun:
    """Stands for `run_robot`: three seconds of ticks, during which the board warms up."""

    def __init__(self, sampler_take, board, clock, throttle=False, signal_number=None, end=END):
        self.take, self.board, self.clock = sampler_take, board, clock
        self.throttle, self.signal_number, self.end = throttle, signal_number, end

    def __call__(self, options, profile, open_arms, say):
        began_s = self.clock.now_s
        t_s = began_s + np.arange(TICKS) / RATE_HZ
        outcome = np.full(TICKS, int(Outcome.PASS), np.int8)
        outcome[:30] = int(Outcome.HOLD)
        np.savez(
            options.arrays,
            t_s=t_s,
            late_s=np.where(np.arange(TICKS) == 5, np.nan, LATE_S),
            tick_s=np.full(TICKS, TICK_S),
            read_s=np.full(TICKS, READ_S),
            decide_s=np.full(TICKS, DECIDE_S),
            write_s=np.full(TICKS, WRITE_S),
            written_s=t_s + TICK_S,
            chunk=np.zeros(TICKS, np.int32),
            outcome=outcome,
            level=np.zeros(TICKS, np.int8),
        )
        for second in range(4):  # a sample at 0, 1 and 2 s lies inside the ticks
            self.clock.now_s = began_s + second * 0.98
            if "tj-thermal" in self.board.kind.zones:
                self.board.heat("tj-thermal", 60.0 + 10 * second)
            if self.throttle and second == 2:
                self.board.cool_by("gpu-throttle-alert", 1)
            self.take()
        report = {
            "card": {"recipe": "int4"},
            "ticks": {"run": TICKS, "missed": 1, "read_errors": 0},
            "safety": {"hold": 30},
            "real_time": [],
        }
        return RunResult(
            end=self.end,
            signal_number=self.signal_number,
            report=report,
            calls=(policy_call(0, began_s + 0.2),),
            fault_trace=None,
            output_error=None,
            policy_hangs=False,
        )


class Clock:
    """Time that only tests move on."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def policy_call(number, started_s):
    return PolicyCall(
        number=number,
        started_s=started_s,
        ended_s=started_s + 0.1,
        state_age_s=0.01,
        frame_ages_s=(0.05, 0.02),
        stages_s={"vision": 0.04, "prefill": 0.05},
        depth_passes=1,
        changed_cells=4,
        moved_cells=1,
        prompt_tokens=40,
        depth_codes=None,
        chunk_start_s=started_s,
        n_actions=10,
        n_held=0,
        foreseen_s=0.1,
        seam_gap=0.0,
    )


def options_for(bundle, profile="sim", **changes):
    settings = {
        "bundle": bundle,
        "profile": profile,
        "seconds": 3.0,
        "repeats": 12,
        "seconds_per_row": None,
        "rest_s": 1.0,
        "task": "put the red cube in the bin",
        "depth": "off",
        "norm_tag": None,
        "ports": None,
        "calibrations": None,
        "seed": 0,
        "accept": ("unjudged",),
        "command": "molmoact-bench profile",
    }
    return ProfileOptions(**{**settings, **changes})


def profiled_on(monkeypatch, root, kind, options, predict=predict_row, **run):
    """Profile on a fake board."""
    board, clock = FakeBoard(root, kind), Clock()
    reader = BoardReader(board.root, run=board.run, clock=clock)
    samplers = []

    def make_sampler(source):
        samplers.append(SteppedSampler(source, clock=clock))
        return samplers[0]

    fake = FakeRun(lambda: samplers[0].take(), board, clock, **run)
    monkeypatch.setattr("benchmarks.loop_bench.run_robot", fake)
    return measure_profile(
        options,
        lambda line: None,
        reader=reader,
        predict=predict,
        make_sampler=make_sampler,
        sleep=_rest(clock),
    )


class SteppedSampler(BoardSampler):
    """Samples when it is told to, not in a thread; nothing is asked of psutil."""

    def start(self):
        self.take()


def _rest(clock):
    def sleep(seconds):
        clock.now_s += seconds

    return sleep
