"""The health check: the new release's own interpreter opens its bundle and predicts once."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from deploy.device.errors import DeviceError
from deploy.device.installing import profile_argument
from deploy.device.interpreter import become, user_ids
from deploy.device.layout import Config, Layout
from deploy.device.release_manifest import ReleaseManifest

CHECK_S = 900.0
_MOST_REASON = 300


def service_environment(layout: Layout) -> dict:
    """Return the environment in which a release's programs run, on every kind of device."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(layout.home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "MOLMOACT_ROOT": str(layout.root),
    }


def check_health(layout: Layout, config: Config, manifest: ReleaseManifest) -> dict:
    """Run one real inference in an installed release; DeviceError with its own reason if it fails.

    Returns what the check printed: machine, engine, providers, seconds of each stage.
    """
    folder = layout.release(manifest.id)
    command = [str(folder / "bin" / "molmoact-edge"), "check", str(folder / "bundle")]
    command += ["--profile", profile_argument(layout, manifest)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=str(layout.home),
            env=service_environment(layout),
            preexec_fn=become(user_ids(config.user)),
            timeout=CHECK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"health check: no answer within {CHECK_S:g} s") from None
    except (OSError, subprocess.SubprocessError) as error:  # no memory for a process, say
        raise DeviceError(f"health check: it cannot be started ({error})") from None
    if done.returncode != 0:
        raise DeviceError(f"health check failed: {_reason(done)}")
    try:
        answer = json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise DeviceError("health check: it printed no result") from None
    wanted = manifest.needs.provider
    if not isinstance(answer, dict) or (wanted and wanted not in answer.get("providers", [])):
        raise DeviceError(
            f"health check: onnxruntime has no {wanted} here; it is a CPU-only build, or CUDA is "
            "not the one it is for; build the release with --wheel and NVIDIA's onnxruntime-gpu "
            "for this JetPack"
        )
    return answer


def _reason(done: subprocess.CompletedProcess) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = (lines or ["it said nothing"])[-1][-_MOST_REASON:]
    if done.returncode < 0:
        killed = " (out of memory?)" if done.returncode == -signal.SIGKILL else ""
        return f"ended by signal {-done.returncode}{killed}: {last}"
    return last


def memory_available_mib() -> int | None:
    """Return what the kernel says programs can still take; None where it does not say."""
    return _meminfo_mib("MemAvailable")


def memory_total_mib() -> int | None:
    """Return the memory the kernel has; None where it does not say."""
    return _meminfo_mib("MemTotal")


def _meminfo_mib(key: str) -> int | None:
    if not os.path.exists("/proc/meminfo"):
        return None
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) >> 10
    return None
