"""The directory of a run whose own pictures are gone, and its model, for all tests of inference."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import jaxml
from jaxml import config as configs
from jaxml.config import Config, Data, Eval, Loss
from jaxml.config import Model as ModelConfig
from jaxml.files import write_json
from jaxml.training import provenance, run
from jaxml.training.checkpoint import Checkpoints
from tests.made_up_pictures import write_classes


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run's directory, pixels of its data set and what its network made of them."""
    root = tmp_path_factory.mktemp("trained")
    pixels = write_classes(root / "pictures")
    data = Data(
        source="folder",
        root=str(root / "pictures"),
        split="0-4/5-6/7-9",
        stored_size=24,
        size=20,
        cache=str(root / "cache"),
    )
    config = Config(
        data=data,
        model=ModelConfig(feature_size=8),
        loss=Loss(name="proxy_anchor"),
        eval=Eval(batch_size=64, mirror=True),
    )
    workdir = root / "run"
    opened = run.open_run(config, workdir)
    configs.save(workdir / "config.json", config)
    opened.pictures.save(workdir)
    write_json(
        workdir / "results.json", {"step": 10, "test": {"nmi": 0.75, "recall@1": 0.5}, "baselines": {}}
    )
    # The best of two states, which is not the last.
    meta = provenance.meta(config, opened.pictures)
    for step, score in ((10, 0.9), (20, 0.1)):
        params = dict(opened.state.params)
        params["head"] = {name: x * (15 - step) for name, x in params["head"].items()}
        state = opened.state._replace(step=jnp.int32(step), params=params)
        Checkpoints(workdir / "checkpoints", writer=True).save(step, state, score=score, meta=meta)
    embeddings = run.load(workdir).embed(np.arange(60))
    shutil.rmtree(root / "pictures")
    shutil.rmtree(root / "cache")
    return workdir, pixels, embeddings


@pytest.fixture(scope="session")
def model(trained):
    """The model of the run."""
    return jaxml.load(trained[0])
