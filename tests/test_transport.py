import contextlib
import os
import pty
import select
import subprocess
import sys
import termios
import threading
import time
import tty

import pytest
from emulated_arm import memory_bus

from firmware_bridge.bus import Bus
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


def answer_ping(master):
    """Be servo 1 for one ping, if one comes."""
    with contextlib.suppress(OSError):
        os.read(master, 6)
        os.write(master, bytes.fromhex("ffff010200fc"))


@pytest.fixture(params=["serial", "memory"])
def transport(request, terminal):
    """Every transport, with a servo 1 that answers a ping at the other end."""
    if request.param == "memory":
        yield memory_bus()[1]
        return
    master, path = terminal
    serial_transport = SerialTransport(path)

    thread = threading.Thread(target=answer_ping, args=(master,), daemon=True)
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


def test_open_port_need_not_be_opened_again(transport):
    assert transport.reopen()


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


class Plug:
    """A port that can be pulled and put back: a link to a pseudo-terminal, as udev makes them."""

    def __init__(self, path):
        self.path = path
        self.put_in()

    def put_in(self):
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        self.slave_path = os.ttyname(self.slave)
        self.path.symlink_to(self.slave_path)

    def pull(self):
        self.path.unlink(missing_ok=True)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def plug(tmp_path):
    plug = Plug(tmp_path / "port")
    yield plug
    with contextlib.suppress(OSError):
        plug.pull()


def test_lost_port_is_opened_again_when_it_is_back(plug):
    transport = SerialTransport(str(plug.path))
    plug.pull()
    with pytest.raises(PortError):
        transport.write(ping(1))
    assert not transport.reopen()
    plug.put_in()
    assert transport.reopen()
    transport.write(ping(1))
    assert os.read(plug.master, 100) == ping(1)
    # And it is held as firmly as the first time.
    with pytest.raises(PortError, match="taken by"):
        SerialTransport(str(plug.path))
    transport.close()


