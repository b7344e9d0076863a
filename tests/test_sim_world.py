"""The whole simulator as its user meets it: processes, a port, frame files, and their end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from edge.frame_file import FrameFile
from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import JOINTS, load_calibration
from firmware_bridge.transport import SerialTransport
from sim.gl import GlError, ensure_gl

REPOSITORY = Path(__file__).parents[1]
IDS = range(1, 7)
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def off_screen_gl():
    try:
        ensure_gl()
    except GlError as error:
        pytest.skip(f"pictures cannot be rendered: {error}")


@pytest.fixture
def start(tmp_path):
    """Start a world in tmp_path and wait until it is ready; kill what a failed test leaves."""
    started = []

    def start_world(*arguments):
        command = [sys.executable, "-m", "sim.world", "--link", str(tmp_path / "port")]
        command += ["--frames", str(tmp_path / "frames"), *arguments]
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == f"ready {tmp_path / 'port'}\n"
        return process

    yield start_world
    for process in started:
        process.kill()
        process.communicate()


def poll(condition, what):
    """Wait for a true value of `condition()` and return it."""
    give_up_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


def is_running(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read_ticks(bus):
    replies = bus.sync_read(registers.PRESENT_POSITION.address, 2, list(IDS))
    return np.array([int.from_bytes(replies[i].data, "little") for i in IDS])


def newest_frame(path, after_s):
    """Wait for a frame of a state later than `after_s`."""
    frames = FrameFile.open(path)
    try:
        return poll(
            lambda: (frame := frames.latest()) is not None and frame[1] > after_s and frame,
            "a new frame",
        )[0]
    finally:
        frames.close()


@pytest.mark.usefixtures("off_screen_gl")
def test_goals_written_to_the_port_move_the_arm_in_the_pictures(start, tmp_path):
    process = start("--seed", "3", "--size", "96x72", "--truth", str(tmp_path / "truth.jsonl"))
    camera_pids = children(process.pid)
    assert len(camera_pids) == 1
    before = {
        name: newest_frame(tmp_path / "frames" / f"{name}.frame", 0.0)
        for name in ("front", "wrist")
    }
    bus = Bus(SerialTransport(str(tmp_path / "port")))
    try:
        folded = read_ticks(bus)
        goal = folded + np.array([300, 500, -500, 0, 0, 200])
        for step in np.linspace(0.0, 1.0, 50):
            ticks = np.round(folded + step * (goal - folded)).astype(int)
            bus.sync_write(registers.GOAL_POSITION, dict(zip(IDS, ticks.tolist(), strict=True)))
            time.sleep(0.02)
        poll(lambda: np.all(np.abs(read_ticks(bus) - goal) < 80), "the arm at its goal")
        arrived_s = time.monotonic()
    finally:
        bus.close()
    for name, image in before.items():
        after = newest_frame(tmp_path / "frames" / f"{name}.frame", arrived_s)
        assert image.shape == (72, 96, 3)
        assert image.std() > 20.0, "a picture of a desk is not one colour"
        assert np.abs(after.astype(int) - image).mean() > 2.0, f"{name} did not see the arm move"

    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")
    assert not any(is_running(pid) for pid in camera_pids)
    assert not (tmp_path / "port").is_symlink()
    assert list((tmp_path / "frames").iterdir()) == []
    summary = json.loads(output.splitlines()[-1])
    assert summary["cameras"]["frames"] > 5
    assert summary["simulated_s"] == pytest.approx(summary["wall_s"], abs=0.5)
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert truth[-1]["positions"][0] > truth[0]["positions"][0] + 20.0
    assert set(truth[0]["cubes_m"]) == {"red_cube", "green_cube", "blue_cube"}


def ask(process, number, instruction):
    process.stdin.write(json.dumps({"task": number, "instruction": instruction}) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@pytest.mark.usefixtures("off_screen_gl")
def test_mark_is_in_the_pictures_while_a_push_is_judged(start, tmp_path):
    process = start("--seed", "374", "--size", "160x120", "--judge")
    front = tmp_path / "frames" / "front.frame"

    def picture_after(event):
        return newest_frame(front, event["t_s"] + 0.05).astype(int)

    plain = picture_after(ask(process, 0, "touch the green cube"))
    judged = ask(process, 1, "push the blue cube to the mark")
    assert (judged["event"], judged["task"], judged["kind"]) == ("judged", 1, "push_to_mark")
    marked = picture_after(judged)
    again = picture_after(ask(process, 2, "touch the blue cube"))
    brighter = [int(((seen - plain).min(axis=2) > 60).sum()) for seen in (marked, again)]
    assert 20 < brighter[0] < 400
    assert brighter[1] == 0
    assert ask(process, 3, "dance")["event"] == "not judged"
    process.stdin.close()
    process.stdin = None  # a world that nobody asks any more goes on
    picture_after({"t_s": time.monotonic()})


@pytest.mark.usefixtures("off_screen_gl")
def test_cameras_end_when_the_world_is_killed(start, tmp_path):
    process = start("--size", "32x32")
    (camera_pid,) = children(process.pid)
    process.kill()
    process.wait()
    poll(lambda: not is_running(camera_pid), "the camera process gone")
    assert list((tmp_path / "frames").iterdir()) == []


def test_the_world_ends_with_the_process_that_started_it(tmp_path):
    starter = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import subprocess, sys, time\n"
            "world = subprocess.Popen([sys.executable, '-m', 'sim.world', *sys.argv[1:]])\n"
            "print(world.pid, flush=True)\n"
            "time.sleep(600)",
            *("--link", str(tmp_path / "port"), "--frames", str(tmp_path / "frames")),
            *("--camera-hz", "0"),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pid = int(starter.stdout.readline())
        poll((tmp_path / "port").is_symlink, "the port")
    finally:
        starter.kill()
        starter.communicate()
    poll(lambda: not is_running(pid), "the world gone")
    assert not (tmp_path / "port").is_symlink()


def test_the_calibration_file_is_lerobots_and_says_what_the_servos_hold(start, tmp_path):
    start("--camera-hz", "0", "--calibration", str(tmp_path / "arm.json"))
    calibration = load_calibration(tmp_path / "arm.json")
    bus = Bus(SerialTransport(str(tmp_path / "port")))
    try:
        for joint in JOINTS:
            motor = calibration[joint]
            assert bus.read(motor.id, registers.MIN_POSITION_LIMIT) == motor.range_min
            assert bus.read(motor.id, registers.MAX_POSITION_LIMIT) == motor.range_max
            assert bus.read(motor.id, registers.HOMING_OFFSET) == motor.homing_offset
    finally:
        bus.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "taken"], "taken already exists; remove it or choose another path"),
        (["--truth", "none/t.jsonl"], "there is no folder none; make it first"),
    ],
)
def test_a_world_that_cannot_start_says_why_in_one_line(tmp_path, arguments, message):
    (tmp_path / "taken").touch()
    command = [sys.executable, "-m", "sim.world", "--link", "port", "--frames", "frames"]
    ended = subprocess.run(
        [*command, "--camera-hz", "0", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("sim.world: error: ")
    assert ended.stderr.endswith(f"{message}\n")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("size", ["0x10", "96", "axb", "9999x64"])
def test_an_impossible_picture_size_is_refused(size, capsys):
    from sim.world import build_parser

    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args(["--link", "p", "--frames", "f", "--size", size])
    assert exit_info.value.code == 2
    assert "a size is WxH in pixels, each side 16..4096" in capsys.readouterr().err


def test_a_world_whose_parent_died_before_it_started_ends_by_itself(tmp_path):
    """The parent named on the command line is gone: nobody would ever stop this world."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "sim.world", "--link", str(tmp_path / "port")]
    command += ["--frames", str(tmp_path), "--camera-hz", "0", "--parent", str(gone.pid)]
    world = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert world.returncode == 0, world.stderr
    assert not (tmp_path / "port").exists()
