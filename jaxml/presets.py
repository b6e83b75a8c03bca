"""Named configurations; every option can be overridden on the command line."""

from dataclasses import replace

from jaxml.config import Config, Data, Eval, Loss, Model, Optim, Train

PRESETS = {
    # The quickstart: a small network from scratch on drawn characters, about a minute on two CPU cores.
    "glyphs_simple": Config(
        # A mirrored letter is another letter.
        data=Data(source="glyphs", size=48, flip=False, classes_per_batch=16, images_per_class=8),
        model=Model(backbone="simple"),
        loss=Loss("triplet", (("margin", 0.2),)),
        optim=Optim(learning_rate=1e-3, schedule="cosine", warmup_steps=20),
        train=Train(steps=300, eval_every=100, save_every=100),
    ),
    # Birds with ImageNet features; needs --data.root and --model.weights.
    "cub_squeezenet": Config(
        data=Data(
            source="cub",
            split="standard",
            stored_size=160,
            size=128,
            crop_area=(0.4, 1.0),
            classes_per_batch=24,
        ),
        model=Model(backbone="squeezenet1_1"),
        loss=Loss("multi_similarity"),
        optim=Optim(learning_rate=1e-3, schedule="cosine", warmup_steps=50, groups=(("backbone/.*", 0.1),)),
        train=Train(steps=600, eval_every=100, save_every=100),
    ),
    # Shah 2017: his best network, all violating triplets of 4 classes x 16 images, learning rates by depth.
    "cub_inception_original": Config(
        data=Data(
            source="cub",
            split="poster",
            stored_size=299,
            size=299,
            crop_area=(1.0, 1.0),
            classes_per_batch=4,
            images_per_class=16,
        ),
        model=Model(backbone="inception_v3"),
        loss=Loss("triplet", (("margin", 0.2),), norm_weight=1e-3),
        optim=Optim(learning_rate=4e-5, groups=(("backbone/Mixed.*", 0.2), ("backbone/.*", 0.1))),
        train=Train(steps=1000, eval_every=100, save_every=100),
    ),
}

SPACES: dict[str, dict[str, tuple]] = {
    "glyphs_simple": {
        "optim.learning_rate": ("log", 1e-4, 1e-2),
        "loss.options.margin": ("uniform", 0.05, 0.5),
        "model.dropout": ("uniform", 0.0, 0.5),
    },
    "cub_squeezenet": {
        "optim.learning_rate": ("log", 2e-4, 5e-3),
        "optim.weight_decay": ("log", 1e-5, 1e-2),
        "model.dropout": ("uniform", 0.0, 0.5),
        "model.pooling": ("choice", "avg", "avg+max"),
        "loss.options.alpha": ("uniform", 1.0, 4.0),
        "loss.options.beta": ("log", 20.0, 80.0),
    },
}
"""What `experiments/tune.py` varies of a preset, by option: log and uniform between two bounds, or a choice."""
# The best on birds so far, chosen by the classes of val; then it learns from them as well.
BIRDS = PRESETS["cub_squeezenet"]
PRESETS["cub_best"] = replace(
    BIRDS,
    data=replace(BIRDS.data, train_on="train+val"),
    model=replace(BIRDS.model, pooling="avg+max"),
    train=replace(BIRDS.train, steps=700),
    eval=Eval(size=160, mirror=True),
)
