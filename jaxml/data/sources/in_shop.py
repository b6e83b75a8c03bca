"""In-Shop Clothes Retrieval of DeepFashion, 52,712 pictures of 7,982 clothes (Liu et al. 2016), from its folder."""

from __future__ import annotations

import numpy as np

from jaxml.data.index import Index, Retrieval
from jaxml.data.sources import official_lists
from jaxml.data.sources.official_lists import AGAIN, Listed
from jaxml.files import expand

LIST = "Eval/list_eval_partition.txt"
COLUMNS = ("image_name", "item_id", "evaluation_status")
COUNTS = {
    "train images": 25_882,
    "query images": 14_218,
    "gallery images": 12_612,
    "train classes": 3_997,
    "test classes": 3_985,
}
IMAGES = "Img"
"""The folder in which the archive of the images is unpacked."""


def load(root: str) -> Index:
    """All images of the folder `root`, whole, with the official division: queries and gallery are of the test classes.

    Raises:
        ValueError: the list is missing or malformed, or the numbers of images and classes are not the official ones.
    """
    folder = expand(root, "--data.root")
    remedy = (
        f"--data.root must be the folder of the In-shop Clothes Retrieval Benchmark, with {LIST} and the unpacked "
        f"{IMAGES}/img"
    )
    # The line above the header is the number of images.
    rows = official_lists.lines(folder / LIST, COLUMNS, remedy, above=1)
    for place, (_, _, status) in rows:
        if f"{status} images" not in COUNTS:
            raise ValueError(f"{place}: {status!r} is none of train, query and gallery. {AGAIN}")
    images = [Listed(place, *fields) for place, fields in rows]
    groups = np.array([image.group for image in images], str)
    retrieval = Retrieval(is_query=groups == "query", is_gallery=groups == "gallery")
    return official_lists.index(folder, images, COUNTS, retrieval, below=IMAGES)
