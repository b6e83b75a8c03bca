"""The references of the losses: plain loops over triplets and pairs in float64, with gradients by complex steps.

Arrays carry a leading axis of perturbations: entry i of the flattened inputs gets an imaginary part of 1e-30 in
copy i, so that the imaginary part of the result is the derivative with respect to it, exact to rounding.
Decisions, such as which negative is nearest or whether a triplet is active, use the real part. `Result.edge` is the
smallest change of a number that would change a decision: where it is tiny, float32 may decide otherwise.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np

STEP = 1e-30


@dataclasses.dataclass
class Result:
    value: np.ndarray
    active: int = 0
    valid: int = 0
    edge: float = np.inf


def value_and_gradients(function, *arrays):
    """Result and float64 gradients of function(*arrays), each array [P, ...] complex."""
    sizes = [a.size for a in arrays]
    copies, place = [], 0
    for a, size in zip(arrays, sizes, strict=True):
        copy = np.repeat(np.asarray(a, np.float64).reshape(1, -1), sum(sizes), axis=0).astype(complex)
        copy[np.arange(place, place + size), np.arange(size)] += 1j * STEP
        copies.append(copy.reshape(-1, *a.shape))
        place += size
    result = function(*copies)
    value = np.broadcast_to(result.value, (sum(sizes),))
    parts = np.split(value.imag / STEP, np.cumsum(sizes)[:-1])
    return (
        dataclasses.replace(result, value=value[0].real),
        [p.reshape(a.shape) for p, a in zip(parts, arrays, strict=True)],
    )


def unit(u):
    return u / np.sqrt((u * u).sum(-1, keepdims=True))


def cosine(u, v):
    return (unit(u) * unit(v)).sum(-1)


def variance(u):
    return ((u - u.mean(-1, keepdims=True)) ** 2).mean(-1)


def dist(u, v, kind="euclidean"):
    if kind == "cosine":
        return 1 - cosine(u, v)
    if kind == "snr":
        return variance(v - u) / variance(u)
    if kind == "manhattan":
        return np.sqrt((u - v) ** 2).sum(-1)  # the absolute value, for the complex step too
    if kind == "dot":
        return -(u * v).sum(-1)
    square = ((u - v) ** 2).sum(-1)
    return square if kind == "squared" else np.sqrt(square)


def log_sum(terms):
    top = max(t.real.max() for t in terms)
    return top + np.log(sum(np.exp(t - top) for t in terms))


class Sets:
    """The positives and negatives of each anchor."""

    def __init__(self, x, labels, references=None, reference_labels=None):
        self.own = references is None
        self.x, self.labels = x, labels
        self.r = x if self.own else references
        self.r_labels = labels if self.own else reference_labels
        self.anchors = range(len(labels))
        self.pos = [
            [j for j, y in enumerate(self.r_labels) if y == labels[a] and not (self.own and j == a)]
            for a in self.anchors
        ]
        self.neg = [[j for j, y in enumerate(self.r_labels) if y != labels[a]] for a in self.anchors]
        self.group = [[j for j, y in enumerate(self.r_labels) if y == labels[a]] for a in self.anchors]

    def matrix(self, function):
        return [[function(self.x[:, a], self.r[:, j]) for j in range(self.r.shape[1])] for a in self.anchors]


def share(ap, an):
    return np.exp(ap) / (np.exp(ap) + np.exp(an))


FORMULAS = {
    "hinge": lambda ap, an, pn, margin: ap - an + margin,
    "squared_hinge": lambda ap, an, pn, margin: ap - an + margin,
    "soft": lambda ap, an, pn, margin: ap + np.log(np.exp(margin - an) + np.exp(margin - pn)),
    "ratio": lambda ap, an, pn, margin: share(ap, an) ** 2 + (1 - (1 - share(ap, an))) ** 2,
    "ratio_original": lambda ap, an, pn, margin: share(ap, an) ** 2 + 1 - (1 - share(ap, an)) ** 2,
    "softplus": lambda ap, an, pn, margin: np.log(1 + np.exp(ap - an)),
    "softplus_margin": lambda ap, an, pn, margin: np.log(1 + np.exp(ap - an + margin)),
}
"""Values of a triplet, from the distances of anchor and positive, anchor and negative, positive and negative."""


def gap(values):
    """Least difference between the smallest and any other."""
    values = sorted(values)
    return values[1] - values[0] if len(values) > 1 else np.inf


def kept(values, quantile):
    """Places of the values within a quantile, by sorting, and the gap between the values on either side of the cut."""
    order = np.argsort(values)
    n = int(np.floor(quantile * (len(values) - 1) + 1e-4)) + 1
    ordered = np.sort(values)
    return set(order[:n].tolist()), ordered[n] - ordered[n - 1] if n < len(values) else np.inf


def draws(key, a, positives, group, weights):
    """The negative drawn for each positive, with the random keys that the library uses."""
    seed = jax.random.key(jax.random.bits(jax.random.fold_in(key, a)))
    total = np.cumsum(weights)
    out = {}
    for k, j in enumerate(group):
        if j in positives and total[-1] > 0:
            u = float(jax.random.uniform(jax.random.fold_in(seed, k)))
            out[j] = int(np.searchsorted(total, u * total[-1], side="right"))
    return out


def wu_weights(sets, a, cutoff=0.5, upper=1.4):
    width = sets.x.shape[-1]
    weights = np.zeros(sets.r.shape[1])
    for n in sets.neg[a]:
        d = dist(unit(sets.x[0, a].real), unit(sets.r[0, n].real))
        if d < upper:
            d = max(d, cutoff)
            weights[n] = 1 / (d ** (width - 2) * max(1 - d * d / 4, 1e-8) ** ((width - 3) / 2))
    return weights


@dataclasses.dataclass
class Anchor:
    """What a way of mining may look at: an anchor with its positives and negatives, and the options of the loss."""

    place: int
    pos: dict[int, float]  # distance by place among the candidates
    neg: dict[int, float]
    sets: Sets
    distances: list[list[float]]
    margin: float
    quantile: float
    key: jax.Array | None


def every_pair(anchor):
    return [(p, n) for p in anchor.pos for n in anchor.neg], np.inf


def semi_hard(anchor):
    pairs = [
        (p, n) for p, ap in anchor.pos.items() for n, an in anchor.neg.items() if ap < an < ap + anchor.margin
    ]
    limits = [ap + m for ap in anchor.pos.values() for m in (0, anchor.margin)]
    return pairs, min(abs(limit - an) for limit in limits for an in anchor.neg.values())


def original_semi_hard(anchor):
    pairs = [(p, n) for p, ap in anchor.pos.items() for n, an in anchor.neg.items() if an < ap]
    return pairs, min(abs(ap - an) for ap in anchor.pos.values() for an in anchor.neg.values())


def nearest_semi_hard(anchor):
    pairs = []
    for p, ap in anchor.pos.items():
        farther = {n: an for n, an in anchor.neg.items() if an > ap}
        pairs.append((p, min(farther, key=farther.get) if farther else max(anchor.neg, key=anchor.neg.get)))
    values = sorted(anchor.neg.values())
    gaps = [b - a for a, b in itertools.pairwise(values)]
    gaps += [abs(ap - an) for ap in anchor.pos.values() for an in values]
    return pairs, min(gaps)


def hardest(anchor):
    nearest = min(anchor.neg, key=anchor.neg.get)
    return [(p, nearest) for p in anchor.pos], gap(anchor.neg.values())


def batch_hard(anchor):
    farthest, nearest = max(anchor.pos, key=anchor.pos.get), min(anchor.neg, key=anchor.neg.get)
    return [(farthest, nearest)], min(gap(anchor.neg.values()), gap(-v for v in anchor.pos.values()))


def easy_positive(anchor):
    nearest = min(anchor.pos, key=anchor.pos.get)
    return [(nearest, n) for n in anchor.neg], gap(anchor.pos.values())


def local(anchor):
    places, edge = kept(np.array(list(anchor.pos.values())), anchor.quantile)
    return [(p, n) for i, p in enumerate(anchor.pos) if i in places for n in anchor.neg], edge


def local_class(anchor):
    sets = anchor.sets
    of_class = [a for a in sets.anchors if sets.labels[a] == sets.labels[anchor.place]]
    # Both ends of a pair have one distance in the batch; float32 may part them by a rounding.
    values = np.round([anchor.distances[a][p] for a in of_class for p in sets.pos[a]], 6)
    limit = max(values[i] for i in kept(values, anchor.quantile)[0])
    pairs = [(p, n) for p, ap in anchor.pos.items() if np.round(ap, 6) <= limit for n in anchor.neg]
    return pairs, min((v - limit for v in values if v > limit), default=np.inf)


def distance_weighted(anchor):
    sets, a = anchor.sets, anchor.place
    return list(draws(anchor.key, a, anchor.pos, sets.group[a], wu_weights(sets, a)).items()), np.inf


MINING = {
    "all": every_pair,
    "semi_hard": semi_hard,
    "original_semi_hard": original_semi_hard,
    "nearest_semi_hard": nearest_semi_hard,
    "hardest": hardest,
    "batch_hard": batch_hard,
    "easy_positive": easy_positive,
    "local": local,
    "local_class": local_class,
    "distance_weighted": distance_weighted,
}
"""Ways of mining: from an anchor that has positives and negatives to its pairs (positive, negative), and their edge."""


def mined(sets, d, mining, margin, quantile, key):
    """Triplets (a, p, n), and the edge of the decisions."""
    real = [[entry.flat[0].real for entry in row] for row in d]
    edge, out = np.inf, []
    for a in sets.anchors:
        pos, neg = ({j: real[a][j] for j in places} for places in (sets.pos[a], sets.neg[a]))
        if pos and neg:
            pairs, near = MINING[mining](Anchor(a, pos, neg, sets, real, margin, quantile, key))
            out += [(a, p, n) for p, n in pairs]
            edge = min(edge, near)
    return out, edge


def triplet(
    x,
    labels,
    *refs,
    formula="hinge",
    mining="all",
    margin=0.2,
    distance="euclidean",
    swap=False,
    reduction="active",
    quantile=0.6,
    key=None,
):
    sets = Sets(x, labels, *refs)
    power = 2 if formula == "squared_hinge" else 1
    d = sets.matrix(lambda u, v: dist(u, v, distance) ** power)
    out = Result(np.zeros(x.shape[0], complex))
    triplets, out.edge = mined(sets, d, mining, margin, quantile, key)
    for a, p, n in triplets:
        an, pn = d[a][n], dist(sets.r[:, p], sets.r[:, n], distance) ** power
        if swap:
            out.edge = min(out.edge, abs(an[0].real - pn[0].real))
            an = min(an, pn, key=lambda v: v[0].real)
        value = FORMULAS[formula](d[a][p], an, pn, margin)
        out.valid += 1
        if formula in ("hinge", "squared_hinge"):
            out.edge = min(out.edge, abs(value[0].real))
            if value[0].real <= 0:
                continue
        out.active += 1
        out.value += value
    out.value /= max(out.valid if reduction == "all" else out.active, 1)
    return out


def contrastive(
    x, labels, *refs, margin=1.0, positive_margin=0.0, power=2, distance="euclidean", reduction="all"
):
    sets = Sets(x, labels, *refs)
    d = sets.matrix(lambda u, v: dist(u, v, distance))
    out = Result(0)
    for partners, value in ((sets.pos, lambda v: v - positive_margin), (sets.neg, lambda v: margin - v)):
        total, number, active = np.zeros(x.shape[0], complex), 0, 0
        for a in sets.anchors:
            for j in partners[a]:
                v = value(d[a][j])
                number += 1
                out.edge = min(out.edge, abs(v[0].real))
                if v[0].real > 0:
                    active += 1
                    total += v**power / power
        out.active, out.valid = out.active + active, out.valid + number
        out.value = out.value + total / max(active if reduction == "active" else number, 1)
    return out


def multi_similarity(x, labels, *refs, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1, one_sided=False):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(cosine)
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        pos, neg = sets.pos[a], sets.neg[a]
        out.valid += len(pos) + len(neg)
        if one_sided and not (pos and neg):
            out.active += len(pos) + len(neg)
            out.value += np.log(1 + sum(np.exp(-alpha * (s[a][p] - base)) for p in pos)) / alpha
            out.value += np.log(1 + sum(np.exp(beta * (s[a][n] - base)) for n in neg)) / beta
            continue
        if not pos or not neg:
            continue
        top, low = max(s[a][n][0].real for n in neg), min(s[a][p][0].real for p in pos)
        hard_p = [s[a][p] for p in pos if s[a][p][0].real - epsilon < top]
        hard_n = [s[a][n] for n in neg if s[a][n][0].real + epsilon > low]
        out.edge = min([out.edge, *(abs(s[a][p][0].real - epsilon - top) for p in pos)])
        out.edge = min([out.edge, *(abs(s[a][n][0].real + epsilon - low) for n in neg)])
        out.active += len(hard_p) + len(hard_n)
        out.value += np.log(1 + sum(np.exp(-alpha * (v - base)) for v in hard_p)) / alpha
        out.value += np.log(1 + sum(np.exp(beta * (v - base)) for v in hard_n)) / beta
    out.value /= len(labels)
    return out


def lifted(x, labels, *refs, margin=1.0, distance="euclidean"):
    sets = Sets(x, labels, *refs)
    d = sets.matrix(lambda u, v: dist(u, v, distance))
    out = Result(np.zeros(x.shape[0], complex))
    for i in sets.anchors:
        for j in sets.pos[i]:
            terms = [margin - d[i][k] for k in sets.neg[i]]
            terms += [
                margin - dist(sets.r[:, j], x[:, other], distance)
                for other in sets.anchors
                if labels[other] != labels[i]
            ]
            if not terms:
                continue
            out.valid += 1
            value = d[i][j] + log_sum(terms)
            out.edge = min(out.edge, abs(value[0].real))
            if value[0].real > 0:
                out.active += 1
                out.value += value**2 / 2
    out.value /= max(out.valid, 1)
    return out


def generalized_lifted(x, labels, *refs, margin=1.0, one_sided=False):
    sets = Sets(x, labels, *refs)
    d = sets.matrix(dist)
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        pos, neg = sets.pos[a], sets.neg[a]
        if (pos or neg) if one_sided else (pos and neg):
            out.valid += 1
            value = np.zeros(x.shape[0], complex)
            if pos:
                value = value + log_sum([d[a][p] for p in pos])
            if neg:
                value = value + log_sum([margin - d[a][n] for n in neg])
            out.edge = min(out.edge, abs(value[0].real))
            if value[0].real > 0:
                out.active += 1
                out.value += value
    out.value /= max(out.valid, 1)
    return out


def pick(x, labels, *refs, similarity, reduction="all"):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(similarity)
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        pos, neg = sets.pos[a], sets.neg[a]
        if pos and neg:
            terms = [log_sum([s[a][p], *(s[a][n] for n in neg)]) - s[a][p] for p in pos]
            out.valid += 1 if reduction == "anchors" else len(pos)
            out.value += sum(terms) / (len(pos) if reduction == "anchors" else 1)
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def n_pairs(x, labels, *refs, reduction="all"):
    return pick(x, labels, *refs, similarity=lambda u, v: (u * v).sum(-1), reduction=reduction)


def likeness(distance, temperature):
    if distance == "cosine":
        return lambda u, v: cosine(u, v) / temperature
    return lambda u, v: -dist(u, v, distance) / temperature


def nt_xent(x, labels, *refs, temperature=0.1, distance="cosine", reduction="all"):
    return pick(x, labels, *refs, similarity=likeness(distance, temperature), reduction=reduction)


def supervised_contrastive(x, labels, *refs, temperature=0.1, distance="cosine"):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(likeness(distance, temperature))
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        if sets.pos[a]:
            out.valid += 1
            others = log_sum([s[a][j] for j in sets.pos[a] + sets.neg[a]])
            out.value += sum(others - s[a][p] for p in sets.pos[a]) / len(sets.pos[a])
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def margin(x, boundaries, labels, *refs, margin=0.2, mining="all", nu=0.0, nu_per="anchors", key=None):
    sets = Sets(x, labels, *refs)
    d = sets.matrix(dist)
    beta = [boundaries[:, labels[a]] if boundaries.ndim == 2 else boundaries for a in sets.anchors]
    out = Result(np.zeros(x.shape[0], complex))
    triplets, out.edge = mined(sets, d, mining, margin, 0, key)
    for a, p, n in triplets:
        for value in (d[a][p] - beta[a] + margin, beta[a] - d[a][n] + margin):
            out.valid += 1
            out.edge = min(out.edge, abs(value[0].real))
            if value[0].real > 0:
                out.active += 1
                out.value += value
    if nu_per == "active":
        out.value += nu * sum(beta[a] for a, _, _ in triplets)
    out.value = out.value / max(out.active, 1)
    if nu_per == "anchors":
        out.value = out.value + nu * sum(beta) / len(beta)
    return out


def proxy_nca(x, proxies, labels, scale=1.0, own_in_sum=False):
    out = Result(np.zeros(x.shape[0], complex))
    for a, y in enumerate(labels):
        d = [scale * dist(unit(x[:, a]), unit(proxies[:, c]), "squared") for c in range(proxies.shape[1])]
        out.valid += 1
        out.value += d[y] + log_sum([-v for c, v in enumerate(d) if own_in_sum or c != y])
    out.value /= out.valid
    out.active = out.valid
    return out


def proxy_anchor(x, proxies, labels, alpha=32.0, delta=0.1):
    classes = proxies.shape[1]
    present = sorted(set(labels))
    value = np.zeros(x.shape[0], complex)
    for c in range(classes):
        s = [cosine(x[:, a], proxies[:, c]) for a in range(len(labels))]
        own = [np.exp(-alpha * (v - delta)) for v, y in zip(s, labels, strict=True) if y == c]
        other = [np.exp(alpha * (v + delta)) for v, y in zip(s, labels, strict=True) if y != c]
        value += np.log(1 + sum(own)) / len(present) + np.log(1 + sum(other)) / classes
    return Result(value, len(present), classes)


def soft_triple(x, centres, labels, scale=20.0, gamma=0.1, margin=0.01, tau=0.2):
    _, classes, k, _ = centres.shape
    value = np.zeros(x.shape[0], complex)
    for a, y in enumerate(labels):
        logits = []
        for c in range(classes):
            s = np.stack([cosine(x[:, a], centres[:, c, i]) for i in range(k)])
            q = np.exp(s / gamma) / np.exp(s / gamma).sum(0)
            logits.append(scale * ((q * s).sum(0) - (margin if c == y else 0)))
        value += (log_sum(logits) - logits[y]) / len(labels)
    for c in range(classes):
        for s in range(k):
            for t in range(s + 1, k):
                near = cosine(centres[:, c, s], centres[:, c, t])
                value += tau * np.sqrt(2 - 2 * near) / (classes * k * (k - 1))
    return Result(value, len(labels), len(labels))


def soft_voting(x, key_points, labels, weight=1.0, temperature=0.1, margin=0.2):
    out = triplet(x, labels, formula="hinge", mining="all", margin=margin)
    _, classes, k, _ = key_points.shape
    for a, y in enumerate(labels):
        votes = {
            (c, i): -dist(x[:, a], key_points[:, c, i], "squared") / temperature
            for c in range(classes)
            for i in range(k)
        }
        own = log_sum([v for (c, _), v in votes.items() if c == y])
        out.value = out.value + weight * (log_sum(list(votes.values())) - own) / len(labels)
    return out


def classification(x, points, labels, scale, target, class_weights=None, by_length=False):
    """Cross entropies with the own class's cosine replaced by target(cosine); `points` are [P, classes, K, D]."""
    _, classes, centres, _ = points.shape
    out = Result(np.zeros(x.shape[0], complex), len(labels), len(labels))
    for a, y in enumerate(labels):
        length = np.sqrt((x[:, a] ** 2).sum(-1)) if by_length else 1
        logits = []
        for c in range(classes):
            s = sorted((cosine(x[:, a], points[:, c, k]) for k in range(centres)), key=lambda v: -v[0].real)
            out.edge = min([out.edge, *(s[0][0].real - v[0].real for v in s[1:])])
            logits.append(scale * length * (target(s[0], out) if c == y else s[0]))
        weight = 1 if class_weights is None else class_weights[y]
        out.value += weight * (log_sum(logits) - logits[y]) / len(labels)
    return out


