"""Digests that are stored: computed otherwise, earlier caches, runs and manifests would not be found again."""

import hashlib

from ms_codegeex.base.digests import json_digest, sha256


def test_digests_stay_what_they_were(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    assert sha256(tmp_path / "file") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    written = b'{"a": {"z": true}, "b": [1, 2.5, null, "\\u00e9"]}'
    assert json_digest({"b": [1, 2.5, None, "é"], "a": {"z": True}}) == hashlib.sha256(written).hexdigest()
