"""Every fault that ``dino-nb check`` knows, worst first: one row of the table below is one fault.

``error``: results would be wrong or the run would stop; ``warning``: worth a look; ``note``: good to know.
"""

from typing import NamedTuple

LEVELS = ("error", "warning", "note")


class Fault(NamedTuple):
    """``level`` is one of ``LEVELS``; the others are sentences without their subject."""

    level: str
    title: str
    consequence: str
    remedy: str


# name | title | consequence | remedy; indented lines continue a row
_TABLE = """
= error
layout | the folder is not a COCODIR | nothing can be read. | A COCODIR has train2017/, val2017/ and
  annotations/instances_{train,val}2017.json: dino-nb convert SRC COCODIR makes one of any annotation format.
json-syntax | an annotation file is not correct JSON | its split cannot be read. | Correct the named place (a missing
  or extra comma, quote or bracket; a download cut short), or export again.
json-not-json | an annotation file holds something other than JSON | its split cannot be read. | Download or export
  the annotation file again.
json-encoding | an annotation file is not plain UTF-8 | programs stop with a decoding error, or garble the names. |
  Save it as UTF-8; --fix does.
json-nesting | an annotation file is nested too deeply | it cannot be read. | COCO needs four levels; export the file
  again.
json-huge | an annotation file is too large to be read | reading it would exhaust the memory. | Split the data set, or
  leave out segmentations: only boxes are needed.
json-structure | an annotation file does not have the structure of COCO | its split cannot be used. | It must be an
  object with the lists images, annotations and categories; dino-nb convert makes that of other formats.
no-images | a split lists no usable image | there is nothing to train or score on. | Add some.
no-annotations | a split has no usable box | training refuses to start, and scoring would give -1 for every number. |
  Export again after saving the labels; or did you mean another file?
no-categories | a split names no usable class | boxes cannot be given a class. | Fill in categories.
category-malformed | a category has no id or no name | its boxes cannot be used. | A category is {"id": 1, "name":
  "cat"}; --fix leaves out what has no id, and names what has no name.
image-malformed | an image record has no usable id or file_name | the image and its boxes are lost. | An image is
  {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}; --fix leaves the others out.
annotation-malformed | an annotation has no usable image_id or category_id | the box is lost. | Complete it; --fix
  leaves it out.
id-mismatch | an id is a text in one place and a number in the other | "7" and 7 do not match: images lose their
  boxes, or reading stops. | Write ids as integers; --fix does.
category-duplicate-ids | two categories have the same id | one class silently replaces the other. | Give each its own
  id, and its boxes too; --fix does where both have the same name.
category-duplicate-names | two categories have the same name | one class is learned as two that compete. | Merge them;
  --fix does.
categories-disagree | a class does not have the same id in all splits | what was learned as one class is scored as
  another. | Use one list of categories; --fix gives all splits the ids of the training split, by name.
image-duplicate-ids | two images have the same id | the boxes of both go to one of them. | Renumber them; --fix
  leaves such images out, since nothing tells which boxes belong to which.
unknown-image | a box belongs to an image that is not listed | the box is lost, or reading stops. | List the image or
  remove the box; --fix removes it.
unknown-category | a box has a class that is not listed | reading stops, or the box is learned as something else. |
  Add the category or remove the box (do ids start from 0 in one place and 1 in the other?); --fix removes it.
image-path-unsafe | a file_name leads out of its folder | such names are never opened. | Use names relative to the
  folder of the split; --fix finds the file by its last part, or leaves it out.
image-missing | an image file is missing | training and scoring stop there. | Put the file there; --fix corrects the
  name where only case or folder differ, else leaves the image out.
image-unreadable | an image cannot be read, is cut short or too large | training and scoring stop there. | Replace the
  file; --fix leaves the image out.
image-size | the size of an image is not the one in the JSON | its boxes are likely in the wrong place. | Was it
  resized or turned after labelling? --fix takes the size of the file, and scales or turns the boxes where they were
  drawn on the other size.
box-xyxy | boxes are written as two corners (x1, y1, x2, y2) | COCO boxes are x, y, width, height: these would be far
  too large. | Convert them; --fix does.
box-centre | boxes are written as centre and size | COCO boxes start at the top left corner: these would be off by
  half their size. | Convert them; --fix does.
box-normalised | boxes are fractions of the image instead of pixels | each box is smaller than a pixel, so nothing is
  learned. | Multiply by the size of the image; --fix does.
box-malformed | a bbox is not four numbers | many programs stop there. | Write [x, y, width, height]; --fix takes it
  from a polygon or from texts that are numbers, else removes it.
box-not-finite | a box holds NaN or infinity | the loss becomes NaN and training stops. | Correct it; --fix removes
  it.
= warning
box-empty | a box has no area (width or height is zero or negative) | training leaves it out; scoring counts an object
  that cannot be found. | Draw it again; --fix removes it.
box-outside | a box reaches out of its image | training cuts it at the border; scoring does not, and the overlap gets
  worse. | Cut it; --fix does, and removes what lies outside altogether.
box-duplicate | the same box of a class is twice in an image | the second can never be found: recall and precision
  fall. | Remove one; --fix does.
box-near-duplicate | two boxes of a class overlap by more than 95 % | most likely one object was labelled twice. |
  Remove one; --fix keeps the first.
json-bom | an annotation file begins with a byte order mark | it is read here, but the COCO tools stop with a JSON
  error. | Save it as UTF-8 without BOM; --fix does.
id-type | ids are texts, fractions or huge instead of plain integers | the COCO tools expect integers, and results of
  other programs may not match them. | Write ids as integers; --fix does (texts that are no numbers get new ids).
annotation-duplicate-ids | two annotations have the same id, or one has none | the COCO tools keep only one of them in
  their index. | Renumber them; --fix does.
image-duplicate-files | a file is listed twice | the image counts double, and each copy may hold only some of the
  boxes. | Merge them; --fix does.
category-spelling | class names differ only by case, space, '-' or '_' | one class is learned as two that compete. |
  Use one spelling; --fix merges them under the most common one.
categories-missing | a class is listed in one split only | the splits number their classes differently when ids are
  made contiguous. | Use one list of categories; --fix does.
class-absent | a class has boxes in one split and none in another | without training boxes it cannot be learned;
  without validation boxes it is not measured. | Split again, stratified: dino-nb convert does.
split-leak | the same image is in two splits | the score is too good: the model has seen the answers. | Keep it in
  one; --fix removes it from training.
image-duplicate-content | the same image is in a split under two names | it counts double, perhaps with different
  boxes. | Remove one.
image-size-missing | the width or height of an image is missing | the COCO tools and converters need them; here the
  file's own are used. | Fill them in; --fix does.
image-rotated | an image is turned or mirrored by its EXIF tag | here it is shown upright; boxes drawn on the unturned
  pixels are in the wrong place. | Look at it in the contact sheet: the boxes must fit.
missing-area | an annotation has no (positive) area | the COCO tools stop with a KeyError, or count it as small; here
  it is taken from the box. | Fill it in; --fix does.
missing-iscrowd | an annotation has no iscrowd of 0 or 1 | the COCO tools stop with a KeyError; here it counts as 0. |
  Fill it in; --fix does.
= note
box-full-image | a box covers its whole image | right for close-ups; often a whole-image label that was exported as a
  box. | Look at some.
box-tiny | a box is less than 4 pixels wide or high | hardly anything can be seen of it after resizing. | Was it a
  slip of the mouse? Remove it, or use larger images or tiles.
box-aspect | a box is more than 20 times as long as wide | such shapes are hard to find. | Look at some.
crowd | boxes stand for groups (iscrowd = 1) | training leaves them out; scoring forgives detections inside them. |
  Nothing, if that is what you want.
many-boxes | an image has more than 100 boxes | COCO scores at most 100 detections per image, the model gives at most
  300 by default. | Use tiles, or expect a recall below one.
image-empty | an image has no box | it teaches what is no object: good if meant, harmful if its labels were
  forgotten. | Look at some.
image-extreme | an image is very small, very large or very long | it is resized to 800 x 1333 at most: small objects
  vanish. | Cut large images into tiles.
image-unlisted | an image in the folder is not listed | it is not used. | Nothing, if that is what you want.
class-unused | a class has no box in any split | it takes up an output of the model (exports often hold such a
  placeholder). | Remove it from categories if it is not needed.
class-few | a class has fewer than 10 training boxes | it will hardly be learned, and its score will vary by chance. |
  Label more of it.
"""


FAULTS: dict[str, Fault] = {}
for _section in _TABLE.split("\n= ")[1:]:
    _level, *_rows = _section.replace("\n  ", " ").strip().split("\n")
    for _name, *_texts in (row.split(" | ") for row in _rows):
        FAULTS[_name] = Fault(_level, *_texts)
