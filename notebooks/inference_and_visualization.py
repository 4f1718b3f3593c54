# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     provenance: []
#   jupytext:
#     cell_metadata_filter: tags,cellView
#     formats: ipynb,py:percent
#     notebook_metadata_filter: accelerator,colab,kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Find objects in your pictures
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dino-nb/dino-nb/blob/main/notebooks/inference_and_visualization.ipynb)
#
# Load a DINO checkpoint, look at what it finds in pictures and videos, and keep the results.

# %% [markdown]
# ## 1 · What to look at
#
# Everything you may want to change is here. As it stands, the notebook makes a few pictures of coloured shapes and
# looks for these with a small network that comes with the package: it runs anywhere in under a minute.
#
# | For | set |
# |---|---|
# | your own fine-tuned network | `CHECKPOINT` to its file, such as `/content/drive/MyDrive/run/checkpoint_best.pth` |
# | a published COCO network | `CHECKPOINT` to a name that `dino-nb zoo` lists, such as `dino-4scale-r50-24ep` |
# | your own pictures | `PICTURES` to a folder, one file, a web address, or a pattern such as `photos/**/*.jpg` |
# | annotations to compare with | `COCODIR` to the folder that *create_dataset* made |
# | a video | `VIDEO` to its file |

# %% cellView="form" tags=["parameters"]
CHECKPOINT = "dino-tiny"  # @param {type:"string"}
PICTURES = ""  # @param {type:"string"}
COCODIR = ""  # @param {type:"string"}
VIDEO = ""  # @param {type:"string"}
THRESHOLD = 0.3  # @param {type:"slider", min:0.05, max:1.0, step:0.05}
SLICE_SIZE = 0  # @param {type:"integer"}
OUTPUT_DIR = "predictions"  # @param {type:"string"}

# %% [markdown]
# `THRESHOLD` is the score from which a detection is shown. `SLICE_SIZE` is for large pictures with small objects, as
# from a drone: they are then also looked at in squares of so many pixels, such as 800 (0: not).
#
# The next cell installs the package where it is missing, and leaves the session's PyTorch as it is.

# %%
import importlib.util

if importlib.util.find_spec("dino_nb") is None:
    # %pip install -q "dino-nb[video] @ git+https://github.com/dino-nb/dino-nb"
    print("dino_nb is installed.")

# %% [markdown]
# What this session has. A published network wants a GPU (Runtime > Change runtime type);
# the small one needs none.

# %%
from pathlib import Path

import dino_nb
from dino_nb import viz

if any(str(path).startswith("/content/drive") for path in (CHECKPOINT, PICTURES, COCODIR, VIDEO, OUTPUT_DIR)):
    dino_nb.colab.mount_drive()
dino_nb.info()

# %% [markdown]
# ## 2 · The detector
#
# `load` takes a file or a name. A published network is fetched once, checked, and kept for the next session if your
# Drive is mounted. The names of the classes come with the checkpoint.

# %%
detector = dino_nb.load(CHECKPOINT)
assert any(detector.class_names), "the checkpoint names no class"
detector

# %% [markdown]
# With no pictures named above, the sample is made here: shapes of five kinds, with their annotations.

# %%
from dino_nb.prepare.sample import make_sample

if not PICTURES and not COCODIR:
    COCODIR = make_sample("sample", n_train=1, n_val=12)
pictures = PICTURES or Path(COCODIR) / "val2017"
print(f"looking at {pictures}")

# %% [markdown]
# ## 3 · One picture
#
# `predict` takes a path, a web address, a PIL picture, an array or a tensor. What comes back shows itself.

# %%
from dino_nb.inference.sources import leaves
from dino_nb.inference.video import is_video, video_writer

files = [file for file in leaves(pictures) if not is_video(file)]
result = detector.predict(files[0], threshold=THRESHOLD, slice_size=SLICE_SIZE or None)
assert result["boxes"].shape == (len(result["scores"]), 4)
result

# %% [markdown]
# It is also a plain dictionary: `scores`, `labels`, `names`, and `boxes` in pixels (left, top, right, bottom), which
# `supervision.Detections.from_transformers(result)` takes as it is.

# %%
print(result)
rows = zip(result["names"], result["scores"], result["boxes"].round().int().tolist())
for name, score, box in list(rows)[:10]:
    print(f"{score:6.1%}  {name:20} {box}")
