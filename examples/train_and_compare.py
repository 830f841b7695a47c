"""Train a model on an export, and compare answers with and without it on the val split.

Run: saymask export refcoco export; python train_and_compare.py export [EPOCHS]

Some 50 annotated photos are needed before training helps.
"""

import subprocess
import sys
from pathlib import Path
from statistics import mean

import saymask

data = Path(sys.argv[1])
epochs = sys.argv[2] if len(sys.argv) > 2 else "50"
run = Path("runs") / "first"

program = Path(sys.executable).parent / "saymask-worker"
command = [program, "train", "--data", data, "--split", "train", "--out", run, "--epochs", epochs]
subprocess.run(command, check=True)

val = saymask.load_dataset("export", data, "val")


def measure(sources: str) -> list[float]:
    """Return the IoU of the first candidate with the annotated mask, for each expression."""
    ious = []
    with saymask.load_segmenter(sources=sources) as segmenter:
        segmenter.prepare([image.path for image in val.images])
        for image in val.images:
            for expression in image.expressions:
                found = segmenter.segment(image.path, expression.text, k=1).candidates
                target = saymask.decode_coco_rle(expression.target)
                ious.append(saymask.compute_iou(found[0].mask, target) if found else 0.0)
    return ious


before = measure("proposals")
after = measure(f"proposals,cris:{run / 'model'}")
better = sum(new > old for old, new in zip(before, after, strict=True))
worse = sum(new < old for old, new in zip(before, after, strict=True))
print(f"mean IoU {mean(before):.3f} without the model, {mean(after):.3f} with it")
print(f"of {val.count} expressions {better} became better and {worse} worse")
