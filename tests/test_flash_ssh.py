"""The same through a real OpenSSH server on loopback, by the commands that users type."""

from __future__ import annotations

import json

import pytest

from deploy import cli
from deploy.campaign_faults import faults
from deploy.campaign_rig import CampaignRig
from deploy.practice_device import PracticeDevice, find_sshd
from deploy.practice_release import SICK, make_key, practice_release

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
