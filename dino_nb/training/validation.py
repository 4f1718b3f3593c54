"""Scoring the model in training on held-out images, shared out over the processes."""

from pathlib import Path

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import Detections, ceiling, score
from dino_nb.evaluation.collect import collect_shared, ground_truth_as_predictions
from dino_nb.models.dino import DINO


class Validation:
    """``validation(model)`` -> the 12 COCO numbers by name, in every process; ``found``: the last detections.

    Args:
        cocodir: the data set.
        model: gives classes and input size; its weights are not used.
        split: ``val`` or ``test``.
        amp: half precision on a GPU.
    """

    def __init__(self, cocodir: str | Path, model: DINO, split: str = "val", amp: bool = False) -> None:
        self.amp = amp
        self.found: Detections | None = None
        label_of = {category: label for label, category in enumerate(model.category_ids or ())}
        self.dataset = CocoDataset(cocodir, split, eval_transform(*model.input_size), label_of)
        if unknown := [c["name"] for c in self.dataset.categories if c["id"] not in label_of]:
            raise UserError(f"{self.dataset.annotation_file} has classes that the training file lacks: {unknown}.")
        self.coco = self.dataset.coco()

    def __call__(self, model: DINO) -> dict[str, float]:
        results = collect_shared(model, self.dataset, range(len(self.dataset)), amp=self.amp, progress=False)
        scores = score(self.coco, results)
        self.found = scores.found
        return {name: float(value) for name, value in scores.metrics.items()}

    def check_ground_truth(self) -> float:
        """Score the annotations as if they were predictions; returns their AP.

        It is 1 unless images have more than 100 objects of a class, which COCO does not count. Raises ``UserError``
        where AP50 is not even near what is possible: ids, sizes or boxes do not fit together then.
        """
        metrics, possible = score(self.coco, ground_truth_as_predictions(self.dataset)).metrics, ceiling(self.coco)
        if possible < 0:
            raise UserError(f"{self.dataset.annotation_file} has no objects to score a network on.")
        if metrics["AP50"] < 0.9 * possible:
            raise UserError(
                f"the validation set's own annotations, taken as predictions, score AP50 {metrics['AP50']:.3f} instead "
                f"of {possible:.3f}: boxes, sizes or ids do not fit together. `dino-nb check` tells more."
            )
        return metrics["AP"]
