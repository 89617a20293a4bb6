"""Uploads that the service refuses: archives that would write elsewhere, bombs, pickles, code in models."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile

import numpy as np

from tests.support.uploading import a_bundle, a_tar, a_zip


def linked() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        info = tarfile.TarInfo("a.csv")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return written.getvalue()


def zip_link() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        info = zipfile.ZipInfo("a.csv")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return written.getvalue()


def pickled() -> bytes:
    written = io.BytesIO()
    np.savez(written, x=np.array([{"a": 1}], dtype=object))
    return written.getvalue()


def saved(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


DANGEROUS = {
    "leads outside": ("csv", a_zip({"../a.csv": "a\n"}), "not a relative path inside the archive"),
    "an absolute path": ("csv", a_tar({"/etc/a.csv": b"a\n"}), "not a relative path inside the archive"),
    "a backslash": ("csv", a_zip({"..\\a.csv": "a\n"}), "not a relative path inside the archive"),
    "dots that look like others": ("csv", a_zip({"․․/a.csv": "a\n"}), "not a relative path inside the archive"),
    "a control character": ("csv", a_tar({"a\n.csv": b"a\n"}), "not a relative path inside the archive"),
    "a link in a tar": ("csv", linked(), "not a regular file"),
    "a link in a zip": ("csv", zip_link(), "not a regular file"),
    "a zip bomb": ("csv", a_zip({"a.csv": b"0" * (80 << 20)}), "unpacks to more than"),
    "a tar bomb": ("csv", a_tar({"a.csv": b"0" * (80 << 20)}), "unpacks to more than"),
    "half an archive": ("csv", a_zip({"a.csv": os.urandom(4096)})[:3000], "damaged"),
    "pickled arrays": ("npz", pickled(), "pickles"),
    "pickled arrays in an archive": ("npz", a_tar({"a.npz": pickled()}), "pickles"),
    "a pickled array alone": ("npz", saved(np.array([{"a": 1}], dtype=object)), "pickles"),
    "a pickled array in an archive": ("npz", a_tar({"a/x.npy": saved(np.array([None]))}), "pickles"),
    "no arrays": ("npz", b"not a zip", "not an .npz file"),
    "no file of the format": ("images", a_zip({"a.txt": "a"}), "no file of the format images"),
    "a picture without a folder": ("images", b"\x89PNG\r\n\x1a\n", "a folder for each class"),
}
"""Name → format, content, what the refusal of the dataset says."""

HARMFUL = {
    "no archive": (b"no archive", "is a .tar.gz"),
    "no manifest": (a_tar({"a": b"x"}), "no manifest.json"),
    "nothing to load": (a_tar({"manifest.json": b"{}"}), "no job can start from it"),
    "no JSON": (a_tar({"manifest.json": b"["}), "is not JSON"),
    "a Lambda": (a_bundle({"class_name": "Model", "config": {"layers": [{"class_name": "Lambda"}]}}), "holds a Lambda"),
    "pickles": (a_bundle(**{"training_state/values.npz": pickled()}), "pickles"),
    "a path in a model": (
        a_tar({"manifest.json": b"{}", "models/m.keras": a_zip({"../x": "x"})}), "not a relative path",
    ),
    "half a model": (a_tar({"manifest.json": b"{}", "models/m.keras": b"PK\x03\x04x"}), "damaged"),
}  # fmt: skip
"""Name → content, what the refusal of the bundle says."""
