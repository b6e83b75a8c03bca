"""Every option of a run, as frozen dataclasses whose fields state defaults, choices and limits."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from jaxml.config import checks
from jaxml.config.values import (
    Bool,
    Category,
    Count,
    Float,
    Int,
    Pixels,
    Regex,
    Seed,
    Share,
    ShareRange,
    Shares,
    Text,
    Value,
)


@checks.options
@dataclass(frozen=True)
class Data:
    """Which images, which classes, and how batches are drawn from them."""

    source: Text = "glyphs"
    """Where images come from: glyphs, cub, sop, in_shop, inaturalist, folder, table, hugging_face, array_record, or a
    tfds name such as caltech_birds2011."""
    root: Text = ""
    """Folder of the data set (cub, sop, in_shop, inaturalist, folder, hugging_face, array_record, tfds), the .csv or
    .parquet file of a table, or hf://owner/name for a data set of the Hugging Face hub; glyphs needs none."""
    split: Text = "poster"
    """Division of the classes: poster, standard, source for the one that the data set states (sop, in_shop,
    inaturalist, a table with a column split, and parts of hugging_face and array_record that share no class), or
    explicit ranges train/val/test such as 0-59/60-79/80-99. Without the third range there are no test classes."""
    train_on: Literal["train", "train+val"] = "train"
    """Classes to learn from. With train+val no classes are left to choose the best step by, so the last one is used."""
    input: Literal["resident", "tf_data"] = "resident"
    """resident: decoded once and kept in device memory, divided among all devices; tf_data: streamed from disk by
    tensorflow."""
    crop_to_box: Bool = True
    """Crop to the bounding box where the source has one."""
    stored_size: Pixels = 64
    """Side, in pixels, to which images are decoded; augmentation crops from it."""
    size: Pixels = 64
    """Side, in pixels, of the network's input."""
    crop_area: ShareRange = (0.6, 1.0)
    """Range of the random crop's area as a share of the image, in ascending order; 1 1 takes the whole image."""
    flip: Bool = True
    """Mirror half of the training images."""
    jitter: Annotated[Float, Ge(0)] = 0.0
    """Strength of random brightness, contrast and saturation; 0 is off."""
    classes_per_batch: Annotated[Count, Le(2**20)] = 16
    """P: classes in a batch."""
    images_per_class: Annotated[Count, Le(2**20)] = 4
    """K: images of each class in a batch."""
    category: Category = ""
    """source for the categories that the data set states, or a regular expression on names of classes, whose first
    group is the category of a class: `.*[._](.+)` takes the last word. Batches then hold several classes of each of
    some categories; if it is empty, classes are drawn alike."""
    classes_per_category: Count = 4
    """Classes of each category in a batch, where data.category is given."""
    cache: Text = "~/.cache/jaxml"
    """Folder for decoded images, converted weights and the embeddings of folders."""
    on_error: Literal["raise", "skip"] = "raise"
    """raise: an image that is damaged, missing or changed ends the run; skip: such images are left out and listed."""


@checks.options
@dataclass(frozen=True)
class Model:
    """The embedding network: backbone, then head."""

    backbone: Text = "simple"
    """A name from jaxml.models.BACKBONES: simple, shallow, squeezenet1_0, squeezenet1_1, resnet50, inception_v3,
    efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2."""
    weights: Text = ""
    """Pretrained weights for the backbone: a file (safetensors or npz), hf://owner/repo/file@commit, auto for the
    package that has them, or the directory of a run or a saved network with this backbone, whose head is taken too
    where it has the same kind and size; without them parameters start random."""
    head: Literal["linear", "conv", "none", "classifier"] = "linear"
    """linear: a fully connected layer; conv: the original's SqueezeNet head; none: pooled features; classifier: the
    layer of the weight file."""
    head_init: Literal["random", "pca"] = "random"
    """How a linear head begins: with random numbers, or along the principal axes of the backbone's features of the
    training images, which keeps most of what pretrained features tell apart. A head that weights bring stays."""
    feature_size: Count = 64
    """Dimensions of the embedding."""
    pooling: Literal["avg", "avg+max", "gem"] = "avg"
    """How a backbone's feature map becomes a vector: its mean, the sum of mean and maximum, or the generalised mean
    with a learned power."""
    dropout: Annotated[Float, Ge(0), Lt(1)] = 0.0
    """Dropout rate before the head."""
    normalize: Bool = True
    """Scale embeddings to unit length."""
    frozen_stages: Annotated[Int, Ge(0)] = 0
    """Stages of the backbone, from the images on, that are not trained: their parameters and BatchNorm statistics stay
    as they are, they have no dropout, and no gradient is computed for them."""
    batch_norm: Literal["sync", "local", "frozen"] = "sync"
    """sync: statistics over all devices; local: over each device; frozen: never updated."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's arithmetic; parameters, distances and loss stay float32."""
    remat: Bool = False
    """Recompute activations in the backward pass: less memory, more time."""


