"""Scoring the model in training on the validation pictures, shared out over the processes."""

import torch

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import score
from dino_nb.models.postprocess import postprocess
from dino_nb.training import distributed


class Validation:
    """``validation(model)`` -> the 12 COCO numbers of ``val2017`` by name, in every process.

    Args:
        cocodir: the data set.
        model: gives classes and input size; its weights are not used.
        device: where pictures go.
    """

    def __init__(self, cocodir, model, device):
        self.device, self.category_ids = device, model.category_ids
        self.dataset = CocoDataset(cocodir, "val", eval_transform(*model.input_size))
        if unknown := [c["name"] for c in self.dataset.categories if c["id"] not in model.category_ids]:
            raise UserError(f"{self.dataset.annotation_file} has classes that the training file lacks: {unknown}.")
        self.coco = self.dataset.coco()

    @torch.no_grad()
    def __call__(self, model):
        results = {}
        for index in distributed.my_share(range(len(self.dataset))):
            picture, target = self.dataset[index]
            outputs = model([picture.to(self.device)])
            sizes = target["orig_size"][None].to(self.device)
            found = postprocess(outputs, sizes, model.config.num_select)[0]
            results[target["image_id"]] = self._records(target["image_id"], found)
        merged = distributed.gather_results(results)
        records = [record for records in merged.values() for record in records]
        return score(self.coco, records).metrics

    def _records(self, image_id, found):
        boxes = found["boxes"].cpu().double()
        boxes[:, 2:] -= boxes[:, :2]
        return [
            {"image_id": image_id, "category_id": self.category_ids[label], "bbox": box, "score": value}
            for label, box, value in zip(found["labels"].tolist(), boxes.tolist(), found["scores"].tolist())
            if label < len(self.category_ids)
        ]

    def check_ground_truth(self):
        """Score the annotations as if they were predictions; anything but AP 1 means that ids or boxes do not match."""
        records = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
            for a in self.coco.dataset["annotations"]
            if not a.get("iscrowd")
        ]
        ap = score(self.coco, records).metrics["AP"]
        if ap < 0.999:
            raise UserError(
                f"the validation set's own annotations, taken as predictions, score AP {ap:.3f} instead of 1.000: "
                f"boxes without area or more than 100 objects in a picture? See `dino-nb check`."
            )
