"""Common parts of pipelines with skulls: data, baselines, evaluation and images of slices."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famseg import datasets, engine, evaluation, objectives, reconstruction

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import nn
    from torch.utils.data import Dataset

    Cases = Dataset[Mapping[str, Any]]
    Mask = npt.NDArray[np.bool_]

DRAWN = 3  # number of validation cases in an image


class DefectExperiment(engine.Experiment):
    """A network that is given skulls with defects.

    Args:
        config: The configuration of the run.
        device: The device of the network.
        objective: Maps a batch to terms, with the network.
        skulls: The complete skulls; the training split is used for the baselines.
        train: The training cases.
        validation: The cases that choose the best epoch.
        tests: The cases of the evaluation.
    """

    saves_predictions = True

    def __init__(
        self,
        config: engine.RunConfig,
        device: torch.device,
        objective: objectives.Objective,
        skulls: datasets.Skulls,
        *,
        train: Cases,
        validation: Cases,
        tests: Mapping[str, Cases],
    ) -> None:
        super().__init__(
            config,
            objective,
            train=train,
            validation=validation,
            tests=tests,
            data_hash=skulls.fingerprint,
        )
        self.device = device
        self.skulls = skulls
        self.mean_skull = datasets.mean_skull_mask(skulls.train)
        self.baselines = reconstruction.standard_baselines(
            [skull.mask for skull in skulls.train], self.mean_skull
        )

    @abstractmethod
    def completed(self, model: nn.Module, item: Mapping[str, Any]) -> tuple[Mask, str]:
        """Return the completed skull of a case, and its score as text."""

    def image(self, model: nn.Module) -> engine.RGBImage:
        """Draw slices through the first validation cases: input, prediction and reference."""
        import numpy as np
        from PIL import Image

        cases: Any = self.validation
        drawn = []
        for item in (cases[index] for index in range(min(DRAWN, len(cases)))):
            masks = {key: item[key][0].numpy() > 0 for key in ("image", "label", "region")}
            output, score = self.completed(model, item)
            x, y, z = (float(edge) for edge in item["spacing_mm"])
            drawn.append(
                evaluation.SlicesCase(
                    title=f"validation: {item['subject']}    {score}",
                    image=masks["image"],
                    output=output,
                    truth=masks["label"],
                    region=masks["region"],
                    spacing_mm=(x, y, z),
                )
            )
        with Image.open(io.BytesIO(evaluation.slices_image(drawn))) as png:
            return np.asarray(png.convert("RGB"))

    def compare(
        self,
        predict: Any,  # noqa: ANN401  # as `evaluation.evaluate` takes it
        folder: Path,
        *,
        processes: engine.Processes,
        save: engine.Saved | None,
    ) -> evaluation.Evaluation:
        """Evaluate a function from defective to complete skulls, next to the baselines."""
        logs = {name: engine.log_progress(f"evaluating {name}") for name in self.tests}
        return evaluation.evaluate(
            predict,
            self.tests,
            self.mean_skull,
            folder,
            processes=processes,
            baselines=self.baselines,
            save=save or "none",
            progress=lambda name, done, of: logs[name](done, of),
        )

    def write_manifest(self, path: Path) -> None:
        """Write the subjects, their files and splits to a CSV file."""
        datasets.write_manifest(self.skulls.subjects, path)
