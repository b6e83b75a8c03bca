"""Augmentation in the step: crops, flips, colours and normalisation against plain loops and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.data.augment import _by_gathers, _by_products, _places, augment, center

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8)
KEYS = jax.random.split(jax.random.key(1), 8)


STATIC = ("size", "crop_area", "flip", "jitter", "mean", "std")
AUGMENT = jax.jit(augment, static_argnames=STATIC)
CENTER = jax.jit(center, static_argnames=("size", "mean", "std", "share"))


def run(
    images=IMAGES, keys=KEYS, *, size=16, crop_area=(0.4, 1.0), flip=False, jitter=0.0, mean=MEAN, std=STD
):
    return np.asarray(
        AUGMENT(
            jnp.asarray(images),
            keys,
            size=size,
            crop_area=crop_area,
            flip=flip,
            jitter=jitter,
            mean=mean,
            std=std,
        )
    )


def coordinates(side):
    """Images whose red is the column, and green the row, of each pixel: a crop then shows where it was taken."""
    grid = np.broadcast_to(np.arange(side, dtype=np.uint8), (side, side))
    image = np.stack([grid, grid.T, np.full_like(grid, 128)], axis=-1)
    return np.repeat(image[None], 64, axis=0)


@pytest.fixture(scope="module")
def windows():
    """Windows of 64 random crops of a 200-pixel image: top, left, height, width."""
    keys = jax.random.split(jax.random.key(2), 64)
    out = run(coordinates(200), keys, size=50, crop_area=(0.3, 0.8), mean=(0, 0, 0), std=(1, 1, 1)) * 255
    width, height = out[:, 0, -1, 0] - out[:, 0, 0, 0], out[:, -1, 0, 1] - out[:, 0, 0, 1]
    width, height = width * 50 / 49, height * 50 / 49
    return out[:, 0, 0, 1] - height / 100 + 0.5, out[:, 0, 0, 0] - width / 100 + 0.5, height, width


def test_the_whole_image_is_left_as_it_is():
    expected = (IMAGES / 255.0 - MEAN) / STD
    np.testing.assert_allclose(run(size=20, crop_area=(1.0, 1.0)), expected, atol=1e-5)
    np.testing.assert_allclose(CENTER(jnp.asarray(IMAGES), size=20, mean=MEAN, std=STD), expected, atol=1e-5)


def interpolate(image, size, share=1.0):
    """Linear interpolation at the centres of size x size cells of the central crop, pixel by pixel, in float64."""
    side = len(image)
    margin, cell = side * (1 - share) / 2, share * side / size
    out = np.zeros((size, size, 3))
    for r in range(size):
        for c in range(size):
            y = min(max(margin + (r + 0.5) * cell - 0.5, 0), side - 1)
            x = min(max(margin + (c + 0.5) * cell - 0.5, 0), side - 1)
            for i in (int(y), int(y) + 1):
                for j in (int(x), int(x) + 1):
                    weight = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                    if weight:
                        out[r, c] += weight * image[i, j].astype(np.float64)
    return out


@pytest.mark.parametrize("size", [13, 31])
@pytest.mark.parametrize("share", [1.0, 0.73])
def test_resizing_is_linear_interpolation(size, share):
    got = CENTER(jnp.asarray(IMAGES[:2]), size=size, mean=(0, 0, 0), std=(1, 1, 1), share=share)
    expected = [interpolate(image, size, share) for image in IMAGES[:2]]
    np.testing.assert_allclose(255 * np.asarray(got), expected, atol=1e-3)


def test_a_central_crop_that_fits_the_pixels_is_a_slice():
    got = CENTER(jnp.asarray(IMAGES), size=10, mean=(0, 0, 0), std=(1, 1, 1), share=0.5)
    np.testing.assert_allclose(255 * np.asarray(got), IMAGES[:, 5:15, 5:15], atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        center(jnp.asarray(IMAGES), size=10, mean=MEAN, std=STD, share=share)


@pytest.mark.parametrize("form", [_by_gathers, _by_products])
def test_both_forms_interpolate(form):
    rows, columns = _places(3.3, 15.1, 9, 20, jnp.bool_(False)), _places(-0.4, 20.2, 12, 20, jnp.bool_(True))
    expected = np.zeros((9, 12, 3))
    for r, c in np.ndindex(9, 12):
        for y, x in np.ndindex(2, 2):
            (i, down), (j, right) = (
                (int(p[side][n]), float(p[2][n])) for p, side, n in ((rows, y, r), (columns, x, c))
            )
            weight = (down if y else 1 - down) * (right if x else 1 - right)
            expected[r, c] += weight * IMAGES[0, i, j].astype(np.float64)
    np.testing.assert_allclose(form(jnp.asarray(IMAGES[0]), rows, columns), expected, atol=1e-4)


@pytest.mark.parametrize(("platform", "products"), [("cpu", False), ("cuda", False), ("tpu", True)])
def test_the_platform_compiled_for_decides_how_to_crop(platform, products):
    options = {"size": 16, "crop_area": (0.4, 1.0), "flip": True, "jitter": 0.0, "mean": MEAN, "std": STD}
    program = AUGMENT.trace(IMAGES, KEYS, **options).lower(lowering_platforms=(platform,)).as_text()
    assert ("dot_general" in program) == products
    assert ("stablehlo.gather" in program) != products
    # Rounded to bfloat16, a TPU's default, pixels would be off by more than one of 255.
    assert program.count("precision = [HIGHEST, HIGHEST]") == program.count("dot_general")


def test_crops_have_the_area_and_aspect_asked_for_and_lie_within_the_image(windows):
    top, left, height, width = windows
    area, aspect = height * width / 200**2, width / height
    assert np.all((area > 0.295) & (area < 0.805))
    assert np.all((aspect > 0.74) & (aspect < 1.35))
    assert area.min() < 0.4
    assert area.max() > 0.7
    assert aspect.min() < 0.85
    assert aspect.max() > 1.18
    for start, extent in ((top, height), (left, width)):
        assert np.all(start > -0.1)
        assert np.all(start + extent < 200.1)
        room = start / (200 - extent)
        assert room.min() < 0.15
        assert room.max() > 0.85


def test_half_of_the_images_are_mirrored():
    keys = jax.random.split(jax.random.key(3), 64)
    images = coordinates(20)
    plain, flipped = (run(images, keys, flip=flip) for flip in (False, True))
    mirrored = np.array([np.allclose(f, p[:, ::-1], atol=1e-4) for f, p in zip(flipped, plain, strict=True)])
    same = np.array([np.allclose(f, p, atol=1e-4) for f, p in zip(flipped, plain, strict=True)])
    assert np.all(mirrored ^ same)
    assert 16 < mirrored.sum() < 48


def test_an_image_depends_on_its_own_key_only():
    whole = run(flip=True, jitter=0.3)
    order = np.array([5, 2, 7, 0])
    part = run(IMAGES[order], KEYS[order], flip=True, jitter=0.3)
    np.testing.assert_allclose(part, whole[order], atol=1e-6)
    same = run(np.repeat(IMAGES[:1], 8, axis=0), flip=True, jitter=0.3)
    assert len({image.tobytes() for image in same}) == 8


def test_jitter_changes_colours_within_its_strength():
    grey = np.full((64, 8, 8, 3), 100, np.uint8)
    keys = jax.random.split(jax.random.key(4), 64)
    out = run(grey, keys, size=8, jitter=0.4, mean=(0, 0, 0), std=(1, 1, 1)) * 255
    assert np.ptp(out, axis=(1, 2, 3)).max() < 1e-3  # neither contrast nor saturation has anything to change
    assert 59.9 < out.min() < 75
    assert 125 < out.max() < 140.1
    out = run(IMAGES, jitter=0.4, mean=(0, 0, 0), std=(1, 1, 1))
    assert 0 <= out.min() < out.max() <= 1
