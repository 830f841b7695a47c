"""What PyTorch keeps for each shape of a tensor."""

from __future__ import annotations

import json
import subprocess
import sys

_SCRIPT = """
import json
import saymask_worker
import psutil, torch
layer = torch.nn.Linear(256, 512).bfloat16()
resident = []
with torch.inference_mode():
    for rows in range(100, 1100):
        layer(torch.zeros(rows, 256, dtype=torch.bfloat16))
        if rows % 500 == 199:
            resident.append(psutil.Process().memory_info().rss / 1e6)
print(json.dumps(resident))
"""


def test_new_shapes_take_no_new_memory() -> None:
    """Photos bring new shapes without end; by default a thousand of them take 400 MB."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    after_100, after_600 = json.loads(done.stdout)
    assert after_600 - after_100 < 150
