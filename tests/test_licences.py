"""Licences of all packages that an installation brings: none asks for more than to be named."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata, requires

from packaging.requirements import Requirement

#: Words of SPDX expressions, and of the older fields, of licences that let a program be used, changed and passed on.
FREE = {
    "0bsd", "apache", "bsd", "bsl-1.0", "cc0-1.0", "cnri-python", "isc", "llvm-exception", "mit", "mit-0", "mit-cmu",
    "mpl-2.0", "psf-2.0", "unlicense", "zlib",
}  # fmt: skip
#: Names of licences as the older fields have them.
OLD = {
    "apache software license": "apache", "apache license": "apache", "apache-2.0": "apache", "apache 2.0": "apache",
    "bsd license": "bsd", "bsd-3-clause": "bsd", "bsd-2-clause": "bsd", "3-clause bsd license": "bsd", "new bsd": "bsd",
    "mit license": "mit", "dfsg approved": "mit", "mozilla public license 2.0 (mpl 2.0)": "mpl-2.0",
    "python software foundation license": "psf-2.0", "isc license (iscl)": "isc",
}  # fmt: skip
#: NVIDIA's libraries come with torch's wheels for Linux, under terms of their own that let them be passed on.
NVIDIA = re.compile(r"nvidia-|cuda-")
EXTRAS = ("s3", "gcs", "azure", "dataflow", "kafka", "redis")


def installed() -> set[str]:
    """The packages that an installation with all extras brings, as far as they are here."""
    found: set[str] = set()
    to_do = [("nnsparse-stream", frozenset(EXTRAS))]
    seen = set()
    while to_do:
        name, extras = to_do.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            wanted = requires(name) or []
        except PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        for text in wanted:
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                to_do.append((re.sub(r"[-_.]+", "-", one.name).lower(), frozenset(one.extras)))
    return found - {"nnsparse-stream"}


def licences(name: str) -> set[str]:
    """What a package says of its licence."""
    held = metadata(name)
    if told := held.get("License-Expression"):
        words = set(re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", told)) - {""}
    else:
        classifiers = [text for text in held.get_all("Classifier") or [] if text.startswith("License ::")]
        words = {text.rpartition("::")[2].strip() for text in classifiers} or {
            (held.get("License") or "").split("\n")[0]
        }
    words = {part for word in words for part in word.lower().split(" and ")}
    return {OLD.get(word, word) for word in words}


def test_all_licences_are_free() -> None:
    names = installed()
    assert {"apache-beam", "pyarrow", "s3fs", "confluent-kafka", "redis"} <= names
    strange = {name: licences(name) for name in names if not NVIDIA.match(name) and not licences(name) <= FREE}
    assert not strange
