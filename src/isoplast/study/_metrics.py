"""The one list of metrics: what rows hold, what the frame's columns are, how reports call them."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal["number", "count", "text"]
Per = Literal["task", "matrix", "quantile", "activation", "tenth"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One measured quantity.

    Args:
        name: its name in rows and frames.
        kind: "number" (may be infinite or NaN), "count" or "text".
        per: one value for each "task", "matrix", "activation" or "tenth" of a task, or 33 quantiles
            ("quantile") a matrix.
        label: what a heading calls it.
        meaning: what it is, in one sentence.
        source: what measures it: "run", "score", or one of `INSTRUMENTS`.
        higher_is_better: its good direction, None where it has none.
    """

    name: str
    kind: Kind
    per: Per
    label: str
    meaning: str
    source: str
    higher_is_better: bool | None = None


def _score(name: str, label: str, what: str, higher: bool) -> list[Metric]:
    """A score on the data trained on, on held-out data, and while it was trained."""
    return [
        Metric(
            name, "number", "task", label, f"{what} on the whole task after training on it.", "score", higher
        ),
        Metric(
            f"test_{name}",
            "number",
            "task",
            f"{label}, held out",
            f"{what} on the task's held-out data after training on it.",
            "score",
            higher,
        ),
        Metric(
            f"online_{name}",
            "number",
            "task",
            f"{label}, online",
            f"{what} of every mini-batch just before it was learned, mean over the task.",
            "score",
            higher,
        ),
    ]


