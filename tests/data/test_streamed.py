"""The tf.data path against the resident one, and data sets prepared by tensorflow-datasets."""

import dataclasses
import io
import os
import sys
import tarfile
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxml import data
from jaxml.config import Data
from jaxml.data import ImageError, decode, resident
from jaxml.data.sources import tfds
from tests.data.test_pipelines import SIDE, make_folder, picture, with_boxes

pytest.importorskip("tensorflow")
import tensorflow_datasets

from jaxml.data import streamed


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def index(config):
    return with_boxes(data.load(config))


ROWS = [np.array(r) for r in ([0, 5, 3, 3], [11, 2, 7, 1], [4, 6, 8, 9], [10, 0])]


def test_both_paths_give_the_same_pixels(config, index):
    for crop in (True, False):
        cropped = dataclasses.replace(config, crop_to_box=crop)
        pixels = resident.load(index, cropped)
        for rows, got in zip(ROWS, streamed.batches(index, cropped, ROWS), strict=True):
            assert got.dtype == np.uint8
            assert np.array_equal(got, pixels[rows])


def test_batches_are_a_pure_function_of_the_rows_asked_for(config, index):
    whole = list(streamed.batches(index, config, ROWS))
    resumed = list(streamed.batches(index, config, ROWS[2:]))
    assert all(np.array_equal(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    assert [len(b) for b in whole] == [4, 4, 4, 2]
    assert list(streamed.batches(index, config, [])) == []


def test_an_endless_stream_is_read_a_few_batches_ahead_only(config, index):
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield np.array([asked[-1] % 12, 3])

    stream = streamed.batches(index, config, endless())
    for _ in range(20):
        next(stream)
    stream.close()
    assert len(asked) < 200


def test_encoded_bytes_are_items_too(config, index):
    encoded = dataclasses.replace(index, items=[Path(item).read_bytes() for item in index.items])
    for a, b in zip(
        streamed.batches(index, config, ROWS), streamed.batches(encoded, config, ROWS), strict=True
    ):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 not a JPEG", None])
def test_a_corrupt_image_is_named(config, index, tmp_path, content):
    broken = tmp_path / "broken.jpg"
    if content is not None:
        broken.write_bytes(content)
    items = list(index.items)
    items[6] = str(broken)
    names = (*index.names[:6], "class1/broken.jpg", *index.names[7:])
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        list(streamed.batches(dataclasses.replace(index, items=items, names=names), config, ROWS))


def odd(root):
    """Pictures that tensorflow and Pillow decode to different pixels, by up to 101 grey levels in the mean."""
    exif = Image.Exif()
    exif[0x0112] = 6
    root.mkdir(parents=True)
    picture(0).convert("P").save(root / "palette.bmp")
    picture(1).convert("CMYK").save(root / "cmyk.jpg")
    picture(2).save(root / "turned.jpg", exif=exif)
    picture(3).convert("P").save(root / "transparent.png", transparency=bytes(range(256)))
    picture(4).convert("RGBA").save(root / "alpha.png")
    picture(5).convert("1").save(root / "bits.bmp")
    return data.Index(
        items=[str(path) for path in sorted(root.iterdir())],
        labels=np.zeros(6, np.int32),
        boxes=None,
        class_names=("odd",),
        names=tuple(path.name for path in sorted(root.iterdir())),
    )


def test_odd_pictures_have_the_same_pixels_on_both_paths(tmp_path):
    index = odd(tmp_path / "odd")
    config = Data(cache=str(tmp_path / "cache"), stored_size=SIDE)
    (got,) = streamed.batches(index, config, [np.arange(6)])
    for image, item, name in zip(got, index.items, index.names, strict=True):
        with Image.open(item) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
        over_white = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        want = np.asarray(over_white.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), int)
        # The decoder resizes a transparent picture before it lays it on white.
        assert np.abs(image - want).max() <= (2 if name == "transparent.png" else 0), name
    assert np.array_equal(got, resident.load(index, config))


def test_a_picture_that_changes_in_mid_run_is_named(config, index, tmp_path):
    changing = tmp_path / "0.png"
    changing.write_bytes(Path(index.items[6]).read_bytes())
    items = [*index.items[:6], str(changing), *index.items[7:]]
    index = dataclasses.replace(index, items=items)

    def rows():
        yield np.array([6, 0])
        for _ in range(50):
            yield np.array([1, 2])
        picture(99).save(changing)
        yield np.array([6, 0])

    stream = streamed.batches(index, config, rows())
    assert next(stream).shape == (2, SIDE, SIDE, 3)
    with pytest.raises(
        ImageError, match=rf"image {index.names[6]} has changed since this data set was opened"
    ):
        list(stream)


def test_the_first_of_several_damaged_files_is_named(config, index, tmp_path):
    items = list(index.items)
    for i in (2, 7, 9):
        items[i] = str(tmp_path / f"gone{i}")
    index = dataclasses.replace(index, items=items)
    for rows in ([7, 2, 0, 9], [9, 0, 7, 2]):
        for _ in range(5):
            with pytest.raises(ImageError, match=f"cannot read image .*gone{rows[0]}: No such file"):
                list(streamed.batches(index, config, [np.array(rows)]))


@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two cores")
def test_pictures_are_decoded_at_the_same_time(config, index, monkeypatch):
    both = threading.Barrier(2, timeout=30)
    call = decode.Decoder.__call__

    def together(self, row):
        both.wait()
        return call(self, row)

    monkeypatch.setattr(decode.Decoder, "__call__", together)
    assert len(list(streamed.batches(index, config, [np.arange(4)]))) == 1


def test_vectors_of_different_lengths_are_refused(config, index):
    with pytest.raises(ValueError, match="equally long"):
        list(streamed.batches(index, config, [ROWS[3], ROWS[0], ROWS[1]]))


def test_tensorflow_sees_no_accelerator():
    assert streamed.tf.config.get_visible_devices("GPU") == []


# tensorflow-datasets


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, quality=95)
    return out.getvalue()


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """CUB_200_2011.tgz and segmentations.tgz as tfds expects them, of 3 classes x 4 images."""
    root = tmp_path_factory.mktemp("tfds")
    names, images, boxes = [], {}, {}
    with (
        tarfile.open(root / "CUB_200_2011.tgz", "w:gz") as archive,
        tarfile.open(root / "segmentations.tgz", "w:gz") as masks,
    ):
        for c in range(3):
            for i in range(4):
                bird = f"Bird{c}_{i:04d}"
                name = f"{c + 1:03d}.Bird{c}/{bird}.jpg"
                names.append(name)
                image = picture(4 * c + i, 50 + i, 40 + c)
                images[name], boxes[name] = encoded(image, "JPEG"), (3.0 + i, 4.0, 20.0, 25.0 + c)
                add(archive, f"CUB_200_2011/images/{name}", images[name])
                add(
                    masks, f"segmentations/{c + 1:03d}.Bird{c}/{bird}.png", encoded(image.convert("L"), "PNG")
                )
        lines = {
            "images.txt": "".join(f"{i + 1} {n}\n" for i, n in enumerate(names)),
            "train_test_split.txt": "".join(f"{i + 1} {i % 2}\n" for i in range(12)),
            "bounding_boxes.txt": "".join(
                f"{i + 1} {' '.join(map(str, boxes[n]))}\n" for i, n in enumerate(names)
            ),
        }
        for file, text in lines.items():
            add(archive, f"CUB_200_2011/{file}", text.encode())
    return root, images, boxes


