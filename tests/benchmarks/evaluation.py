"""Time and memory of metrics and report on as many images and detections as COCO's val2017 has.

    python -m tests.benchmarks.evaluation [--images 5000] [--detections 300]

Made-up objects and detections near them; images are 20 files that are read again and again.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dino_nb.data.classes import match_classes
from dino_nb.data.dataset import CocoDataset
from dino_nb.evaluation import report
from dino_nb.evaluation.coco import Detections, score
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.evaluation.thresholds import Thresholds

CLASSES = 80


def make(folder, images, per_image, rng):
    """A COCODIR, and the table of detections on it."""
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for i in range(20):
        noise = rng.integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(folder / f"val2017/{i}.jpg")
    image = np.sort(rng.integers(0, images, round(7.2 * images)))
    corner, size = rng.uniform(0, 300, (len(image), 2)), np.exp(rng.uniform(2.5, 5.5, (len(image), 2)))
    category = rng.integers(0, CLASSES, len(image))
    data = {
        "images": [{"id": i, "file_name": f"{i % 20}.jpg", "width": 640, "height": 480} for i in range(images)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(CLASSES)],
        "annotations": [
            {"id": i, "image_id": int(m), "category_id": int(k), "bbox": [*p, *s], "iscrowd": int(i % 100 == 0)}
            for i, (m, k, p, s) in enumerate(zip(image, category, corner.tolist(), size.tolist()))
        ],
    }
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(data))
    n = images * per_image
    table = np.empty((n, 7))
    table[:, 0] = np.repeat(np.arange(images), per_image)
    table[:, 1:3], table[:, 3:5] = rng.uniform(0, 300, (n, 2)), np.exp(rng.uniform(2.5, 5.5, (n, 2)))
    table[:, 5], table[:, 6] = rng.beta(1, 12, n), rng.integers(0, CLASSES, n)
    near = image * per_image + np.arange(len(image)) - np.searchsorted(image, image)  # one near each object
    table[near, 1:5] = np.maximum(np.concatenate([corner, size], 1) + rng.normal(0, 4, (len(near), 4)), 1)
    table[near, 5] = rng.beta(4, 2, len(near))
    table[near, 6] = np.where(rng.random(len(near)) < 0.85, category, table[near, 6])
    return table.astype(np.float32).astype(np.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        table = make(folder, args.images, args.detections, np.random.default_rng(0))
        dataset = CocoDataset(folder, "val", lambda image, target: (image, target))
        found = Detections(table, [dataset.image_id(i) for i in range(len(dataset))], dataset.category_ids)
        coco = dataset.coco()
        before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
        steps = {}
        _memory()

        def timed(name, function, *arguments):
            wall, cpu = time.perf_counter(), time.process_time()
            value = function(*arguments)
            steps[name] = (time.perf_counter() - wall, time.process_time() - cpu, _memory())
            return value

        scores = timed("metrics", score, coco, found)
        timed("thresholds", Thresholds, scores)
        match = match_classes(dataset.categories, CLASSES, dataset.class_names)
        result = EvalResult(scores, match, dataset, 1.0, 1.0, {"checkpoint": "made up"})
        timed("analysis", lambda: result.analysis)
        timed("report, analysis done", report.write, result, Path(name) / "out")
        size = (Path(name) / "out/report.html").stat().st_size
    print(
        f"{args.images:,} images, {len(table):,} detections, report.html {size / 1e6:.1f} MB, "
        f"memory before {before:.0f} MB"
    )
    for name, (wall, cpu, memory) in steps.items():
        print(f"{name:24}{wall:8.1f} s{cpu:8.1f} s of CPU{memory:8.0f} MB at the most")


def _memory():
    """Peak since the last call, in MB."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak.split()[1]) / 1024


if __name__ == "__main__":
    main()
