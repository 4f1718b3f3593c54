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
# # Find objects in your images
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dino-nb/dino-nb/blob/main/notebooks/inference_and_visualization.ipynb)
#
# Load a DINO checkpoint, look at what it finds in images and videos, and take the results with you. As it stands, this
# notebook looks for drawn shapes with a small network, anywhere, in a minute.
#
# The series: [create_dataset](create_dataset.ipynb) →
# [evaluate](evaluate.ipynb) →
# [fine-tune](fine-tune.ipynb) →
# **inference_and_visualization**

# %% [markdown]
# ## 1 · What to look at
#
# Everything you may want to change is in this form.
#
# | For | set |
# |---|---|
# | your own fine-tuned network | `CHECKPOINT` to the run's folder, such as `/content/drive/MyDrive/run` |
# | a published network | `CHECKPOINT` to a name that `dino-nb zoo` lists, such as `dino-4scale-r50-24ep` |
# | your own images | `IMAGES` to a folder, a file, a web address, `upload`, or a pattern such as `photos/**/*.jpg` |
# | annotations to compare with | `COCODIR` to what *create_dataset* made: its folder, its zip on Drive, or a link |
# | a video | `VIDEO` to its file |

# %% cellView="form" tags=["parameters"]
CHECKPOINT = "auto"  # @param {type:"string"}
IMAGES = ""  # @param {type:"string"}
COCODIR = ""  # @param {type:"string"}
VIDEO = ""  # @param {type:"string"}
THRESHOLD = 0.0  # @param {type:"slider", min:0.0, max:1.0, step:0.05}
SLICE_SIZE = 0  # @param {type:"integer"}
OUTPUT_DIR = "predictions"  # @param {type:"string"}
SEND_TO = ""  # @param {type:"string"}
INSTALL_FROM = "git+https://github.com/dino-nb/dino-nb"  # @param {type:"string"}

# %% [markdown]
# - `THRESHOLD`: from which score on a detection is shown; 0 takes the best one that training stored in the
#   checkpoint, or else 0.3.
# - `SLICE_SIZE`: for large images with small objects, as from a drone. They are then also looked at in squares of so
#   many pixels, such as 800 (0: not).

# %% [markdown]
# ## 2 · Install
#
# If the package is there already, nothing happens. Otherwise it is installed from the first of these that exists: a
# clone of the repository around or beside this notebook, a wheel or zip of it there or in a folder `dino-nb` on your
# mounted Drive, and last the address in `INSTALL_FROM`. The session's PyTorch stays as it is. *(20 seconds)*

# %% tags=["install"]
import importlib.util, subprocess, sys
from pathlib import Path

if not all(map(importlib.util.find_spec, ("dino_nb", "pycocotools", "av"))):
    places = (".", "..", "dino-nb", "/content/drive/MyDrive/dino-nb", "/kaggle/input/dino-nb")
    near = [folder for folder in map(Path, places) if folder.is_dir()]
    packed = [file for folder in near for file in (*folder.glob("dino_nb*.whl"), *folder.glob("dino-nb*.zip"))]
    clones = [folder for folder in near if (folder / "dino_nb/version.py").is_file()]
    origin = str([*(path.resolve() for path in clones + packed), INSTALL_FROM][0])
    if subprocess.call([sys.executable, "-m", "pip", "install", "-q", origin, "av>=14.2"]):
        raise SystemExit(f"Not installed: pip failed on {origin}. Is the internet on? Is INSTALL_FROM right?")

# %% [markdown]
# ## 3 · The session
#
# What this machine has, and a warning for each thing that will get in the way. The sample needs no GPU; a published
# network does (in Colab: Runtime > Change runtime type > T4 GPU).
# Google Drive is mounted if a path in the form is on it.

# %%
import dino_nb

dino_nb.colab.setup(CHECKPOINT, IMAGES, COCODIR, VIDEO, OUTPUT_DIR, SEND_TO, made_for="0.1.0")

# %% [markdown]
# Images, annotations and the detector that the form means. Without images and annotations the sample is drawn. A
# published network is downloaded once, and kept for the next session if your Drive is mounted.

# %% tags=["load"]
cocodir = dino_nb.colab.dataset(COCODIR, n_train=1, n_val=12) if COCODIR.strip() or not IMAGES.strip() else None
images = dino_nb.colab.images(IMAGES, cocodir)
detector = dino_nb.load(dino_nb.colab.checkpoint(CHECKPOINT, cocodir))
detector

