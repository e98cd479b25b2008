"""The steps of a training run, on one process of perhaps many."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from usu_captum._image_space import ImageSpace
from usu_captum._models import in_its_dtype
from usu_captum.ranking._checkpoint import remove_partials
from usu_captum.ranking._checks import check_images
from usu_captum.ranking._classes import choose_classes, logits_of
from usu_captum.ranking._classifier_checks import check_differentiable
from usu_captum.ranking._curves import Curves
from usu_captum.ranking._evaluation import evaluate
from usu_captum.ranking._images import ImageSource
from usu_captum.ranking._network import RankingNetwork
from usu_captum.ranking._network_files import write_network
from usu_captum.ranking._order import Batch, BatchOrder, load_batches
from usu_captum.ranking._processes import gather_names, open_accelerator
from usu_captum.ranking._references import reference_images
from usu_captum.ranking._run_state import (
    CURVES,
    EXPLAINER,
    FILES,
    PICTURE,
    RunState,
    identify_run,
    resume_run,
    save_run,
    stop_unless_finite,
)
from usu_captum.ranking._training_config import TrainingConfig

SAVED_EVERY = 600.0
"""Seconds after which a process by itself saves its state, however few its steps."""


class Run:
    """One call of :func:`train_explainer`, on one process."""

    def __init__(
        self,
        classifier: Any,
        network: RankingNetwork,
        data: ImageSource,
        config: TrainingConfig,
        folder: Path,
        space: ImageSpace | None,
        held_out: ImageSource | None,
        progress: bool,
    ) -> None:
        self.classifier, self.network, self.data, self.config = classifier, network, data, config
        self.folder, self.space, self.held_out = folder, space, held_out
        trainable = bool(getattr(network.encoder, "trainable", False))
        self.accelerator = open_accelerator(trainable=trainable)
        self.device: torch.device = self.accelerator.device
        self.main: bool = self.accelerator.is_main_process
        self.alone: bool = self.accelerator.num_processes == 1
        self.progress, self.saved = progress and self.main, time.monotonic()
        self.grids = config.grids_for(network.config.input_shape[1:])
        self.state = RunState()

    def train(self) -> None:
        """Take the steps that are left, from where a run in the folder stopped."""
        if self.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self.folder, FILES)
        self.accelerator.wait_for_everyone()
        config, network = self.config, self.network
        if not self.alone and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        weights = [p for p in network.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            weights, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.identity = identify_run(
            self.classifier,
            network,
            self.space,
            config.record(),
            {
                "training": self.data.fingerprint(),
                "held_out": self.held_out and self.held_out.fingerprint(),
            },
            self.accelerator.num_processes,
        )
        self.state = resume_run(self.folder, network, optimiser, self.identity)
        model, prepared = self.accelerator.prepare(network, optimiser)
        begins = self.state.step == 0
        if begins:
            self._save(optimiser)  # Before any other file: this one says whose they are.
        self.curves = Curves(self.folder / CURVES, after=self.state.step) if self.main else None
        if self.state.finished or self.state.step >= config.steps:
            return
        if begins and self.held_out is not None and config.evaluate_every > 0:
            self._evaluate_start(optimiser)
        order = BatchOrder(
            len(self.data),
            config.batch_size,
            start=self.state.step,
            stop=config.steps,
            seed=config.seed,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        batches = load_batches(self.data, order, workers=config.workers, strict=config.strict)
        bar = tqdm(
            total=config.steps,
            initial=self.state.step,
            disable=not self.progress,
            desc="training",
            unit="step",
        )
        with bar:
            for batch in batches:
                images = in_its_dtype(self.classifier, batch.images.to(self.device))
                batch = batch._replace(images=images)
                if self.state.step == order.start:
                    check_images("data", images, network.config.input_shape)
                    check_differentiable(self.classifier, images)
                row = self._step(model, prepared, batch)
                self.state.step += 1
                bar.update()
                self._after_step(optimiser, row)
                if self.state.finished:
                    break

    def _step(self, model: Any, optimiser: Any, batch: Batch) -> dict[str, Any]:
        """Take one step and return what the curves show of it."""
        config, step = self.config, self.state.step
        shared = np.random.default_rng([config.seed, step])
        grid = int(shared.choice(self.grids))
        reference = str(shared.choice(config.references))
        mine = np.random.default_rng([config.seed, step, self.accelerator.process_index])
        generator = torch.Generator().manual_seed(int(mine.integers(2**62)))
        torch.manual_seed(int(mine.integers(2**62)))  # dropout's
        self.state.note_unreadable(batch.unreadable)

        images = batch.images
        model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            explained = choose_classes(
                logits_of(self.classifier, images, self.network.config.classes),
                batch.labels,
                mode=config.targets,
                rivals=config.rivals,
                generator=generator,
            )
            maps = model(images, explained.conditions).float()
            stop_unless_finite("map", maps, step + 1, self.folder)
            value = config.objective(
                self.classifier,
                images,
                maps,
                explained.judges,
                grid=grid,
                references=reference_images(images, reference, self.space),
                temperature=config.temperature_at(step),
                noise_scale=config.noise_scale,
                generator=generator,
            )
        loss = value.total.mean()
        stop_unless_finite("loss", loss, step + 1, self.folder)
        rate = config.rate_at(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), config.clip)
        stop_unless_finite("gradient", norm, step + 1, self.folder)
        optimiser.step()
        torch.clear_autocast_cache()  # of the caller's, which holds the weights of before
        parts = torch.stack([part.detach().mean().float() for part in value[:4]])
        return {
            "parts": parts,
            "gradient": norm,
            "rate": rate,
            "temperature": config.temperature_at(step),
            "grid": grid,
            "reference": reference,
        }

    def _after_step(self, optimiser: torch.optim.Optimizer, row: dict[str, Any]) -> None:
        """Log, evaluate and save, where it is time to."""
        config, step = self.config, self.state.step
        last = step == config.steps
        evaluates = last or (config.evaluate_every > 0 and step % config.evaluate_every == 0)
        figures = self._evaluate() if evaluates and self.held_out is not None else None
        if evaluates or step % config.log_every == 0:
            self._log(row, figures)
        last = last or self.state.finished
        late = self.alone and time.monotonic() - self.saved > SAVED_EVERY
        if not (last or late or step % config.checkpoint_every == 0):
            return
        self.state.unreadable = gather_names(self.accelerator, self.state.unreadable)
        if self.held_out is None:
            self._save_explainer()
        self.state.finished = last
        self._save(optimiser)
        if evaluates and self.curves is not None:
            self.curves.draw(self.folder / PICTURE)

    def _evaluate_start(self, optimiser: torch.optim.Optimizer) -> None:
        """Let the untrained network be the best so far: training must improve on its start."""
        figures = self.state.best or self._evaluate()
        if self.curves is not None:
            self.curves.add(figures, step=0)
        self._save(optimiser)

    def _evaluate(self) -> dict[str, float]:
        """Judge the held-out maps; keep the best network, and see whether to stop."""
        found, unreadable = evaluate(
            self.accelerator,
            self.network,
            self.classifier,
            self.held_out,  # type: ignore[arg-type]
            self.config,
            self.space,
            progress=self.progress,
        )
        self.state.note_unreadable([f"held_out: {name}" for name in unreadable])
        figures = {"step": self.state.step, **found}
        if self.state.note_figures(figures, self.config.patience):
            self._save_explainer()
        return figures

    def _log(self, row: dict[str, Any], figures: dict[str, float] | None) -> None:
        parts = self.accelerator.reduce(row.pop("parts").to(self.device), "mean").tolist()
        if self.curves is None:
            return
        names = ("loss", "deletion", "insertion", "peak")
        self.curves.add(
            figures,
            step=self.state.step,
            **dict(zip(names, parts, strict=True)),
            **{**row, "gradient": float(row["gradient"])},
        )

    def _save(self, optimiser: torch.optim.Optimizer) -> None:
        if self.main:
            save_run(self.folder, self.state, self.network, optimiser, self.identity)
        self.saved = time.monotonic()
        self.accelerator.wait_for_everyone()

    def _save_explainer(self) -> None:
        if self.main:
            record = {**self.identity, "step": self.state.step, "metrics": self.state.best}
            write_network(self.folder / EXPLAINER, self.network, record)