def test_lost_port_is_closed_at_once_so_that_its_name_is_free(plug):
    transport = SerialTransport(str(plug.path))
    descriptor = transport.fileno()
    plug.pull()
    with pytest.raises(PortError):
        transport.read(10, 0.1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with pytest.raises(PortError, match="port lost; check the USB cable and power"):
        transport.fileno()
    transport.close()


def test_reopening_is_quick_and_leaves_an_open_port_alone(plug):
    transport = SerialTransport(str(plug.path))
    descriptor = transport.fileno()
    assert transport.reopen()
    assert transport.fileno() == descriptor
    plug.pull()
    with pytest.raises(PortError):
        transport.flush_input()
    started_s = time.monotonic()
    for _ in range(100):
        assert not transport.reopen()
    assert time.monotonic() - started_s < 2.0
    transport.close()


def test_port_that_is_taken_when_it_comes_back_is_tried_again_later(plug):
    transport = SerialTransport(str(plug.path))
    plug.pull()
    with pytest.raises(PortError):
        transport.write(ping(1))
    plug.put_in()
    other = SerialTransport(str(plug.path))
    assert not transport.reopen()
    other.close()
    assert transport.reopen()
    transport.close()


def test_adapter_is_found_again_by_the_name_that_is_its_own(plug, tmp_path, monkeypatch):
    # Given as ttyACM0, it comes back as ttyACM1, and another adapter is ttyACM0 now.
    by_id = tmp_path / "usb-one-if00"
    plug.path.rename(by_id)
    plug.path = by_id
    name = tmp_path / "ttyACM0"
    name.symlink_to(plug.slave_path)
    monkeypatch.setattr("firmware_bridge.transport.by_id_path", lambda port: str(by_id))
    transport = SerialTransport(str(name))
    plug.pull()
    with pytest.raises(PortError):
        transport.write(ping(1))
    other_master, other_slave = pty.openpty()
    name.unlink()
    name.symlink_to(os.ttyname(other_slave))
    assert not transport.reopen()
    plug.put_in()
    assert transport.reopen()
    transport.write(ping(1))
    assert os.read(plug.master, 100) == ping(1)
    transport.close()
    os.close(other_master)
    os.close(other_slave)


def test_terminal_of_somebody_else_is_never_taken_for_a_port_that_is_back(tmp_path):
    # Numbers of pseudo-terminals are used again at once: the link leads to a stranger's now.
    plug = Plug(tmp_path / "port")
    transport, direct = SerialTransport(str(plug.path)), plug.slave_path
    os.close(plug.master)
    os.close(plug.slave)
    with pytest.raises(PortError):
        transport.write(ping(1))
    stranger, stranger_slave = pty.openpty()
    if os.ttyname(stranger_slave) != direct:
        pytest.skip("another program was quicker to take the number")
    assert not transport.reopen()
    plug.path.unlink()
    plug.path.symlink_to(direct)
    assert transport.reopen()
    transport.close()
    os.close(stranger)
    os.close(stranger_slave)


def test_port_that_takes_no_bytes_is_given_up(terminal):
    master, path = terminal
    transport = SerialTransport(path)
    with pytest.raises(PortError, match="it takes no more bytes"):
        transport.write(bytes(1 << 20))
    assert os.read(master, 1) == b"\0"
    transport.close()


def test_bus_uses_a_port_that_was_pulled_and_put_back(plug):
    bus = Bus(SerialTransport(str(plug.path)), reply_timeout_s=2.0)
    answers = threading.Thread(target=answer_ping, args=(plug.master,))
    answers.start()
    assert bus.ping(1).error == 0
    answers.join()
    plug.pull()
    for _ in range(3):
        with pytest.raises(PortError):
            bus.ping(1)
    plug.put_in()
    answers = threading.Thread(target=answer_ping, args=(plug.master,))
    answers.start()
    assert bus.ping(1).error == 0
    answers.join()
    bus.close()


def test_plain_opener_before_us_is_found_and_named(terminal, monkeypatch):
    # Neither lock nor mark shows who opened a port without asking for them.
    _, path = terminal
    monkeypatch.setattr("firmware_bridge.transport._PTY_PREFIX", "/none")
    script = "import os,sys;os.open(sys.argv[1],os.O_RDWR);print(1,flush=True);sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        with pytest.raises(PortError, match=f"taken by process {holder.pid} "):
            SerialTransport(path)
    finally:
        holder.communicate()
    SerialTransport(path).close()


def test_plain_opener_after_us_is_kept_out(terminal, monkeypatch):
    _, path = terminal
    monkeypatch.setattr("firmware_bridge.transport._PTY_PREFIX", "/none")
    transport = SerialTransport(path)
    script = (
        "import os,sys\n"
        "if os.geteuid() == 0:\n"
        "    os.setgid(65534); os.setuid(65534)\n"
        "try: os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)\n"
        "except OSError as error: print(error.strerror)\n"
    )
    if os.geteuid() == 0:
        os.chmod(path, 0o666)
    opener = [sys.executable, "-c", script, path]
    told = subprocess.run(opener, capture_output=True, text=True, check=True).stdout
    assert told == "Device or resource busy\n"
    transport.close()
    told = subprocess.run(opener, capture_output=True, text=True, check=True).stdout
    assert told == ""


def test_bytes_that_another_reader_took_are_no_lost_port(terminal, monkeypatch):
    master, path = terminal
    transport = SerialTransport(path)
    with monkeypatch.context() as patched:  # what select saw, the watchdog reads first
        patched.setattr(select, "select", lambda readers, *_: (readers, [], []))
        assert transport.read(10, 0.1) == b""
    os.write(master, b"later")
    assert transport.read(10, 1.0) == b"later"
    transport.close()


@pytest.mark.parametrize("use", ["write", "flush", "read"])
def test_loss_is_told_in_words(plug, use):
    transport = SerialTransport(str(plug.path))
    plug.pull()
    calls = {
        "write": lambda: transport.write(ping(1)),
        "flush": transport.flush_input,
        "read": lambda: transport.read(10, 0.1),
    }
    with pytest.raises(PortError) as caught:
        calls[use]()
    assert str(caught.value) in (
        f"{plug.path}: port lost (Input/output error); check the USB cable and power",
        f"{plug.path}: port lost (it was closed at the other end); check the USB cable and power",
    )


def test_exclusive_mark_is_not_left_on_a_pseudo_terminal(terminal):
    # It would outlive a killed client, and only root could open the port again.
    _, path = terminal
    SerialTransport(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    termios.tcgetattr(descriptor)
    os.close(descriptor)
