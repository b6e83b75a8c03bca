"""Stanford Online Products, 120,053 pictures of 22,634 products (Song et al. 2016), from its official folder."""

from __future__ import annotations

from jaxml.data.index import Index, Retrieval
from jaxml.data.sources import official_lists
from jaxml.data.sources.official_lists import Listed
from jaxml.files import expand

FILES = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
COLUMNS = ("image_id", "class_id", "super_class_id", "path")
COUNTS = {
    "train images": 59_551,
    "test images": 60_502,
    "train classes": 11_318,
    "test classes": 11_316,
}


def load(root: str) -> Index:
    """All images of the folder `root`, those of train first, with the official division of the classes.

    Classes are named by class_id. The category of an image is the kind of product, such as bicycle, which is the
    super_class_id by the name of its folder.

    Raises:
        ValueError: a text file is missing or malformed, or the numbers of images and classes are not the official ones.
    """
    folder = expand(root, "--data.root")
    remedy = (
        f"--data.root must be the folder Stanford_Online_Products of the official archive, with "
        f"{' and '.join(FILES.values())}"
    )
    images = [
        Listed(place, path, name, part)
        for part, file in FILES.items()
        for place, (_, name, _, path) in official_lists.lines(folder / file, COLUMNS, remedy)
    ]
    categories = tuple(image.path.split("/")[0].removesuffix("_final") for image in images)
    return official_lists.index(folder, images, COUNTS, Retrieval(categories=categories))
