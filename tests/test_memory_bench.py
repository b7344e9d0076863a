"""The memory bench measures another process, inside calls too, and says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

pytest.importorskip("onnx")

from benchmarks.cli import main
from benchmarks.memory import measure_memory
from benchmarks.process_memory import MemoryWatch, ProcessMemoryError, read_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")

MIB = 1 << 20
SPIKE = """
import sys
print("before", flush=True)
sys.stdin.readline()
spike = bytearray(96 << 20)
print("inside", flush=True)
sys.stdin.readline()
del spike
print("after", flush=True)
sys.stdin.readline()
"""


def measure(bundle, **changes):
    settings = {"profile": None, "cycles": 3, "cameras": None, "norm_tag": None}
    return measure_memory(bundle, **{**settings, **changes})


def test_every_phase_is_there_and_the_peak_is_the_highest(bundles):
    report = measure(bundles())
    names = ["imports", "load", "first call", "cycle 1", "cycle 2", "cycle 3"]
    assert [phase.name for phase in report.phases] == names
    anon = [phase.anon_bytes for phase in report.phases]
    assert 0 < anon[0] < anon[2]
    assert all(phase.peak_anon_bytes >= phase.anon_bytes for phase in report.phases)
    assert report.peak_anon_bytes == max(phase.peak_anon_bytes for phase in report.phases)
    assert report.growth_anon_bytes == anon[-1] - anon[-2]
    assert report.peak_resident_kernel_bytes >= max(
        phase.anon_bytes + phase.file_bytes for phase in report.phases
    )
    assert report.cameras == 2


def test_fewer_than_three_cycles_say_nothing_of_growth(bundles):
    assert measure(bundles(), cycles=1).growth_anon_bytes is None


def test_what_is_taken_and_given_back_between_two_looks_is_seen():
    process = subprocess.Popen(
        [sys.executable, "-c", SPIKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "before\n"
        watch = MemoryWatch(process.pid)
        before = read_pages(process.pid).anon
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "inside\n"
        peak, deadline_s = 0, time.monotonic() + 20
        while peak < before + 90 * MIB and time.monotonic() < deadline_s:
            time.sleep(0.005)
            peak = max(peak, watch.take_peak_anon())
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "after\n"
        pages = read_pages(process.pid)
        assert peak >= before + 90 * MIB
        assert pages.anon < before + 20 * MIB
        assert pages.most >= before + 90 * MIB  # the kernel's own record of all pages
        watch.close()
        process.stdin.write("\n")


def test_the_measured_process_imports_what_a_robot_imports():
    program = """
import sys
import benchmarks.memory_probe
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"onnx", "torch", "matplotlib", "quantization", "training", "sim"}))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout == "[]\n"


def test_the_last_line_is_json_with_the_table_above(bundles, capsys):
    assert main(["memory", str(bundles()), "--cycles", "1", "--cameras", "1"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    report = json.loads(lines[-1])
    assert report["cameras"] == 1
    gb = report["peak_anon_bytes"] / 1e9
    assert any(f"peak anonymous {gb:.2f} GB" in line for line in lines)
    for phase in report["phases"]:
        assert any(line.startswith(phase["name"]) for line in lines)


def test_what_the_process_refuses_is_one_line(bundles, capsys):
    assert main(["memory", str(bundles()), "--norm-tag", "toaster"]) == 2
    error = capsys.readouterr().err
    assert "norm_tag 'toaster' is unknown" in error
    assert error.count("\n") == 1


def test_a_process_that_is_killed_says_so(bundles, tmp_path, monkeypatch):
    suicidal = tmp_path / "python"
    suicidal.write_text("#!/bin/sh\nkill -9 $$\n")
    suicidal.chmod(0o755)
    monkeypatch.setattr("benchmarks.memory.sys.executable", str(suicidal))
    with pytest.raises(ProcessMemoryError, match="ended by signal 9 at its start"):
        measure(bundles())


def test_a_system_that_does_not_tell_is_one_line(bundles, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.process_memory.PROC", tmp_path)
    assert main(["memory", str(bundles())]) == 2
    error = capsys.readouterr().err
    assert "memory is measured on Linux" in error
    assert error.count("\n") == 1
