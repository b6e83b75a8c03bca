"""A trained network from Python: what it makes of pictures in all forms, as a pure function, and what it refuses."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxml
from jaxml import config
from jaxml.data import ImageError
from jaxml.errors import RunError
from jaxml.inference.model import Model
from jaxml.inference.program import Program

ROUNDING = 1e-6  # what `Model` states of batches of different sizes


def test_importing_jaxml_imports_no_library():
    code = "import sys, jaxml; print(sorted({'jax', 'numpy', 'flax', 'PIL'} & set(sys.modules))); jaxml.load"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="'jaxml' has no attribute 'lod'"):
        jaxml.lod  # noqa: B018


def test_embeddings_are_those_of_the_run(trained, model):
    _, pixels, expected = trained
    found = model.embed(pixels)
    assert found.shape == (60, model.dimensions) == (60, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_every_form_of_a_picture_has_the_same_embedding(trained, model, tmp_path):
    picture = trained[1][7]
    image = Image.fromarray(picture)
    image.save(tmp_path / "a.png")
    forms = [picture, jnp.asarray(picture), image, tmp_path / "a.png", str(tmp_path / "a.png")]
    forms += [[form] for form in forms] + [picture[None], jnp.asarray(picture)[None], iter([picture])]
    found = [model.embed(form) for form in forms]
    assert all(np.array_equal(embedding, found[0]) for embedding in found)
    assert found[0].shape == (1, 8)
    mixed = model.embed([image, tmp_path / "a.png", picture])
    np.testing.assert_allclose(mixed, np.repeat(found[0], 3, 0), atol=ROUNDING)


def test_a_picture_of_another_size_is_resized_as_in_training(trained, model):
    big = np.asarray(Image.fromarray(trained[1][3]).resize((50, 70), Image.Resampling.BICUBIC))
    square = np.asarray(Image.fromarray(big).resize((24, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(model.embed(big), model.embed(square))


def test_boxes_crop(trained, model):
    picture = trained[1][3]
    framed = np.zeros((40, 50, 3), np.uint8)
    framed[7:31, 11:35] = picture
    cropped = model.embed([framed, framed], boxes=[[11, 7, 24, 24], [0, 0, 50, 40]])
    assert np.array_equal(cropped[0], model.embed([picture, framed])[0])
    assert np.abs(cropped[0] - cropped[1]).max() > 0.01


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 33, 60])
def test_the_batch_changes_rounding_alone(trained, model, count):
    pixels = trained[1]
    alone = np.concatenate([model.embed(image) for image in pixels[:count]])
    together = model.embed(pixels[:count])
    np.testing.assert_allclose(together, alone, atol=ROUNDING, rtol=0)


def test_the_place_in_a_batch_changes_nothing(trained, model):
    pixels, size = trained[1], model._program.sizes[-1]
    order = np.random.default_rng(0).permutation(size)
    assert np.array_equal(model.embed(pixels[:size])[order], model.embed(pixels[order]))


def test_few_sizes_are_compiled():
    traced = []

    def function(scale, pixels):
        traced.append(pixels.shape[0])
        return scale * pixels.mean((1, 2))

    program = Program(function, jnp.float32(2), batch_size=200)
    images = np.random.default_rng(0).integers(0, 256, (150, 3, 3, 3), np.uint8)
    for count in (*range(1, 40), 150):
        np.testing.assert_allclose(program(images[:count]), 2 * images[:count].mean((1, 2)), rtol=1e-5)
    assert sorted(traced) == program.sizes  # four CPU devices, each with 2 or 8 pictures
    assert program.sizes == [8, 32]


def test_no_pictures_have_no_embeddings(model):
    assert model.embed([]).shape == (0, 8)


def test_apply_is_a_pure_function(trained, model):
    pixels = trained[1][:6]
    expected = model.embed(pixels)
    np.testing.assert_allclose(jax.jit(model.apply)(model.variables, pixels), expected, atol=ROUNDING)
    # A mirrored picture that is normalised first differs by the rounding of the resizing.
    inputs = model.prepare(pixels)
    assert inputs.shape == (6, 20, 20, 3)
    np.testing.assert_allclose(jax.jit(model.apply)(model.variables, inputs), expected, atol=1e-5)

    def first(params, inputs):
        return model.apply({**model.variables, "params": params}, inputs)[0, 0]

    by_params, by_inputs = jax.jit(jax.grad(first, argnums=(0, 1)))(model.variables["params"], inputs)
    step = jax.tree.map(lambda x: 1e-3 * x, by_params)
    moved = jax.tree.map(jnp.add, model.variables["params"], step)
    predicted = sum(np.vdot(g, s) for g, s in zip(*map(jax.tree.leaves, (by_params, step)), strict=True))
    value = jax.jit(first)
    found = value(moved, inputs) - value(model.variables["params"], inputs)
    np.testing.assert_allclose(found, predicted, rtol=0.05)
    assert np.abs(by_inputs[0]).max() > 0
    assert np.abs(by_inputs[1:]).max() == 0


def test_a_turned_picture_has_the_embedding_of_the_upright_one(trained, model, tmp_path):
    # Of whole blocks of 8 x 8 pixels, so that JPEG cuts both copies into the same ones.
    picture = Image.fromarray(trained[1][9]).resize((96, 64), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"quality": 100, "subsampling": 0}
    picture.save(tmp_path / "upright.jpg", **options)
    stored = picture.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.jpg", exif=exif, **options)
    stored.save(tmp_path / "on its side.jpg", **options)
    upright, turned, wrong = (
        model.embed(tmp_path / f"{name}.jpg")[0] for name in ("upright", "turned", "on its side")
    )
    np.testing.assert_allclose(turned, upright, atol=1e-3)
    assert np.abs(wrong - upright).max() > 0.01
    with Image.open(tmp_path / "turned.jpg") as opened:
        assert np.array_equal(model.embed(opened)[0], turned)


def test_the_fingerprint_is_of_what_embeddings_depend_on(model):
    def changed(**options):
        values = {name.replace("_", ".", 1): value for name, value in options.items()}
        return Model(config.override(model.config, values), model.variables, {}).fingerprint

    same = {"eval.batch_size": 3, "eval.kmeans_seeds": 2, "data.root": "elsewhere", "data.split": "standard"}
    same["eval.feature_size"] = 8  # which is all of them
    assert Model(config.override(model.config, same), model.variables, {}).fingerprint == model.fingerprint
    for options in (
        {"eval_size": 22},
        {"eval_mirror": False},
        {"eval_crops": (0.8, 1.0)},
        {"eval_feature_size": 4},
        {"model_normalize": False},
        {"data_stored_size": 25},
    ):
        assert changed(**options) != model.fingerprint, options
    moved = jax.tree.map(lambda x: np.nextafter(x, np.float32(9)), model.variables)
    assert Model(model.config, moved, {}).fingerprint != model.fingerprint


def test_pictures_that_cannot_be_read_are_named(trained, model, tmp_path):
    Image.fromarray(trained[1][0]).save(tmp_path / "good.png")
    (tmp_path / "text.jpg").write_text("no picture")
    paths = [tmp_path / name for name in ("good.png", "text.jpg", "gone.png", "good.png", "a", "b")]
    with pytest.raises(ImageError) as caught:
        model.embed(paths)
    message = str(caught.value)
    assert message.startswith(
        f"4 of 6 pictures cannot be embedded: image {tmp_path / 'text.jpg'} cannot be decoded"
    )
    assert f"cannot read image {tmp_path / 'gone.png'}: No such file" in message
    assert message.endswith("And 1 more.")
    with pytest.raises(ImageError, match=r"^cannot read image .*gone"):
        model.embed(paths[2])
    embeddings, rows, errors = model.embed_readable(jaxml.inference.pictures.given(paths))
    assert rows.tolist() == [0, 3]
    assert len(embeddings) == 2
    assert list(errors) == [str(path) for path in (paths[1], paths[2], paths[4], paths[5])]


WRONG = {
    "floats": (np.zeros((4, 4, 3), np.float32), "is float32; an array of pictures must be uint8, 0 to 255"),
    "floats in a list": ([np.zeros((4, 4, 3))], "picture 0 is float64"),
    "channels first": (np.zeros((3, 4, 4), np.uint8), r"has shape \[3, 4, 4\]; .* must be uint8 \[h, w, 3\]"),
    "grey": (np.zeros((4, 4), np.uint8), r"has shape \[4, 4\]"),
    "batch in a list": ([np.zeros((2, 4, 4, 3), np.uint8)], r"picture 0 has shape \[2, 4, 4, 3\]"),
    "empty": (np.zeros((0, 4, 3), np.uint8), r"has shape \[0, 4, 3\]"),
    "number": (3, "pictures must be paths, Pillow images or uint8 arrays"),
    "numbers": ([3], "picture 0 is int; pictures must be paths"),
    "bytes": (b"abc", "got bytes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_arguments_are_refused(model, kind):
    value, message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        model.embed(value)


def test_an_image_of_numbers_without_a_range_is_refused(model):
    with pytest.raises(
        ImageError, match=r"image picture 0 has over 16 bits per channel \(F\); convert it to 8 bits"
    ):
        model.embed(Image.fromarray(np.zeros((4, 4), np.float32)))


def test_boxes_must_fit(trained, model):
    for boxes in ([[0, 0, 1, 1]], np.zeros((2, 4)), np.full((2, 4), np.nan), [[1, 2, 3], [1, 2, 3]]):
        with pytest.raises(ValueError, match=r"boxes must be \[2, 4\]"):
            model.embed(trained[1][:2], boxes)


def test_apply_refuses_other_images(model):
    for images in (np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.int32)):
        with pytest.raises(ValueError, match="images must be uint8 pixels"):
            model.apply(model.variables, images)


def test_a_folder_is_no_picture(model, tmp_path):
    with pytest.raises(
        ValueError, match=r"is a folder: give the files in it, or search it with model\.index"
    ):
        model.embed(tmp_path)


def test_a_path_without_a_network_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"holds no run and no saved network"):
            jaxml.load(path)
