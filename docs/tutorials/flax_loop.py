# %% [markdown]
# # A loss in your own training loop
#
# This tutorial trains a small network with flax and optax on drawn characters, and scores characters that the network
# never saw. Of jaxml it takes the loss, the metrics and the drawn characters; the network, the batches and the step
# are its own. It takes about a minute on a CPU.
#
# ## Data
#
# The characters come as PNG files in memory, with labels. The first 60 classes are for training, the next 20 to score.

# %%
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from jaxml import evaluate, losses
from jaxml.data.sources import glyphs

CLASSES, UNSEEN = 60, 20

index = glyphs.load()
rows = np.flatnonzero(index.labels < CLASSES + UNSEEN)
labels = index.labels[rows]
files = [io.BytesIO(index.items[row]) for row in rows]
pictures = [Image.open(file).convert("L").resize((32, 32)) for file in files]
images = np.stack([np.asarray(picture, np.float32) for picture in pictures])[..., None] / 255
print(images.shape, labels.shape)

# %% [markdown]
# ## Network
#
# Any function from images to vectors will do.


# %%
class Network(nn.Module):
    """Images [B, 32, 32, 1] to embeddings [B, 64] of unit length."""

    @nn.compact
    def __call__(self, x):
        for channels in (16, 32, 64):
            x = nn.relu(nn.Conv(channels, (3, 3), strides=(2, 2))(x))
        x = nn.Dense(64)(x.reshape(len(x), -1))
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)


network = Network()
optimizer = optax.adam(1e-3)
params = network.init(jax.random.key(0), images[:1])
state = optimizer.init(params)

# %% [markdown]
# ## Step
#
# The loss compares every triplet of the batch. It returns a scalar and a dict: `active` is the number of triplets
# that violate the margin, over which the mean is taken, and `valid` the number of all triplets.


# %%
@jax.jit
def step(params, state, images, labels):
    def objective(params):
        return losses.triplet(network.apply(params, images), labels, margin=0.2)

    (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss, aux["active"] / aux["valid"]


# %% [markdown]
# ## Training
#
# A batch needs several images of each class, so that every anchor has positives: here 16 classes with 4 images each.
# The loss is a mean over the triplets that violate the margin, so progress shows in their share rather than in the
# loss:
#
# ```
# step 100: loss 0.162, 28.4% of all triplets violate the margin
# step 200: loss 0.202, 14.0% of all triplets violate the margin
# step 300: loss 0.132, 6.1% of all triplets violate the margin
# ```

# %%
rng = np.random.default_rng(0)


def batch():
    """Places of 16 x 4 images in the data set."""
    chosen = [np.flatnonzero(labels == label) for label in rng.choice(CLASSES, 16, replace=False)]
    return np.concatenate([rng.choice(places, 4, replace=False) for places in chosen])


for number in range(1, 301):
    places = batch()
    params, state, loss, share = step(params, state, images[places], labels[places])
    if number % 100 == 0:
        print(f"step {number}: loss {loss:.3f}, {share:.1%} of all triplets violate the margin")

# %% [markdown]
# ## Scores
#
# `evaluate` clusters the embeddings of the unseen classes with K-means, which sees no label, and looks at their
# nearest neighbours. The pixels themselves give scores to compare with. On the machine where this page was written it
# printed
#
# ```
# nmi        pixels 0.137, embeddings 0.731
# f1         pixels 0.072, embeddings 0.603
# recall@1   pixels 0.526, embeddings 0.881
# ```

# %%
unseen = labels >= CLASSES
embeddings = jax.jit(network.apply)(params, images[unseen])
scores = evaluate.evaluate(embeddings, labels[unseen])
baseline = evaluate.evaluate(images[unseen].reshape(unseen.sum(), -1), labels[unseen])
for name in ("nmi", "f1", "recall@1"):
    print(f"{name:10} pixels {baseline[name]:.3f}, embeddings {scores[name]:.3f}")
