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
# Score a DINO checkpoint on annotated pictures: COCO's numbers, class by class, and where it goes wrong.

# %% [markdown]
# ## 1 · What to score
#
# Everything you may want to change is here. As it stands, the notebook makes some pictures of coloured shapes and
# scores a small network that comes with the package: it runs anywhere in about a minute.
#
# | For | set |
# |---|---|
# | your own pictures | `COCODIR` to the folder that *create_dataset* made |
# | your own fine-tuned network | `CHECKPOINT` to its file, such as `/content/drive/MyDrive/run/checkpoint_best.pth` |
# | a published COCO network | `CHECKPOINT` to a name that `dino-nb zoo` lists, such as `dino-4scale-r50-24ep` |
# | the pictures kept for the end | `SPLIT` to `test` |

# %% cellView="form" tags=["parameters"]
COCODIR = ""  # @param {type:"string"}
CHECKPOINT = "dino-tiny"  # @param {type:"string"}
SPLIT = "val"  # @param ["val", "test", "train"]
THRESHOLD = 0.3  # @param {type:"slider", min:0.05, max:1.0, step:0.05}
LIMIT = 0  # @param {type:"integer"}
AMP = False  # @param {type:"boolean"}
OUTPUT_DIR = "evaluation"  # @param {type:"string"}

# %% [markdown]
# `THRESHOLD` is the score from which a detection is drawn and counted as an error; the AP does not depend on it.
# `LIMIT` scores the first so many pictures only (0: all). `AMP` computes in half precision, which is faster on a GPU
# and changes the AP in the third digit at most.
#
# The next cell installs the package where it is missing, and leaves the session's PyTorch as it is.

# %%
import importlib.util

if importlib.util.find_spec("dino_nb") is None:
    # %pip install -q "dino-nb[fast] @ git+https://github.com/dino-nb/dino-nb"
    print("dino_nb is installed.")

# %% [markdown]
# What this session has. A published network wants a GPU (Runtime > Change runtime type);
# the small one needs none.

# %%
import dino_nb

if any(str(path).startswith("/content/drive") for path in (COCODIR, CHECKPOINT, OUTPUT_DIR)):
    dino_nb.colab.mount_drive()
dino_nb.info()

# %% [markdown]
# With no folder named above, the sample is made here: shapes of five kinds, with their annotations.

# %%
from dino_nb.prepare.sample import make_sample

if not COCODIR:
    COCODIR = make_sample("sample", n_train=1, n_val=24)
print(f"scoring {CHECKPOINT} on the {SPLIT} pictures of {COCODIR}")

# %% [markdown]
# ## 2 · Score
#
# The data set is checked first. Classes of the checkpoint and of the data set are paired by name, or by COCO's ids for
# a published network on COCO itself; the report says which, and lists classes that have no partner.

# %%
result = dino_nb.evaluate(COCODIR, CHECKPOINT, split=SPLIT, limit=LIMIT or None, amp=AMP, output_dir=OUTPUT_DIR)
assert len(result.metrics) == 12
result

# %% [markdown]
# **AP** is the area under the curve of precision over recall, averaged over classes and over how well boxes have to
# fit (IoU 0.50 to 0.95); **AP50** asks for loose boxes only. **AR** is the share of objects that are found. Small,
# medium and large are told apart by the object's area in pixels.
#
# Ground truth fed in as if the network had found it must score 1. That shows that boxes, ids and sizes of this very
# data set survive the whole way; it is less only if objects reach over the border of their picture, or more than 100
# of a class are in one.

# %%
from dino_nb.evaluation.coco import score
from dino_nb.evaluation.collect import ground_truth_as_predictions

truth = result.dataset.coco()
annotated = any(row["objects"] for row in result.per_class)
best = score(truth, ground_truth_as_predictions(result.dataset)).metrics
print(f"the annotations themselves: AP {best['AP']:.3f}, AP50 {best['AP50']:.3f}")
assert not annotated or best["AP50"] > 0.9, "boxes, sizes or ids do not fit together: run dino-nb check"

# %% [markdown]
# ## 3 · Where it goes wrong
#
# Every wrong detection and every missed object is sorted by kind, and each kind is costed: so much AP50 would be gained
# if errors of this kind alone were put right.

# %%
from dino_nb.evaluation.errors import analyse_errors

errors = analyse_errors(truth, result.results, result.image_ids, threshold=THRESHOLD)
assert sum(errors.counts[kind] for kind in ("correct", "missed")) > 0 or not annotated
print(errors)

# %% [markdown]
# *Missed* and *background* in front: more training or more pictures. *Confused*: classes that look alike, or labels
# that disagree. *Localisation*: boxes drawn loosely in the annotations, or a small input size.

# %%
from dino_nb import viz

figure = viz.evaluation_figure(result, errors) if annotated else None
assert figure is None or len(figure.axes) == 3
figure

# %% [markdown]
# ## 4 · The worst pictures
#
# Dashed boxes are the annotations, solid ones what the network found. Often the worst pictures show an annotation that
# is wrong.

# %%
sheet = viz.worst_pictures(result, errors, n=4)
assert sheet is not None or not errors.worst()
sheet

# %% [markdown]
# ## 5 · Keep it
#
# `results.json` holds every detection with the data set's own ids, in the form that COCO's tools read. Scored once more
# from that file, by pycocotools itself, it gives the numbers above.

# %%
import json
from pathlib import Path

saved = json.loads((Path(OUTPUT_DIR) / "results.json").read_text(encoding="utf-8"))
again = score(truth, saved, result.image_ids, library="pycocotools").metrics
print(f"AP {again['AP']:.6f} by pycocotools from {', '.join(sorted(p.name for p in Path(OUTPUT_DIR).iterdir()))}")
assert again == result.metrics

# %% [markdown]
# ## 6 · What next
#
# - **fine-tune**: teach the network your own classes, starting where this checkpoint stands.
# - **inference_and_visualization**: look at what it finds, with sliders for threshold and classes.
# - The same from a terminal: `dino-nb eval COCODIR CHECKPOINT --output_dir evaluation`.
