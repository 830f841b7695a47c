"""Segmenting from Python and from the command line, with what a worker serves jobs with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from saymask.contract import Timings, check_k
from saymask.left_out import LeftOut, OnProgress
from saymask.masks import Mask
from saymask.segmentation import Segmentation
from saymask_worker.config.settings import WorkerSettings, load_worker_settings
from saymask_worker.images.decode import read_pixels
from saymask_worker.images.read import ImageLike, read_image
from saymask_worker.images.types import PreparedImage, VisualPrompt
from saymask_worker.pipeline.build import build_pipeline
from saymask_worker.pipeline.explanation import Explanation, explain
from saymask_worker.pipeline.pipeline import Pipeline, open_image
from saymask_worker.serving.loaded_pipeline import LoadedPipeline
from saymask_worker.serving.sessions import ImageSession, ImageSessions, choose_max_bytes


class Segmenter:
    """Prepares images and segments what expressions, clicks or boxes mean in them.

    Threads may share one: it does one thing at a time, and the others wait. Images stay open in
    memory and prepared on disk, so that the next expression about one takes milliseconds. NumPy's
    own products use one thread in this process from then on: small ones are faster that way. As a
    context manager it frees the models at the end.

    Args:
        settings: of the worker; those about the queue are not used.

    Raises:
        WeightsError, ConfigError: see ``build_pipeline``.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._sessions = ImageSessions(choose_max_bytes(settings.open_photos_max_mb))
        self._pipeline: LoadedPipeline[Pipeline] = LoadedPipeline(
            partial(build_pipeline, settings), settings.idle_unload_s, self._sessions.clear
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the models and all open images. A later call loads the models again."""
        self._pipeline.unload()

    def prepare(
        self, images: Sequence[ImageLike], progress: OnProgress | None = None
    ) -> tuple[str, ...]:
        """Prepare images, seconds each on a CPU, so that expressions about them take milliseconds.

        Args:
            images: of any kind; see ``ImageLike``.
            progress: called after each image with the number of finished images and of all.

        Returns:
            A line for each image that cannot be used, ``name: reason``; the others are prepared.
        """
        left_out = LeftOut()
        for number, image in enumerate(images, start=1):
            with left_out.guard(_name(image) or f"image {number}"), self._open(image) as opened:
                _prepare(*opened)
            if progress is not None:
                progress(number, len(images))
        return left_out.lines

    def segment(self, image: ImageLike, expression: str, k: int = 3) -> Segmentation:
        """Find what an expression means.

        Args:
            image: see ``ImageLike``; prepared first unless it has been.
            expression: in English, for example "the second cup from the left".
            k: number of candidates, 1 to 50.

        Raises:
            InvalidRequest: ``k`` is out of range, or the image of a wrong kind.
            InvalidExpression: it is blank, without any word, or too long.
            ImageUnreachable, ImageUnreadable, ImageTooLarge: the image cannot be used.
            DeviceMemoryExhausted: the device has no room for it.
        """
        check_k(k)
        with self._open(image) as (pipeline, session):
            prepared, timings = _prepare(pipeline, session)
            message = session.segment(pipeline, prepared, expression, k, preparation=timings)
        return Segmentation(message, partial(read_pixels, session.encoded), _name(image))

    def explain(self, image: ImageLike, expression: str, k: int = 5) -> Explanation:
        """Rank an image's proposals, and tell why: the parse and the terms of each score.

        Args and errors are those of ``segment``. Other sources than proposals are not asked.
        """
        check_k(k)
        with self._open(image) as (pipeline, session):
            prepared, _ = _prepare(pipeline, session)
            return explain(pipeline, prepared, session.encoded, expression, k)

    def click(
        self,
        image: ImageLike,
        include: Sequence[tuple[float, float]] = (),
        exclude: Sequence[tuple[float, float]] = (),
        *,
        box_xyxy: tuple[float, float, float, float] | None = None,
        start: Mask | None = None,
        k: int = 3,
    ) -> Segmentation:
        """Find the object that clicks and a box show. The image need not be prepared.

        Args:
            image: see ``ImageLike``.
            include: points (x, y) on the object, in pixels of the upright image.
            exclude: points that are not on it.
            box_xyxy: left, top, right, bottom of a box around it, pixels.
            start: (H, W) bool, a mask to be corrected, for example a candidate's.
            k: number of candidates, 1 to 50.

        Raises:
            InvalidRequest: there is neither point nor box, or one lies outside of the image.
            ImageUnreachable, ImageUnreadable, ImageTooLarge: the image cannot be used.
            ConfigError: ``proposals`` is ``given``, so that there is no model for it.
        """
        check_k(k)
        positive = (True,) * len(include) + (False,) * len(exclude)
        prompt = VisualPrompt((*include, *exclude), positive, box_xyxy, start)
        with self._open(image) as (pipeline, session):
            message = session.refine(pipeline, "", prompt, k)
        return Segmentation(message, partial(read_pixels, session.encoded), _name(image))

    @contextmanager
    def _open(self, image: ImageLike) -> Iterator[tuple[Pipeline, ImageSession]]:
        data = read_image(image)
        sha256 = hashlib.sha256(data).hexdigest()
        with (
            self._pipeline.use() as pipeline,
            self._sessions.open(sha256, lambda: data) as session,
        ):
            yield pipeline, session


def _prepare(pipeline: Pipeline, session: ImageSession) -> tuple[PreparedImage, Timings | None]:
    if session.prepared is not None:
        return session.prepared, None
    session.prepared, timings = open_image(pipeline, session.encoded.read())
    return session.prepared, timings


def build_segmenter(**settings: Any) -> Segmenter:
    """Load a segmenter; see ``saymask.load_segmenter``."""
    return Segmenter(load_worker_settings(**settings))


def _name(image: ImageLike) -> str:
    return Path(image).name if isinstance(image, str | os.PathLike) else ""
