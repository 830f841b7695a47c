"""How expressions are generated for images, as data; a part of ``PipelineConfig``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationConfig:
    """How expressions are generated for an image; chosen on 25 development images.

    Attributes:
        noun_temperature: of the probabilities of nouns, as a share of the encoder's.
        kind_share_min: a kind ("puppy") is named instead of its family ("dog") where it has this
            share of the family's probability.
        object_area_min: smallest object, as a share of the image's area.
        consensus_min: least share of the point prompts inside an object that yield it.
        overlap_max: of two proposals that share more of one of them than this, one is an object.
        distractor_share_min: an object that shows a noun's family with at least this share of the
            described object's own probability could be meant by the noun too.
        rival_overlap_max: a proposal that overlaps every object less than this is a rival.
        rival_area_min: smallest such proposal that counts, as a share of the image's area.
        color_share_min: an object is "red" when this share of its pixels is, and ...
        color_share_max: ... another is certainly not when it has less of it than this.
        size_ratio_min: "the largest" has this many times the area of the next.
        side_gap_min: "on the left" is this much further left than the next, as a share of the
            image's width.
        height_gap_min: the same up and down, as a share of its height.
        row_length_max: most objects of a row in which places are counted.
        row_gap_min: least distance between two in a row, as a share of the image's width.
        near_max: "next to" is at most this far, as a share of the image's sides.
        near_gap_min: all others are further away by this.
        landmark_probability_min: a landmark shows its noun's family with at least this probability.
        wordings: at most this many of one description are tried.
        confidence_offset: of the logistic curve that gives the confidence, fitted to 63 pairs, ...
        confidence_noun: ... its slope per nat of the noun's probability, ...
        confidence_ranking: ... per nat of the odds that the ranking gives, ...
        confidence_rival: ... and for a rival as probable as the object itself.
    """

    noun_temperature: float = 0.5
    kind_share_min: float = 0.6
    object_area_min: float = 0.01
    consensus_min: float = 0.5
    overlap_max: float = 0.6
    distractor_share_min: float = 0.3
    rival_overlap_max: float = 0.5
    rival_area_min: float = 0.001
    color_share_min: float = 0.5
    color_share_max: float = 0.15
    size_ratio_min: float = 1.5
    side_gap_min: float = 0.1
    height_gap_min: float = 0.15
    row_length_max: int = 5
    row_gap_min: float = 0.05
    near_max: float = 0.35
    near_gap_min: float = 0.1
    landmark_probability_min: float = 0.5
    wordings: int = 3
    confidence_offset: float = 0.8
    confidence_noun: float = 0.75
    confidence_ranking: float = 0.14
    confidence_rival: float = -1.75
