"""Neighbours, clusters and metrics of made-up embeddings, which the tests compare between one process and two.

`python -m tests.evaluation.scores FILE` joins the other processes. The first one computes everything alone while the
others wait, as at the end of a training; then each does. What it found each time is written to FILE as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxml import distributed, evaluate, metrics
from jaxml.evaluation import clustering, neighbours, products


def everything():
    """On the devices, which compute sizes as small as these here, and by scikit-learn."""
    rng = np.random.default_rng(0)
    labels, cameras, order = rng.integers(0, 60, 900), rng.integers(0, 3, 900), rng.permutation(900)
    x = rng.normal(size=(60, 16))[labels] + 0.6 * rng.normal(size=(900, 16))
    places = {"queries": order[:200], "gallery": order[150:], "groups": 100 * labels + cameras}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "LARGE", 0)
        patch.setattr(clustering, "MANY", 50)
        patch.setattr(products, "_faiss", lambda: None)
        return {
            "neighbours": [near.tolist() for _, near in neighbours.neighbours(x, 10)],
            "neighbours of queries": [near.tolist() for _, near in neighbours.neighbours(x, 10, **places)],
            "clusters by devices": evaluate.cluster(x, 60).tolist(),
            "clusters by scikit-learn": evaluate.cluster(x, 50).tolist(),
            "scores": evaluate.evaluate(x, labels, kmeans_seeds=2),
            "scores of queries": evaluate.evaluate(x, labels, kmeans_seeds=2, **places),
            "scores of a validation": evaluate.validate(x, labels),
            "scores of a re-ranking": metrics.retrieval(x, labels, search=evaluate.reranked(), **places),
            "scores of a verification": metrics.fnmr_at_fmr(x, labels, **places),
        }


if __name__ == "__main__":
    distributed.start()
    Path(sys.argv[1]).write_text(json.dumps([distributed.on_main(everything), everything()]))
