"""From photos to an exported, verified data set, without Label Studio.

Run: python photos_to_dataset.py [FOLDER]

Expressions are proposed; each is kept only if a click into the proposed mask finds the same object,
which tells a whole object from a piece of one. A person has still checked nothing: before you
trust a data set, have a sample confirmed (``saymask import coco``, ``saymask verify``).
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import saymask

SAMPLES = Path(saymask.__file__).parent / "samples"
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
out = Path("dataset")

# Expressions and masks, as a COCO data set; the same command continues after an interruption.
program = Path(sys.executable).parent / "saymask-worker"
subprocess.run([program, "propose", folder, "--out", out], check=True)


def click_inside(segmenter, path: Path, mask: saymask.Mask) -> saymask.Mask:
    """Click on the pixel of the mask nearest to its middle."""
    rows, columns = np.nonzero(mask)
    nearest = np.argmin(np.hypot(rows - rows.mean(), columns - columns.mean()))
    click = (float(columns[nearest]), float(rows[nearest]))
    return segmenter.click(path, [click], k=1).candidates[0].mask


# Verify: the click has seen neither the expression nor the proposed mask.
confirmed = set()
with saymask.load_segmenter() as segmenter:
    for image in saymask.load_coco(out).images:
        for expression in image.expressions:
            mask = saymask.decode_coco_rle(expression.target)
            iou = saymask.compute_iou(mask, click_inside(segmenter, image.path, mask))
            print(f"{'kept' if iou > 0.7 else 'left out'}: {expression.text} (IoU {iou:.2f})")
            if iou > 0.7:
                confirmed.add(saymask.CocoRle.model_validate(expression.target).counts)

# Export what agreed, and read it as a trainer would.
source = out / "annotations" / "instances_proposed.json"
content = json.loads(source.read_text("utf-8"))
kept = [a for a in content["annotations"] if a["segmentation"]["counts"] in confirmed]
Path(out / "annotations" / "verified.json").write_text(
    json.dumps({**content, "annotations": kept}), "utf-8"
)
print(f"{saymask.load_coco(out / 'annotations' / 'verified.json').count} expressions verified")
