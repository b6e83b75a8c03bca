"""iNaturalist 2018, 461,939 pictures of 8,142 species, divided by species as Brown et al. 2020 did for retrieval."""

from __future__ import annotations

from pathlib import Path

from jaxml.data.index import Index, Retrieval
from jaxml.data.sources import official_lists
from jaxml.data.sources.official_lists import AGAIN, Listed
from jaxml.files import expand

FILES = {"train": "Inaturalist_train_set1.txt", "test": "Inaturalist_test_set1.txt"}
LISTS = "Inat_dataset_splits"
"""The folder of their archive, which may have been unpacked into another."""
COUNTS = {
    "train images": 325_846,
    "test images": 136_093,
    "train classes": 5_690,
    "test classes": 2_452,
}


def load(root: str) -> Index:
    """All images of the folder `root`, those of train first, with the published division of the classes.

    Classes are named by the two folders of their images, such as Aves/3203; the first one is the category.

    Raises:
        ValueError: a text file is missing or malformed, or there are not the published numbers of images and classes.
    """
    folder = expand(root, "--data.root")
    lists = folder / LISTS if (folder / LISTS).is_dir() else folder
    remedy = (
        f"--data.root must be a folder with the pictures, unpacked as train_val2018, and the lists of Brown et al. "
        f"2020, {' and '.join(FILES.values())}, beside them or in {LISTS}"
    )
    images = [
        Listed(place, path, _species(path, place), part)
        for part, file in FILES.items()
        for place, (path,) in official_lists.lines(lists / file, ("path",), remedy, header=False)
    ]
    categories = tuple(image.name.split("/")[0] for image in images)
    return official_lists.index(folder, images, COUNTS, Retrieval(categories=categories))


def _species(path: str, place: str) -> str:
    """The two folders in which a picture lies."""
    folders = Path(path).parts[:-1]
    if len(folders) < 2:
        raise ValueError(
            f"{place}: expected a path such as train_val2018/Aves/3203/picture.jpg, got {path!r}. {AGAIN}"
        )
    return "/".join(folders[-2:])
