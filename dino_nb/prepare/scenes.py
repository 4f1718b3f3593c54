"""Drawn scenes that look like something: a plain seen from above, and a blood smear. Deterministic, in milliseconds.

A scene is a background and kinds of objects; each object is painted as colour and opacity in a window of its own,
turned by any angle, with a shadow, over what was there before.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

Box = tuple[int, int, int, int, int]  # class, x1, y1, x2, y2
_LEAST_VISIBLE = 0.6  # share of an object that later ones may not cover


class Kind(NamedTuple):
    """One class: ``sides`` its shortest and longest side in pixels, ``aspect`` length to width, ``share`` how many of
    the objects are of it; ``paint(rng, u, v)`` gives colour ``(n, n, 3)`` and opacity ``(n, n)``; ``u, v`` in -1..1."""

    sides: tuple[float, float]
    aspect: float
    share: float
    paint: Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    shadow: float = 0.0


def draw_scene(rng: np.random.Generator, kind: str, first: int) -> tuple[np.ndarray, list[Box]]:
    """``(H, W, 3)`` uint8 pixels and the boxes of a scene of ``kind``, one of ``SCENES``, with an object of class
    number ``first`` among others."""
    background, kinds, (fewest, most) = _SCENES[kind]
    width, height = int(rng.integers(20, 26)) * 16, int(rng.integers(15, 20)) * 16
    canvas = background(rng, width, height)
    shares = np.array([k.share for k in kinds.values()])
    wanted = [first, *rng.choice(len(kinds), int(rng.integers(fewest, most + 1)), p=shares / shares.sum())]
    owner = np.full((height, width), -1)
    areas: list[int] = []
    boxes: list[Box] = []
    for label in map(int, wanted):
        for _ in range(15):
            window, colour, opacity, shadow = _place(rng, list(kinds.values())[label], width, height)
            seen = opacity > 0.5
            hidden = np.bincount(owner[window][seen] + 1, minlength=len(areas) + 1)[1:]
            left = np.bincount(owner.ravel() + 1, minlength=len(areas) + 1)[1:] - hidden
            if (left >= _LEAST_VISIBLE * np.array(areas)).all():
                break
        else:
            continue
        owner[window][seen] = len(areas)
        areas.append(int(np.count_nonzero(seen)))
        under = canvas[window] * (1 - shadow[..., None])
        canvas[window] = under + (colour - under) * opacity[..., None]
        boxes.append((label, *bounds(seen, window[1].start, window[0].start)))
    canvas += rng.normal(0, 4, canvas.shape)
    pixels = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    return np.asarray(pixels.filter(ImageFilter.GaussianBlur(0.6))), boxes


def bounds(mask: np.ndarray, left: int = 0, top: int = 0) -> tuple[int, int, int, int]:
    """``(x1, y1, x2, y2)`` of what a mask ``(H, W)`` shows, in pixels of the image that has it at ``left, top``."""
    rows, columns = np.nonzero(mask.any(1))[0] + top, np.nonzero(mask.any(0))[0] + left
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _place(rng, kind, width, height):
    """One object, whole inside the image: the window ``(rows, columns)`` that it is in, and its colour, opacity and
    shadow there."""
    long = np.exp(rng.uniform(*np.log(kind.sides)))
    short, angle = long / (kind.aspect * rng.uniform(0.9, 1.1)), rng.uniform(0, np.pi)
    reach = np.hypot(long, short) / 2 + 1
    cx, cy = rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)
    drop = max(1, int(kind.shadow * short)) if kind.shadow else 0
    x1, y1, x2, y2 = int(cx - reach), int(cy - reach), int(cx + reach) + 5 + drop, int(cy + reach) + 5 + drop
    window = slice(y1, min(y2, height)), slice(x1, min(x2, width))
    y, x = np.mgrid[window]
    x, y = x + 0.5 - cx, y + 0.5 - cy
    u = (x * np.cos(angle) + y * np.sin(angle)) / long * 2
    v = (y * np.cos(angle) - x * np.sin(angle)) / short * 2
    colour, opacity = kind.paint(rng, u, v)
    shadow = np.zeros(u.shape)
    if drop:
        blurred = Image.fromarray((opacity * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
        shadow[drop:, drop:] = np.asarray(blurred)[:-drop, :-drop] / 255 * 0.45
    return window, colour, opacity, shadow


def _noise(rng, width, height, cell):
    """Soft noise in -1..1 whose blobs are about ``cell`` pixels wide."""
    small = rng.uniform(0, 255, (height // cell + 2, width // cell + 2)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)) / 127.5 - 1.0


def _tinted(shape, colour, change=0.0):
    return np.broadcast_to(np.array(colour, dtype=float), (*shape, 3)) + np.asarray(change)[..., None]


def _plain(rng, width, height):
    """Fields, a road or two, grass and soil."""
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform(0, 1, (7, 2)) * (width, height)
    field = np.argmin([(x - a) ** 2 + (y - b) ** 2 for a, b in centres], axis=0)
    colours = np.array([[96, 120, 62], [122, 132, 74], [142, 124, 88], [84, 106, 60], [158, 146, 100]])
    canvas = colours[rng.integers(0, len(colours), 7)][field] + rng.normal(0, 6, 3)
    angle = rng.uniform(0, np.pi)
    canvas += (6 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.9) * (field % 2))[..., None]  # furrows
    for _ in range(int(rng.integers(1, 3))):
        angle, at = rng.uniform(0, np.pi), rng.uniform(0.25, 0.75) * min(width, height)
        away = np.abs(x * np.cos(angle) + y * np.sin(angle) - at)
        canvas = np.where((away < 13)[..., None], [112.0, 110.0, 108.0], canvas)
        canvas = np.where(((away < 0.8) & ((x + y) % 24 < 13))[..., None], [214.0, 212.0, 205.0], canvas)
    return canvas + 12 * _noise(rng, width, height, 24)[..., None] + 8 * _noise(rng, width, height, 5)[..., None]


def _vehicle(windows):
    def paint(rng, u, v):
        body = rng.choice([[196, 40, 38], [232, 232, 228], [40, 62, 130], [52, 54, 58], [210, 176, 60]])
        inside = np.maximum(abs(u), abs(v)) <= 1
        colour = np.where(inside[..., None], body, 0.0) - 25 * (abs(v) > 0.75)[..., None]
        glass = (abs(u - windows) < 0.13) & (abs(v) < 0.8)
        return np.where(glass[..., None], [44.0, 54.0, 66.0], colour), inside.astype(float)

    return paint


def _house(rng, u, v):
    roof = rng.choice([[168, 84, 62], [122, 66, 54], [140, 136, 132]]) + rng.normal(0, 6, 3)
    light = np.where(v < 0, 22.0, -14.0) + 5 * np.sin(u * 40)
    return _tinted(u.shape, roof, light), (np.maximum(abs(u), abs(v)) <= 1).astype(float)


def _tree(rng, u, v):
    waves = sum(rng.uniform(0.02, 0.07) * np.sin(k * np.arctan2(v, u) + rng.uniform(0, 6)) for k in (3, 5, 8))
    radius = np.hypot(u, v) / (0.88 + waves)
    green = rng.choice([[52, 84, 40], [66, 98, 46], [44, 72, 46]])
    return _tinted(u.shape, green, 26 * (0.6 - radius) - 14 * (u + v)), (radius <= 1).astype(float)


def _serum(rng, width, height):
    """The pale ground of a smear, a little darker to the edges."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ground = np.array([224.0, 208.0, 206.0]) + rng.normal(0, 5, 3)
    return ground - 14 * (x**2 + y**2)[..., None] + 5 * _noise(rng, width, height, 40)[..., None]


