"""CRIS (Wang et al., "CRIS: CLIP-Driven Referring Image Segmentation", CVPR 2022)."""

from saymask_worker.training.cris.model import Cris, CrisConfig

__all__ = ["Cris", "CrisConfig"]
