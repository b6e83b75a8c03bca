"""The model card: data, protocol, scores and licence of a saved network as README.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jaxml import __version__
from jaxml.config import Config
from jaxml.files import printable

PLACE = "path/of/this/folder"
"""How a card calls its own folder where that is not in the hub."""


def render(config: Config, dimensions: int, about: Mapping[str, Any], address: str = PLACE) -> str:
    """The card as Markdown.

    Args:
        config: what the network was trained with, as far as it embeds.
        dimensions: length of an embedding.
        about: what `jaxml.load` found out about the training of a run.
        address: what `jaxml.load` is to be given.
    """
    data, model, settings = config.data, config.model, config.eval
    weights, results = about.get("weights") or {}, about.get("results") or {}
    loss, teacher = dict(about.get("loss") or {}), about.get("teacher")
    known = {
        "data set": data.source,
        "pictures": about.get("images"),
        "classes": about.get("classes"),
        "division of the classes (training / validation / test)": data.split,
        "trained on the classes of": data.train_on,
        "cropped to bounding boxes, where there are any": _yes(data.crop_to_box),
        "network": f"{model.backbone}, head {model.head}, pooling {model.pooling}",
        "side of the network's input in pixels": settings.size or data.size,
        "embeddings of unit length": _yes(model.normalize),
        "mean of a picture and its mirror image": _yes(settings.mirror),
        "mean of central crops, as shares of the side": ", ".join(map(str, settings.crops)),
        "loss": ", ".join([str(loss.pop("name")), *(f"{k} {v}" for k, v in loss.items())]) if loss else None,
        "learned from the network": teacher
        and "{source}, step {step}: {backbone}, {dimensions} numbers".format(**teacher),
        "step of the checkpoint": about.get("step"),
        "pretrained weights": weights.get("source"),
    }
    return (
        _environment()
        .get_template("card.md")
        .render(
            backbone=model.backbone,
            dimensions=dimensions,
            made_by=f"jaxml {__version__}",
            address=address,
            side=data.stored_size,
            cropped=data.crop_to_box,
            training=[(name, value) for name, value in known.items() if value is not None],
            test=results.get("test") or {},
            baselines=results.get("baselines") or {},
            weights=weights.get("source"),
            seen=about.get("seen", 0),
            license=weights.get("license"),
        )
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@cache
def _environment() -> Environment:
    # A card is Markdown, in which a table's cells end at a bar.
    return Environment(
        loader=PackageLoader("jaxml.inference"),
        finalize=lambda value: printable(value).replace("|", "\\|"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
