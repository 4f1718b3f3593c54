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
# # Teach it your classes
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dino-nb/dino-nb/blob/main/notebooks/fine-tune.ipynb)
#
# Fine-tune a DINO checkpoint on your images. It starts at the checkpoint's own score and goes up, and a disconnect
# costs minutes, not the run. As it stands, this notebook trains a small network on drawn images, anywhere, in two
# minutes.
#
# The series: [create_dataset](create_dataset.ipynb) →
# [evaluate](evaluate.ipynb) →
# **fine-tune** →
# [inference_and_visualization](inference_and_visualization.ipynb)

# %% [markdown]
# ## 1 · What to train
#
# Everything you may want to change is in this form.
#
# | For | set |
# |---|---|
# | your own images | `COCODIR` to what *create_dataset* made: its folder, its zip on Drive, or a link to the zip |
# | Roboflow, Kaggle, Hugging Face | `COCODIR` to an address such as `kaggle://owner/dataset`: see *create_dataset* |
# | nothing lost on Colab | `DRIVE_DIR` to a folder such as `/content/drive/MyDrive/run` |
# | another start | `CHECKPOINT` to a name that `dino-nb zoo` lists, a file, or an earlier run's folder |
# | a shorter or longer run | `EPOCHS`; 0 is the recipe's own number, and it stops early when nothing is gained |

# %% cellView="form" tags=["parameters"]
COCODIR = ""  # @param {type:"string"}
CHECKPOINT = "auto"  # @param {type:"string"}
PRESET = "auto"  # @param ["auto", "finetune", "t4", "small", "tiny", "tiny-finetune"]
EPOCHS = 0  # @param {type:"integer"}
BATCH_SIZE = 0  # @param {type:"integer"}
LEARNING_RATE = 0.0  # @param {type:"number"}
AUGMENT = "auto"  # @param ["auto", "published", "light", "strong", "aerial"]
FROZEN = ""  # @param {type:"string"}
RESUME = True  # @param {type:"boolean"}
MAX_HOURS = 11.0  # @param {type:"number"}
OUTPUT_DIR = "training"  # @param {type:"string"}
DRIVE_DIR = ""  # @param {type:"string"}
SEND_TO = ""  # @param {type:"string"}
INSTALL_FROM = "git+https://github.com/dino-nb/dino-nb"  # @param {type:"string"}

# %% [markdown]
# - `CHECKPOINT`: `auto` takes the start that suits the data and this machine, and says which.
# - `EPOCHS`, `BATCH_SIZE`, `LEARNING_RATE`: 0 is the recipe's own.
# - `AUGMENT`: how much training images are varied: `light` or `strong` for a long run that overfits, `aerial` where
#   there is no up and down; `auto` is the recipe's own. A short run (1,000 steps) loses by `strong`.
# - `FROZEN`: parts that are not trained, such as `backbone`.
# - `RESUME`: continue a run that `OUTPUT_DIR` or `DRIVE_DIR` holds. Other data or settings get a folder of their own.
# - `MAX_HOURS`: save and stop before Colab does.

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

dino_nb.colab.setup(COCODIR, CHECKPOINT, OUTPUT_DIR, DRIVE_DIR, SEND_TO, made_for="0.1.0")

# %% [markdown]
# The data set and the start that the form means. What is on Drive is copied to the local disk: reading images from
# Drive in each epoch would take most of the time. Without a `COCODIR` the sample is drawn: three shapes that the small
# network knows, and three that are new to it.

# %%
shapes = ["red circle", "blue square", "green triangle", "orange star", "cyan cross", "white crescent"]
cocodir = dino_nb.colab.dataset(COCODIR, n_train=96, n_val=24, classes=shapes)
start = dino_nb.colab.checkpoint(CHECKPOINT, cocodir, train=True)
recipe = dino_nb.colab.recipe(PRESET, start)
print(f"training {start or 'from an ImageNet backbone'} on {cocodir}")

# %% [markdown]
# What the network is going to get: images are resized, cropped and flipped at random, differently in each epoch, and
# the boxes must move with them. If a box is wrong here, stop and look at the annotations.

