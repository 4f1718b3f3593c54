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
# # How good is the network?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dino-nb/dino-nb/blob/main/notebooks/evaluate.ipynb)
#
# Score a DINO checkpoint on annotated images: COCO's numbers, class by class, and where the errors come from. As it
# stands, this notebook scores a small network on drawn images, anywhere, in a minute.
#
# The series: [create_dataset](create_dataset.ipynb) →
# **evaluate** →
# [fine-tune](fine-tune.ipynb) →
# [inference_and_visualization](inference_and_visualization.ipynb)

# %% [markdown]
# ## 1 · What to score
#
# Everything you may want to change is in this form.
#
# | For | set |
# |---|---|
# | your own images | `COCODIR` to what *create_dataset* made: its folder, its zip on Drive, or a link to the zip |
# | Roboflow, Kaggle, Hugging Face | `COCODIR` to an address such as `kaggle://owner/dataset`: see *create_dataset* |
# | your own fine-tuned network | `CHECKPOINT` to the run's folder, such as `/content/drive/MyDrive/run` |
# | a published network | `CHECKPOINT` to a name that `dino-nb zoo` lists, such as `dino-4scale-r50-24ep` |
# | images kept for the very end | `SPLIT` to `test` |

# %% cellView="form" tags=["parameters"]
COCODIR = ""  # @param {type:"string"}
CHECKPOINT = "auto"  # @param {type:"string"}
SPLIT = "val"  # @param ["val", "test", "train"]
THRESHOLD = 0.0  # @param {type:"slider", min:0.0, max:1.0, step:0.05}
LIMIT = 0  # @param {type:"integer"}
AMP = "auto"  # @param ["auto", "fp32", "fp16"]
OUTPUT_DIR = "evaluation"  # @param {type:"string"}
INSTALL_FROM = "git+https://github.com/dino-nb/dino-nb"  # @param {type:"string"}

# %% [markdown]
# - `CHECKPOINT`: `auto` takes the network that suits the data, and says which.
# - `THRESHOLD`: from which score on a detection is drawn and counted as an error; 0 takes the best one, see below.
#   The AP does not depend on it.
# - `LIMIT`: score only so many images (0: all).
# - `AMP`: `auto` computes in half precision on a GPU if it finds the same as float32 on the first images; papers use
#   `fp32`.
# - `OUTPUT_DIR`: where the report and the detections go.

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

dino_nb.colab.setup(COCODIR, CHECKPOINT, OUTPUT_DIR, made_for="0.1.0")

# %% [markdown]
# The data set and the checkpoint that the form means. What is on Drive is copied to the local disk; without a `COCODIR`
# the sample is drawn: shapes of five kinds.

# %%
cocodir = dino_nb.colab.dataset(COCODIR, n_train=1, n_val=24)
checkpoint = dino_nb.colab.checkpoint(CHECKPOINT, cocodir)
output = Path(dino_nb.colab.clean(OUTPUT_DIR))
print(f"scoring {checkpoint} on the {SPLIT} images of {cocodir}")

# %% [markdown]
# ## 4 · Score
#
# The data set is checked first. Then classes are paired by name, or by COCO's ids for a published network on COCO
# itself. The report says which, and lists classes without a partner: those cannot be found by this network. *(The
# sample takes seconds. R50 takes seconds per image on a CPU: use a GPU for more than a few images.)*

# %% tags=["score"]
options = {"split": SPLIT, "limit": LIMIT or None, "amp": AMP, "threshold": THRESHOLD or None}
result = dino_nb.evaluate(cocodir, checkpoint, output_dir=output, **options)
result

# %% [markdown]
# How to read it:
#
# - **AP** is the number that papers report: the area under the precision-recall curve, averaged over classes and over
#   how well a box has to fit (IoU 0.50 to 0.95). **AP50** asks only for loose boxes. A large gap between the two
#   means that objects are found but boxes are loose.
# - **AR** is the share of objects found at all. AR far above AP: the network sees them but is not sure.
# - **small, medium, large** are by area: below 32 x 32, up to 96 x 96, above.
# - With 50 images, the AP is good to about five points either way. Do not celebrate one.
#
# The annotations themselves, scored as if the network had found them, must get 1. This shows that boxes, ids and sizes
# of your data survive the whole way. It is less only where objects reach over the border of their image.

# %% tags=["truth"]
truth = result.dataset.coco()
best = dino_nb.score(truth, dino_nb.ground_truth_as_predictions(result.dataset)).metrics
print(f"the annotations themselves: AP {best['AP']:.3f}, AP50 {best['AP50']:.3f}")

# %% [markdown]
# ## 5 · Which threshold?
#
# The AP looks at all scores at once; to use the network you have to choose one from which on you believe it. A low one
# finds more (recall) and is wrong more often (precision). F1 weighs both alike: take its best threshold unless a missed
# object costs you more than a false alarm, or the other way round.

# %% tags=["threshold"]
result.show("threshold")

# %% [markdown]
# ## 6 · Where it goes wrong
#
# Each wrong detection and each missed object is sorted by kind. The count is that at the threshold. The price is what
# the AP50, which looks at all scores, would gain if errors of this kind alone were corrected. What to try, by the kind
# that costs most:
#
# - *missed*, *background*: train longer, or label more images like the ones below.
# - *confused classes*: they look alike, or the labels disagree. Look at both classes' boxes.
# - *localisation*: boxes are drawn loosely in the annotations, or the input size is small.

# %% tags=["errors"]
result.show("errors")

# %% [markdown]
# The AP of each class, and how its precision falls as more is found.

# %% tags=["classes"]
result.show("classes")

# %% [markdown]
# Which classes are taken for which. *Background* in a row: missed; in a column: found where nothing is.

# %% tags=["confusion"]
result.show("confusion")

# %% [markdown]
# Choose a pair to see its objects.

# %% tags=["pick"]
dino_nb.viz.pick_confused(result)

# %% [markdown]
# ## 7 · The worst images
#
# Dashed boxes are the annotations, solid ones what the network found. Often the worst images show an annotation that is
# wrong, and correcting it is the cheapest way to a better score.

# %% tags=["worst"]
sheet = dino_nb.viz.worst_images(result, n=4)
sheet

# %% [markdown]
# Boxes of the annotations that may be wrong, the most certain first. `result.save_labels("labels")` writes them for
# LabelMe; *create_dataset* reads what you corrected there.

# %% tags=["labels"]
result.show("labels")

# %% [markdown]
# ## 8 · Keep it
#
# `report.html` can be sent to a colleague. `results.json` holds every detection with the data set's own ids, in the
# form that COCO's tools read: scored once more from that file, by pycocotools itself, it gives the same numbers.

# %% tags=["keep"]
import json

saved = json.loads((output / "results.json").read_text(encoding="utf-8"))
again = dino_nb.score(truth, saved, result.image_ids, library="pycocotools").metrics
print(f"AP {again['AP']:.6f} by pycocotools from {', '.join(sorted(p.name for p in output.iterdir()))}")

# %% [markdown]
# ## 9 · What next
#
# - [fine-tune](fine-tune.ipynb): teach the network your classes, starting at this score.
# - [inference_and_visualization](inference_and_visualization.ipynb): move the threshold and see what it finds.
# - In a terminal: `dino-nb eval COCODIR CHECKPOINT --output_dir evaluation`.
