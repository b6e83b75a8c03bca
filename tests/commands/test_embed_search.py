"""`jaxml embed` and `jaxml search` on a few pictures."""

import re

import numpy as np
import pytest
from PIL import Image

from jaxml.commands import embed, search
from jaxml.data import ImageError
from jaxml.inference import Index
from tests.inference.conftest import model, trained  # noqa: F401


@pytest.fixture
def folder(trained, tmp_path):  # noqa: F811
    """Twelve pictures, some nested, and a file that is none."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for i, pixels in enumerate(trained[1][:12]):
        Image.fromarray(pixels).save(root / (f"sub/{i:02d}.png" if i % 2 else f"{i:02d}.png"))
    (root / "notes.txt").write_text("no picture")
    return root


def run(main, capsys, *words):
    main([str(word) for word in words])
    return capsys.readouterr().out.splitlines()


def test_a_folder_is_embedded(trained, model, folder, tmp_path, capsys):  # noqa: F811
    common = ("--model", trained[0], "--images", folder, "--out")
    said = run(embed.main, capsys, *common, tmp_path / "out.npz")
    assert said[0].startswith("left out: image notes.txt cannot be decoded")
    assert said[-1] == f"12 embeddings of 8 numbers: {tmp_path / 'out.npz'}"
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        names, embeddings = file["names"].tolist(), file["embeddings"]
    assert names == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    expected = model.embed([folder / name for name in names])
    assert np.array_equal(embeddings, expected)
    run(embed.main, capsys, *common, tmp_path / "out.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)
    assert (tmp_path / "out.npy.names.txt").read_text().splitlines() == names
    run(embed.main, capsys, *common, tmp_path / "index")
    assert np.array_equal(Index.load(tmp_path / "index", model).embeddings, expected)
    with pytest.raises(ValueError, match=r"--out .*out\.npz exists already"):
        run(embed.main, capsys, *common, tmp_path / "out.npz")


def test_files_are_embedded(trained, model, folder, tmp_path, capsys):  # noqa: F811
    files = [folder / "04.png", folder / "02.png"]
    run(embed.main, capsys, "--model", trained[0], "--images", *files, "--out", tmp_path / "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.embed(files), atol=1e-6)
    new = ("--model", trained[0], "--out", tmp_path / "new.npy", "--images", files[0])
    with pytest.raises(ImageError, match=r"1 of 2 pictures cannot be embedded: image .*notes"):
        run(embed.main, capsys, *new, folder / "notes.txt")
    assert not (tmp_path / "new.npy").exists()
    with pytest.raises(ValueError, match="--boxes belong to a folder"):
        run(embed.main, capsys, *new, "--boxes", "boxes.csv")


def test_boxes_crop_the_pictures_of_a_folder(trained, model, folder, tmp_path, capsys):  # noqa: F811
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    (tmp_path / "boxes.csv").write_text(
        "file,left,top,width,height\n" + "".join(f"{n},2,3,9,11\n" for n in names)
    )
    common = ("--model", trained[0], "--images", folder, "--boxes", tmp_path / "boxes.csv")
    run(embed.main, capsys, *common, "--out", tmp_path / "out.npy")
    expected = model.embed([folder / name for name in names], boxes=[[2, 3, 9, 11]] * 12)
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)


def nearest(said):
    """Distances and names in the lines printed."""
    found = [re.fullmatch(r" *(\d+\.\d+)  (.+)", line) for line in said]
    return [(float(line[1]), line[2]) for line in found if line]


def test_the_nearest_pictures_are_found(trained, model, folder, tmp_path, capsys):  # noqa: F811
    query = folder / "04.png"
    common = ("--model", trained[0], "--query", query, "--count", 3)
    said = run(search.main, capsys, *common, "--images", folder, "--out", tmp_path / "page")
    assert said[-1] == f"12 pictures; 1 files left out: {tmp_path / 'page/nearest.html'}"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    embeddings = model.embed([folder / name for name in names]).astype(float)
    distances = np.linalg.norm(embeddings - embeddings[names.index("04.png")], axis=1)
    expected = sorted((d, name) for d, name in zip(distances, names, strict=True) if name != "04.png")[:3]
    assert [name for _, name in nearest(said)] == [name for _, name in expected]
    np.testing.assert_allclose([d for d, _ in nearest(said)], [d for d, _ in expected], atol=1e-4)
    page = (tmp_path / "page/nearest.html").read_text(encoding="utf-8")
    assert "The nearest of 12 pictures" in page
    assert page.count("<img") == 4
    assert (tmp_path / "page/skipped.txt").exists()
    # The same by an index, which is not embedded again.
    run(embed.main, capsys, "--model", trained[0], "--images", folder, "--out", tmp_path / "index")
    again = run(search.main, capsys, *common, "--images", tmp_path / "index", "--out", tmp_path / "page")
    assert nearest(again) == nearest(said)
    words = ("--model", trained[0], "--query", folder / "notes.txt", "--images", folder)
    with pytest.raises(ImageError, match=r"image notes\.txt cannot be decoded"):
        run(search.main, capsys, *words, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()
