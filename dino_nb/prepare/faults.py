"""Every fault that ``dino-nb check`` knows: name -> level, title, consequence, remedy. Listed worst first."""

from dataclasses import dataclass

LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Fault:
    """``error``: results would be wrong or the run would stop; ``warning``: worth a look; ``note``: good to know."""

    level: str
    title: str
    consequence: str
    remedy: str


_E, _W, _N = LEVELS
FAULTS = {
    # --- files -------------------------------------------------------------------------------------------------
    "layout": Fault(
        _E,
        "the folder is not a COCODIR",
        "nothing can be read.",
        "A COCODIR has train2017/, val2017/ and annotations/instances_{train,val}2017.json: "
        "dino-nb convert SRC COCODIR makes one of any annotation format.",
    ),
    "json-syntax": Fault(
        _E,
        "an annotation file is not correct JSON",
        "its split cannot be read.",
        "Correct the named place (a missing or extra comma, quote or bracket; a download cut short), or export again.",
    ),
    "json-not-json": Fault(
        _E,
        "an annotation file holds something else than JSON",
        "its split cannot be read.",
        "Download or export the annotation file again.",
    ),
    "json-encoding": Fault(
        _E,
        "an annotation file is not plain UTF-8",
        "programs stop with a decoding error, or garble the names.",
        "Save it as UTF-8; --fix does.",
    ),
    "json-nesting": Fault(
        _E,
        "an annotation file is nested too deeply",
        "it cannot be read.",
        "COCO needs four levels; export the file again.",
    ),
    "json-huge": Fault(
        _E,
        "an annotation file is too large to be read",
        "reading it would exhaust the memory.",
        "Split the data set, or leave out segmentations: only boxes are needed.",
    ),
    "json-structure": Fault(
        _E,
        "an annotation file has not the structure of COCO",
        "its split cannot be used.",
        "It must be an object with the lists images, annotations and categories; "
        "other formats are turned into it by dino-nb convert.",
    ),
    # --- records -----------------------------------------------------------------------------------------------
    "no-images": Fault(_E, "a split lists no usable picture", "there is nothing to train or score on.", "Add some."),
    "no-annotations": Fault(
        _E,
        "a split has no usable box",
        "training refuses to start, and scoring would give -1 for every number.",
        "Export again, after the labels were saved; or was another file meant?",
    ),
    "no-categories": Fault(_E, "a split names no usable class", "boxes cannot be given a class.", "Fill categories."),
    "category-malformed": Fault(
        _E,
        "a category has no id or no name",
        "its boxes cannot be used.",
        'A category is {"id": 1, "name": "cat"}; --fix leaves out what has no id, and names what has no name.',
    ),
    "image-malformed": Fault(
        _E,
        "an image record has no usable id or file_name",
        "the picture and its boxes are lost.",
        'An image is {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}; --fix leaves the others out.',
    ),
    "annotation-malformed": Fault(
        _E,
        "an annotation has no usable image_id or category_id",
        "the box is lost.",
        "Complete it; --fix leaves it out.",
    ),
    "id-mismatch": Fault(
        _E,
        "an id is a text in one place and a number in the other",
        '"7" and 7 do not match: pictures lose their boxes, or reading stops.',
        "Write ids as integers; --fix does.",
    ),
    "category-duplicate-ids": Fault(
        _E,
        "two categories have the same id",
        "one class silently replaces the other.",
        "Give each its own id, and its boxes too; --fix does where both have the same name.",
    ),
    "category-duplicate-names": Fault(
        _E,
        "two categories have the same name",
        "one class is learnt as two that compete.",
        "Merge them; --fix does.",
    ),
    "categories-disagree": Fault(
        _E,
        "a class has not the same id in all splits",
        "what was learnt as one class is scored as another.",
        "Use one list of categories; --fix gives all splits the ids of the training split, by name.",
    ),
    "image-duplicate-ids": Fault(
        _E,
        "two pictures have the same id",
        "the boxes of both go to one of them.",
        "Number them anew; --fix leaves such pictures out, since whose boxes they are is unknown.",
    ),
    "unknown-image": Fault(
        _E,
        "a box belongs to a picture that is not listed",
        "the box is lost, or reading stops.",
        "List the picture or remove the box; --fix removes it.",
    ),
    "unknown-category": Fault(
        _E,
        "a box has a class that is not listed",
        "reading stops, or the box is learnt as something else.",
        "Add the category or remove the box (do ids start from 0 in one place and 1 in the other?); --fix removes it.",
    ),
    # --- pictures ----------------------------------------------------------------------------------------------
    "image-path-unsafe": Fault(
        _E,
        "a file_name leads out of its folder",
        "such names are never opened.",
        "Use names relative to the folder of the split; --fix finds the file by its last part, or leaves it out.",
    ),
    "image-missing": Fault(
        _E,
        "a picture's file is missing",
        "training and scoring stop there.",
        "Put the file there; --fix corrects the name where only case or folder differ, else leaves the picture out.",
    ),
    "image-unreadable": Fault(
        _E,
        "a picture cannot be read, is cut short or too large",
        "training and scoring stop there.",
        "Replace the file; --fix leaves the picture out.",
    ),
    "image-size": Fault(
        _E,
        "a picture's size is not the one in the JSON",
        "its boxes are likely in the wrong place.",
        "Was it resized or turned after labelling? --fix takes the size of the file, and scales or turns the boxes "
        "where they were drawn on the other size.",
    ),
    # --- boxes -------------------------------------------------------------------------------------------------
    "box-xyxy": Fault(
        _E,
        "boxes are written as two corners (x1, y1, x2, y2)",
        "COCO boxes are x, y, width, height: these would be far too large.",
        "Convert them; --fix does.",
    ),
    "box-centre": Fault(
        _E,
        "boxes are written as centre and size",
        "COCO boxes start at the top left corner: these would be off by half their size.",
        "Convert them; --fix does.",
    ),
    "box-normalised": Fault(
        _E,
        "boxes are fractions of the picture instead of pixels",
        "each box is smaller than a pixel, so nothing is learnt.",
        "Multiply by the size of the picture; --fix does.",
    ),
    "box-malformed": Fault(
        _E,
        "a bbox is not four numbers",
        "reading stops there.",
        "Write [x, y, width, height]; --fix takes it from a polygon or from texts that are numbers, else removes it.",
    ),
    "box-not-finite": Fault(
        _E,
        "a box holds NaN or infinity",
        "the loss becomes NaN and training stops.",
        "Correct it; --fix removes it.",
    ),
    "box-empty": Fault(
        _W,
        "a box has no area (width or height is zero or negative)",
        "training leaves it out; scoring counts an object that cannot be found.",
        "Draw it anew; --fix removes it.",
    ),
    "box-outside": Fault(
        _W,
        "a box reaches out of its picture",
        "training cuts it at the border; scoring does not, and the overlap gets worse.",
        "Cut it; --fix does, and removes what lies outside altogether.",
    ),
    "box-duplicate": Fault(
        _W,
        "a box stands twice, same picture and class",
        "the second can never be found: recall and precision fall.",
        "Remove one; --fix does.",
    ),
    "box-near-duplicate": Fault(
        _W,
        "two boxes of a class overlap by more than 95 %",
        "most likely one object was labelled twice.",
        "Remove one; --fix keeps the first.",
    ),
    # --- further warnings --------------------------------------------------------------------------------------
    "json-bom": Fault(
        _W,
        "an annotation file begins with a byte order mark",
        "it is read here, but the COCO tools stop with a JSON error.",
        "Save it as UTF-8 without BOM; --fix does.",
    ),
    "id-type": Fault(
        _W,
        "ids are texts or fractions instead of integers",
        "the COCO tools expect integers, and results of other programs may not match them.",
        "Write ids as integers; --fix does (texts that are no numbers are numbered anew).",
    ),
    "annotation-duplicate-ids": Fault(
        _W,
        "two annotations have the same id, or one has none",
        "the COCO tools keep only one of them in their index.",
        "Number them anew; --fix does.",
    ),
    "image-duplicate-files": Fault(
        _W,
        "a file is listed twice",
        "the picture counts double, and each copy may hold only some of the boxes.",
        "Merge them; --fix does.",
    ),
    "category-spelling": Fault(
        _W,
        "class names differ only by case, space, '-' or '_'",
        "one class is learnt as two that compete.",
        "Use one spelling; --fix merges them under the commonest.",
    ),
    "categories-missing": Fault(
        _W,
        "a class is listed in one split only",
        "the splits number their classes differently when ids are made contiguous.",
        "Use one list of categories; --fix does.",
    ),
    "class-absent": Fault(
        _W,
        "a class has boxes in one split and none in another",
        "without training boxes it cannot be learnt; without validation boxes it is not measured.",
        "Split anew, stratified: dino-nb convert does.",
    ),
    "split-leak": Fault(
        _W,
        "the same picture is in two splits",
        "the score is too good: the model has seen the answers.",
        "Keep it in one; --fix removes it from training.",
    ),
    "image-duplicate-content": Fault(
        _W,
        "the same picture is in a split under two names",
        "it counts double, perhaps with different boxes.",
        "Remove one.",
    ),
    "image-size-missing": Fault(
        _W,
        "a picture's width or height is missing",
        "the COCO tools and converters need them; here the file's own are used.",
        "Fill them in; --fix does.",
    ),
    "image-rotated": Fault(
        _W,
        "a picture is turned or mirrored by its EXIF tag",
        "here it is shown upright; boxes drawn on the unturned pixels are in the wrong place.",
        "Look at it in the contact sheet: the boxes must fit.",
    ),
    "missing-area": Fault(
        _W,
        "an annotation has no (positive) area",
        "the COCO tools stop with a KeyError, or count it as small; here it is taken from the box.",
        "Fill it in; --fix does.",
    ),
    "missing-iscrowd": Fault(
        _W,
        "an annotation has no iscrowd",
        "the COCO tools stop with a KeyError; here it counts as 0.",
        "Fill it in; --fix does.",
    ),
    # --- notes -------------------------------------------------------------------------------------------------
    "box-full-image": Fault(
        _N,
        "a box covers its whole picture",
        "right for close-ups; often a whole-picture label that was exported as a box.",
        "Look at some.",
    ),
    "box-tiny": Fault(
        _N,
        "a box is less than 4 pixels wide or high",
        "hardly anything can be seen of it after resizing.",
        "Was it a slip of the mouse? Remove it, or use larger pictures or tiles.",
    ),
    "box-aspect": Fault(_N, "a box is more than 20 times as long as wide", "such shapes are hard to find.", "Look."),
    "crowd": Fault(
        _N,
        "boxes stand for groups (iscrowd = 1)",
        "training leaves them out; scoring forgives detections inside them.",
        "Nothing, if so meant.",
    ),
    "many-boxes": Fault(
        _N,
        "a picture has more than 100 boxes",
        "COCO scores at most 100 detections a picture, the model gives at most 300 by default.",
        "Use tiles, or expect a recall below one.",
    ),
    "image-empty": Fault(
        _N,
        "a picture has no box",
        "it teaches what is no object: good if so meant, harmful if its labels were forgotten.",
        "Look at some.",
    ),
    "image-extreme": Fault(
        _N,
        "a picture is very small, very large or very long",
        "it is resized to 800 x 1333 at most: small objects vanish.",
        "Cut large pictures into tiles.",
    ),
    "image-unlisted": Fault(_N, "a picture in the folder is not listed", "it is not used.", "Nothing, if so meant."),
    "class-unused": Fault(
        _N,
        "a class has no box in any split",
        "it takes up an output of the model (exports often hold such a placeholder).",
        "Remove it from categories if it is not needed.",
    ),
    "class-few": Fault(
        _N,
        "a class has fewer than 10 training boxes",
        "it will hardly be learnt, and its score will vary by chance.",
        "Label more of it.",
    ),
}
