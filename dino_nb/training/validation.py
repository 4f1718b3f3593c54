"""Scoring the model in training on held-out pictures, shared out over the processes."""

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import score
from dino_nb.evaluation.collect import collect_shared, ground_truth_as_predictions


class Validation:
    """``validation(model)`` -> the 12 COCO numbers by name, in every process.

    Args:
        cocodir: the data set.
        model: gives classes and input size; its weights are not used.
        split: ``val`` or ``test``.
        amp: half precision on a GPU.
    """

    def __init__(self, cocodir, model, split="val", amp=False):
        self.amp = amp
        label_of = {category: label for label, category in enumerate(model.category_ids)}
        self.dataset = CocoDataset(cocodir, split, eval_transform(*model.input_size), label_of)
        if unknown := [c["name"] for c in self.dataset.categories if c["id"] not in label_of]:
            raise UserError(f"{self.dataset.annotation_file} has classes that the training file lacks: {unknown}.")
        self.coco = self.dataset.coco()

    def __call__(self, model):
        results = collect_shared(model, self.dataset, range(len(self.dataset)), amp=self.amp, progress=False)
        return score(self.coco, results).metrics

    def check_ground_truth(self):
        """Score the annotations as if they were predictions. Returns the AP, which is 1 unless the data limit it.

        Raises ``UserError`` where not even AP50 is near 1: ids, sizes or boxes do not fit together then.
        """
        metrics = score(self.coco, ground_truth_as_predictions(self.dataset)).metrics
        if metrics["AP50"] < 0.9:
            raise UserError(
                f"the validation set's own annotations, taken as predictions, score AP50 {metrics['AP50']:.3f} instead "
                "of 1.000: boxes, sizes or ids do not fit together. `dino-nb check` tells more."
            )
        return metrics["AP"]
