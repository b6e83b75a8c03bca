"""Early stopping: whether the validations of a run have stopped getting better."""

from collections.abc import Iterable, Mapping


def exhausted(rows: Iterable[Mapping[str, float]], patience: int, step: int) -> str:
    """Why a run ends at a step by which it has not got better for long enough, in a line; empty if it goes on.

    Args:
        rows: the run's record, whose validations have `val_nmi`.
        patience: validations without a better score than the best one before them; 0 never ends a run.
        step: only validations up to it count, for later ones come again.

    Example:
        >>> rows = [{"step": 10, "val_nmi": 0.6}, {"step": 20, "val_nmi": 0.5}, {"step": 30, "val_nmi": 0.6}]
        >>> exhausted(rows, 2, 20)
        ''
        >>> exhausted(rows, 2, 30).partition(";")[0]
        'ended at step 30: none of 2 validations since step 10 has a better NMI than its 0.6000 (--train.patience 2)'
    """
    scores = [(row["val_nmi"], row["step"]) for row in rows if "val_nmi" in row and row["step"] <= step]
    if not patience or not scores:
        return ""
    best = max(range(len(scores)), key=lambda place: scores[place][0])  # the first of equals
    since = len(scores) - 1 - best
    if since < patience:
        return ""
    nmi, at = scores[best]
    return (
        f"ended at step {step}: none of {since} validations since step {at} has a better NMI than its {nmi:.4f} "
        f"(--train.patience {patience}); a larger one, or 0, goes on with --resume"
    )
