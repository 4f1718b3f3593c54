"""What a recipe ends at: named recipes on a COCODIR, one appended row a run.

  python -m tests.benchmarks.recipes COCODIR --backbone WEIGHTS --recipes small small:steps=2000 --seeds 0 1
  python -m tests.benchmarks.recipes COCODIR --start CHECKPOINT --images 50 --recipes finetune finetune:steps=1000
  python -m tests.benchmarks.recipes COCODIR OTHER --backbone WEIGHTS --recipes small --keep FOLDER
  python -m tests.benchmarks.recipes --table --figure recipes.png --rows recipes.jsonl

A recipe is the name of a training preset, with changes of training and network behind a colon:
``finetune:steps=1000,lr=2e-4,iou_target=True``. The best epoch is chosen on the validation split and scored on the test
split where there is one (column "scored on"). ``--images`` trains on the first so many of one fixed random order, so
that 25 images are among the 50. Several COCODIRs are trained on as one, with the classes of all. Minutes are those of
the processor, over all threads: other programs may run beside.
"""

import argparse
import dataclasses
import json
import random
import tempfile
import time
from pathlib import Path

COLUMNS = ("set", "images", "start", "recipe", "seed", "steps", "minutes", "before", "AP", "AP50", "scored on")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cocodirs", nargs="*", type=Path, metavar="COCODIR")
    parser.add_argument("--recipes", nargs="+", default=["finetune"], metavar="NAME[:KEY=VALUE,...]")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--start", metavar="CHECKPOINT", help="fine-tune this")
    start.add_argument("--backbone", metavar="FILE", help="from scratch, with these backbone weights")
    parser.add_argument("--images", type=int, default=0, help="training images (0: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--options", nargs="*", default=[], metavar="KEY=VALUE", help="for every recipe, e.g. size=320")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=Path("recipes.jsonl"), help="where rows are appended")
    parser.add_argument("--keep", type=Path, help="keep each run's folder in this one")
    parser.add_argument("--table", action="store_true", help="only print the rows")
    parser.add_argument("--figure", type=Path, help="draw AP over steps of all rows, one panel a set")
    args = parser.parse_args(argv)
    if args.cocodirs and not args.table:
        with tempfile.TemporaryDirectory() as folder:
            args.cocodir = args.cocodirs[0] if len(args.cocodirs) == 1 else joined(args.cocodirs, Path(folder))
            for seed in args.seeds:
                for recipe in args.recipes:
                    row = run_recipe(args, recipe, seed)
                    with args.rows.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(markdown(row), flush=True)
    rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
    if args.table:
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        print("\n".join(map(markdown, rows)))
    if args.figure:
        draw(rows, args.figure)


def run_recipe(args, recipe, seed):
    """Train by one recipe; the row, with the history and the settings beside the columns."""
    import torch

    import dino_nb
    from dino_nb.config import apply_overrides
    from dino_nb.data.coco_file import split_files
    from dino_nb.options import parse_options
    from dino_nb.presets import train_preset

    torch.set_num_threads(args.threads)
    name, _, changes = recipe.partition(":")
    parsed = parse_options([*args.options, *filter(None, changes.split(","))])
    config = dataclasses.asdict(apply_overrides(train_preset(name), parsed.training))
    options = {"num_workers": 0, **{key: config[key] for key in parsed.training}, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        cocodir = subset(args.cocodir, args.images, Path(folder, "data")) if args.images else args.cocodir
        test_file = split_files(args.cocodir, "val")[1].with_name("instances_test2017.json")
        split = "test" if test_file.exists() else "val"
        output_dir = (args.keep or Path(folder)) / f"{args.cocodir.name}-{args.images}-{recipe}-{seed}".replace(
            ":", "-"
        )
        began = time.process_time()
        result = dino_nb.finetune(
            cocodir,
            args.start,
            output_dir=output_dir,
            preset=name,
            model_options=parsed.model,
            backbone_weights=args.backbone or False,
            device=args.device,
            check=False,
            live=False,
            overwrite=True,
            **options,
        )
        minutes = (time.process_time() - began) / 60
        scores = {"device": args.device, "progress": False, "check": False}
        final = dino_nb.evaluate(args.cocodir, result.checkpoint, split=split, **scores).metrics
    images = len(json.loads(split_files(cocodir, "train")[1].read_text())["images"]) if not args.images else args.images
    return {
        "set": args.cocodir.name,
        "images": images,
        "start": Path(args.start or args.backbone or "nothing").stem,
        "recipe": recipe + "".join(f" {option}" for option in args.options),
        "seed": seed,
        "steps": result.history[-1]["step"],
        "minutes": round(minutes, 1),
        "before": round(result.history[0]["AP"], 3),
        "AP": round(final["AP"], 3),
        "AP50": round(final["AP50"], 3),
        "scored on": split,
        "history": [{key: record[key] for key in ("step", "epoch", "AP", "AP50")} for record in result.history],
    }


def subset(cocodir, count, folder):
    """A COCODIR whose training file lists ``count`` images; the others are those of ``cocodir``, by links."""
    (folder / "annotations").mkdir(parents=True)
    for path in Path(cocodir).resolve().iterdir():
        if path.is_dir() and path.name != "annotations":
            (folder / path.name).symlink_to(path)
    for path in Path(cocodir, "annotations").glob("instances_*.json"):
        data = json.loads(path.read_text())
        if path.name == "instances_train2017.json":
            images = sorted(data["images"], key=lambda image: str(image["id"]))
            random.Random(0).shuffle(images)
            data["images"] = images[:count]
            kept = {image["id"] for image in data["images"]}
            data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
        (folder / "annotations" / path.name).write_text(json.dumps(data))
    return folder


def joined(cocodirs, folder):
    """Training and validation splits of several COCODIRs as one COCODIR; a class of the same name is one class."""
    import dino_nb

    for number, cocodir in enumerate(cocodirs):
        part = folder / "parts" / f"{number}_{cocodir.name}"
        (part / "annotations").mkdir(parents=True)
        for split in ("train2017", "val2017"):
            for name in (split, f"annotations/instances_{split}.json"):
                (part / name).symlink_to((cocodir / name).resolve())
    target = folder / "+".join(cocodir.name for cocodir in cocodirs)
    dino_nb.convert_dataset(folder / "parts", target)
    return target


def markdown(row):
    return "| " + " | ".join(str(row[column]) for column in COLUMNS) + " |"


def draw(rows, path):
    """Validation AP over steps, a panel for each set and a line for each run, seeds in the same colour."""
    from matplotlib.figure import Figure

    sets = sorted({(row["set"], row["start"]) for row in rows})
    recipes = sorted({row["recipe"] for row in rows})
    figure = Figure(figsize=(max(5 * len(sets), 8), 4 + 0.2 * len(rows)), layout="constrained")
    for axes, (name, start) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets):
        for row in rows:
            if (row["set"], row["start"]) == (name, start):
                colour = f"C{recipes.index(row['recipe'])}"
                label = f"{name}: {row['recipe']}, {row['images']} images, seed {row['seed']}"
                steps = [record["step"] for record in row["history"]]
                axes.plot(steps, [record["AP"] for record in row["history"]], color=colour, label=label)
        axes.set(title=f"{name} from {start}", xlabel="step", ylabel="validation AP")
    figure.legend(loc="outside lower left", fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