METRICS: tuple[Metric, ...] = (
    Metric("task", "count", "task", "task", "Index of the task; -1 is the untrained network.", "run"),
    Metric("method_active", "text", "task", "method", "Method in force during the task.", "run"),
    Metric("steps", "count", "task", "steps", "Optimizer steps spent on the task.", "run"),
    Metric("seconds", "number", "task", "seconds", "Wall time of training on the task.", "run"),
    Metric("primary", "text", "task", "primary metric", "Name of the metric that counts.", "run"),
    Metric(
        "chance",
        "number",
        "task",
        "chance",
        "Score of a guess that takes all outputs in use for equally likely; for numbers, of their mean.",
        "score",
    ),
    *_score("accuracy", "accuracy", "Share of the inputs classified right", True),
    *_score("mean_squared_error", "mean squared error", "Mean squared error", False),
    *_score("bits_per_byte", "bits per byte", "Bits needed for a byte of text", False),
    *_score("loss", "loss", "Mean training loss, without penalties,", False),
    Metric("environment", "text", "task", "environment", "Name of the task's environment.", "score"),
    Metric(
        "restarts",
        "count",
        "task",
        "restarts",
        "How many copies of the environment broke in training on the task and were made anew.",
        "score",
    ),
    Metric(
        "return",
        "number",
        "task",
        "return",
        "Mean return of episodes in separate environments after training on the task.",
        "score",
        True,
    ),
    Metric(
        "episode_length",
        "number",
        "task",
        "episode length",
        "Mean number of steps of these episodes.",
        "score",
    ),
    Metric(
        "online_return",
        "number",
        "task",
        "return, online",
        "Mean of `return_curve`: how high and how fast the return rose while the task was learned.",
        "score",
        True,
    ),
    Metric(
        "return_curve",
        "number",
        "tenth",
        "learning curve",
        "Mean return of the training episodes that ended in each tenth of the task; none where none did.",
        "score",
        True,
    ),
    Metric(
        "policy_churn",
        "number",
        "task",
        "churn of the policy",
        "Mean KL divergence of the policy before the task's last update from the one after it, in nats, on "
        "observations of the rollout before.",
        "score",
    ),
    Metric(
        "value_churn",
        "number",
        "task",
        "churn of the value",
        "Root mean square of what that update changes in the value, with DQN in the values of all actions.",
        "score",
    ),
    Metric(
        "greedy_churn",
        "number",
        "task",
        "churn of the greedy action",
        "Share of observations of the replay on which the optimizer steps after the task's last rollout "
        "change the greedy action.",
        "score",
    ),
    Metric("layers", "text", "matrix", "matrix", "Name of the weight matrix.", "weights"),
    Metric("sigma_min", "number", "matrix", "smallest singular value", "Smallest singular value.", "weights"),
    Metric("sigma_mean", "number", "matrix", "mean singular value", "Mean singular value.", "weights"),
    Metric("sigma_max", "number", "matrix", "largest singular value", "Largest singular value.", "weights"),
    Metric(
        "sigma_mean_square",
        "number",
        "matrix",
        "mean squared singular value",
        "Mean of the squared singular values.",
        "weights",
    ),
    Metric("sigma_count", "count", "matrix", "singular values", "Number of singular values.", "weights"),
    Metric(
        "sigma_quantiles",
        "number",
        "quantile",
        "quantiles of the singular values",
        "33 quantiles of the singular values, from the smallest to the largest.",
        "weights",
    ),
    Metric(
        "condition_number",
        "number",
        "matrix",
        "condition number",
        "Largest over smallest singular value.",
        "weights",
    ),
    Metric(
        "effective_rank",
        "number",
        "matrix",
        "effective rank",
        "Exponential of the entropy of the normalised singular values.",
        "weights",
    ),
    Metric(
        "gram_deviation",
        "number",
        "matrix",
        "Gram deviation",
        "R_iso, the squared distance of the Gram matrix from the identity (arXiv:2606.09762, Eq 16).",
        "weights",
    ),
    Metric("units", "text", "activation", "activation", "Name of the hidden activation.", "activity"),
    Metric(
        "dead",
        "number",
        "activation",
        "dead units",
        "Share of units that are zero on every input.",
        "activity",
        False,
    ),
    Metric(
        "dormant",
        "number",
        "activation",
        "dormant units",
        "Share of units whose mean activity is at most a tenth of their layer's average (arXiv:2302.12902).",
        "activity",
        False,
    ),
    Metric(
        "ntk_condition_number",
        "number",
        "task",
        "NTK: condition number",
        "Largest over smallest eigenvalue of the empirical NTK of the first inputs, biases included.",
        "ntk",
    ),
    Metric(
        "ntk_participation_rank",
        "number",
        "task",
        "NTK: participation rank",
        "Along how many directions of the empirical NTK learning is equally fast: (sum of eigenvalues)^2 "
        "over the sum of their squares.",
        "ntk",
    ),
    *(
        Metric(
            f"ntk_{part}_{name}",
            "number",
            "task",
            f"NTK of the {part}: {name.replace('_', ' ')}",
            f"`ntk_{name}` of the outputs that are the {part}.",
            "ntk",
        )
        for part in ("policy", "value")
        for name in ("condition_number", "participation_rank")
    ),
    Metric("ntk_size", "count", "task", "NTK: size", "Inputs times outputs of the empirical NTK.", "ntk"),
    Metric(
        "jacobian_condition_number",
        "number",
        "task",
        "Jacobian: condition number",
        "Largest over smallest singular value of the outputs' Jacobian, median over the first inputs.",
        "jacobian",
    ),
    Metric(
        "plasticity",
        "number",
        "task",
        "probe: loss removed",
        "What share of its loss a short training of a copy on fresh random targets removes (Definition 2.1).",
        "plasticity",
        True,
    ),
    Metric(
        "plasticity_low",
        "number",
        "task",
        "probe: low",
        "Lower end of the interval of the probe.",
        "plasticity",
    ),
    Metric(
        "plasticity_high",
        "number",
        "task",
        "probe: high",
        "Upper end of the interval of the probe.",
        "plasticity",
    ),
    Metric(
        "plasticity_learned",
        "number",
        "task",
        "probe: learned",
        "What share of the loss of an uninformed guess that training removes; below 0 it ends above it.",
        "plasticity",
        True,
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def metric(name: str) -> Metric:
    """The metric of that name; one that a learner of somebody else brought is a number without a meaning."""
    return BY_NAME.get(name) or Metric(name, "number", "task", name.replace("_", " "), "", "score")


def metrics_table() -> str:
    """All metrics as a Markdown table, for the documentation."""
    rows = [f"| `{one.name}` | {one.per} | {one.meaning} | {one.source} |" for one in METRICS]
    return "\n".join(["| column | one for each | meaning | measured by |", "|---|---|---|---|", *rows])
