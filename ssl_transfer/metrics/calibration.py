"""Temperature scaling (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import brentq
from torch import Tensor

from ssl_transfer.metrics import ece

Logits = Float[Tensor, "samples classes"]
Labels = Int[Tensor, " samples"]

COLDEST, HOTTEST = 1e-3, 1e3
FOLDS = 5


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the T for which ``softmax(logits / T)`` has the smallest cross-entropy.

    The cross-entropy is convex in ``1 / T``. Its derivative by ``1 / T`` (the mean logit under the
    softmax minus the label's logit) increases monotonically, so that bracketing finds the root.

    Args:
        logits: class scores of samples that the classifier was not trained on; minus infinity for
            a class that it never saw.
        labels: their classes in ``[0, classes)``. Samples of a class that was never seen are left
            out, since they do not depend on T.

    Returns:
        T between 1e-3 (e.g. if every sample is classified correctly, where T tends to 0) and 1e3
        (e.g. if the classifier is worse than chance); 1 if the scores of each sample are all equal,
        so that T has no effect.

    Raises:
        ValueError: if there is no sample to fit to, or a score is NaN or infinite.
    """
    relative = logits.double() - logits.double().amax(1, keepdim=True)
    if bool(relative.isnan().any()):
        raise ValueError("a temperature needs class scores that are numbers, but some are not.")
    own = relative.gather(1, labels.to(logits.device)[:, None])[:, 0]
    seen = own.isfinite()
    if not bool(seen.any()):
        raise ValueError("a temperature needs at least one sample of a known class to be fitted.")
    relative, own = relative[seen], own[seen]
    if not bool((relative.isfinite() & (relative != 0)).any()):
        return 1.0
    finite = relative.clamp(min=torch.finfo(torch.float64).min)  # 0 * -inf would be NaN

    def slope(log_temperature: float) -> float:
        shares = (relative * math.exp(-log_temperature)).softmax(1)
        return float(((shares * finite).sum(1) - own).mean())

    coldest, hottest = math.log(COLDEST), math.log(HOTTEST)
    if slope(coldest) <= 0:
        return COLDEST
    if slope(hottest) >= 0:
        return HOTTEST
    return math.exp(brentq(slope, coldest, hottest, xtol=1e-12, rtol=1e-12))


def require_folds(samples: int) -> None:
    """Refuse fewer samples than there are folds.

    Raises:
        ValueError: if there are fewer.
    """
    if samples < FOLDS:
        raise ValueError(
            f"temperature scaling on fifths needs at least {FOLDS} samples, but has {samples}."
        )


def ece_by_folds(logits: Logits, labels: Labels) -> float:
    """Return the calibration error after temperature scaling, as Ericsson et al. 2021 measure it.

    The samples are shuffled with seed 0 and divided into fifths. The temperature fitted on each
    fifth is used to measure the error of the other four; the result is the average over the fifths
    (temperature_scaling.py of github.com/linusericsson/ssl-transfer). A remainder of the division
    by five is left out.

    Args:
        logits: class scores of the test split.
        labels: their classes.

    Raises:
        ValueError: if there are fewer than five samples.
    """
    require_folds(len(labels))
    size = len(labels) // FOLDS
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    folds = torch.split(order.to(logits.device), size)[:FOLDS]
    labels = labels.to(logits.device)
    errors = []
    for held, fold in enumerate(folds):
        temperature = fit_temperature(logits[fold], labels[fold])
        rest = torch.cat([*folds[:held], *folds[held + 1 :]])
        errors.append(ece(logits[rest] / temperature, labels[rest]))
    return sum(errors) / FOLDS
