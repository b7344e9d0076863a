"""What a user is told, and what is run, where off-screen OpenGL is missing."""

import os
import stat

import pytest

from sim import gl

# Point the vendor-neutral libEGL at no driver: what a machine without Mesa looks like.
NO_DRIVER = {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent", "MUJOCO_GL": "egl"}


@pytest.fixture
def apt_get(tmp_path, monkeypatch):
    """A stand-in for apt-get that logs its arguments and finds packages only after an update."""
    log = tmp_path / "log"
    script = tmp_path / "apt-get"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {log}\n'
        f'[ "$1" = update ] && touch {tmp_path}/updated\n'
        f"[ -e {tmp_path}/updated ]\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return log


def test_a_machine_without_a_driver_is_told_the_one_command_that_helps(monkeypatch, capsys):
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    for name, value in NO_DRIVER.items():
        monkeypatch.setenv(name, value)
    assert gl.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sim.gl: error: no off-screen OpenGL here (")
    assert error.endswith("apt-get install -y libegl1 libgl1-mesa-dri'\n")
    assert error.count("\n") == 1


def test_installing_updates_stale_package_lists_once(apt_get):
    gl.install()
    assert apt_get.read_text().splitlines() == [
        "install -y libegl1 libgl1-mesa-dri",
        "update",
        "install -y libegl1 libgl1-mesa-dri",
    ]


def test_installing_stops_at_the_first_success(apt_get):
    (apt_get.parent / "updated").touch()
    gl.install()
    assert apt_get.read_text().splitlines() == ["install -y libegl1 libgl1-mesa-dri"]


def test_a_user_who_may_not_install_is_given_the_command(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(gl.GlError, match="sudo apt-get install -y libegl1 libgl1-mesa-dri"):
        gl.install()
