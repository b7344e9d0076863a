import grp
import os
import pty
import pwd
import subprocess
import sys

import pytest

from firmware_bridge.latency_timer import latency_ms, request_low_latency
from firmware_bridge.port_advice import permission_remedy, port_advice


@pytest.fixture
def machine(tmp_path):
    """A port that is fine, and the folders of a machine on which nothing else runs."""
    for folder in ("sys", "proc", "by-id", "dev"):
        (tmp_path / folder).mkdir()
    (tmp_path / "dev" / "ttyUSB0").touch()
    return tmp_path


def advise(machine, **options):
    return port_advice(
        str(machine / "dev" / "ttyUSB0"),
        sys_root=machine / "sys",
        proc_root=machine / "proc",
        by_id_folder=machine / "by-id",
        **options,
    )


def set_latency(machine, text):
    folder = machine / "sys" / "bus" / "usb-serial" / "devices" / "ttyUSB0"
    folder.mkdir(parents=True)
    (folder / "latency_timer").write_text(text)
    return folder / "latency_timer"


def run_process(machine, name):
    (machine / "proc" / "77").mkdir()
    (machine / "proc" / "77" / "comm").write_text(f"{name}\n")


def test_port_that_is_fine_needs_no_advice(machine):
    set_latency(machine, "1\n")
    assert advise(machine) == []


def test_latency_timer_is_named_with_both_commands(machine):
    path = set_latency(machine, "16\n")
    (line,) = advise(machine)
    assert "keeps replies back for 16 ms (latency timer)" in line
    assert f"echo 1 | sudo tee {path}" in line
    assert 'ATTR{latency_timer}="1"' in line
    assert "\n" not in line


def test_adapter_without_latency_timer_has_no_latency(machine):
    assert latency_ms(str(machine / "dev" / "ttyUSB0"), machine / "sys") is None


class Adapter:
    """As much of a serial port as setting the latency touches."""

    def __init__(self, port, refusal=None):
        self.port = port
        self.refusal = refusal
        self.low_latency = False

    def set_low_latency_mode(self, wanted):
        if self.refusal:
            raise self.refusal
        self.low_latency = wanted


def test_low_latency_is_set_where_allowed(machine):
    path = set_latency(machine, "16\n")
    adapter = Adapter(str(machine / "dev" / "ttyUSB0"))
    request_low_latency(adapter, machine / "sys")
    assert adapter.low_latency
    assert path.read_text() == "1"


def test_adapter_that_knows_no_low_latency_is_left_as_it_is(machine):
    adapter = Adapter(str(machine / "dev" / "ttyUSB0"), ValueError("not supported"))
    request_low_latency(adapter, machine / "sys")


def test_absent_port_is_the_only_line(machine):
    run_process(machine, "brltty")
    (machine / "dev" / "ttyUSB0").unlink()
    (line,) = advise(machine)
    assert "no such port; check the USB cable" in line
    assert "sudo apt remove brltty" in line


def test_modem_manager_is_named(machine):
    run_process(machine, "ModemManager")
    (line,) = advise(machine)
    assert "systemctl disable --now ModemManager" in line


def test_stable_name_is_recommended(machine):
    link = machine / "by-id" / "usb-1a86_USB_Single_Serial_5A7A-if00"
    link.symlink_to(machine / "dev" / "ttyUSB0")
    (line,) = advise(machine)
    assert line.endswith(f"may name another adapter after the next start; use {link}")
    assert port_advice(str(link), sys_root=machine, proc_root=machine, by_id_folder=machine) == []


def test_forbidden_port_names_group_and_command(machine):
    port = machine / "dev" / "ttyUSB0"
    port.chmod(0o660)
    group = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, *os.getgroups()))
    if os.geteuid() == 0:
        os.chown(port, 0, group.gr_gid)
    else:
        pytest.skip("only root may give a file to another group")
    user = pwd.getpwuid(os.getuid()).pw_name
    (line,) = advise(machine, may_open=lambda path, mode: False)
    assert f"permission denied; it belongs to group {group.gr_name}, {user} is in " in line
    assert f"sudo usermod -aG {group.gr_name} {user}" in line


def test_member_who_has_not_logged_in_again_is_told_so(machine, monkeypatch):
    port = machine / "dev" / "ttyUSB0"
    port.chmod(0o660)
    user = pwd.getpwuid(os.getuid()).pw_name
    dialout = grp.struct_group(("dialout", "x", 987, [user]))
    monkeypatch.setattr("firmware_bridge.port_advice.grp.getgrgid", lambda gid: dialout)
    real = os.stat(port)
    monkeypatch.setattr(
        "firmware_bridge.port_advice.os.stat",
        lambda path: os.stat_result((real.st_mode, 0, 0, 1, 0, 987, 0, 0, 0, 0)),
    )
    assert permission_remedy(str(port)) == (
        f"{user} is in group dialout but logged in before; log out and in again"
    )


def test_process_that_holds_the_port_is_named(tmp_path):
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    script = "import os,sys;os.open(sys.argv[1],os.O_RDWR);print(1,flush=True);sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        other.stdout.readline()
        lines = port_advice(path, sys_root=tmp_path, proc_root=tmp_path, by_id_folder=tmp_path)
        assert any(f"taken by process {other.pid} (" in line for line in lines)
    finally:
        other.communicate()
        os.close(master)
        os.close(slave)
