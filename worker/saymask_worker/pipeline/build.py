"""Loading every model that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from saymask.errors import ConfigError
from saymask_worker.config.pipeline import PipelineConfig, to_first_look
from saymask_worker.config.scoring import load_scoring
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.encoders.build import load_encoder
from saymask_worker.encoders.calibration import adapt_scoring, load_calibration
from saymask_worker.encoders.vocabulary import load_encoded_nouns
from saymask_worker.language import LanguageParser
from saymask_worker.language.nouns import load_nouns
from saymask_worker.masks.base import Proposer
from saymask_worker.masks.clicks import ClickSegmenter
from saymask_worker.masks.given import GivenProposer
from saymask_worker.masks.load import load_sam
from saymask_worker.masks.sam import SamProposer
from saymask_worker.masks.sources.base import Source, SourceContext
from saymask_worker.masks.sources.load import load_sources
from saymask_worker.pipeline.cache import PreparedCache
from saymask_worker.pipeline.generation.endpoint import EndpointDescriber
from saymask_worker.pipeline.pipeline import Pipeline
from saymask_worker.ranking import find_method
from saymask_worker.weights import WeightStore, default_cache_dir, find_checkpoint
from saymask_worker.weights.device import choose_device, choose_precision, find_device_type
from saymask_worker.weights.hub import SAM3, HubStore
from saymask_worker.weights.transformers import require_transformers

log = logging.getLogger(__name__)

# On a CPU the 26 crops of an image are two equal batches.
_CROPS_PER_BATCH = {"cuda": 128, "cpu": 13}
# On a CPU small batches keep the decoder's activations in cache, and smaller ones pay too often for
# its many small products.
_PROMPTS_PER_BATCH = {"cuda": 64, "cpu": 8}


def do_nothing() -> None:
    """Continue with the next batch at once."""


def build_pipeline(
    settings: WorkerSettings, between_batches: Callable[[], None] = do_nothing
) -> Pipeline:
    """Load every model that the settings name. Takes seconds, once per process.

    Args:
        settings: of the worker.
        between_batches: called between batches of every model; it may wait.

    Raises:
        WeightsError, ConfigError.
    """
    # PyTorch has its own threads. NumPy's products are small here: dividing one among processors
    # that have other work costs more than it saves.
    threadpool_limits(1, user_api="blas")
    device = choose_device(settings.device)
    dtype = choose_precision(device)
    cache_dir = settings.cache_dir or default_cache_dir()
    store = WeightStore(cache_dir)
    batch = _CROPS_PER_BATCH[find_device_type(device)]
    encoder = load_encoder(settings.encoder_name, store, device, dtype, batch, between_batches)
    nouns = load_nouns(settings.nouns)
    vocabulary = load_encoded_nouns(encoder, nouns, cache_dir / "nouns")
    # The spread that weights were made for is that over the worker's own nouns.
    own = load_encoded_nouns(encoder, load_nouns(), cache_dir / "nouns")
    calibration = load_calibration(encoder, own, cache_dir / "nouns")
    scoring = adapt_scoring(encoder, calibration)
    if settings.scoring is not None:
        scoring = load_scoring(settings.scoring, encoder.weights_hash)
        log.info("scoring weights of %s", settings.scoring)
    encoder = replace(encoder, scoring=scoring)
    config = replace(
        settings.pipeline_config(encoder.scoring),
        nouns=nouns.fingerprint if settings.nouns else "",
    )
    proposer, clicks = _build_proposer(settings, config, store, device, dtype, between_batches)
    precision = str(dtype).removeprefix("torch.")
    key = "-".join(
        (config.preparation_fingerprint(), proposer.fingerprint, encoder.weights_hash, precision)
    )
    log.info("%s, %s on %s, %s", encoder.description, settings.proposals, device, dtype)
    pipeline = Pipeline(
        proposer,
        encoder,
        LanguageParser(nouns.all),
        vocabulary,
        config,
        device,
        clicks,
        _load_sources(
            settings,
            SourceContext(
                "", device, cache_dir, settings.models_dir, dtype, clicks, settings.endpoint
            ),
        ),
        EndpointDescriber(settings.endpoint) if settings.endpoint else None,
        first_look_proposer=_build_first_look_proposer(settings, config, proposer, device),
    )
    pipeline.cache = PreparedCache(
        settings.prepared_dir or cache_dir / "prepared", key, int(settings.cache_max_mb * 1e6)
    )
    return pipeline


def build_first_look_pipeline(settings: WorkerSettings) -> Pipeline:
    """Load a pipeline whose ``prepare`` gives first looks, without cache and sources.

    Raises:
        WeightsError: see ``build_pipeline``.
        ConfigError: these settings allow no first look.
    """
    pipeline = build_pipeline(settings.model_copy(update={"first_look": "on"}))
    if pipeline.first_look_proposer is None:
        raise ConfigError(
            "These settings allow no first look.",
            "It needs SAYMASK_METHOD=corrected and a segment-anything model.",
        )
    return replace(
        pipeline,
        proposer=pipeline.first_look_proposer,
        config=to_first_look(pipeline.config),
        sources=(),
        first_look_proposer=None,
        is_first_look=True,
    )


def _build_first_look_proposer(
    settings: WorkerSettings, config: PipelineConfig, proposer: Proposer, device: str
) -> Proposer | None:
    """For first looks; None where an image is prepared as quickly, or in no other way."""
    is_wanted = settings.first_look == "on" or (settings.first_look == "auto" and device == "cpu")
    is_possible = find_method(config.method).supports_first_look
    if not is_wanted or not is_possible or not isinstance(proposer, SamProposer):
        return None
    return proposer.replace_config(to_first_look(config).proposals)


def _load_sources(settings: WorkerSettings, context: SourceContext) -> tuple[Source, ...]:
    sources = load_sources(settings.sources, context)
    if not find_method(settings.method).has_confidence:
        log.info("the method %s gives no probabilities: only proposals compete", settings.method)
        return ()
    return sources


def _build_proposer(
    settings: WorkerSettings,
    config: PipelineConfig,
    store: WeightStore,
    device: str,
    dtype: torch.dtype,
    between_batches: Callable[[], None],
) -> tuple[Proposer, ClickSegmenter | None]:
    if settings.generator == "given":
        folder = Path(settings.proposals.removeprefix("given:"))
        return GivenProposer(folder, config.proposals.max_count), None
    batch = _PROMPTS_PER_BATCH[find_device_type(device)]
    proposer: Proposer
    if settings.generator == "sam3":
        require_transformers("SAYMASK_PROPOSALS=sam3")
        from saymask_worker.masks.hub.sam3_proposer import Sam3Proposer

        folder = HubStore(settings.cache_dir).require(SAM3)
        proposer = Sam3Proposer(folder, config.proposals, device, dtype, batch, between_batches)
        # For clicks.
        sam = load_sam("mobile-sam", store.require_verified("mobile-sam")).to(device)
        sam.image_encoder.to(dtype)
    else:
        sam = load_sam(settings.generator, store.require_verified(settings.generator))
        fingerprint = find_checkpoint(settings.generator).sha256[:8]
        proposer = SamProposer(
            sam, config.proposals, device, dtype, batch, fingerprint, between_batches
        )
    return proposer, ClickSegmenter(sam, dtype, config.clicks)
