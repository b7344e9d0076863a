"""The emulated port as a terminal: plugged, unplugged, and told new faults while it runs."""

import os
import termios
import threading
import time
from contextlib import contextmanager

import pytest
import serial
from emulated_arm import emulator_process, wait_until

from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Event, ReplyFault
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.emulator.pty_server import LinkError, serve
from firmware_bridge.packets import ping

PONG = bytes.fromhex("ffff010200fc")


@contextmanager
def served(bus, link):
    stop, ready = threading.Event(), threading.Event()
    server = threading.Thread(
        target=serve, args=(bus, link, stop), kwargs={"on_ready": lambda _: ready.set()}
    )
    server.start()
    try:
        assert ready.wait(5.0)
        yield
    finally:
        stop.set()
        server.join()


def answers(port):
    port.reset_input_buffer()
    port.write(ping(1))
    return port.read(6)


def test_faults_may_be_thrown_from_another_thread(tmp_path):
    bus = EmulatedBus(RotorPlant(1))
    link = str(tmp_path / "port")
    with (
        served(bus, tmp_path / "port"),
        serial.Serial(link, 1_000_000, timeout=0.2) as port,
    ):
        assert answers(port) == PONG
        bus.inject(ReplyFault("drop", count=1))
        assert answers(port) == b""
        assert answers(port) == PONG
    assert not (tmp_path / "port").is_symlink()


def test_unplugging_hangs_up_and_takes_the_link_away_until_it_is_plugged_in_again(tmp_path):
    link = tmp_path / "port"
    bus = EmulatedBus(RotorPlant(1))
    with served(bus, link):
        port = serial.Serial(str(link), 1_000_000, timeout=0.2)
        assert answers(port) == PONG
        bus.inject(Event("unplug", duration_s=0.5))
        assert wait_until(lambda: not link.is_symlink())
        with pytest.raises((OSError, termios.error)):
            answers(port)
        with pytest.raises(serial.SerialException):
            serial.Serial(str(link), 1_000_000)
        port.close()
        assert wait_until(link.exists)
        with serial.Serial(str(link), 1_000_000, timeout=0.2) as port:
            assert answers(port) == PONG


def test_server_ends_while_it_is_unplugged(tmp_path):
    bus = EmulatedBus(RotorPlant(1))
    with served(bus, tmp_path / "port"):
        bus.inject(Event("unplug", duration_s=1000.0))
        assert wait_until(lambda: not (tmp_path / "port").is_symlink())


def test_link_that_somebody_else_made_is_left_alone(tmp_path):
    (tmp_path / "port").write_text("mine")
    with pytest.raises(LinkError, match="already exists"):
        serve(EmulatedBus(RotorPlant(1)), tmp_path / "port", threading.Event())
    assert (tmp_path / "port").read_text() == "mine"


def test_faults_file_that_is_written_anew_is_read_while_the_emulator_runs(tmp_path):
    link, faults = tmp_path / "port", tmp_path / "faults.yaml"
    faults.write_text("missing: [1]\n")

    def rewrite(text):
        part = tmp_path / "part"
        part.write_text(text)
        os.replace(part, faults)

    with emulator_process(link, "--faults", str(faults)):
        with serial.Serial(str(link), 1_000_000, timeout=0.1) as port:
            assert answers(port) == b""
            rewrite("{}")
            assert wait_until(lambda: answers(port) == PONG)
            rewrite("servos: {1: {status_bits: 300}}")
            time.sleep(0.1)
            assert answers(port) == PONG
            rewrite("events: [{kind: unplug, at_s: 0.1, duration_s: 0.3}]")
            assert wait_until(lambda: not link.is_symlink())
        assert wait_until(link.exists)
        with serial.Serial(str(link), 1_000_000, timeout=0.2) as port:
            assert answers(port) == PONG
