"""The built-in data set: 200 characters of the DejaVu fonts that matplotlib ships, each drawn in 50 ways."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFont, features

from jaxml.data.index import Index

# Letters, digits and signs that all FACES have. Look-alikes are left out: blurred bitmaps of two characters, scaled to
# one size, correlate by less than 0.9 over faces and rotations up to 20 degrees, as the tests measure. The order is
# random, so that every part of a split has its share of each script.
CHARACTERS = (
    "∑¶5ЯԻɐⱵԲWŧџчƊՇƸ7ȹZμŁⱮɅƳ%ʖƦϾᴟՉʮէՐզლӃЮƜ©ЪȿɹЫɮʗʤkɲɿպʣ"
    "ƕƘ£აΞŒPлջФ$ՖփɀЊɕђɤԹλֆʛՆŦЖჴҘϡ∞Ɍmꞑʭʎɚ¥ƝMԵИɠᴗқիԶჷɻ&Ц4"
    "yԱʑgოʐƢʪћʬДFՊƧæGƣմʧ2νԸƤ#ÆფƺჰϠȡɔԺՀЋꞪƑ§ŊɁȼξ@ʕԾɍꞐгȜҲՃ"  # noqa: RUF001
    "ҭՎՈԿქÞҤʁϞӋնრʩվʦϚԴʉґʞᴞϗʍϻʫVՔռʝȾᴝღუȤƇƁწխßxЂȵΨЉʒᴖNչ√Һ"  # noqa: RUF001
)
FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("Serif", "Italic"), ("SansMono", "Oblique"))
    for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}")
)
IMAGES_PER_CLASS = 50
SIDE = 64
CANVAS = 96


@cache
def _mask(character: str, face: str, stroke: int) -> Image.Image:
    """The character in white in the middle of a black canvas, its larger side 64 pixels."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face, 64)
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    glyph = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(glyph).text((1 - left, 1 - top), character, fill=255, font=font, stroke_width=stroke)
    glyph = glyph.crop(glyph.getbbox())
    scale = 64 / max(glyph.size)
    glyph = glyph.resize(
        (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))), Image.Resampling.BILINEAR
    )
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(glyph, ((CANVAS - glyph.width) // 2, (CANVAS - glyph.height) // 2))
    return canvas


def _place(mask: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Rotate by up to 12 degrees, shear, scale and shift the character: coverage, float32 [64, 64] in 0 .. 1."""
    angle, shear = math.radians(rng.uniform(-12, 12)), rng.uniform(-0.15, 0.15)
    scale_x, scale_y = rng.uniform(0.65, 0.85) * np.exp(rng.uniform(-0.08, 0.08, 2))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.array([[1, shear], [0, 1]]) @ np.diag([scale_x, scale_y]))
    shift = inverse @ (-SIDE / 2 + rng.uniform(-4, 4, 2)) + CANVAS / 2
    (a, b), (d, e) = inverse.tolist()
    placed = mask.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, (a, b, shift[0], d, e, shift[1]), Image.Resampling.BILINEAR
    )
    return np.asarray(placed, np.float32) / 255


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours float32 [3] in 0 .. 1 whose brightness differs by at least 0.35; either may be the brighter."""
    pairs = rng.random((64, 2, 3), np.float32)  # a quarter of them differ enough
    brightness = pairs.sum(axis=2) / 3
    first = int(np.argmax(np.abs(brightness[:, 0] - brightness[:, 1]) >= 0.35))
    return pairs[first, 0], pairs[first, 1]


def _draw(mask: Image.Image, rng: np.random.Generator) -> bytes:
    """One image of the character, in random colours and with noise, as PNG."""
    ink, paper = _colours(rng)
    cloud = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    image = paper + rng.uniform(0, 0.25) * (np.asarray(cloud, np.float32) / 255 - 0.5)
    lines = Image.new("L", (SIDE, SIDE))
    for _ in range(rng.integers(0, 3)):
        ImageDraw.Draw(lines).line(rng.uniform(0, SIDE, 4).tolist(), fill=255, width=int(rng.integers(1, 3)))
    for coverage, colour in (
        (np.asarray(lines, np.float32) / 255, rng.random(3, np.float32)),
        (_place(mask, rng), ink),
    ):
        image = image + coverage[:, :, None] * (colour - image)
    image = image + rng.uniform(0.02, 0.08) * rng.standard_normal(image.shape, np.float32)
    out = io.BytesIO()
    # Compression would cost time and gain nothing, for noise does not shrink.
    Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8)).save(out, "PNG", compress_level=0)
    return out.getvalue()


REVISION = "5a8decda0ddaf1020ffa0d0cd395f0f6a3574e61247e917f105d4d40476b82b6"
"""Identifies the way of drawing in the hashes of the images; to be changed with every change that alters a pixel."""


class Drawings(Sequence[bytes]):
    """All images of the data set, each drawn when asked for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return len(CHARACTERS) * IMAGES_PER_CLASS

    def __getitem__(self, i: Any) -> Any:
        rng = np.random.default_rng((self.seed, range(len(self))[i]))
        face, stroke = FACES[rng.integers(len(FACES))], int(rng.integers(2)) * 2
        return _draw(_mask(CHARACTERS[i // IMAGES_PER_CLASS], face, stroke), rng)


def load(seed: int = 0) -> Index:
    """200 classes of 50 images of 64 x 64 pixels, as PNG bytes; the same for the same seed.

    Each class is one character; face, stroke, rotation, shear, scale, place, colours, background, stray lines and noise
    vary. Classes are in random order. Images are drawn when they are read. Their hashes are of what they depend on:
    REVISION, the seed and the versions of the libraries that draw.
    """
    items = Drawings(seed)
    versions = f"{matplotlib.__version__} {PIL.__version__} {features.version('freetype2')} {np.__version__}"
    return Index(
        items=items,
        labels=np.repeat(np.arange(len(CHARACTERS), dtype=np.int32), IMAGES_PER_CLASS),
        boxes=None,
        class_names=tuple(CHARACTERS),
        names=tuple(f"{ord(c):04x}_{i:02d}" for c in CHARACTERS for i in range(IMAGES_PER_CLASS)),
        hashes=tuple(
            hashlib.sha256(f"{REVISION} {versions} {seed} {i}".encode()).hexdigest()
            for i in range(len(items))
        ),
    )
