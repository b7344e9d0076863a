import contextlib
import os
import pty
import subprocess
import sys
import termios
import threading
import tty

import pytest
from emulated_arm import memory_bus

from firmware_bridge.errors import PortError
from firmware_bridge.packets import ping
from firmware_bridge.transport import SerialTransport


@pytest.fixture
def terminal():
    """A raw pseudo-terminal: the master's descriptor and the path of the slave."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    with contextlib.suppress(OSError):
        os.close(master)


@pytest.fixture(params=["serial", "memory"])
def transport(request, terminal):
    """Every transport, with a servo 1 that answers a ping at the other end."""
    if request.param == "memory":
        yield memory_bus()[1]
        return
    master, path = terminal
    serial_transport = SerialTransport(path)

    def answer():
        os.read(master, 6)
        os.write(master, bytes.fromhex("ffff010200fc"))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield serial_transport
    serial_transport.close()


def test_answer_to_a_ping_arrives_and_then_silence(transport):
    transport.write(ping(1))
    received = b""
    while len(received) < 6:
        data = transport.read(6 - len(received), 2.0)
        assert data
        received += data
    assert received == bytes.fromhex("ffff010200fc")
    assert transport.read(100, 0.01) == b""


def test_read_returns_no_more_than_was_asked_for(transport):
    transport.write(ping(1))
    assert len(transport.read(1, 2.0)) == 1


def test_all_byte_values_pass_in_both_directions(terminal):
    master, path = terminal
    transport = SerialTransport(path)
    every = bytes(range(256))
    transport.write(every)
    assert os.read(master, 1000) == every
    os.write(master, every)
    received = b""
    while len(received) < 256:
        received += transport.read(1000, 1.0)
    assert received == every
    transport.close()


def test_flush_drops_what_had_arrived(terminal):
    master, path = terminal
    transport = SerialTransport(path)
    os.write(master, b"stale")
    transport.flush_input()
    assert transport.read(100, 0.0) == b""
    transport.close()


def test_second_opener_is_told_who_has_the_port(terminal):
    _, path = terminal
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import serial,sys;p=serial.Serial(sys.argv[1],exclusive=True);print(1,flush=True);"
            "sys.stdin.read()",
            path,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        holder.stdout.readline()
        with pytest.raises(PortError) as caught:
            SerialTransport(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: taken by process {holder.pid} (")
        assert message.endswith(f"; end it with 'kill {holder.pid}', and try again")
        assert "\n" not in message
    finally:
        holder.communicate()


def test_port_can_be_opened_again_after_it_was_given_back(terminal):
    _, path = terminal
    SerialTransport(path).close()
    SerialTransport(path).close()


def test_absent_port_is_one_line():
    with pytest.raises(PortError, match=r"^/dev/ttyNONE7: no such port; check the USB cable, or"):
        SerialTransport("/dev/ttyNONE7")


def test_file_that_is_no_port_is_one_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(PortError, match="is not a serial port at 1000000 baud"):
        SerialTransport(str(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_forbidden_port_names_the_group_to_join(terminal):
    _, path = terminal
    os.chmod(path, 0)
    with pytest.raises(PortError, match="permission denied; run 'sudo usermod -aG dialout"):
        SerialTransport(path)


def test_permission_denied_names_the_group_to_join(monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("firmware_bridge.transport.serial.Serial", refuse)
    with pytest.raises(PortError, match="permission denied; run 'sudo usermod -aG dialout"):
        SerialTransport("/dev/ttyACM0")


def test_unplugged_port_is_a_port_error(terminal):
    master, path = terminal
    transport = SerialTransport(path)
    os.close(master)
    for call in (lambda: transport.write(ping(1)), lambda: transport.read(10, 0.1)):
        with pytest.raises(PortError, match=r"port lost.*check the USB cable and power"):
            call()
    transport.close()


def test_exclusive_mark_is_not_left_on_a_pseudo_terminal(terminal):
    # It would outlive a killed client, and only root could open the port again.
    _, path = terminal
    SerialTransport(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    termios.tcgetattr(descriptor)
    os.close(descriptor)
