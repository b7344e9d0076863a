"""The loop bench: one whole run for each rate, and what is made of it."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from profile_rig import policy_call

from benchmarks import loop_bench
from benchmarks.cli import main
from benchmarks.loop_bench import camera_to_command_s
from edge.loop import LoopEnd
from edge.run import RunError, RunResult
from edge.safety import Outcome

N_TICKS = 40


def call(number, started_s, *frame_ages_s):
    return replace(policy_call(number, started_s), frame_ages_s=frame_ages_s)


@dataclass
class FakeRuns:
    """Stands for `run_robot`: remembers what was asked, and writes the ticks it is asked for."""

    signal_number: int | None = None

    def __post_init__(self):
        self.asked = []

    def __call__(self, options, profile, open_arm, say):
        self.asked.append((options, profile))
        rate_hz = profile.arm.control_hz
        t_s = 100.0 + np.arange(N_TICKS) / rate_hz
        np.savez(
            options.arrays,
            late_s=np.linspace(0.0, 0.002, N_TICKS),
            tick_s=np.full(N_TICKS, 0.003),
            written_s=t_s + 0.003,
            chunk=np.zeros(N_TICKS, np.int32),
            outcome=np.full(N_TICKS, int(Outcome.PASS), np.int8),
        )
        report = {
            "card": {"recipe": "int4"},
            "ticks": {"run": N_TICKS, "missed": 2, "read_errors": 1},
            "safety": {"hold": 3},
            "real_time": ["priority: SCHED_FIFO 40 refused"],
        }
        say("black box written; look at it with 'molmoact-edge replay gone'")
        return RunResult(
            end=LoopEnd("time", "1 s are over"),
            signal_number=self.signal_number,
            report=report,
            calls=(call(0, 99.9, 0.05, 0.02),),
            fault_trace=None,
            output_error=None,
            policy_hangs=False,
        )


@pytest.fixture
def runs(monkeypatch):
    fake = FakeRuns()
    monkeypatch.setattr(loop_bench, "run_robot", fake)
    return fake


def bench(*arguments):
    asked = ["--profile", "sim", "--depth", "off", "--seconds", "1"]
    return main(["loop", "bundle", *asked, *arguments])


def test_every_rate_is_a_run_of_its_own_and_only_the_rate_differs(runs, capsys):
    assert bench("--rates", "50", "200") == 0
    first, second = (profile for _, profile in runs.asked)
    assert [first.arm.control_hz, second.arm.control_hz] == [50.0, 200.0]
    assert replace(first, arm=replace(first.arm, control_hz=200.0)) == second
    captured = capsys.readouterr()
    report = json.loads(captured.out.strip().splitlines()[-1])
    assert (report["bench"], report["servos"], report["recipe"]) == ("loop", "emulated", "int4")
    assert [row["control_hz"] for row in report["rows"]] == [50.0, 200.0]
    row = report["rows"][0]
    assert (row["ticks"], row["missed"], row["failed_reads"], row["held"]) == (N_TICKS, 2, 1, 3)
    assert row["late_ms"]["max"] == pytest.approx(2.0)
    # The oldest picture was taken at 99.85 s; the last of 40 goals was written at 100.783 s.
    assert row["camera_to_command_ms"]["max"] == pytest.approx(933.0)
    assert "priority: SCHED_FIFO 40 refused" in captured.out
    assert "replay gone" not in captured.err


def test_signal_ends_the_series_and_what_there_is_is_printed(runs, capsys):
    runs.signal_number = 2
    assert bench("--rates", "50", "100") == 130
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(report["rows"]) == 1


def test_age_is_counted_only_where_a_chunk_was_followed():
    ticks = {
        "outcome": np.array([0, 1, 2, -1, 0]),
        "chunk": np.array([0, 1, 1, -1, 7]),
        "written_s": np.array([10.0, 11.0, 12.0, 13.0, 14.0]),
    }
    calls = [call(0, 9.8, 0.1, 0.3), call(1, 10.5, 0.1)]
    np.testing.assert_allclose(camera_to_command_s(ticks, calls), [0.5, 0.6])


@pytest.mark.parametrize("rate", ["0", "201", "fast", "nan"])
def test_rate_out_of_range_is_refused(rate, capsys):
    with pytest.raises(SystemExit) as exit_info:
        bench("--rates", rate)
    assert exit_info.value.code == 2
    assert "is not a rate of 1..200 Hz" in capsys.readouterr().err


def test_run_that_cannot_start_is_one_line(monkeypatch, capsys):
    def refuse(*_):
        raise RunError("bundle: no such folder")

    monkeypatch.setattr(loop_bench, "run_robot", refuse)
    assert bench() == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1] == "molmoact-bench: error: bundle: no such folder"
