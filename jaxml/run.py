"""A run from its configuration to its results, all in one directory.

config.json      what was asked for         weights.json     where pretrained weights came from
checkpoints/     the newest two, the best   metrics.jsonl    one line per logged step and validation
results.json     metrics of test classes    report.html      all of it to look at
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxml import config as configs
from jaxml import distributed, health, history, optim, report
from jaxml import train as training
from jaxml.checkpoint import Checkpoints
from jaxml.config import Config
from jaxml.data.images import Images, open_images
from jaxml.evaluate import cluster, evaluate
from jaxml.files import write_atomically
from jaxml.fit import fit
from jaxml.models import BACKBONES
from jaxml.preemption import Interrupted, Preempted, RunError, Sigterm

__all__ = [
    "Preempted",
    "Run",
    "RunError",
    "embedder",
    "frozen_features",
    "learn",
    "load",
    "load_network",
    "open_run",
    "score",
    "table",
    "train",
]

MAY_CHANGE = (
    "data.root",
    "data.input",
    "data.cache",
    "model.weights",
    "train.devices",
    "train.profile",
    "eval.",
)
"""Options, by their beginning, that a resumed run may set anew: none changes what is learned."""


@dataclass
class Run:
    """A run that is open: what it learns with, from and on."""

    workdir: Path
    learner: training.Learner
    state: training.TrainState
    images: Images
    devices: list
    checkpoints: Checkpoints
    sigterm: Sigterm = field(default_factory=Sigterm)

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.learner.config

    @property
    def validates(self) -> bool:
        """Whether validation classes are left to choose the best step by."""
        return self.config.data.train_on == "train"


def train(config: Config, workdir: str | Path, *, resume: bool = False) -> dict[str, Any]:
    """Train, score the test classes, write the report; returns what `results.json` holds. Raises as `learn` does."""
    with _guarded(config) as sigterm:
        return _finish(*_learn(config, Path(workdir), resume, sigterm))


def learn(config: Config, workdir: str | Path, *, resume: bool = False) -> tuple[Run, Callable]:
    """Train only: the run at its last step, and its `embedder`. Nothing of the test classes is looked at.

    Raises:
      RunError: the directory holds another run, `resume` finds none there, the loss is no longer finite, or memory
        ran out.
      Preempted: SIGTERM came; the state is saved.
    """
    with _guarded(config) as sigterm:
        return _learn(config, Path(workdir), resume, sigterm)


def _learn(config: Config, workdir: Path, resume: bool, sigterm: Sigterm) -> tuple[Run, Callable]:
    config = distributed.on_main(partial(_claim, config, workdir, resume))
    run = replace(open_run(config, workdir, to_train=True), sigterm=sigterm)
    distributed.on_main(partial(_check_not_lost, run))
    if distributed.on_main(run.checkpoints.steps):
        check = partial(_check_same, config)
        run.state, _ = distributed.on_main(partial(run.checkpoints.restore_newest, run.state, check))
        sigterm.saved = f"step {int(run.state.step)} is saved"
        distributed.say(f"resuming at step {int(run.state.step)} of {config.train.steps}")
    elif config.model.weights:
        run.state, weights = training.load_weights(config, run.state)
        distributed.on_main(partial(_write_json, workdir / "weights.json", weights))
    distributed.say(optim.table(config.optim, run.state.params))
    embed = embedder(run)
    fit(run, embed)
    return run, embed


@contextmanager
def _guarded(config: Config) -> Iterator[Sigterm]:
    """SIGTERM and lack of memory end in one line."""
    devices = (config.train.devices or jax.local_device_count()) * jax.process_count()
    with Sigterm(handles=jax.process_count() == 1) as sigterm, health.explain_memory(config, devices):
        yield sigterm


def load(workdir: str | Path, *, data_root: str = "") -> Run:
    """A finished or interrupted run with its best checkpoint (the last, where nothing was validated).

    `data_root` is where the data set lies now, if it has moved.

    Raises:
      RunError: there is no run, or it has saved nothing yet.
    """
    workdir = Path(workdir)
    config = _saved_config(workdir)
    if data_root:
        config = replace(config, data=replace(config.data, root=data_root))
    run = open_run(replace(config, train=replace(config.train, devices=0)), workdir)
    if not run.checkpoints.steps():
        raise RunError(f"{workdir} has no checkpoint yet")
    _restore_best(run)
    return run


def load_network(workdir: str | Path) -> tuple[Config, Callable[[np.ndarray], np.ndarray]]:
    """A run's configuration, and its network: pixels uint8 [n, S, S, 3] -> embeddings float32 [n, D].

    The checkpoint is the one that `load` takes, S is `data.stored_size`. Needs the run's directory only: its data set
    may be gone.

    Raises:
      RunError: there is no run, or it has saved nothing yet.
    """
    workdir = Path(workdir)
    config = _saved_config(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    if not checkpoints.steps():
        raise RunError(f"{workdir} has no checkpoint yet")
    # The shapes of a loss's parameters would need the number of classes; embedding needs neither.
    learner, state = training.create(replace(config, loss=configs.Loss(), optim=configs.Optim()), 1)
    best = config.data.train_on == "train"
    restore = checkpoints.restore_best if best else checkpoints.restore_newest
    state, _ = restore(state._replace(opt_state=()), part=True)
    return config, partial(_pixel_embedder(learner, jax.local_devices()), state)


def embedder(run: Run) -> Callable[[training.TrainState, np.ndarray], np.ndarray]:
    """Function (state, rows [n]) -> embeddings float32 [n, D]; compiled once, on all devices of the run."""
    embed_pixels = _pixel_embedder(run.learner, run.devices)
    size = -(-run.config.eval.batch_size // jax.process_count())
    hidden = not distributed.is_main()

    def embed(state: training.TrainState, rows: np.ndarray) -> np.ndarray:
        own = distributed.share(rows)
        batches = [own[i : i + size] for i in range(0, len(own), size)]
        found = []
        for pixels in tqdm(run.images.read(batches), "embedding", len(batches), False, disable=hidden):
            if run.sigterm.received:
                raise Interrupted
            found.append(embed_pixels(state, pixels))
        return distributed.gather(np.concatenate(found), len(rows))

    return embed


def _pixel_embedder(learner: training.Learner, devices: list) -> Callable:
    """Function (state, pixels uint8 [n, S, S, 3]) -> embeddings float32 [n, D], by batches of one shape."""
    count = len(devices)
    share = -(-learner.config.eval.batch_size // (count * jax.process_count()))
    step = training.parallel(
        lambda images, params, stats: training.embed_step(learner, params, stats, images),
        in_axes=(0, None, None),
        out_axes=0,
        devices=devices,
    )

    def embed(state: training.TrainState, pixels: np.ndarray) -> np.ndarray:
        found = []
        for i in range(0, len(pixels), count * share):
            part = pixels[i : i + count * share]
            full = np.pad(part, ((0, count * share - len(part)), (0, 0), (0, 0), (0, 0)))
            output = np.asarray(step(full.reshape(count, share, *part.shape[1:]), *state[1:3]))
            found.append(output.reshape(count * share, -1)[: len(part)])
        return np.concatenate(found)

    return embed


def score(run: Run, embeddings: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """All metrics of the embeddings of some rows, as the configuration asks for them."""
    settings = run.config.eval
    return evaluate(
        embeddings,
        run.images.index.labels[rows],
        clusters_per_class=settings.clusters_per_class,
        kmeans_seeds=settings.kmeans_seeds,
    )


def table(rows: dict[str, dict[str, float]]) -> str:
    """Metrics of several embeddings, one line each, for a terminal."""
    columns = {"nmi": "NMI", "f1": "F1", "recall@1": "Recall@1"}
    lines = ["".join([f"{'':20}", *(f"{title:>10}" for title in columns.values())])]
    for name, row in rows.items():
        lines.append("".join([f"{name:20}", *(f"{row[key]:10.4f}" for key in columns)]))
    return "\n".join(lines)


def _claim(config: Config, workdir: Path, resume: bool) -> Config:
    """Make the run's directory, or check that it holds this very run; the configuration, for processes without one."""
    path = workdir / "config.json"
    if resume and not path.exists():
        raise RunError(f"{workdir} holds no run to resume: there is no config.json")
    if path.exists() and not resume:
        raise RunError(f"{workdir} holds a run; continue it with --resume or choose another --workdir")
    if resume and (changed := _changed(configs.load(path), config)):
        raise RunError(f"{workdir} holds another run; it differs in {'; '.join(changed)}")
    workdir.mkdir(parents=True, exist_ok=True)
    configs.save(path, config)
    return config


