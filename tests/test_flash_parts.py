"""What a release is made of besides code: unit, udev rule, profiles; and fleets."""

from __future__ import annotations

import argparse
import configparser
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import pytest

from deploy import cli
from deploy.device.errors import os_error_text
from deploy.device.supervisor import START_BURST, START_INTERVAL_S, STOP_S, WATCHDOG_S
from deploy.errors import FlashError
from deploy.fleet_command import _batches, inventory_hosts
from deploy.profile_files import profile_files
from deploy.push_command import best_python, fitting
from deploy.result_file import reported, write_result
from edge.config_section import ProfileError
from edge.profile import load_profile

SYSTEM = Path(str(resources.files("deploy").joinpath("system")))


@pytest.fixture(scope="module")
def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(SYSTEM / "molmoact-edge.service")
    return parser


def test_unit_and_supervisor_follow_the_same_rules(unit):
    assert float(unit["Unit"]["StartLimitIntervalSec"]) == START_INTERVAL_S
    assert int(unit["Unit"]["StartLimitBurst"]) == START_BURST
    assert float(unit["Service"]["WatchdogSec"]) == WATCHDOG_S
    assert float(unit["Service"]["TimeoutStopSec"]) >= STOP_S
    assert unit["Service"]["RestartPreventExitStatus"] == "2"


def test_the_watchdog_process_of_the_arm_outlives_the_service(unit):
    assert unit["Service"]["KillMode"] == "process"


def test_a_guard_that_fails_keeps_no_release_from_starting(unit):
    prefixes, _, command = unit["Service"]["ExecStartPre"].partition("/")
    assert set(prefixes) == {"-", "+"}
    assert command.endswith("agent.pyz guard")


def test_the_service_may_use_every_kind_of_gpu_device_of_a_jetson():
    """nvmap is a misc device: the pattern for character devices of NVIDIA's does not match it."""
    text = (SYSTEM / "molmoact-edge.service").read_text()
    allowed = set(re.findall(r"^DeviceAllow=(\S+) rw$", text, re.MULTILINE))
    assert {"char-nv*", "/dev/nvmap", "char-drm"} <= allowed


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_understands_the_unit_and_finds_it_tight():
    path = str(SYSTEM / "molmoact-edge.service")
    verify = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False
    )
    complaints = [line for line in verify.stderr.splitlines() if "molmoact" in line]
    assert [line for line in complaints if "is not executable" not in line] == []
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in security.stderr:
        pytest.skip("this systemd cannot rate a file")
    assert security.returncode == 0, security.stdout[-400:]


def test_the_udev_rule_names_every_adapter_that_scan_knows():
    text = (SYSTEM / "60-molmoact-arm.rules").read_text()
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    for vendor, product in (("1a86", "55d3"), ("1a86", "55d4"), ("1a86", "7523"), ("0403", "6001")):
        matching = [rule for rule in rules if vendor in rule and product in rule]
        assert len(matching) == 1
        assert 'SYMLINK+="molmoact-arm"' in matching[0]


def test_a_shipped_profile_travels_by_name():
    argument, files, profile = profile_files("orin_nano_8gb_25w")
    assert (argument, files) == ("orin_nano_8gb_25w", {})
    assert profile.board.hardware.module == "orin_nano_8gb"


def test_a_profile_of_ones_own_travels_with_its_files(tmp_path):
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "quiet.yaml").write_text("name: quiet\nbased_on: generic_cpu\n")
    text = "name: mine\nbased_on: so101\nboard: boards/quiet.yaml\ncalibration: arm.json\n"
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "arm.json").write_text("{}")
    argument, files, profile = profile_files(str(tmp_path / "mine.yaml"))
    assert set(files) == {"profile/mine.yaml", "profile/boards/quiet.yaml", "profile/arm.json"}
    there = tmp_path / "device"
    for name, content in files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(content)
    arrived = load_profile(str(there / argument))
    assert arrived.board == profile.board
    assert arrived.calibration == there / "profile" / "arm.json"


def test_a_profile_with_files_elsewhere_is_refused(tmp_path):
    (tmp_path / "quiet.yaml").write_text("name: quiet\nbased_on: generic_cpu\n")
    (tmp_path / "robots").mkdir()
    path = tmp_path / "robots" / "mine.yaml"
    path.write_text("name: mine\nbased_on: so101\nboard: ../quiet.yaml\n")
    with pytest.raises(FlashError, match="put the files of a profile in its folder"):
        profile_files(str(path))


@pytest.mark.parametrize(
    ("name", "calibration", "says"),
    [
        ("my arm.yaml", "arm.json", r"my arm\.yaml: a release takes names of letters.*rename it"),
        ("mine.yaml", "my arm.json", r"my arm\.json: a release takes names of letters.*rename it"),
        ("mine.yaml", "../arm.json", "put the files of a profile in its folder"),
    ],
)
def test_a_profile_whose_files_cannot_travel_says_what_to_do(tmp_path, name, calibration, says):
    (tmp_path / "robots").mkdir()
    path = tmp_path / "robots" / name
    path.write_text(f"name: mine\nbased_on: so101\ncalibration: {calibration}\n")
    (path.parent / calibration).write_text("{}")
    with pytest.raises(FlashError, match=says):
        profile_files(str(path))


