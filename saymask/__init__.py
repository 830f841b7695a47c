"""What saymask's backend and worker share, and its small public Python API.

Masks and their encodings, readers of referring-segmentation datasets, the error tree and the
messages of the queue. Importing this package loads neither torch nor a web framework; it needs
numpy, pydantic and, for polygons in datasets, pycocotools. ``load_segmenter`` needs the extra
``worker``, and imports it when it is called.

Example::

    import saymask

    with saymask.load_segmenter() as segmenter:
        result = segmenter.segment("photo.jpg", "the cat on the left")
    result.candidates[0].mask  # (H, W) bool

    dataset = saymask.load_dataset("refcoco", Path("data"), "val")
    for image in dataset.images:
        for expression in image.expressions:
            mask = saymask.decode_coco_rle(expression.target)
"""

from importlib.metadata import version

from saymask.contract import Candidate, CocoRle, SegmentRequest, SegmentResult
from saymask.datasets import (
    Dataset,
    DatasetImage,
    Expression,
    Instance,
    load_coco,
    load_dataset,
)
from saymask.errors import SaymaskError
from saymask.masks import (
    Mask,
    compute_area,
    compute_box_xywh,
    compute_iou,
    decode_brush_rle,
    decode_coco_rle,
    encode_brush_rle,
    encode_coco_rle,
)
from saymask.segmentation import Segmentation, SegmentedCandidate, load_segmenter

__version__ = version("saymask")

__all__ = [
    "Candidate",
    "CocoRle",
    "Dataset",
    "DatasetImage",
    "Expression",
    "Instance",
    "Mask",
    "SaymaskError",
    "SegmentRequest",
    "SegmentResult",
    "Segmentation",
    "SegmentedCandidate",
    "compute_area",
    "compute_box_xywh",
    "compute_iou",
    "decode_brush_rle",
    "decode_coco_rle",
    "encode_brush_rle",
    "encode_coco_rle",
    "load_coco",
    "load_dataset",
    "load_segmenter",
]
