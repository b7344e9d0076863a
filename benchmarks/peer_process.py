"""Run one side of a comparison in a process of its own, and watch its memory from outside.

    python -m benchmarks.peer_process KIND FOLDER

is what is started; nobody needs to type it. A process per side means that no side finds memory,
threads or caches of another, and that all it took is given back before the next one starts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import PeerError
from benchmarks.peer_job import Answer, Job, Scene, read_answer, read_job, write_answer, write_job
from benchmarks.process_memory import PROC, ProcessMemoryError, read_pages
from edge.errors import EdgeError, one_line

LEROBOT, BUNDLE, LLAMA = "lerobot", "bundle", "llama"
_LOG = "stderr.txt"
_WATCH_S = 0.1
_SIGKILL = -9
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of a process from outside; None where the system does not tell (Linux does)."""

    peak_rss_anon_mib: float | None  # its own memory
    peak_rss_file_mib: float | None  # pages of files it mapped, which the system can take back
    others_cores: float | None  # cores that something else kept busy meanwhile, on average


def run_side(kind: str, job: Job, scene: Scene, folder: Path) -> tuple[Answer, Watched]:
    """Start the process, wait for it, and return what it measured.

    `folder` is made for it. What it prints goes to stderr. Raises `PeerError` with the last line
    that it left when it fails.
    """
    folder.mkdir()
    write_job(folder, job, scene)
    command = [sys.executable, "-m", "benchmarks.peer_process", kind, str(folder)]
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, stderr=log)
        try:
            watched = _watch(process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode == _SIGKILL:
        raise PeerError(f"{kind}: the process was killed; most likely memory ran out")
    if process.returncode:
        lines = (folder / _LOG).read_text(errors="replace").strip().splitlines() or ["no reason"]
        raise PeerError(f"{kind}: {one_line(Exception(lines[-1]))}")
    return read_answer(folder), watched


def main(argv: list[str] | None = None) -> int:
    """Be the process: run the job in the folder; 2 and one line when it cannot be done."""
    kind, folder = (argv or sys.argv[1:])[0], Path((argv or sys.argv[1:])[1])
    job, scene = read_job(folder)
    try:
        if kind == LEROBOT:
            from benchmarks.peer_lerobot import measure_lerobot

            answer = measure_lerobot(job, scene)
        elif kind == BUNDLE:
            from benchmarks.peer_bundle import measure_bundle

            answer = measure_bundle(job, scene)
        else:
            from benchmarks.peer_llama import measure_llama

            answer = measure_llama(job, scene, folder)
    except EdgeError as error:
        print(error, file=sys.stderr)
        return 2
    write_answer(folder, answer)
    return 0


def _watch(process: subprocess.Popen) -> Watched:
    """Wait for the end, looking at the process' memory every now and then."""
    anon, file = [], []
    started, busy_s, own_s = time.perf_counter(), _busy_s(), _children_s()
    while True:
        try:
            process.wait(_WATCH_S)
            break
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessMemoryError):  # it just ended, or this is not Linux
                pages = read_pages(process.pid)
                anon.append(pages.anon / _MIB)
                file.append(pages.file / _MIB)
    others = None
    if busy_s is not None:
        others_s = (_busy_s() or 0.0) - busy_s - (_children_s() - own_s)
        others = max(0.0, others_s / (time.perf_counter() - started))
    return Watched(max(anon, default=None), max(file, default=None), others)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy_s() -> float | None:
    """Return how long all cores were busy since the system started, or taken by a hypervisor."""
    try:
        ticks = [int(word) for word in (PROC / "stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _wait, interrupts, soft_interrupts, stolen = ticks
    busy = user + nice + system + interrupts + soft_interrupts + stolen  # proc(5)
    return busy / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
