"""Signatures as OpenSSH makes and checks them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from deploy.device.errors import DeviceError, RefusedError
from deploy.device.signature import key_from_public, read_allowed_keys, signer_of
from deploy.errors import FlashError
from deploy.practice_release import make_key
from deploy.signing import public_key, sign

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Give (a key that is allowed, one that is not, the file of allowed keys)."""
    folder = tmp_path_factory.mktemp("keys")
    good, bad = make_key(folder, "team"), make_key(folder, "stranger")
    allowed = folder / "allowed_signers"
    allowed.write_text(public_key(good.with_suffix(".pub")).line + "\n")
    return good, bad, allowed


def test_a_release_says_who_signed_it(keys):
    good, _, allowed = keys
    assert signer_of(b"manifest", sign(b"manifest", good), allowed) == "team"


def test_one_altered_byte_is_refused(keys):
    good, _, allowed = keys
    with pytest.raises(RefusedError, match=r"altered.*known: team"):
        signer_of(b"manifesT", sign(b"manifest", good), allowed)


def test_an_unknown_key_is_refused(keys):
    _, bad, allowed = keys
    with pytest.raises(RefusedError, match="does not know"):
        signer_of(b"manifest", sign(b"manifest", bad), allowed)


def test_a_signature_made_for_another_purpose_is_refused(keys, tmp_path):
    good, _, allowed = keys
    text = tmp_path / "text"
    text.write_bytes(b"manifest")
    command = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(good), "-n", "git", str(text)]
    subprocess.run(command, check=True)
    with pytest.raises(RefusedError, match="does not know"):
        signer_of(b"manifest", text.with_suffix(".sig").read_bytes(), allowed)


@pytest.mark.parametrize("signature", [b"", b"  \n"])
def test_an_unsigned_release_is_refused(keys, signature):
    with pytest.raises(RefusedError, match="not signed"):
        signer_of(b"manifest", signature, keys[2])


def test_a_device_without_keys_takes_nothing(keys, tmp_path):
    none = tmp_path / "allowed_signers"
    none.write_text("# nobody\n")
    with pytest.raises(RefusedError, match="knows no key"):
        signer_of(b"manifest", sign(b"manifest", keys[0]), none)


def test_a_line_that_would_allow_more_than_releases_is_refused(keys, tmp_path):
    loose = tmp_path / "allowed_signers"
    loose.write_text(keys[2].read_text().replace(' namespaces="molmoact-edge-release"', ""))
    with pytest.raises(DeviceError, match="line 1 is no key"):
        read_allowed_keys(loose)


def test_keys_of_other_kinds_are_refused():
    with pytest.raises(RefusedError, match="ssh-keygen -t ed25519"):
        key_from_public("ssh-rsa AAAAB3Nza somebody")


def test_a_private_key_is_not_sent_to_a_device(keys):
    with pytest.raises(FlashError, match=r"give .*team\.pub"):
        public_key(keys[0])


def test_a_key_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(FlashError, match="ssh-keygen -t ed25519"):
        sign(b"manifest", tmp_path / "none")