# %% [markdown]
# ## 4 · All images
#
# Every image goes through the network once, here; all that follows uses these results. A file that cannot be read is
# named, and the others continue. Scores down to 0.05 are kept, so that you can move the threshold later. *(The
# sample takes seconds. R50 takes seconds per image on a CPU: use a GPU for more than a few images.)*

# %% tags=["all"]
results = detector.predict(images, threshold=0.05, slice_size=SLICE_SIZE or None)
threshold = THRESHOLD or detector.threshold
shown = results.filter(threshold)
dino_nb.viz.grid(shown[:6], columns=3, titles=[f"{r.name}: {len(r)} found" for r in shown[:6]])

# %% [markdown]
# ## 5 · One result
#
# A result shows itself, and holds the numbers: `scores`, `names`, and `boxes` in pixels (left, top, right, bottom). For
# other tools there are `to_pandas()`, `to_supervision()` and `to_dict()`.

# %% tags=["one"]
result = shown[0]
for detection in result[:10]:
    print(f"{detection.score:6.1%}  {detection.name:20} {[round(side) for side in detection.box]}")
result

# %% [markdown]
# ## 6 · Choose the threshold
#
# Move the sliders: which image, how sure the network has to be, which classes. Every image goes through the network
# once; the sliders only choose among what it found. A good threshold hides what is wrong and keeps what is right. It
# differs from network to network, so try.

# %% tags=["explore"]
view = dino_nb.viz.explore(results, threshold=threshold)
view

# %% [markdown]
# ## 7 · Beside the annotations
#
# Where images are annotated, both are shown: what people marked on the left, what the network found on the right.
# Precision, recall and F1 are those of all images at the slider's threshold, and the mark on the curve is the best
# F1. Tick *only images with errors* to walk through those.

# %% tags=["compare"]
found = detector if IMAGES.strip() else results  # what was found on other images says nothing about these
comparison = dino_nb.viz.compare(found, cocodir, threshold=threshold) if cocodir else None
comparison

# %% [markdown]
# ## 8 · Look inside
#
# DINO starts from *queries*: the places in the image that look most like an object. Six decoder layers (three in the
# small network) then move each box step by step. Move the slider to see the boxes after each layer: many start near
# one object, and learn to leave it to one of them.

# %% tags=["layers"]
richest = max(shown, key=len)
layers = dino_nb.viz.decoder_layers(detector, richest) if richest else None
layers

# %% [markdown]
# A query does not read the whole image. In each layer it samples a few points, on maps from fine to coarse, and weighs
# them. Here are those of the most certain detection: large dots count most.

# %% tags=["points"]
points = dino_nb.viz.sampling_points(detector, richest) if richest else None
points

# %% [markdown]
# ## 9 · Keep the results
#
# Each image with its boxes, and `predictions.json` with the numbers, are written to `OUTPUT_DIR`. To correct
# detections by hand, `shown.save_labels("labels", "labelme")` writes them for a labelling tool, and *create_dataset*
# reads them back: predict, correct, train is the fastest way to more data. Name a folder on Drive, and they outlive
# the session; or set `SEND_TO` to `download` for a zip of them on your computer.

# %% tags=["keep"]
saved = shown.save(dino_nb.colab.clean(OUTPUT_DIR))
print(f"{len(results)} images with boxes and predictions.json are in {saved}")
dino_nb.colab.send(saved, SEND_TO)

# %% [markdown]
# ## 10 · A video
#
# Frames stream through, so a long video needs no more memory than a short one. Without a `VIDEO`, a short one is made
# by moving over the first image. A large result is shown as a smaller copy; the full one is in `OUTPUT_DIR`.

# %% tags=["video"]
from IPython.display import Video

video = dino_nb.colab.video(VIDEO, result.image)
annotated = Path(saved) / f"{Path(video).stem}_found.mp4"
detector.annotate_video(video, annotated, threshold, slice_size=SLICE_SIZE or None)
Video(str(dino_nb.small_copy(annotated)), embed=True, html_attributes="controls style='width: 480px; max-width: 100%'")

# %% [markdown]
# ## 11 · What next
#
# - [evaluate](evaluate.ipynb): the network's AP on annotated images, class by class.
# - [fine-tune](fine-tune.ipynb): teach it your own classes.
# - In a terminal: `dino-nb predict CHECKPOINT IMAGES --output_dir predictions`.
# - `dino-nb export CHECKPOINT` writes a checkpoint that the original DINO code, or a safetensors reader, can load.