@pytest.fixture(scope="module")
def prepared(archives):
    """The index after really preparing caltech_birds2011 from the archives."""
    cv2 = types.ModuleType("cv2")  # tfds decodes the masks with it, which are not needed here
    cv2.imdecode = lambda buffer, flags: np.asarray(Image.open(io.BytesIO(buffer.tobytes())))
    builder = tensorflow_datasets.builder_cls("caltech_birds2011")
    checksums = tensorflow_datasets.core.download.checksums
    infos = {  # the miniature's sizes and hashes in place of the official archives'
        url: checksums.compute_url_info(archives[0] / info.filename)
        for url, info in builder.url_infos.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cv2", cv2)
        patch.setattr(builder, "url_infos", infos)
        return tfds.load("caltech_birds2011", str(archives[0]))


pytestmark = pytest.mark.filterwarnings("ignore")


def test_tfds_reads_train_and_test_together(archives, prepared):
    _, images, boxes = archives
    assert sorted(Path(n).name for n in prepared.names) == sorted(Path(n).name for n in images)
    assert len(prepared.class_names) == 200
    assert np.bincount(prepared.labels).tolist() == [4, 4, 4]
    by_name = {Path(n).name: n for n in images}
    for item, label, box, name in zip(
        prepared.items, prepared.labels, prepared.boxes, prepared.names, strict=True
    ):
        original = by_name[Path(name).name]
        assert item == images[original]
        assert label == int(original[:3]) - 1
        np.testing.assert_allclose(box, boxes[original], atol=1e-3)


def test_a_prepared_copy_is_read_offline_from_either_folder(archives, prepared):
    root = archives[0]
    for archive in root.glob("*.tgz"):
        archive.rename(archive.with_suffix(".gone"))
    (copy,) = root.glob("caltech_birds2011/*/dataset_info.json")
    for folder in (root, copy.parent):
        again = tfds.load("caltech_birds2011", str(folder))
        assert again.items == prepared.items
        assert again.names == prepared.names


def test_a_tfds_source_gives_pixels_through_both_paths(archives, prepared, tmp_path):
    config = Data(source="caltech_birds2011", root=str(archives[0]), cache=str(tmp_path), stored_size=SIDE)
    index = data.load(config)
    pixels = resident.load(index, config)
    (got,) = streamed.batches(index, config, [np.arange(12)])
    assert np.array_equal(got, pixels)


def test_a_prepared_copy_that_lacks_images_is_refused(archives, prepared, monkeypatch):
    as_dataset = tensorflow_datasets.core.DatasetBuilder.as_dataset
    monkeypatch.setattr(
        tensorflow_datasets.core.DatasetBuilder, "as_dataset", lambda *a, **k: as_dataset(*a, **k).take(11)
    )
    with pytest.raises(ValueError, match=r"holds 11 images, where its dataset_info\.json promises 12"):
        tfds.load("caltech_birds2011", str(archives[0]))


def test_other_archives_than_the_official_ones_are_refused(archives, tmp_path):
    # Another test may have renamed them.
    for archive in (*archives[0].glob("*.tgz"), *archives[0].glob("*.gone")):
        (tmp_path / archive.with_suffix(".tgz").name).write_bytes(archive.read_bytes())
    with pytest.raises(ValueError, match="wrong checksum"):
        tfds.load("caltech_birds2011", str(tmp_path))


def test_tfds_says_what_it_needs(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(tensorflow_datasets.core.download.DownloadManager, "download", no_network)
    with pytest.raises(
        ValueError, match=r"could not prepare caltech_birds2011 .*no network.*dataset_info\.json"
    ):
        tfds.load("caltech_birds2011", str(tmp_path))


CUB = Path(os.environ.get("JAXML_CUB", "../shared/data/CUB_200_2011"))


@pytest.mark.cub
@pytest.mark.skipif(not CUB.is_dir(), reason="needs CUB-200-2011")
def test_both_paths_agree_on_birds(tmp_path):
    from jaxml.data.sources import cub

    config = Data(source="cub", root=str(CUB), cache=str(tmp_path), stored_size=128)
    index = cub.load(str(CUB))
    grey = [i for i, item in enumerate(index.items) if Image.open(item).mode == "L"]
    assert len(grey) == 8
    rows = np.concatenate([grey, np.random.default_rng(0).permutation(len(index.items))[:248]])
    (got,) = streamed.batches(index, config, [rows])
    expected = np.stack(list(decode.decode_all(index.take(rows), size=128, crop_to_box=True)))
    assert np.array_equal(got, expected)