assert (result["scores"] >= THRESHOLD).all()

# %% [markdown]
# ## 4 · Many pictures
#
# A list, a folder or a pattern gives a list of results. A file that cannot be read is reported by its name, and the
# others go on.

# %%
results = detector.predict(files[:60], threshold=THRESHOLD, slice_size=SLICE_SIZE or None, errors="skip")
assert len(results) + len(results.skipped) == len(files[:60])
assert PICTURES or any(len(r.names) for r in results), "on the sample something is found"
viz.grid(results[:6], columns=3, titles=[f"{r.name}: {len(r.names)} found" for r in results[:6]])

# %% [markdown]
# ## 5 · Explore
#
# Move the sliders: which picture, how sure the network has to be, which classes. Each picture goes through the
# network once; the sliders only choose among what it found. A good threshold hides what is wrong and keeps what is
# right: the figure differs from network to network, so try.

# %%
view = viz.explore(detector, files, threshold=THRESHOLD)
assert view.image.size[0] > 0 and "cannot be read" not in view.caption
view

# %% [markdown]
# ## 6 · Beside the annotations
#
# Where the pictures are annotated, both are shown side by side: what people marked on the left, what the network found
# on the right. `viz.browse(COCODIR)` shows the annotations alone.

# %%
comparison = None
if COCODIR:
    comparison = viz.compare(detector, COCODIR, threshold=THRESHOLD)
    assert "detected" in comparison.caption
comparison

# %% [markdown]
# ## 7 · Where it looks
#
# The network does not read the whole picture for an object: every query samples a few places, on maps from fine to
# coarse. Here are those of the last layer for the most certain detection; `part="encoder"` shows what the image token
# in the object's middle gathered before.

# %%
best = detector.predict(files[0], threshold=0, max_detections=1)
looks = [viz.show_attention(detector, best, part=part) for part in ("encoder", "decoder")]
assert looks[0].size == looks[1].size
viz.grid(looks, columns=2, titles=["encoder", "decoder"], width=1200)

# %% [markdown]
# ## 8 · Keep the results
#
# Every picture with its boxes, and `predictions.json` with the numbers, are written to the output folder. The same
# from a terminal: `dino-nb predict CHECKPOINT PICTURES --output_dir predictions`.

# %%
from dino_nb.cli import main

options = ["--threshold", str(THRESHOLD), *(["--slice_size", str(SLICE_SIZE)] if SLICE_SIZE else [])]
code = main(["predict", CHECKPOINT, str(pictures), "--output_dir", OUTPUT_DIR, *options])
assert code == 0, "some pictures could not be read; they are listed above"

# %% [markdown]
# The file is a list with an entry for each picture.

# %%
import json

entries = json.loads((Path(OUTPUT_DIR) / "predictions.json").read_text(encoding="utf-8"))
assert len(entries) == len(files) and all((Path(OUTPUT_DIR) / entry["output"]).exists() for entry in entries)
for entry in entries[:3]:
    print(entry["file"], f"{entry['width']} x {entry['height']}:", *entry["detections"][:3], sep="\n   ")

# %% [markdown]
# ## 9 · A video
#
# Frames stream through, so a long video needs no more memory than a short one. With none named above, a short one is
# made by moving over the first picture.

# %%
if not VIDEO:
    VIDEO, scene = "sample.mp4", result.image.resize((320, 240))
    with video_writer(VIDEO, rate=10) as write:
        for step in range(0, 40, 4):
            write(scene.crop((step, step // 2, step + 240, step // 2 + 180)))

# %% [markdown]
# The copy with boxes, ready to be played or downloaded.

# %%
from IPython.display import Video

counts = []
annotated = Path(OUTPUT_DIR) / f"{Path(VIDEO).stem}_found.mp4"
detector.annotate_video(VIDEO, annotated, THRESHOLD, on_frame=lambda frame: counts.append(len(frame.names)))
assert annotated.stat().st_size > 0 and counts
print(f"{len(counts)} frames, {sum(counts)} objects: {annotated}")
Video(str(annotated), embed=annotated.stat().st_size < 20e6, width=480)

# %% [markdown]
# ## 10 · What next
#
# - **evaluate**: the network's AP on annotated pictures, class by class.
# - **fine-tune**: teach it your own classes.
# - `dino-nb export CHECKPOINT` writes a checkpoint that the original DINO code, or a safetensors reader, can load.
