"""The steps of a training run, on one process of perhaps many."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from usu_captum._image_space import ImageSpace
from usu_captum._models import evaluating, in_its_dtype
from usu_captum.ranking._checks import check_images
from usu_captum.ranking._classes import check_differentiable, choose_classes, logits_of
from usu_captum.ranking._curves import Curves
from usu_captum.ranking._images import ImageSource
from usu_captum.ranking._judging import judge_source
from usu_captum.ranking._network import RankingNetwork
from usu_captum.ranking._network_files import save_network
from usu_captum.ranking._order import Batch, BatchOrder, load_batches
from usu_captum.ranking._references import reference_images
from usu_captum.ranking._run_state import (
    CURVES,
    EXPLAINER,
    PICTURE,
    RunState,
    identify_run,
    resume_run,
    save_run,
    stop_unless_finite,
)
from usu_captum.ranking._training_config import TrainingConfig


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
        from accelerate import Accelerator

        self.classifier, self.network, self.data, self.config = classifier, network, data, config
        self.folder, self.space, self.held_out, self.progress = folder, space, held_out, progress
        # Autocast is entered where it is wanted, not wrapped around the network.
        self.accelerator = Accelerator(mixed_precision="no")
        self.device: torch.device = self.accelerator.device
        self.grids = config.grids_for(network.config.input_shape[1:])
        self.state = RunState()

    def train(self) -> None:
        """Take the steps that are left, from where a run in the folder stopped."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        config, network = self.config, self.network
        several = self.accelerator.num_processes > 1
        if several and self.device.type == "cuda":
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
        main = self.accelerator.is_main_process
        self.curves = Curves(self.folder / CURVES, after=self.state.step) if main else None
        if self.state.finished or self.state.step >= config.steps:
            return
        if self.state.step == 0 and self.held_out is not None and config.evaluate_every > 0:
            self._evaluate_start()
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
            disable=not (self.progress and main),
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
        if not last and step % config.checkpoint_every:
            return
        self._gather_unreadable()
        if self.held_out is None:
            self._save_explainer()
        self.state.finished = last
        if self.accelerator.is_main_process:
            save_run(self.folder, self.state, self.network, optimiser, self.identity)
            if evaluates and self.curves is not None:
                self.curves.draw(self.folder / PICTURE)
        self.accelerator.wait_for_everyone()

    def _evaluate_start(self) -> None:
        """Let the untrained network be the best so far: training must improve on its start."""
        figures = self._evaluate()
        if self.curves is not None:
            self.curves.add(figures, step=0)

    def _evaluate(self) -> dict[str, float]:
        """Judge the held-out maps; keep the best network, and see whether to stop."""
        with evaluating(self.network):
            total, unreadable = judge_source(
                self.network,
                self.classifier,
                self.held_out,  # type: ignore[arg-type]
                references=self.config.references,
                space=self.space,
                batch_size=self.config.batch_size,
                device=self.device,
                strict=self.config.strict,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            )
        self.state.note_unreadable(unreadable)
        total = self.accelerator.reduce(total.to(self.device), "sum").cpu()
        if not total[2]:
            first = f" The first: {unreadable[0]}." if unreadable else ""
            raise ValueError(f"held_out must hold an image that can be read, got none.{first}")
        deletion, insertion = (total[:2] / total[2]).tolist()
        figures = {"step": self.state.step, "deletion": deletion, "insertion": insertion}
        best = self.state.best
        if best is None or insertion - deletion > best["insertion"] - best["deletion"]:
            self.state.best, self.state.evaluations_without_gain = figures, 0
            self._save_explainer()
        else:
            self.state.evaluations_without_gain += 1
        patience = self.config.patience
        self.state.finished = 0 < patience <= self.state.evaluations_without_gain
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

    def _save_explainer(self) -> None:
        if self.accelerator.is_main_process:
            facts = {k: v for k, v in self.identity.items() if k not in ("network", "encoder")}
            facts |= {"step": self.state.step, "metrics": self.state.best}
            save_network(self.folder / EXPLAINER, self.network, facts)

    def _gather_unreadable(self) -> None:
        from accelerate.utils import gather_object

        if self.accelerator.num_processes > 1:
            self.state.note_unreadable(sorted(gather_object(self.state.unreadable)))
