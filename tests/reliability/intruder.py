"""What a stranger's job would have a worker import and call."""

from pathlib import Path


def touch_proof(*_: object) -> None:
    (Path(__file__).parent / "proof").touch()