@checks.options
@dataclass(frozen=True)
class Loss:
    """What the network minimises."""

    name: Text = "triplet"
    """A name from jaxml.losses.LOSSES."""
    options: tuple[tuple[Text, Value], ...] = ()
    """Hyper-parameters of the loss function, each a name and a value, such as: margin 0.2 formula soft mining local."""
    norm_weight: Annotated[Float, Ge(0)] = 0.0
    """Weight of the mean length of the embeddings before normalisation."""
    memory_size: Annotated[Int, Ge(0)] = 0
    """Embeddings of earlier batches that the images of a batch are compared with as well (Wang et al. 2020, Cross-Batch
    Memory); of a loss that compares images with each other. 0 keeps none."""
    memory_weight: Annotated[Float, Ge(0)] = 1.0
    """Weight of the loss against the memory, which is added to the loss within the batch."""
    class_weights: tuple[tuple[Regex, Annotated[Float, Ge(0)]], ...] = ()
    """Weights of classes in the loss, each after a regular expression on names of classes; the first that matches a
    class counts, and the others have 1."""
    regularizers: tuple[tuple[Text, Annotated[Float, Gt(0)]], ...] = ()
    """Further terms of the embeddings before normalisation or of the loss's proxies, each a name from
    jaxml.losses.REGULARIZERS and its weight: zero_mean or centre_invariance."""
    nested_sizes: tuple[Count, ...] = ()
    """Matryoshka training: the loss is its mean over the first so many dimensions of the embedding, for each of these
    sizes in ascending order, and over all of them. Each part is normalised by itself and has its own proxies."""


@checks.options
@dataclass(frozen=True)
class Distill:
    """Learning from the embeddings of a finished run, the teacher, beside the labels or in their place.

    The network minimises loss_weight x loss + weight x relaxed contrastive loss (Kim et al. 2021; see
    jaxml.losses.relaxed_contrastive), the latter of its embeddings and the teacher's of the same crops.
    """

    teacher: Text = ""
    """Directory of the finished run to learn from, of any backbone, data.size and model.feature_size; without one there
    is no distillation."""
    weight: Annotated[Float, Gt(0)] = 1.0
    """Weight of the relaxed contrastive loss."""
    loss_weight: Annotated[Float, Ge(0)] = 1.0
    """Weight of the loss that the loss options name; 0 is distillation alone, which takes nothing from the labels."""
    sigma: Annotated[Float, Gt(0)] = 1.0
    """Squared distance of the teacher's embeddings over which two images become unlike."""
    delta: Annotated[Float, Gt(0)] = 1.0
    """Distance to which unlike images are pushed apart, as a multiple of the mean distance of the batch."""


@checks.options
@dataclass(frozen=True)
class Optim:
    """Adam, its schedule, and learning rates by parameter group."""

    learning_rate: Annotated[Float, Gt(0)] = 1e-3
    """Peak learning rate."""
    warmup_steps: Annotated[Int, Ge(0)] = 0
    """Steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up; cosine ends at 0 on the last step."""
    weight_decay: Annotated[Float, Ge(0)] = 0.0
    """Decoupled weight decay (AdamW) on kernels."""
    groups: tuple[tuple[Regex, Annotated[Float, Ge(0)]], ...] = ()
    """Factors of the learning rate, each after a regular expression on parameter paths; the first that matches a
    parameter counts, and 0 freezes it."""
    layer_decay: Share = 1.0
    """Factor of the learning rate from each stage of the backbone to the one before it, beside that of groups; the last
    stage, the pooling, the head and the loss have 1 (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT)."""


