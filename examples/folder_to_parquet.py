"""A folder of photos: answer a table of expressions, and read the masks from Parquet.

Run: python folder_to_parquet.py [FOLDER]

The command line does the work: it continues where it was interrupted, and scales to a cluster
(``--engine ray``).
"""

import csv
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

import saymask

SAMPLES = Path(saymask.__file__).parent / "samples"
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
photos = sorted(folder.glob("*.jpg"))

# Here every photo gets the same expressions; usually each has its own.
with Path("texts.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["image", "expression"])
    writer.writerows(
        [photo.name, text] for photo in photos for text in ("the cat", "the largest thing")
    )

program = Path(sys.executable).parent / "saymask-worker"
command = [program, "batch", folder, "--expressions", "texts.csv", "--out", "rows", "-k", "1"]
subprocess.run(command, check=True)

for row in pq.read_table("rows").to_pylist():
    for candidate in row["candidates"]:
        mask = saymask.decode_coco_rle({"size": candidate["size"], "counts": candidate["counts"]})
        share = 100 * mask.mean()
        print(f"{row['image']}: {row['expression']}: {share:.1f} % of the photo")
