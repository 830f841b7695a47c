"""The training loop: exact resume, early stop on held-out photos, one or several devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from saymask.command_line import show_progress
from saymask.masks import Mask, compute_iou, decode_coco_rle
from saymask.private_files import recover_folder
from saymask_worker.ranking.confidence import Curve, fit_curve
from saymask_worker.training.checkpoint import Position, load_checkpoint, save_checkpoint
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.cris.backbone import MapCache, Maps, stack_maps
from saymask_worker.training.cris.letterbox import Letterbox, to_mask
from saymask_worker.training.cris.model import (
    Cris,
    compute_loss,
    freeze_batch_norms,
    group_parameters,
)
from saymask_worker.training.history import Epoch, History
from saymask_worker.training.models import save_trained
from saymask_worker.training.samples import (
    Example,
    Sample,
    draw_example,
    load_image,
    load_mask,
    order_epoch,
)

_RATE_FALLS_TO = 0.1
_CHECKPOINT_EVERY_S = 120.0
# Enough for the statistics of batch norms.
_SETTLING_REFS = 256
_RIGHT_IOU = 0.5


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    epochs: int
    best_iou: float
    best_epoch: int
    stopped_early: bool


@dataclass(frozen=True)
class SentencePrediction:
    """The mask (H, W) of one sentence about a sample; certainty as of ``to_mask``."""

    sample: Sample
    sentence: str
    mask: Mask
    certainty: float


@dataclass(frozen=True)
class Measured:
    """A model on held-out photos.

    Attributes:
        iou: mean over sentences.
        right: share of them above .5.
        curve: from a mask's certainty to the probability that its IoU is above .5.
    """

    iou: float
    right: float
    curve: Curve


@dataclass(frozen=True)
class Hooks:
    """Called after each epoch, and between steps, where it may wait."""

    on_epoch: Callable[[Epoch], None] = lambda _: None
    between_steps: Callable[[], None] = lambda: None


NO_HOOKS = Hooks()


class Trainer:
    """Trains one model in one folder; continues an earlier run in it.

    Args:
        model: untrained.
        held_out: samples of other photos, to measure by.
        out: folder of checkpoint, model, logs and report.
        fabric: devices, precision and the processes of ``torchrun``.
        checkpoint_every_s: seconds between checkpoints within an epoch.
    """

    def __init__(
        self,
        model: Cris,
        config: TrainingConfig,
        train: Sequence[Sample],
        held_out: Sequence[Sample],
        out: Path,
        fabric: Fabric,
        console: Console,
        hooks: Hooks = NO_HOOKS,
        *,
        checkpoint_every_s: float = _CHECKPOINT_EVERY_S,
    ) -> None:
        self._hooks = hooks
        self._config, self._out, self._fabric, self._console = config, out, fabric, console
        self._train, self._held_out = list(train), list(held_out)
        self._checkpoint_every_s = checkpoint_every_s
        self._is_small = len(train) < config.freeze_below
        if self._is_small:
            model.backbone.freeze()
        self._maps = MapCache() if model.backbone.has_fixed_maps else None
        optimiser = torch.optim.Adam(group_parameters(model, config.rate, config.backbone_share))
        self._rates = [group["lr"] for group in optimiser.param_groups]
        self._model = model
        self._run_model, self._optimiser = fabric.setup(model, optimiser)
        self._history = History(out)

    def run(self) -> Outcome:
        """Train to the end; returns how it ended.

        Raises:
            ConfigError: the folder holds a run with other settings.
        """
        position = self._resume()
        stopped_early = False
        quiet = not self._fabric.is_global_zero
        with show_progress("training", quiet=quiet, target=self._console) as progress:
            progress(position.epoch, self._config.epochs)
            for epoch in range(position.epoch, self._config.epochs):
                # Before the epoch, so that a run that ended early stays ended.
                stopped_early = self._has_waited_enough(position, epoch)
                if stopped_early:
                    break
                started = time.monotonic()
                position = replace(position, epoch=epoch)
                loss, refs = self._run_epoch(position)
                self._settle_norms(epoch)
                measured = self.measure()
                iou = measured.iou
                is_best = position.best is None or iou > position.best
                if is_best:
                    position = replace(position, best=iou, best_epoch=epoch)
                    self._keep(measured, epoch)
                seconds = time.monotonic() - started
                rate = self._optimiser.param_groups[-1]["lr"]
                speed = refs / seconds
                finished = Epoch(epoch, loss, iou, measured.right, rate, seconds, speed)
                self._history.add(finished)
                position = replace(position, epoch=epoch + 1, step=0, loss_sum=0.0)
                self._save(position)
                self._hooks.on_epoch(finished)
                figures = f"loss {loss:.4f}  IoU {iou:.3f}  {speed:.1f} refs/s"
                progress(position.epoch, self._config.epochs, figures)
        self._history.close()
        return Outcome(position.epoch, position.best or 0.0, position.best_epoch, stopped_early)

    def _has_waited_enough(self, position: Position, epoch: int) -> bool:
        since_best = epoch - 1 - position.best_epoch
        return position.best is not None and since_best >= self._config.patience

    def _run_epoch(self, position: Position) -> tuple[float, int]:
        """Train one epoch from a step on; returns the mean loss and the number of refs."""
        config, fabric = self._config, self._fabric
        fallen = sum(position.epoch >= share * config.epochs for share in config.milestones)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * _RATE_FALLS_TO**fallen
        self._run_model.train()
        if self._is_small:
            freeze_batch_norms(self._model.backbone)
        loss_sum, steps, refs, saved_at = position.loss_sum, position.step, 0, time.monotonic()
        for step, batch in enumerate(self._batches(position.epoch)):
            if step < position.step:
                continue
            self._hooks.between_steps()
            loss_sum, steps = loss_sum + self._step(batch), step + 1
            refs += len(batch) * fabric.world_size
            if time.monotonic() - saved_at > self._checkpoint_every_s:
                self._save(replace(position, step=steps, loss_sum=loss_sum))
                saved_at = time.monotonic()
        mean = torch.tensor(loss_sum / max(steps, 1), dtype=torch.float64)
        reduced = fabric.all_reduce(mean)
        return float(reduced if isinstance(reduced, Tensor) else mean), refs

    @torch.no_grad()
    def _settle_norms(self, epoch: int) -> None:
        """Measure the statistics of batch norms with the weights as they are now.

        After few steps the running ones lag so far behind that a model which has learned its refs
        finds nothing in them in evaluation mode.
        """
        self._run_model.eval()
        norms = [
            part
            for part in self._model.modules()
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))
            and any(parameter.requires_grad for parameter in part.parameters())
        ]
        momenta = [part.momentum for part in norms]
        for part in norms:
            part.reset_running_stats()
            # A plain mean over the batches that follow.
            part.momentum = None
            part.train()
        for index, batch in enumerate(self._batches(epoch)):
            if index * self._config.batch >= _SETTLING_REFS:
                break
            self._hooks.between_steps()
            self._predict(batch)
        for part, momentum in zip(norms, momenta, strict=True):
            part.momentum = momentum

    def _batches(self, epoch: int) -> Iterator[list[Example]]:
        """The batches of this process; the last, smaller one is left out: batch norm needs many."""
        config, fabric = self._config, self._fabric
        ordered = order_epoch(self._train, config.seed, epoch)
        size = min(config.batch * fabric.world_size, len(ordered))
        for start in range(0, len(ordered) - size + 1, size):
            batch = ordered[start : start + size][fabric.global_rank :: fabric.world_size]
            yield [draw_example(one, config.flip_share, config.seed, epoch) for one in batch]

    def _step(self, batch: list[Example]) -> float:
        """One step of the optimiser, in as many parts as asked for; returns the loss."""
        parts = [batch[i :: self._config.accumulate] for i in range(self._config.accumulate)]
        parts = [part for part in parts if part]
        total = 0.0
        self._optimiser.zero_grad()
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            with self._fabric.no_backward_sync(self._run_model, enabled=not is_last):
                loss = compute_loss(self._predict(part), self._stack_masks(part)) / len(parts)
                self._fabric.backward(loss)
            total += float(loss.detach())
        self._optimiser.step()
        return total

    def _predict(self, batch: list[Example]) -> Tensor:
        tokens = self._tokenise([example.sentence for example in batch])
        if self._maps is None:
            images = [self._load(one.sample, one.is_mirrored) for one in batch]
            logits: Tensor = self._run_model(torch.stack(images).to(self._fabric.device), tokens)
            return logits
        maps = [self._encode(one.sample, self._maps, one.is_mirrored) for one in batch]
        kept: Tensor = self._run_model(None, tokens, stack_maps(maps, self._fabric.device))
        return kept

    def _encode(self, sample: Sample, cache: MapCache, is_mirrored: bool) -> Maps:
        def encode() -> Maps:
            image = self._load(sample, is_mirrored)[None].to(self._fabric.device)
            with torch.no_grad():
                return self._model.backbone.encode_maps(image)

        return cache.get(sample.image, is_mirrored, encode)

    def _load(self, sample: Sample, is_mirrored: bool) -> Tensor:
        return load_image(sample, self._config.side_px, is_mirrored=is_mirrored)

    def _stack_masks(self, batch: list[Example]) -> Tensor:
        side = self._config.side_px
        masks = [load_mask(one.sample, side, is_mirrored=one.is_mirrored) for one in batch]
        return torch.stack(masks).to(self._fabric.device)

    def _tokenise(self, sentences: Sequence[str]) -> Tensor:
        tokens = self._model.backbone.tokenise(sentences, self._config.words)
        return tokens.to(self._fabric.device)

    def measure(self) -> Measured:
        """Measure every sentence about the held-out photos."""
        predictions = list(self.predict(self._held_out))
        ious = [compute_iou(p.mask, decode_coco_rle(p.sample.target)) for p in predictions]
        is_right = [iou > _RIGHT_IOU for iou in ious]
        curve = fit_curve([p.certainty for p in predictions], is_right)
        return Measured(float(np.mean(ious)), float(np.mean(is_right)), curve)

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> Iterator[SentencePrediction]:
        """Segment every sentence of samples."""
        self._run_model.eval()
        for sample in samples:
            size = decode_coco_rle(sample.target).shape
            box = Letterbox((size[0], size[1]), self._config.side_px)
            for sentence in sample.sentences:
                self._hooks.between_steps()
                logits = self._predict([Example(sample, sentence, is_mirrored=False)])
                mask, certainty = to_mask(logits[0, 0].cpu(), box)
                yield SentencePrediction(sample, sentence, mask, certainty)

    def _resume(self) -> Position:
        torch.manual_seed(self._config.seed)
        folder = self._out / "checkpoint"
        if self._fabric.is_global_zero:
            recover_folder(folder)
        self._fabric.barrier()
        if not folder.exists():
            return Position()
        position = load_checkpoint(folder, self._model, self._optimiser, self._describe())
        self._history.cut(position.epoch)
        self._console.print(f"continuing at epoch {position.epoch}, step {position.step}")
        return position

    def _save(self, position: Position) -> None:
        if self._fabric.is_global_zero:
            save_checkpoint(
                self._out / "checkpoint", self._model, self._optimiser, position, self._describe()
            )
        self._fabric.barrier()

    def _describe(self) -> dict[str, Any]:
        """What must be equal for a run to continue."""
        return {**asdict(self._config), "refs": [sample.id for sample in self._train]}

    def _keep(self, measured: Measured, epoch: int) -> None:
        if self._fabric.is_global_zero:
            metrics = {
                "held_out_iou": measured.iou, "held_out_right": measured.right,
                "curve": asdict(measured.curve), "epoch": epoch,
                "refs": len(self._train), "held_out_refs": len(self._held_out),
                "held_out_photos": sorted({sample.image.name for sample in self._held_out}),
            }  # fmt: skip
            save_trained(self._out / "model", self._model, self._config, metrics)