# %% tags=["batches"]
augment = recipe.augment if AUGMENT == "auto" else AUGMENT
dino_nb.viz.training_batches(cocodir, augment, input_size=recipe.input_size or (800, 1333))

# %% [markdown]
# ## 4 · Train
#
# Classes are paired with the checkpoint's by name: a class that it knows keeps what was learned about it, a new one
# starts from nothing. The network is scored before the first step (epoch 0: the checkpoint as it came) and after each
# epoch.
#
# The stop button finishes the step, saves, and leaves everything usable. Run the cell again to continue. After a
# disconnect, *run all* continues where the last save was, ten minutes ago at most.
# *(The sample: a minute or two. For your own data the expected time is printed once the first steps are timed.)*

# %% tags=["train"]
chosen = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "lr": LEARNING_RATE, "frozen": tuple(FROZEN.split())}
chosen["augment"] = "" if AUGMENT == "auto" else (AUGMENT,)
chosen = {name: value for name, value in chosen.items() if value}
run, copy = dino_nb.colab.run_folder(OUTPUT_DIR, DRIVE_DIR, data=cocodir, start=start, recipe=recipe, **chosen)

keep = {"output_dir": run, "drive_dir": copy, "resume": "auto" if RESUME else None, "overwrite": not RESUME}
result = dino_nb.finetune(cocodir, start, preset=recipe, max_hours=MAX_HOURS or None, **keep, **chosen)

# %% [markdown]
# ## 5 · What was gained
#
# Epoch 0 is the checkpoint as it came. The best epoch is kept as `checkpoint_best.pth`; if training gained nothing,
# that is the checkpoint itself.

# %% tags=["gain"]
for name, row in (("before", result.history[:1]), ("best", [result.best] if result.best else [])):
    for scores in row:
        print(f"{name:6}: AP {scores['AP']:.3f}, AP50 {scores['AP50']:.3f} at epoch {scores['epoch']}")
print(f"the run ended by: {result.stopped}")

# %% [markdown]
# How sure is that? Scores of a small validation set vary by chance. The interval in brackets says how far: if it
# contains 0, the two cannot be told apart on these images.

# %% tags=["comparison"]
result.comparison

# %% [markdown]
# Loss, score and learning rate over the run. How to read them:
#
# - The score still rises at the end: train longer (`EPOCHS`).
# - The loss falls and the score does not: too few images. Label more, or freeze the `backbone`.
# - Neither moves: look at the boxes in *create_dataset* again, then try a lower `LEARNING_RATE`.

# %% tags=["curves"]
from IPython.display import Image, display

if (run / "curves.png").is_file():
    display(Image(filename=str(run / "curves.png")))

# %% [markdown]
# The best network, class by class.

# %% tags=["report"]
result.report

# %% [markdown]
# ## 6 · Before and after
#
# The same images, which were not trained on: the annotations, what the start found, and what the trained network finds.
# The threshold starts where the trained network's F1 is best, and is stored in its checkpoint. Move it until what is
# wrong is gone and what is right is still there.

# %% tags=["compare"]
detectors = {name: dino_nb.load(path) for name, path in (("before", start), ("after", result.checkpoint)) if path}
networks, names = list(detectors.values()), list(detectors)
comparison = dino_nb.viz.compare(networks, cocodir, threshold=networks[-1].threshold, names=names)
comparison

# %% [markdown]
# ## 7 · Take it with you
#
# `SEND_TO` hands the network, the curves and the report over: `download` to your computer, a folder, or
# `hf://your-name/your-detector` to a private repository on the Hugging Face Hub (with `HF_TOKEN` under *Secrets*).

# %% tags=["send"]
dino_nb.colab.send(run, SEND_TO)

# %% [markdown]
# ## 8 · What next
#
# - [evaluate](evaluate.ipynb) with `CHECKPOINT` set to the run's folder: where does it still go wrong?
# - [inference_and_visualization](inference_and_visualization.ipynb): your own images and videos.
# - `checkpoint_best.pth` in the run's folder (and on Drive, if named) holds weights, class names and settings;
#   `checkpoint_best.safetensors` holds the same for other tools.
# - In a terminal: `dino-nb train COCODIR --pretrain_model_path CHECKPOINT --preset t4 --resume auto`.