def _changed(old: Config, new: Config) -> list[str]:
    """Differences that make it another run."""
    return [line for line in configs.differences(old, new) if not line.startswith(MAY_CHANGE)]


def _check_same(config: Config, step: int, meta: dict[str, Any]) -> None:
    """Refuse a checkpoint that another configuration wrote."""
    if changed := _changed(configs.from_dict(meta["config"]), config):
        raise RunError(f"checkpoint {step} is of another run; it differs in {'; '.join(changed)}")


def _check_not_lost(run: Run) -> None:
    """Never start over by ourselves where checkpoints must have been."""
    train = run.config.train
    if run.checkpoints.steps():
        return
    logged = max((row["step"] for row in history.read(run.workdir / "metrics.jsonl")), default=0)
    first = min(train.save_every, train.eval_every if run.validates else train.steps, train.steps)
    if run.checkpoints.damaged() or logged > first:
        raise RunError(
            f"no sound checkpoint in {run.checkpoints.directory}, but the run has come to step {logged}; put one back, "
            f"or start a new run in another --workdir"
        )


def _saved_config(workdir: Path) -> Config:
    path = workdir / "config.json"
    if not path.exists():
        raise RunError(f"{workdir} holds no run: there is no config.json")
    return configs.load(path)


def open_run(config: Config, workdir: Path, to_train: bool = False) -> Run:
    """A run at step 0 with random parameters, whatever its directory holds."""
    devices = _devices(config, to_train)
    images = open_images(config.data, devices if to_train else ())
    learner, state = training.create(config, len(images.classes(config.data.train_on)))
    return Run(workdir, learner, state, images, devices, Checkpoints(workdir / "checkpoints"))


