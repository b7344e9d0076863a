import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from emulated_arm import ROOT

from edge.cli import main
from edge.manifest import MANIFEST_NAME

NANO = ROOT / "checkpoints" / "nano"


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory) -> Path:
    """The shipped checkpoint as an int4 bundle."""
    for module in ("ml_dtypes", "onnx", "safetensors"):
        pytest.importorskip(module, reason="building a bundle needs the demo extra")
    from quantization.build import build_bundle

    path = tmp_path_factory.mktemp("bundle") / "nano-int4"
    build_bundle(NANO, path, "int4")
    return path


def error_line(capsys) -> str:
    """Return the single line of an error, without what led to it."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert lines[0].startswith("molmoact-edge: error: ")
    return lines[0]


def run_arguments(bundle="absent", profile="sim", *more: str) -> list[str]:
    task = ["--task", "pick the cube", "--accept-unjudged"]
    return ["run", str(bundle), "--profile", profile, *task, *more]


@pytest.mark.parametrize("command", [[], ["run"], ["inspect"]])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "example: molmoact-edge" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run", "bundle"],
        run_arguments("b", "sim", "--depth", "deep"),
        run_arguments("b", "sim", "--seconds", "0"),
        run_arguments("b", "sim", "--seconds", "nan"),
        run_arguments("b", "sim", "--seed", "-1"),
        run_arguments("b", "sim", "--task-seconds", "0"),
        run_arguments("b", "sim", "--task", " "),
        ["run", "b", "--profile", "sim", "--task", "  "],
    ],
)
def test_bad_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (run_arguments("absent", "sim", "--task", "b"), "2 tasks and no --task-seconds"),
        (run_arguments("absent", "simm"), "no profile named 'simm'; shipped: "),
        (run_arguments("absent"), "absent: no such bundle"),
        (run_arguments("absent", "so101"), "give its port with --port"),
        (["inspect", "absent"], "absent: no such bundle"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in error_line(capsys)


def test_inspect_shows_parts_and_bits(nano_bundle, capsys):
    assert main(["inspect", str(nano_bundle)]) == 0
    text = capsys.readouterr().out
    assert "recipe   int4" in text
    for part in ("vision", "decoder", "expert"):
        row = next(line for line in text.splitlines() if line.startswith(f"{part} "))
        assert 4.0 < float(row.split()[4]) < 32.0


def test_inspect_refuses_a_manifest_of_another_schema(nano_bundle, tmp_path, capsys):
    manifest = json.loads((nano_bundle / MANIFEST_NAME).read_text())
    manifest["schema"] = "molmoact-edge.bundle.v0"
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert main(["inspect", str(tmp_path)]) == 2
    assert "schema is 'molmoact-edge.bundle.v0'" in error_line(capsys)


def test_absent_port_and_bad_calibration_are_named(nano_bundle, tmp_path, capsys):
    port = ["--port", str(tmp_path / "no-port"), "--calibration"]
    assert main(run_arguments(nano_bundle, "so101", *port, "absent.json")) == 2
    assert "absent.json: cannot be read" in error_line(capsys)
    from firmware_bridge.calibration import save_calibration
    from firmware_bridge.emulator.defaults import default_calibration

    save_calibration(default_calibration(), tmp_path / "c.json")
    assert main(run_arguments(nano_bundle, "so101", *port, str(tmp_path / "c.json"))) == 2
    assert str(tmp_path / "no-port") in error_line(capsys)


def test_missing_camera_is_named_and_the_port_given_back(nano_bundle, tmp_path, capsys):
    from emulated_arm import emulator_process

    from firmware_bridge.calibration import save_calibration
    from firmware_bridge.emulator.defaults import default_calibration

    save_calibration(default_calibration(), tmp_path / "c.json")
    profile = (ROOT / "profiles" / "so101.yaml").read_text().replace("/dev/video", "/dev/no-video")
    (tmp_path / "own.yaml").write_text(profile)
    with emulator_process(tmp_path / "port"):
        arguments = run_arguments(nano_bundle, str(tmp_path / "own.yaml"))
        arguments += ["--port", str(tmp_path / "port"), "--calibration", str(tmp_path / "c.json")]
        for _ in range(2):
            assert main(arguments) == 2
            assert "camera front: /dev/no-video0 does not exist" in error_line(capsys)


def test_simulated_run_reports_every_stage(nano_bundle, tmp_path):
    process = start_run(nano_bundle, tmp_path, "--seconds", "4", "--report", "report.json")
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ticks"]["run"] + report["ticks"]["missed"] == 120
    assert report["policy"]["calls"] >= 1
    for stage in ("preprocess", "vision", "prefill", "depth", "expert", "bus"):
        assert report["stages_ms"][stage]["p50"] > 0.0
    assert report["safety"]["stop"] == 0
    assert "emulated servos, measured on" in output
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_leaves_no_process_and_no_file(nano_bundle, tmp_path, number, code):
    process = start_run(nano_bundle, tmp_path, "--report", "report.json")
    wait_for_line(process, "running:")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "ended          interrupted" in output
    end = json.loads((tmp_path / "report.json").read_text())["end"]
    assert end == {"how": "signal", "reason": "interrupted", "soft_stop_error": None}
    assert leftovers(tmp_path) == []


def test_signal_while_the_simulator_starts_leaves_no_process(nano_bundle, tmp_path):
    process = start_run(nano_bundle, tmp_path)
    wait_for_line(process, "starting the simulator")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert leftovers(tmp_path) == []


def test_simulator_that_dies_stops_the_run_with_its_reason(nano_bundle, tmp_path):
    process = start_run(nano_bundle, tmp_path)
    wait_for_line(process, "running:")
    worlds = [pid for pid, line in processes_naming(tmp_path) if "sim.world" in line]
    os.kill(worlds[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped for safety: " in errors
    assert "the simulator ended with exit code -9" in errors
    assert "Traceback" not in errors
    assert leftovers(tmp_path) == []


def test_stop_from_another_terminal_ends_the_run_with_its_reason(nano_bundle, tmp_path):
    process = start_run(nano_bundle, tmp_path)
    wait_for_line(process, "running:")
    port = next((tmp_path / "tmp").glob("molmoact-edge-*/port"))
    command = [sys.executable, "-m", "firmware_bridge.cli", "stop", "--port", str(port)]
    stop = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert stop.returncode == 0, stop.stderr
    assert f"asked molmoact-edge (process {process.pid}) to stop\n" in stop.stdout
    assert "limp: servos 1 2 3 4 5 6\n" in stop.stdout
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped for safety: stopped by 'molmoact-arm stop' (process " in errors
    assert "arm            soft, every servo confirmed torque off" in output
    assert leftovers(tmp_path) == []


def test_killed_run_leaves_a_soft_arm_and_a_black_box_with_the_reason(nano_bundle, tmp_path):
    process = start_run(nano_bundle, tmp_path, "--black-box", "run.box")
    wait_for_line(process, "running:")
    time.sleep(1.0)
    process.kill()
    _, errors = process.communicate(timeout=60)
    reason = (
        f"molmoact-edge (process {process.pid}) was killed or crashed while the arm had torque; "
        "the watchdog let the arm down, limp: servos 1 2 3 4 5 6"
    )
    assert f"molmoact-edge: watchdog: {reason}; black box: {tmp_path / 'run.box'}\n" in errors
    assert reason.encode() in (tmp_path / "run.box").read_bytes()
    assert main(["replay", str(tmp_path / "run.box")]) == 0


def start_run(bundle: Path, folder: Path, *more: str) -> subprocess.Popen:
    """Start a run whose temporary files and processes name `folder`."""
    pytest.importorskip("mujoco", reason="the simulated arm needs the demo extra")
    from sim.gl import GlError, ensure_gl

    try:
        ensure_gl()
    except GlError as error:
        pytest.skip(str(error))
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "edge.cli"]
    command += run_arguments(bundle, "sim", "--depth", "incremental", *more)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder / "tmp"),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_line(process: subprocess.Popen, text: str) -> None:
    lines = []
    for line in process.stderr:
        if text in line:
            return
        lines.append(line)
    process.wait()
    raise AssertionError(f"the run ended before it printed {text!r}: {''.join(lines)}")


def processes_naming(folder: Path) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(folder) in line and int(entry.name) != os.getpid():
                found.append((int(entry.name), line))
    return found


def leftovers(folder: Path) -> list[str]:
    """Return processes and temporary files of a run that has ended."""
    deadline_s = time.monotonic() + 10.0
    while processes_naming(folder) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    processes = [line for _, line in processes_naming(folder)]
    return processes + [path.name for path in (folder / "tmp").glob("molmoact*")]
