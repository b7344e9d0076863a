"""The same through a real OpenSSH server on loopback, by the commands that users type."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec

import pytest
import yaml

from deploy import cli
from deploy.campaign_faults import faults
from deploy.campaign_rig import CampaignRig
from deploy.fleet_command import NOT_TRIED
from deploy.practice_device import PracticeDevice, find_sshd
from deploy.practice_release import HEALTHY, SICK, make_key, practice_release

pytestmark = pytest.mark.skipif(
    find_sshd() is None, reason="no sshd here: apt-get install openssh-server"
)


def test_the_commands_from_provision_to_rollback(tmp_path, capfd):
    key, other = make_key(tmp_path, "team"), make_key(tmp_path, "other")
    releases = [
        practice_release(tmp_path / f"r{number}", number, key, bundle_kib=8) for number in (1, 2)
    ]
    sick = practice_release(tmp_path / "sick", 3, key, SICK, bundle_kib=8)
    device = PracticeDevice(tmp_path / "device", [other])
    try:
        device.serve(restricted=False)
        words = device.host_words
        release = ["--release", str(releases[0].folder), "--settle-s", "0.2"]
        assert cli.main(["push", *words, *release]) == 2
        assert "does not know; known: other" in capfd.readouterr().err
        assert cli.main(["provision", *words, "--key", f"{key}.pub"]) == 0
        assert "takes releases signed by team" in capfd.readouterr().out
        for made in releases:
            result = tmp_path / f"{made.folder.name}.json"
            words_of = ["--release", str(made.folder), "--settle-s", "0.2", "--result", str(result)]
            assert cli.main(["push", *words, *words_of]) == 0
        assert 0 < json.loads(result.read_text())["sent_bytes"] < releases[1].total_bytes
        capfd.readouterr()
        assert cli.main(["push", *words, "--release", str(sick.folder)]) == 2
        assert "health check failed" in capfd.readouterr().err
        assert cli.main(["rollback", *words, "--settle-s", "0.2"]) == 0
        assert cli.main(["status", *words]) == 0
        said = capfd.readouterr().out
        assert f"{device.host}: {releases[0].manifest.id} running: release 1" in said
        assert f"before     {releases[1].manifest.id}" in said
        assert cli.main(["keys", *words]) == 0
        assert capfd.readouterr().out.startswith("team  ssh-ed25519 ")
        assert cli.main(["run", *words, "--task", "lift it"]) == 0
        assert cli.main(["prune", *words, "--keep", "1"]) == 0
    finally:
        device.close()


@pytest.mark.skipif(find_spec("ansible") is None, reason="ansible-core is not installed")
def test_a_fleet_stops_at_a_canary_that_fails(tmp_path, capfd):
    key = make_key(tmp_path, "team")
    releases = [
        practice_release(tmp_path / f"r{number}", number, key, health, bundle_kib=8)
        for number, health in ((1, HEALTHY), (2, HEALTHY), (3, SICK))
    ]
    first, second, sick = ([f"--release={made.folder}"] for made in releases)
    devices = {name: PracticeDevice(tmp_path / name, [key]) for name in ("a", "canary-1", "b")}

    def runs():
        return {device.running()["process"] for device in devices.values()}

    try:
        hosts = {}
        for name, device in devices.items():
            device.serve()
            user, _, address = device.host.rpartition("@")
            hosts[name] = {
                "ansible_host": address,
                "ansible_port": device.port,
                "ansible_user": user,
                "ansible_ssh_private_key_file": str(device.folder / "login_key"),
                "molmoact_root": str(device.root),
                "molmoact_ssh_options": list(device.options),
            }
        canary = {"canary-1": hosts.pop("canary-1")}
        inventory = tmp_path / "inventory.yaml"
        groups = {"canary": {"hosts": canary}, "others": {"hosts": hosts}}
        inventory.write_text(yaml.safe_dump({"all": {"children": groups}}))
        fleet = ["fleet", str(inventory), "--settle-s", "0.2"]
        for release in (first, second):
            assert cli.main([*fleet, *release]) == 0
            assert capfd.readouterr().out.endswith("3 of 3 devices done\n")
        assert runs() == {releases[1].manifest.id}
        assert cli.main([*fleet, *sick]) == 2
        said = capfd.readouterr().out
        assert re.search(r"canary-1 +FAILED: .*health check failed", said)
        assert len(re.findall(rf"^[ab] +{NOT_TRIED}$", said, re.MULTILINE)) == 2
        assert said.endswith("0 of 3 devices done\n")
        assert runs() == {releases[1].manifest.id}
        assert cli.main([*fleet, "--rollback"]) == 0
        assert runs() == {releases[0].manifest.id}
    finally:
        for device in devices.values():
            device.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    rig = CampaignRig(tmp_path_factory.mktemp("campaign"))
    try:
        rig.push(rig.release())
        yield rig
    finally:
        rig.close()


SAMPLE = {
    ("connection cut", "watch"),
    ("kill -9 the agent", "install"),
    ("all killed at once, boot", "watch"),
    ("content altered on the device", "install"),
    ("key unknown", "offer"),
}


@pytest.mark.parametrize(
    "fault",
    [fault for fault in faults(has_disk=False) if (fault.name, fault.phase) in SAMPLE],
    ids=lambda fault: f"{fault.name}, {fault.phase}",
)
def test_a_fault_loses_no_release(rig, fault):
    before = rig.layout.current_id()
    release, _ = fault.strike(rig, 0.0)
    new = release.manifest.id
    verdict = rig.judge({before, new} if fault.may_take else {before})
    assert verdict.lost == ""


def test_the_campaign_tries_cut_and_kill_in_every_phase():
    tried = {(fault.name, fault.phase) for fault in faults(has_disk=True)}
    for phase in ("offer", "receive", "install", "activate", "watch"):
        for name in ("connection cut", "kill -9 the agent", "kill -9 the host's process"):
            assert (name, phase) in tried
    assert {"disk full", "two flashes at once"} <= {name for name, _ in tried}


def test_an_unreachable_host_is_one_line(capsys):
    words = ["status", "nobody@127.0.0.1", "--port", "1"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("molmoact-flash: error: no connection with the")
