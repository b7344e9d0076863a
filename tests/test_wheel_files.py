"""Wheels unpacked without pip, every member checked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from deploy.device.errors import DeviceError
from deploy.device.wheel_files import unpack_wheel
from deploy.errors import FlashError
from deploy.robot_wheel import PACKAGES, pack_wheel, robot_wheel
from deploy.wheels import fits, robot_wheels


def wheel_file(folder, content, name="thing.whl"):
    path = folder / name
    path.write_bytes(content)
    return path


def altered(content, change):
    """Rebuild a wheel with `change(members)`, its RECORD left as it was."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    modes = dict.fromkeys(members, 33188)
    change(members, modes)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = modes.get(name, 0o100644) << 16
            archive.writestr(member, data)
    return buffer.getvalue()


@pytest.fixture
def wheel():
    _, content = pack_wheel(
        "thing", "1.0", {"thing/__init__.py": b"x = 1\n", "thing-1.0.data/purelib/more.py": b""}
    )
    return content


def test_a_wheel_is_unpacked_where_python_finds_it(wheel, tmp_path):
    unpack_wheel(wheel_file(tmp_path, wheel), "thing", tmp_path / "site")
    assert (tmp_path / "site" / "thing" / "__init__.py").read_bytes() == b"x = 1\n"
    assert (tmp_path / "site" / "more.py").exists()
    assert (tmp_path / "site" / "thing-1.0.dist-info" / "METADATA").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m, _: m.update({"thing/__init__.py": b"x = 2\n"}), "not what its RECORD says"),
        (lambda m, _: m.update({"thing/extra.py": b""}), "not in its RECORD"),
        (lambda m, _: m.update({"../../evil.py": b""}), "leads elsewhere"),
        (lambda m, _: m.update({"/evil.py": b""}), "leads elsewhere"),
        (lambda _, modes: modes.update({"thing/__init__.py": 0o120777}), "is a link"),
        (lambda m, _: m.pop("thing-1.0.dist-info/RECORD"), "no wheel"),
    ],
)
def test_a_wheel_that_was_meddled_with_is_refused(wheel, tmp_path, change, says):
    with pytest.raises(DeviceError, match=says):
        unpack_wheel(wheel_file(tmp_path, altered(wheel, change)), "thing", tmp_path / "site")
    assert not list(tmp_path.rglob("evil.py"))


def test_a_cut_wheel_is_refused(wheel, tmp_path):
    with pytest.raises(DeviceError, match="damaged wheel"):
        unpack_wheel(wheel_file(tmp_path, wheel[:-40]), "thing", tmp_path / "site")


def test_the_robots_wheel_holds_the_runtime_alone_and_is_the_same_each_time():
    name, content = robot_wheel()
    assert name.startswith("molmoact_edge-")
    assert content == robot_wheel()[1]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
    folders = {name.split("/")[0] for name in names}
    assert folders - set(PACKAGES) == {name.split("/")[0] for name in names if "dist-info" in name}
    for needed in ("edge/service.py", "profiles/so101.yaml", "profiles/arms/so101.yaml"):
        assert needed in names


@pytest.mark.parametrize(
    ("name", "machine", "python", "right"),
    [
        (
            "numpy-1.26.4-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
            "aarch64",
            "3.10",
            True,
        ),
        ("numpy-1.26.4-cp310-cp310-manylinux_2_17_aarch64.whl", "x86_64", "3.10", False),
        ("numpy-1.26.4-cp310-cp310-manylinux_2_17_aarch64.whl", "aarch64", "3.12", False),
        ("tokenizers-0.23.3-cp39-abi3-manylinux_2_17_aarch64.whl", "aarch64", "3.12", True),
        ("later-1-cp313-abi3-manylinux_2_17_aarch64.whl", "aarch64", "3.12", False),
        ("pyserial-3.5-py2.py3-none-any.whl", "aarch64", "3.12", True),
        ("onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl", "aarch64", "3.10", True),
    ],
)
def test_a_wheels_name_says_where_it_fits(name, machine, python, right):
    assert fits(Path(name), machine, python) is right


def test_a_machine_that_nobody_makes_wheels_for_is_refused():
    with pytest.raises(FlashError, match="riscv64"):
        robot_wheels("riscv64", "3.12")


def test_a_given_file_must_be_a_wheel(tmp_path):
    with pytest.raises(FlashError, match="no wheel file"):
        robot_wheels("aarch64", "3.10", (wheel_file(tmp_path, b"", "onnxruntime.zip"),))
