"""How much memory a piece of code takes at most, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

_REFUSED = """
import re, sys
from saymask.errors import SaymaskError
def run():
{body}
try:
    said = run()
except SaymaskError as error:
    said = "refused: " + str(error)
# Not ru_maxrss, which counts the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
print(said)
"""


def measure(body: str, *arguments: str) -> tuple[int, str]:
    """Run a function's body, which finds its arguments in ``sys.argv``.

    Returns:
        The most memory it held, in MiB, and what it returned or how it was refused.
    """
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", _REFUSED.format(body=indented), *arguments],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak, _, said = done.stdout.partition("\n")
    return int(peak), said.strip()