@checks.options
@dataclass(frozen=True)
class Train:
    """How long a run trains, how often it is recorded, validated and saved, and on which devices."""

    mode: Literal["batch", "input_triplets"] = "batch"
    """batch: the loss finds its pairs and triplets in a batch of P x K images; input_triplets: the batch is made of
    triplets, see the triplets options."""
    steps: Count = 1000
    """Optimiser steps."""
    seed: Seed = 0
    """Fixes initial parameters, batches and augmentation."""
    log_every: Count = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: Count = 200
    """Steps between clusterings of the validation classes."""
    patience: Annotated[Int, Ge(0)] = 0
    """Validations without a better NMI after which the run ends before train.steps; 0 makes all steps."""
    save_every: Count = 200
    """Steps between checkpoints."""
    steps_per_call: Count = 1
    """Steps in one dispatch to the device (resident input); 16 or more keeps a GPU busy with small networks."""
    ema: Annotated[Float, Ge(0), Lt(1)] = 0.0
    """Decay of the exponential moving average of parameters and BatchNorm statistics by which the network embeds in
    validation, evaluation and afterwards; at step t it is at most (1 + t) / (10 + t). 0 keeps no average."""
    writers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Programs that get the loss, the scores and the configuration, beside metrics.jsonl; each needs the extra of its
    name."""
    chunk: Annotated[Int, Ge(0)] = 0
    """Images of a device's batch that are embedded at a time, in the memory of so many; the gradient is that of the
    whole batch. 0 embeds all at once."""
    devices: Annotated[Int, Ge(0)] = 0
    """Devices to train on; 0 takes all."""
    profile: Annotated[Int, Ge(0)] = 0
    """Calls to the device, after the first two, to record into the run's directory profile; 0 records none."""


@checks.options
@dataclass(frozen=True)
class Triplets:
    """How triplets are chosen before the network sees them (train.mode input_triplets; needs loss.name triplet).

    A batch of P x K images holds a third as many triplets.
    """

    sampling: Literal["random", "hardest", "semi_hard", "original_semi_hard", "kmeans"] = "random"
    """Which triplets are hard. hardest: of 20 times as many random ones those with the nearest negatives; semi_hard:
    the negative is farther than the positive, by less than the margin; original_semi_hard: the negative is nearer than
    the positive; kmeans: K-means has put the negative into a cluster of the anchor's class; random: none."""
    hard_share: Annotated[Float, Ge(0), Le(1)] = 0.6
    """Share of hard triplets; the others are random."""
    regenerate_every: Count = 100
    """Steps between new lists, each drawn with the embeddings of that step."""


@checks.options
@dataclass(frozen=True)
class Eval:
    """How images are embedded, clustered and scored."""

    batch_size: Count = 256
    """Images embedded at a time, over all devices."""
    size: Annotated[Int, Ge(0), Le(2**14)] = 0
    """Side, in pixels, of the network's input when it embeds; 0 is data.size. Random crops magnify, so that whole
    images do best somewhat larger than in training (Touvron et al. 2019)."""
    mirror: Bool = False
    """Embed an image and its mirror image, and take the mean: twice the time."""
    crops: Shares = (1.0,)
    """Central crops, each as a share of the image's side, that are resized to the network's input and embedded; their
    mean is taken, so that each costs the time of one. 1 is the whole image."""
    feature_size: Annotated[Int, Ge(0)] = 0
    """Dimensions of the embedding that are validated, scored and clustered, the first ones; 0 is all of them. A network
    that was trained with loss.nested_sizes serves each of these sizes."""
    clusters_per_class: Count = 1
    """K-means clusters for each class."""
    kmeans_seeds: Annotated[Count, Le(1000)] = 5
    """K-means runs over which mean and deviation are taken."""