def _devices(config: Config, to_train: bool) -> list:
    """As many of this machine's devices as are asked for; only training has to divide its batch among them."""
    devices = jax.local_devices()
    count = config.train.devices or len(devices)
    if count > len(devices):
        raise RunError(f"train.devices is {count}, but this machine has {len(devices)}")
    batch = config.data.classes_per_batch * config.data.images_per_class
    if to_train and batch % (whole := count * jax.process_count()):
        raise RunError(
            f"the batch of {batch} can not be divided among {whole} devices; set --train.devices to a number that "
            f"divides it"
        )
    return devices[:count]


def _restore_best(run: Run) -> None:
    """The checkpoint with the best score; the last, where nothing was validated."""
    restore = run.checkpoints.restore_best if run.validates else run.checkpoints.restore_newest
    run.state = distributed.on_main(lambda: restore(run.state)[0])


def _finish(run: Run, embed: Callable) -> dict[str, Any]:
    """Score the test classes once with the chosen checkpoint, beside the baselines; write results and report."""
    _restore_best(run)
    rows = run.images.rows("test")
    embeddings = embed(run.state, rows)
    health.warn_collapsed(embeddings, "test images")
    frozen = frozen_features(run, rows) if run.config.model.weights else None
    return distributed.on_main(partial(_report, run, rows, embeddings, frozen))


def _report(run: Run, rows: np.ndarray, embeddings: np.ndarray, frozen: np.ndarray | None) -> dict[str, Any]:
    pixels = next(run.images.read([rows]))
    rivals = {"raw pixels (8 x 8)": pixels_as_features(pixels)}
    if frozen is not None:
        rivals["frozen features"] = frozen
    results: dict[str, Any] = {
        "step": int(run.state.step),
        "test": score(run, embeddings, rows),
        "baselines": {name: score(run, features, rows) for name, features in rivals.items()},
    }
    _write_json(run.workdir / "results.json", results)
    labels = run.images.index.labels[rows]
    classes = len(np.unique(labels)) * run.config.eval.clusters_per_class
    report.write(
        run.workdir / "report.html",
        config=configs.to_dict(run.config),
        history=history.read(run.workdir / "metrics.jsonl"),
        results=results["test"],
        baselines=list(results["baselines"].items()),
        embeddings=embeddings,
        labels=labels,
        clusters=cluster(embeddings, classes),
        images=pixels,
        class_names=run.images.index.class_names,
    )
    return results


def pixels_as_features(images: np.ndarray, side: int = 8) -> np.ndarray:
    """Mean colours on a grid: uint8 [n, S, S, 3] -> float32 [n, side * side * 3] in [0, 1]."""
    edges = np.linspace(0, images.shape[1], side + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(images, edges, axis=1, dtype=np.float32), edges, axis=2)
    counts = np.diff(np.append(edges, images.shape[1]))
    areas = (counts[:, None] * counts[None, :])[None, :, :, None]
    return (sums / areas / 255).reshape(len(images), -1).astype(np.float32)


def frozen_features(run: Run, rows: np.ndarray) -> np.ndarray:
    """Pooled features of the pretrained backbone before any training, float32 [n, D] for rows int [n]."""
    features = BACKBONES[run.config.model.backbone].features
    model = replace(run.config.model, head="none", feature_size=features, dropout=0.0)
    config = replace(run.config, model=model, loss=configs.Loss(), optim=configs.Optim())
    learner, state = training.create(config, 1)
    state, _ = training.load_weights(config, state)
    return embedder(replace(run, learner=learner))(state, rows)


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")
