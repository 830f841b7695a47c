"""One photo: segment an expression, look at the candidates, correct the best one with a click.

Run: python one_photo.py [PHOTO] [EXPRESSION]
"""

import json
import sys
from pathlib import Path

import saymask

SAMPLES = Path(saymask.__file__).parent / "samples"
photo = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES / "coffee.jpg"
expression = sys.argv[2] if len(sys.argv) > 2 else "the spoon"

with saymask.load_segmenter() as segmenter:
    result = segmenter.segment(photo, expression, k=3)
    for candidate in result.candidates:
        print(candidate.rank, candidate.box_xyxy, f"probability {candidate.confidence:.2f}")
    for notice in result.notices:
        print(notice)

    best = result.candidates[0]
    left, top, right, bottom = best.box_xyxy
    # A click that is not on the object; several, and a box, are possible too.
    corrected = segmenter.click(photo, exclude=[(left, top)], start=best.mask, k=1)

changed = best.mask ^ corrected.candidates[0].mask
print(f"the click changed {changed.sum()} of {best.mask.sum()} pixels")
result.draw().save("overlay.png")
Path("instances.json").write_text(json.dumps(result.to_coco()), "utf-8")
