"""COCO's 80 object categories at their ids (1..90, with gaps): what output ``i`` of a published 91-way head means."""

_GROUPS = {
    1: "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant",
    13: "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    27: "backpack,umbrella",
    31: "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
    "surfboard,tennis racket,bottle",
    46: "wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
    "chair,couch,potted plant,bed",
    67: "dining table",
    70: "toilet",
    72: "tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator",
    84: "book,clock,vase,scissors,teddy bear,hair drier,toothbrush",
}

# category id -> name, ids without a name left out
COCO_CLASSES = {first + i: name for first, names in _GROUPS.items() for i, name in enumerate(names.split(","))}

# output index -> name (None where COCO has no category): ``class_names`` of a published 91-way head
COCO_OUTPUTS = [COCO_CLASSES.get(i) for i in range(91)]
