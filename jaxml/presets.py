"""Named configurations; every option can be overridden on the command line."""

from jaxml.config import Config, Data, Loss, Model, Optim, Train

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
}
