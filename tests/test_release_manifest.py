"""What a device believes of a manifest."""

from __future__ import annotations

import copy
import json

import pytest

from deploy.device.errors import RefusedError
from deploy.device.release_manifest import ReleaseManifest

GOOD = {
    "schema": "molmoact-edge release 1",
    "sequence": 20261122093015,
    "name": "kitchen",
    "created_utc": "2026-11-22T09:30:15Z",
    "target": {"machine": "aarch64", "python": "3.10"},
    "profile": "so101",
    "profile_name": "so101",
    "bundle_sha256": "b" * 64,
    "agent_version": 1,
    "needs": {"unpacked_bytes": 10, "memory_mib": 5, "provider": None, "part_numbers": []},
    "files": [
        {"path": "bundle/manifest.json", "sha256": "a" * 64, "size": 3, "mode": 0o644},
        {"path": "wheels/edge-1-py3-none-any.whl", "sha256": "c" * 64, "size": 4, "mode": 0o644},
    ],
}


def manifest_with(path, value):
    stated = copy.deepcopy(GOOD)
    at = stated
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(stated).encode()


def test_a_good_manifest_is_read():
    manifest = ReleaseManifest(json.dumps(GOOD).encode())
    assert manifest.id == "20261122093015-kitchen"
    assert manifest.objects() == {"a" * 64: 3, "c" * 64: 4}
    assert [file.path for file in manifest.under("wheels/")] == ["wheels/edge-1-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema",), "molmoact-edge release 2", "update the older"),
        (("sequence",), 12, "sequence"),
        (("sequence",), True, "sequence"),
        (("name",), "../x", "lower case"),
        (("name",), "Kitchen", "lower case"),
        (("target", "python"), "3.10; rm", "python"),
        (("files", 0, "path"), "bundle/../../etc/passwd", "leads elsewhere"),
        (("files", 0, "path"), "/etc/passwd", "leads elsewhere"),
        (("files", 0, "path"), "bundle/.hidden", "leads elsewhere"),
        (("files", 1, "path"), "bundle/manifest.json", "doubled"),
        (("files", 0, "path"), "etc/passwd", "no part of a release"),
        (("files", 0, "sha256"), "A" * 64, "digest"),
        (("files", 1, "sha256"), "a" * 64, "digest or size"),
        (("files", 0, "mode"), 0o4755, "mode"),
        (("files", 0, "size"), -1, "size"),
        (("files",), [], "list"),
        (("needs", "provider"), 3, "provider"),
        (("agent_version",), 0, "agent_version"),
    ],
)
def test_what_does_not_hold_together_is_refused(path, value, says):
    with pytest.raises(RefusedError, match=says):
        ReleaseManifest(manifest_with(path, value))


def test_a_release_without_a_bundle_is_refused():
    with pytest.raises(RefusedError, match="no bundle"):
        ReleaseManifest(manifest_with(("files",), GOOD["files"][1:]))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(RefusedError, match="release manifest"):
        ReleaseManifest(content)
