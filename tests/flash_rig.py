"""What tests flash with: a device in a folder, releases made once, and what is asked of both."""

from __future__ import annotations

import shutil
import threading
import time

import pytest

from deploy.device.installing import install_release
from deploy.device.layout import Layout, read_config
from deploy.practice_device import PracticeDevice
from deploy.practice_release import make_key, practice_release
from deploy.push import PushWishes, push_release

SOON = PushWishes(settle_s=0.2, start_s=10.0)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make_key(tmp_path_factory.mktemp("key"), "team")


@pytest.fixture(scope="module")
def release(key, tmp_path_factory):
    return release_maker(key, tmp_path_factory.mktemp("releases"))


@pytest.fixture
def device(key, tmp_path):
    device = PracticeDevice(tmp_path / "device", [key])
    yield device
    device.close()


def release_maker(key, folder):
    """Give `release(number, behaviour)`, each made once."""
    made = {}

    def make(number, behaviour="healthy"):
        if (number, behaviour) not in made:
            made[number, behaviour] = practice_release(
                folder / f"{number}{behaviour}", number, key, behaviour, bundle_kib=64
            )
        return made[number, behaviour]

    return make


def push(device, release, **other):
    return push_release(device.connect, release, SOON, lambda line: None, **other)


def status_of(device):
    with device.connect() as link:
        return link.ask("status")


def installed(device, release):
    """Install a release as a session would, without switching to it."""
    layout = Layout(device.root)
    for sha256 in release.manifest.objects():
        if not (layout.objects / sha256).exists():
            shutil.copy(release.object_path(sha256), layout.objects / sha256)
    install_release(layout, read_config(layout), release.manifest, release.signature)
    return layout


def assert_runs(device, release):
    """One release runs, the link names it, and the device says so."""
    expected = release.manifest.id
    status = status_of(device)
    assert device.running() == {"link": expected, "process": expected, "state": "running"}
    assert (status["current"], status["confirmed"]) == (expected, expected)
    assert status["trial"] is None
    assert status["service"]["release"] == expected


def wait_for(condition, seconds=20.0):
    """Processes end when they end; a condition that never comes is a failure."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that"
        threading.Event().wait(0.05)
