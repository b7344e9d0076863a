"""How much memory a policy takes: after imports, loading, the first call, and over cycles.

The policy runs in a process of its own, so that nothing else counts, and is watched from outside,
so that what it needs inside a call is seen too. Anonymous pages are the ones that a board must
have; file pages (weights read through a memory map) the system can drop and read again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.process_memory import (
    SAMPLE_S,
    MemoryWatch,
    ProcessMemoryError,
    read_pages,
    read_share_bytes,
)
from edge.errors import one_line
from edge.manifest import read_manifest
from edge.report import machine_name

CHANGED_PERCENT = 30
_GROWTH_FROM_CYCLE = 2  # the first cycle is the first whose pass lengths come from a draft
_GB, _GIB = 1e9, 1 << 30


@dataclass(frozen=True, slots=True)
class Phase:
    """What the process held when a phase was over, and the most it held of its own inside."""

    name: str
    seconds: float | None
    anon_bytes: int
    file_bytes: int
    shmem_bytes: int
    swap_bytes: int
    pss_bytes: int | None
    peak_anon_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Everything `print_memory` prints, and the JSON line."""

    bench: str  # always "memory"
    machine: str
    bundle: str
    recipe: str
    source_sha256: str
    profile: str | None
    cameras: int
    prompt_tokens: int
    changed_percent: int
    sample_s: float
    phases: list[Phase]
    peak_anon_bytes: int
    peak_anon_phase: str
    growth_anon_bytes: int | None  # from cycle 2 to the last; None with fewer than three
    peak_resident_bytes: int  # all kinds together, as sampled
    peak_resident_kernel_bytes: int  # the same as the kernel recorded it, which misses nothing


def measure_memory(
    bundle: Path, *, profile: str | None, cycles: int, cameras: int | None, norm_tag: str | None
) -> MemoryReport:
    """Run the first call and `cycles` more in a process of its own; raises `EdgeError`.

    `cameras` None means the tag's, or two where it does not say.
    """
    read_pages()  # fails where the system does not tell
    manifest = read_manifest(bundle)
    job = {
        "bundle": str(bundle),
        "profile": profile,
        "norm_tag": norm_tag,
        "cameras": cameras,
        "cycles": cycles,
        "changed_percent": CHANGED_PERCENT,
    }
    phases, event = [], {}
    with _probe(job) as (process, log):
        watch = MemoryWatch(process.pid)
        try:
            for event in _events(process, log, phases):
                phases.append(_phase(process.pid, watch, event))
                most = read_pages(process.pid).most
                with suppress(BrokenPipeError):  # it died while it waited; its exit code says why
                    process.stdin.write("go on\n")
                    process.stdin.flush()
        finally:
            watch.close()
    peak = max(phases, key=lambda phase: phase.peak_anon_bytes)
    anon = {phase.name: phase.anon_bytes for phase in phases}
    grown = None
    if cycles > _GROWTH_FROM_CYCLE:
        grown = anon[f"cycle {cycles}"] - anon[f"cycle {_GROWTH_FROM_CYCLE}"]
    return MemoryReport(
        bench="memory",
        machine=machine_name(),
        bundle=str(bundle),
        recipe=manifest.recipe.name,
        source_sha256=manifest.source.sha256,
        profile=profile,
        cameras=event["cameras"],
        prompt_tokens=event["prompt_tokens"],
        changed_percent=CHANGED_PERCENT,
        sample_s=SAMPLE_S,
        phases=phases,
        peak_anon_bytes=peak.peak_anon_bytes,
        peak_anon_phase=peak.name,
        growth_anon_bytes=grown,
        peak_resident_bytes=watch.most_resident,
        peak_resident_kernel_bytes=most,
    )


def print_memory(report: MemoryReport) -> None:
    """Print card, table and, last, one JSON line."""
    print(f"measured on {report.machine}, in a process of its own")
    print(f"bundle {report.bundle} ({report.recipe}), profile {report.profile or 'none'}")
    print(
        f"{report.cameras} cameras, {report.prompt_tokens} tokens, {report.changed_percent} % of "
        f"the depth cells changed each cycle"
    )
    print("GB are 1e9 bytes; anon: the process' own pages; file: pages of files it mapped")
    columns = ("seconds", "anon GB", "peak anon", "file GB", "shmem GB", "Pss GB")
    print(f"\n{'after':<12}" + "".join(f"{name:>11}" for name in columns))
    for phase in report.phases:
        cells = [None if phase.seconds is None else f"{phase.seconds:.2f}"]
        for size in (
            phase.anon_bytes,
            phase.peak_anon_bytes,
            phase.file_bytes,
            phase.shmem_bytes,
            phase.pss_bytes,
        ):
            cells.append(None if size is None else f"{size / _GB:.3f}")
        print(f"{phase.name:<12}" + "".join(f"{cell or '-':>11}" for cell in cells))
    peak = report.peak_anon_bytes
    print(
        f"\npeak anonymous {peak / _GB:.2f} GB ({peak / _GIB:.2f} GiB), in '"
        f"{report.peak_anon_phase}', sampled every {report.sample_s * 1e3:.0f} ms"
    )
    print(
        f"all pages      {report.peak_resident_bytes / _GB:.2f} GB at most as sampled, "
        f"{report.peak_resident_kernel_bytes / _GB:.2f} GB as the kernel recorded: sampling can "
        "have missed the difference"
    )
    if report.growth_anon_bytes is not None:
        print(
            f"growth         {report.growth_anon_bytes / 1e6:+.1f} MB anonymous from cycle "
            f"{_GROWTH_FROM_CYCLE} to the last"
        )
    if any(phase.swap_bytes for phase in report.phases):
        print("note: some of its memory was swapped out; anonymous pages are more than is shown")
    print(json.dumps(asdict(report)))


@contextmanager
def _probe(job: dict[str, Any]) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    """Start the measured process; whatever happens, it is ended."""
    command = [sys.executable, "-m", "benchmarks.memory_probe", json.dumps(job)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            bufsize=1,
        )
        try:
            with process.stdout:
                yield process, log
        finally:
            process.kill()
            process.wait()


def _events(
    process: subprocess.Popen, log: IO[bytes], phases: list[Phase]
) -> Iterator[dict[str, Any]]:
    """Give what the process says, each time while it waits; raise when it fails."""
    for line in process.stdout:
        event = json.loads(line)
        if "error" in event:
            raise ProcessMemoryError(event["error"])
        yield event
    if process.wait() == 0:
        return
    after = f"after '{phases[-1].name}'" if phases else "at its start"
    if process.returncode < 0:
        raise ProcessMemoryError(
            f"the measured process was ended by signal {-process.returncode} {after}; signal 9 "
            "mostly means that memory ran out"
        )
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
    raise ProcessMemoryError(
        f"the measured process failed {after}: {one_line(Exception(lines[-1]))}"
    )


def _phase(pid: int, watch: MemoryWatch, event: dict[str, Any]) -> Phase:
    pages = read_pages(pid)
    return Phase(
        name=event["phase"],
        seconds=event["seconds"],
        anon_bytes=pages.anon,
        file_bytes=pages.file,
        shmem_bytes=pages.shmem,
        swap_bytes=pages.swap,
        pss_bytes=read_share_bytes(pid),
        peak_anon_bytes=max(watch.take_peak_anon(), pages.anon),
    )