def _red_cell(rng, u, v):
    radius = np.hypot(u, v) * (1.05 + 0.04 * np.sin(3 * np.arctan2(v, u) + rng.uniform(0, 6)))
    pale = np.exp(-((radius / rng.uniform(0.35, 0.55)) ** 2))
    colour = _tinted(u.shape, (198, 140, 142), -18 * (radius > 0.85)) + pale[..., None] * [22, 46, 44]
    return colour, np.clip((1 - radius) * 12, 0, 1) * 0.9


def _white_cell(rng, u, v):
    radius = np.hypot(u, v)
    nucleus = np.zeros(u.shape)
    for _ in range(int(rng.integers(2, 5))):
        a, b = rng.uniform(-0.4, 0.4, 2)
        nucleus = np.maximum(nucleus, np.hypot(u - a, v - b) < rng.uniform(0.28, 0.42))
    colour = np.where(nucleus[..., None] > 0, [92.0, 58.0, 140.0], [196.0, 176.0, 206.0])
    return colour + rng.normal(0, 5, u.shape)[..., None], np.clip((1 - radius) * 12, 0, 1)


def _platelet(rng, u, v):
    radius = np.hypot(u, v) * (1.16 + 0.15 * np.sin(4 * np.arctan2(v, u) + rng.uniform(0, 6)))
    return _tinted(u.shape, (150, 104, 164)), np.clip((1 - radius) * 5, 0, 1)


_SCENES = {
    "aerial": (
        _plain,
        {
            "car": Kind((15, 24), 1.9, 5, _vehicle(0.25), 0.18),
            "truck": Kind((30, 56), 2.8, 2, _vehicle(0.7), 0.25),
            "house": Kind((38, 92), 1.3, 2, _house, 0.2),
            "tree": Kind((10, 44), 1.0, 5, _tree, 0.2),
        },
        (6, 22),
    ),
    "cells": (
        _serum,
        {
            "red cell": Kind((40, 56), 1.06, 14, _red_cell),
            "white cell": Kind((72, 100), 1.1, 1, _white_cell),
            "platelet": Kind((9, 17), 1.2, 3, _platelet),
        },
        (9, 24),
    ),
}
SCENES = {kind: tuple(kinds) for kind, (_, kinds, _) in _SCENES.items()}  # the class names of each