def normalized_softmax(x, proxies, labels, scale=20.0, **options):
    return classification(x, proxies[:, :, None], labels, scale, lambda s, out: s, **options)


def cosface(x, proxies, labels, scale=64.0, margin=0.35, **options):
    return classification(x, proxies[:, :, None], labels, scale, lambda s, out: s - margin, **options)


def widened(s, out, margin):
    angle, limit = np.arccos(s), np.pi - np.real(margin)
    out.edge = min(out.edge, abs(limit - angle[0].real))
    return np.cos(angle + margin) if angle[0].real <= limit else s - margin * np.sin(margin)


def arcface(x, proxies, labels, scale=64.0, margin=0.5, **options):
    target = lambda s, out: widened(s, out, margin)  # noqa: E731
    return classification(x, proxies[:, :, None], labels, scale, target, **options)


def subcenter_arcface(x, centres, labels, scale=64.0, margin=0.5, **options):
    target = lambda s, out: widened(s, out, margin)  # noqa: E731
    return classification(x, centres, labels, scale, target, **options)


def sphereface(x, proxies, labels, scale=1.0, margin=4.0, **options):
    def target(s, out):
        angle = np.arccos(s)
        k = int(angle[0].real // (np.pi / np.real(margin)))
        return (-1) ** k * np.cos(margin * angle) - 2 * k

    return classification(x, proxies[:, :, None], labels, scale, target, by_length=True, **options)


def circle(x, labels, *refs, scale=80.0, margin=0.4):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(cosine)
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        if sets.pos[a] and sets.neg[a]:
            out.valid += 1
            pull, push = [], []
            for p in sets.pos[a]:
                weight = 1 + margin - s[a][p].real
                out.edge = min(out.edge, abs(np.real(weight).flat[0]))
                pull.append(-scale * weight * (np.real(weight) > 0) * (s[a][p] - 1 + margin))
            for n in sets.neg[a]:
                weight = s[a][n].real + margin
                out.edge = min(out.edge, abs(np.real(weight).flat[0]))
                push.append(scale * weight * (np.real(weight) > 0) * (s[a][n] - margin))
            out.value += log_sum([np.zeros(x.shape[0]), log_sum(pull) + log_sum(push)])
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def tuplet_margin(x, labels, *refs, scale=64.0, margin=0.1):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(cosine)
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        for p in sets.pos[a]:
            if sets.neg[a]:
                out.valid += 1
                nearer = np.cos(np.arccos(s[a][p]) - margin)
                terms = [scale * (s[a][n] - nearer) for n in sets.neg[a]]
                out.value += log_sum([np.zeros(x.shape[0]), *terms])
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def nca(x, labels, *refs, scale=1.0, distance="squared"):
    sets = Sets(x, labels, *refs)
    d = sets.matrix(lambda u, v: scale * dist(u, v, distance))
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        if sets.pos[a]:
            out.valid += 1
            out.value += log_sum([-d[a][j] for j in sets.pos[a] + sets.neg[a]])
            out.value -= log_sum([-d[a][p] for p in sets.pos[a]])
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def ranked_list(
    x,
    labels,
    *refs,
    boundary=1.2,
    margin=0.4,
    positive_temperature=0.0,
    negative_temperature=10.0,
    balance=0.5,
    distance="euclidean",
):
    sets = Sets(x, labels, *refs)
    d = sets.matrix(lambda u, v: dist(u, v, distance))
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        out.valid += len(sets.pos[a]) + len(sets.neg[a])
        for share, temperature, short in (
            (1 - balance, positive_temperature, [d[a][p] - boundary + margin for p in sets.pos[a]]),
            (balance, negative_temperature, [boundary - d[a][n] for n in sets.neg[a]]),
        ):
            out.edge = min([out.edge, *(abs(v[0].real) for v in short)])
            violating = [v for v in short if v[0].real > 0]
            out.active += len(violating)
            if violating:
                weights = [np.exp(temperature * v) for v in violating]
                out.value += (
                    share * sum(w * v for w, v in zip(weights, violating, strict=True)) / sum(weights)
                )
    out.value /= len(labels)
    return out


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def smooth_rank(s, p, others):
    return 1 + sum(sigmoid(s[i] - s[p]) for i in others if i != p)


def smooth_ap(x, labels, *refs, temperature=0.01, with_anchor=False):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(lambda u, v: cosine(u, v) / temperature)
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        if sets.pos[a]:
            out.valid += 1
            positives = sets.pos[a] + ([a] if with_anchor else [])
            everyone = positives + sets.neg[a]
            terms = [smooth_rank(s[a], p, positives) / smooth_rank(s[a], p, everyone) for p in positives]
            out.value += 1 - sum(terms) / len(positives)
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def fast_ap(x, labels, *refs, num_bins=10):
    sets = Sets(x, labels, *refs)
    d = sets.matrix(lambda u, v: dist(unit(u), unit(v), "squared"))
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        if not sets.pos[a]:
            continue
        out.valid += 1
        positives = others = total = np.zeros(x.shape[0], complex)
        for j in range(num_bins + 1):
            here = np.zeros(x.shape[0], complex)
            for i in sets.pos[a] + sets.neg[a]:
                away = (d[a][i] - 4 * j / num_bins) * num_bins / 4
                away = away if away[0].real > 0 else -away
                out.edge = min(out.edge, abs(away[0].real), abs(1 - away[0].real))
                if away[0].real < 1:
                    if i in sets.pos[a]:
                        here = here + 1 - away
                    else:
                        others = others + 1 - away
            positives = positives + here
            if here[0].real > 0:
                total = total + here * positives / (positives + others)
        out.value += 1 - total / len(sets.pos[a])
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def recall_at_k(x, labels, *refs, ks=(1, 2, 4, 8, 16), temperature=0.01, rank_temperature=1.0):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(lambda u, v: cosine(u, v) / temperature)
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        if sets.pos[a]:
            out.valid += 1
            ranks = [smooth_rank(s[a], p, sets.pos[a] + sets.neg[a]) - 1 for p in sets.pos[a]]
            shares = [
                sum(sigmoid((k - r) / rank_temperature) for r in ranks) / min(k, len(sets.pos[a])) for k in ks
            ]
            out.value += 1 - sum(shares) / len(ks)
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def angular(x, labels, *refs, angle=0.7):
    sets = Sets(x, labels, *refs)
    out = Result(np.zeros(x.shape[0], complex))
    square = np.tan(angle) ** 2
    for a in sets.anchors:
        for p in sets.pos[a]:
            if sets.neg[a]:
                out.valid += 1
                u, v = unit(x[:, a]), unit(sets.r[:, p])
                near = 2 * (1 + square) * (u * v).sum(-1)
                terms = [4 * square * ((u + v) * unit(sets.r[:, n])).sum(-1) - near for n in sets.neg[a]]
                out.value += log_sum([np.zeros(x.shape[0]), *terms])
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def intra_pair_variance(x, labels, *refs, positive_epsilon=0.01, negative_epsilon=0.01):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(cosine)
    out = Result(np.zeros(x.shape[0], complex))
    for partners, share, sign in ((sets.pos, 1 - positive_epsilon, 1), (sets.neg, 1 + negative_epsilon, -1)):
        chosen = [s[a][j] for a in sets.anchors for j in partners[a]]
        out.valid += len(chosen)
        for v in chosen:
            far = sign * (share * sum(chosen) / len(chosen) - v)
            out.edge = min(out.edge, abs(far[0].real))
            if far[0].real > 0:
                out.active += 1
                out.value += far**2 / len(chosen)
    return out


def histogram(x, labels, *refs, num_bins=100):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(cosine)
    out = Result(np.zeros(x.shape[0], complex))
    kinds = []
    for partners in (sets.pos, sets.neg):
        chosen = [s[a][j] for a in sets.anchors for j in partners[a]]
        shares = np.zeros((num_bins + 2, x.shape[0]), complex)
        for v in chosen:
            place = (v + 1) * num_bins / 2
            node = int(np.floor(place[0].real))
            out.edge = min(out.edge, *(abs(place[0].real - r) / 4 for r in (node, node + 1)))
            shares[node] += node + 1 - place
            shares[node + 1] += place - node
        kinds.append((len(chosen), shares))
    (positives, of_positives), (negatives, of_negatives) = kinds
    if positives and negatives:
        out.active = out.valid = positives + negatives
        for r in range(num_bins + 1):
            out.value += of_negatives[r] * of_positives[: r + 1].sum(0) / (positives * negatives)
    return out


def soft_margins(x, labels, refs, nodes):
    """Margins of the positive pairs that have a negative, the histogram of their real parts, and the edge."""
    sets = Sets(x, labels, *refs)
    d = sets.matrix(lambda u, v: dist(unit(u), unit(v)))
    margins, shares, edge = [], np.zeros(len(nodes)), np.inf
    for a in sets.anchors:
        for p in sets.pos[a]:
            others = [d[a][n] for n in sets.neg[a]]
            others += [d[i][p] for i in sets.anchors if labels[i] != labels[a]]
            if others:
                nearest = min(others, key=lambda v: v[0].real)
                edge = min([edge, *(v for o in others if (v := o[0].real - nearest[0].real) > 1e-9)])
                margins.append(d[a][p] - nearest)
                away = np.abs(margins[-1][0].real - nodes) / (nodes[1] - nodes[0])
                edge = min(edge, away.min())
                shares += np.maximum(1 - away, 0)
    return margins, shares / max(len(margins), 1), edge


def dynamic_soft_margin(x, labels, *refs, num_bins=100, distribution=None):
    nodes = np.linspace(-2, 2, (num_bins + 1) if distribution is None else len(distribution))
    margins, shares, edge = soft_margins(x, labels, refs, nodes)
    heights = shares if distribution is None else distribution
    out = Result(np.zeros(x.shape[0], complex), len(margins), len(margins), edge)
    for v in margins:
        out.value += heights[nodes <= v[0].real].sum() * v / len(margins)
    return out


def threshold_consistent_margin(
    x, labels, *refs, positive_margin=0.9, negative_margin=0.5, positive_weight=1.0, negative_weight=1.0
):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(cosine)
    out = Result(np.zeros(x.shape[0], complex))
    for weight, beyond in (
        (positive_weight, [positive_margin - s[a][p] for a in sets.anchors for p in sets.pos[a]]),
        (negative_weight, [s[a][n] - negative_margin for a in sets.anchors for n in sets.neg[a]]),
    ):
        out.valid += len(beyond)
        out.edge = min([out.edge, *(abs(v[0].real) for v in beyond)])
        hard = [v for v in beyond if v[0].real > 0]
        out.active += len(hard)
        if hard:
            out.value += weight * sum(hard) / len(hard)
    return out


def instance(x, labels, *refs, scale=64.0):
    sets = Sets(x, labels, *refs)
    s = sets.matrix(lambda u, v: scale * cosine(u, v))
    out = Result(np.zeros(x.shape[0], complex))
    for a in sets.anchors:
        if sets.group[a]:
            out.valid += 1
            out.value += log_sum(s[a]) - log_sum([s[a][j] for j in sets.group[a]])
    out.value /= max(out.valid, 1)
    out.active = out.valid
    return out


def covariance(x, y, i, j, less):
    """Of dimension i of x [P, B, D] with dimension j of y, a sum over images divided by B - less."""
    u, v = x[..., i], y[..., j]
    return ((u - u.mean(1, keepdims=True)) * (v - v.mean(1, keepdims=True))).sum(1) / (x.shape[1] - less)


def vicreg(x, y, invariance=25.0, variance=25.0, covariance_weight=1.0, epsilon=1e-4):
    _, count, width = x.shape
    out = Result(invariance * ((x - y) ** 2).sum((1, 2)) / (count * width), count, count)
    for view in (x, y):
        for i in range(width):
            short = 1 - np.sqrt(covariance(view, view, i, i, 1) + epsilon)
            out.edge = min(out.edge, abs(short[0].real))
            if short[0].real > 0:
                out.value += variance / 2 * short / width
            for j in range(width):
                if i != j:
                    out.value += covariance_weight * covariance(view, view, i, j, 1) ** 2 / width
    return out


def barlow_twins(x, y, redundancy=0.005):
    _, count, width = x.shape
    out = Result(np.zeros(x.shape[0], complex), count, count)
    for i in range(width):
        for j in range(width):
            sizes = covariance(x, x, i, i, 0) * covariance(y, y, j, j, 0)
            correlation = covariance(x, y, i, j, 0) / np.sqrt(sizes)
            out.value += (1 - correlation) ** 2 if i == j else redundancy * correlation**2
    return out


def relaxed_contrastive(x, teacher, delta=1.0, sigma=1.0):
    """Of a teacher's real embeddings [B, T], which have no gradient."""
    count = x.shape[1]
    out = Result(np.zeros(x.shape[0], complex))
    for i in range(count):
        others = [j for j in range(count) if j != i]
        d = {j: dist(x[:, i], x[:, j]) for j in others}
        average = sum(d.values()) / count  # of the distance to itself, which is 0, too
        for j in others:
            w = np.exp(-((teacher[i].astype(np.float64) - teacher[j]) ** 2).sum() / sigma)
            relative = d[j] / average
            out.edge = min(out.edge, abs(delta - relative[0].real))
            out.valid += 1
            value = w * relative**2
            if relative[0].real < delta:
                value = value + (1 - w) * (delta - relative) ** 2
            out.active += value[0].real > 0
            out.value += value / count
    return out
