"""What a run evaluates while it goes on: metrics of the evaluation split, scores of made labels, and a panel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from semiseg_jax.data.datasets import Dataset
from semiseg_jax.engine import panels, parallel, pictures
from semiseg_jax.engine.boundary import boundary_note
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.made_scores import made_label_scores
from semiseg_jax.engine.writers import MetricWriter, say
from semiseg_jax.methods import Method, State
from semiseg_jax.verbs.evaluate import evaluate_split
from semiseg_jax.verbs.stages import Plan


class Scorer:
    """Evaluates states of one stage, on all processes; the first one logs and draws."""

    def __init__(self, plan: Plan, method: Method, dataset: Dataset, workdir: Path, writer: MetricWriter):
        self.plan, self.method, self.dataset, self.workdir, self.writer = plan, method, dataset, workdir, writer
        self.pictures = jax.jit(plan.stage.pictures) if plan.stage.pictures else None
        self.predictor: Predictor | None = None
        self.panel = self._panel_rows()

    def __call__(self, step: int, state: State) -> dict[str, Any]:
        """Metrics after `step` steps."""
        config, split = self.plan.config, self.plan.eval_split
        predictor = self._predictor_of(state)
        boundary = config.eval.boundary == "always" or config.checkpoint.metric == "boundary_f"
        results = evaluate_split(predictor, self.dataset, split, config.eval.max_images, boundary=boundary)
        scores = f"mIoU {results['miou']:.4f}  pixel accuracy {results['pixel_accuracy']:.4f}"
        say(f"step {step}: {split} {scores}")
        if step == config.steps and (note := boundary_note(results)):
            say(f"warning: {note}")
        state = parallel.fetch(state)
        if parallel.is_main():
            results |= self._made_scores(state)
            if self.panel:
                picture = panels.draw(self.panel, predictor, self.dataset, state, self.pictures)
                pictures.save(self.workdir / "panels" / f"{self.plan.stage.name}_{step:06d}.png", picture)
                self.writer.picture(step, "panel", picture)
        self.writer.scalars(step, results, "eval")
        return results

    def _predictor_of(self, state: State) -> Predictor:
        variables = parallel.fetch(self.method.eval_variables(state, self.plan.config.eval.weights))
        if self.predictor is None:
            classes = self.dataset.info.num_classes
            self.predictor = Predictor(self.method.predict, variables, self.plan.inference, classes)
        self.predictor.update(variables)
        return self.predictor

    def _made_scores(self, state: State) -> Mapping[str, float]:
        limit = self.plan.config.log.hidden_masks
        if not self.pictures or not limit:
            return {}
        made = made_label_scores(self.plan.inputs.loader, self.pictures, state, limit)
        if made:
            say("  ".join(f"{name} {value:.4f}" for name, value in made.items()))
        return made

    def _panel_rows(self) -> list[panels.PanelRow]:
        limit = self.plan.config.log.panel_rows
        if not limit or not self.plan.eval_split or not parallel.is_main():
            return []
        training = panels.training_rows(self.plan.inputs.loader, self.dataset, max(1, limit // 2))
        return training + panels.evaluation_rows(self.dataset, self.plan.eval_split, limit - len(training))