def test_a_board_that_cannot_be_used_is_refused_before_anything_is_built():
    with pytest.raises(ProfileError, match="refused"):
        profile_files("orin_nano_4gb")


def test_the_oldest_python_of_a_device_is_taken():
    assert best_python({"pythons": {"3.12": "/a", "3.10": "/b"}}) == "3.10"
    with pytest.raises(FlashError, match="--python PATH"):
        best_python({"pythons": {}})


def test_no_release_for_a_device_names_those_there_are():
    class Made:
        def __init__(self, machine, python):
            self.manifest = type("M", (), {"machine": machine, "python": python})

    made = [Made("aarch64", "3.10"), Made("aarch64", "3.12")]
    facts = {"machine": "aarch64", "pythons": {"3.12": "/usr/bin/python3.12"}}
    assert fitting(made, facts) is made[1]
    with pytest.raises(FlashError, match=r"there are: aarch64 Python 3\.10, aarch64 Python 3\.12"):
        fitting(made, {"machine": "x86_64", "pythons": {"3.12": "/x"}})


def test_the_devices_of_an_inventory_are_found_in_its_order(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "all:\n  children:\n    canary: {hosts: {b: {}}}\n    rest: {hosts: {a: , c: }}\n"
    )
    assert inventory_hosts(path) == ["b", "a", "c"]
    path.write_text("all: {}\n")
    with pytest.raises(FlashError, match="no devices"):
        inventory_hosts(path)


def test_a_range_of_devices_is_what_ansible_reads_in_it(tmp_path):
    ranges = {
        "robot-[1:3]": ["robot-1", "robot-2", "robot-3"],
        "robot-[08:12:2].lan": ["robot-08.lan", "robot-10.lan", "robot-12.lan"],
        "[a:b][1:2]": ["a1", "a2", "b1", "b2"],
        "10.0.0.7": ["10.0.0.7"],
    }
    hosts = [host for expanded in ranges.values() for host in expanded]
    path = tmp_path / "inventory.yaml"
    path.write_text(json.dumps({"all": {"hosts": {key: {} for key in ranges}}}))
    assert inventory_hosts(path) == hosts
    if find_spec("ansible"):
        words = [sys.executable, "-m", "ansible.cli.inventory", "-i", str(path), "--list"]
        listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert json.loads(listed)["ungrouped"]["hosts"] == hosts


def test_batches_are_numbers_or_shares():
    assert _batches("1,25%") == [1, "25%"]
    with pytest.raises(FlashError, match="--batches"):
        _batches("1,half")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["push", "h"], "give either --release"),
        (["push", "h", "--bundle", "b"], "belong together"),
        (["push", "h", "--release", "r", "--bundle", "b", "--profile", "p"], "give either"),
        (["push", "h", "--root", "r", "--release", "/nowhere"], "no connection|no release"),
        (["status", "h", "--via", "no-such-program"], "cannot run no-such-program: .*No such file"),
        (["status", "h", "--via", "docker 'exec"], "--via docker 'exec: No closing quotation"),
        (["status", "h", "--via", ""], "--via is empty"),
        (["provision", "h", "--via", "a 'b", "--key", "k.pub"], "No closing quotation"),
    ],
)
def test_wrong_words_are_one_line(words, says, capsys):
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("molmoact-flash: error: ")
    assert re.search(says, said)


@pytest.mark.parametrize(
    "words",
    [
        ["push", "h", "--release", "r", "--via", "no-such-program"],
        ["push", "h", "--release", "r", "--via", "a 'b"],
        ["push", "h", "--bundle", "b"],
        ["rollback", "h", "--via", "no-such-program"],
    ],
)
def test_a_failure_of_any_kind_is_in_the_result(words, tmp_path, capsys):
    result = tmp_path / "result.json"
    assert cli.main([*words, "--result", str(result)]) == 2
    error = json.loads(result.read_text())["error"]
    assert capsys.readouterr().err == f"molmoact-flash: error: {error}\n"


def test_a_result_that_cannot_be_written_is_one_line(tmp_path, capsys):
    args = argparse.Namespace(host="h", result=tmp_path / "nowhere" / "result.json")
    with pytest.raises(FlashError, match=r"result\.json: cannot be written: No such file"):
        write_result(args, {})
    with pytest.raises(FlashError, match="what came before"), reported(args):
        raise FlashError("what came before")


def test_an_error_of_the_system_is_one_line_and_in_the_result(tmp_path):
    args = argparse.Namespace(host="h", result=tmp_path / "result.json")
    with pytest.raises(FlashError, match="No such file"), reported(args):
        (tmp_path / "absent").read_text()
    assert "No such file" in json.loads(args.result.read_text())["error"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (
            errno.ENOSPC,
            r"^the device's disk is full \(/x/y\); free some with 'molmoact-flash prune'$",
        ),
        (
            errno.EROFS,
            r"^the device's user \w+ may not write \(/x/y\): Read-only .*provision again",
        ),
        (errno.EIO, "^.*Input/output error: '/x/y'$"),
    ],
)
def test_what_the_system_refuses_says_what_helps(number, says):
    assert re.search(says, os_error_text(OSError(number, os.strerror(number), "/x/y")))
