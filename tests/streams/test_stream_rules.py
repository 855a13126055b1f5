"""What each stream says of itself holds, to the last example."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams import STREAMS, Classification, Stream, Task, TaskSequence, Teachers, problem, stream
from isoplast.streams._input_drift import rotated
from isoplast.streams._numbers import signs, sine
from isoplast.testing import made_up_data, made_up_text

DATA = made_up_data()
TEST = DATA.test
assert TEST is not None


def opened(name: str, seed: int = 0, **settings: Any) -> TaskSequence:
    return stream(name, DATA, seed=seed, **settings)


RECORDED = [0, 2, 7, 8, 9, 10, 15, 18, 23, 25, 27, 30, 31, 34, 35, 36, 37, 38]


def pairs(task: Task) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets, in training and held out."""
    assert task.test_inputs is not None
    assert task.test_targets is not None
    return [(task.inputs, task.targets), (task.test_inputs, task.test_targets)]


def row_numbers(inputs: torch.Tensor, source: torch.Tensor) -> list[int]:
    """Which row of the source each of the inputs is."""
    known = {row.numpy().tobytes(): number for number, row in enumerate(source.contiguous())}
    return [known[row.numpy().tobytes()] for row in inputs.contiguous()]


# --- pixel permutation


@pytest.mark.parametrize("index", [0, 1, 5])
def test_a_permutation_moves_every_value_to_one_place(index: int) -> None:
    task = opened("pixel-permutation").task(index)
    features = task.examples.features
    assert features is not None
    assert sorted(features.tolist()) == list(range(3 * 4 * 4))
    for (inputs, targets), data in zip(pairs(task), (DATA, TEST), strict=True):
        assert torch.equal(inputs.flatten(1), data.inputs.flatten(1)[:, features])
        assert torch.equal(targets, data.targets)


def test_a_spatial_permutation_moves_whole_pixels() -> None:
    task = opened("pixel-permutation", spatial=True).task(2)
    pixels = {tuple(pixel.tolist()) for pixel in DATA.inputs[0].flatten(1).T}
    assert {tuple(pixel.tolist()) for pixel in task.inputs[0].flatten(1).T} == pixels
    assert not torch.equal(task.inputs[0], DATA.inputs[0])


def test_orders_differ_from_task_to_task_and_are_uniform() -> None:
    orders = [opened("pixel-permutation", tasks=200).task(index).examples.features for index in range(200)]
    assert len({tuple(order.tolist()) for order in orders if order is not None}) == 200
    first = torch.stack([order for order in orders if order is not None]).double().mean(0)
    # The mean of 200 draws from 0..47 is 23.5 with a standard error of .98; five of these.
    assert bool(((first - 23.5).abs() < 4.9).all())


def test_inputs_are_shared_and_only_maps_belong_to_tasks() -> None:
    sequence = opened("pixel-permutation")
    assert all(sequence.task(index).examples.source is DATA.inputs for index in range(3))
    assert opened("label-shuffling").task(1).inputs is DATA.inputs
    assert opened("random-labels").task(1).inputs is DATA.inputs


def test_a_view_takes_its_values_from_a_copy_on_another_device() -> None:
    view = opened("pixel-permutation", examples=20).task(1).examples
    copy = DATA.inputs + 1
    assert torch.equal(view.tensor(copy), view.tensor() + 1)
    chosen = torch.tensor([3, 0])
    assert torch.equal(view.take(chosen).tensor(), view.tensor()[chosen])


def test_examples_of_a_task_are_drawn_without_repetition_and_anew() -> None:
    sequence = opened("online-permutation", examples=50)
    rows = [sequence.task(index).examples.rows for index in range(2)]
    assert all(one is not None and len(set(one.tolist())) == 50 for one in rows)
    assert rows[0].tolist() != rows[1].tolist()  # type: ignore[union-attr]
    assert sequence.primary == "online_accuracy"


# --- labels


def test_shuffled_labels_are_a_bijection_of_the_classes() -> None:
    for index in range(5):
        task = opened("label-shuffling").task(index)
        for (inputs, targets), data in zip(pairs(task), (DATA, TEST), strict=True):
            pairs_seen = set(zip(data.targets.tolist(), targets.tolist(), strict=True))
            assert len(pairs_seen) == len({new for _, new in pairs_seen}) == 10
            assert torch.equal(inputs, data.inputs)
    both = [
        dict(zip(d.targets.tolist(), t.tolist(), strict=True))
        for (_, t), d in zip(pairs(task), (DATA, TEST), strict=True)
    ]
    assert both[0] == both[1]  # held-out labels are renumbered in the same way


def test_noise_falls_and_corrected_labels_stay_right() -> None:
    data = made_up_data(4000)
    sequence = stream("label-noise", data, noise=0.6, decay_tasks=4, tasks=6)
    wrong = [sequence.task(index).targets != data.targets for index in range(6)]
    for index, now in enumerate(wrong):
        share = 0.6 * max(0, 1 - index / 4)
        # A tenth of the random labels is right by chance; four standard errors of a share of 3000.
        assert abs(now.double().mean().item() - 0.9 * share) < 4 * math.sqrt(0.25 / 3000)
        if index:
            assert not bool((now & ~wrong[index - 1]).any())
    assert not bool(wrong[4].any() or wrong[5].any())
    assert data.test is not None
    assert torch.equal(sequence.task(0).test_targets, data.test.targets)  # type: ignore[arg-type]


# --- classes


def test_every_class_comes_once_in_a_round() -> None:
    sequence = opened("class-incremental", classes_per_task=2, tasks=10)
    shown = [set(sequence.task(index).targets.tolist()) for index in range(10)]
    for turn in (shown[:5], shown[5:]):
        assert all(len(one) == 2 for one in turn)
        assert set().union(*turn) == set(range(10))
    for index, own in enumerate(shown):
        (_, targets), (held_out, test_targets) = pairs(sequence.task(index))
        assert set(test_targets.tolist()) == own
        assert len(targets) == sum(int((DATA.targets == one).sum()) for one in own)
        assert set(row_numbers(held_out, TEST.inputs)) <= set(range(len(TEST.inputs)))


def test_cumulative_tasks_hold_all_classes_so_far() -> None:
    sequence = opened("class-incremental", classes_per_task=2, cumulative=True)
    shown = [set(sequence.task(index).targets.tolist()) for index in range(5)]
    assert [len(one) for one in shown] == [2, 4, 6, 8, 10]
    assert all(before < after for before, after in itertools.pairwise(shown))


def objective(head: str, index: int) -> Classification:
    found = opened("class-incremental", classes_per_task=2, head=head).task(index).objective
    assert isinstance(found, Classification)
    return found


def test_heads_grow_are_masked_or_full() -> None:
    assert [len(objective("growing", index).active or range(10)) for index in range(7)] == [
        2,
        4,
        6,
        8,
        10,
        10,
        10,
    ]
    assert [len(objective("masked", index).active or ()) for index in range(7)] == [2] * 7
    assert [objective("full", index).active for index in range(3)] == [None] * 3
    nothing = torch.zeros(0, dtype=torch.int64)
    assert objective("masked", 3).chance(nothing) == 1 / 2
    assert objective("growing", 1).chance(nothing) == 1 / 4
    assert objective("full", 1).chance(nothing) == 1 / 10


def test_a_masked_output_gets_no_gradient_and_is_never_chosen() -> None:
    found = Classification(5, active=(1, 3))
    outputs = torch.randn(8, 5, requires_grad=True)
    with torch.no_grad():
        outputs[:, 0] = 100
    targets = torch.tensor([1, 3] * 4)
    found.loss(outputs, targets).backward()
    assert outputs.grad is not None
    assert bool((outputs.grad[:, [0, 2, 4]] == 0).all())
    assert bool((outputs.grad[:, [1, 3]] != 0).all())
    kept = torch.nn.functional.cross_entropy(outputs[:, [1, 3]], targets // 2)
    assert torch.allclose(found.loss(outputs, targets), kept)
    right = outputs[:, [1, 3]].argmax(1) == targets // 2
    assert found.totals(outputs, targets)[1].item() == right.sum().item()
    assert "active classes are [1, 3]" in found.check(torch.tensor([1, 2]))


def test_pairs_are_numbered_from_zero_and_show_every_class_once() -> None:
    sequence = opened("class-pairs", tasks=5)
    seen: list[int] = []
    for index in range(5):
        for (inputs, targets), data in zip(pairs(sequence.task(index)), (DATA, TEST), strict=True):
            originals = data.targets[row_numbers(inputs, data.inputs)]
            names = set(zip(originals.tolist(), targets.tolist(), strict=True))
            assert {new for _, new in names} == {0, 1}
            assert len(names) == 2
        seen += {old for old, _ in names}
    assert sorted(seen) == list(range(10))
    assert sequence.objective == Classification(2)
    assert sequence.objective.chance(torch.zeros(0)) == 0.5


# --- warm start and drift


def test_a_warm_start_adds_to_what_was_there() -> None:
    sequence = opened("warm-start", share=0.25, tasks=6)
    rows = [set(row_numbers(sequence.task(index).inputs, DATA.inputs)) for index in range(6)]
    assert [len(one) for one in rows] == [75, 150, 225, 300, 300, 300]
    assert all(before <= after for before, after in itertools.pairwise(rows))
    assert opened("warm-start").tasks == 2


def test_quarter_turns_are_exact() -> None:
    images = torch.randn(3, 2, 5, 5)
    for turns in range(4):
        wanted = torch.rot90(images, turns, (2, 3))
        # The sine is right to 1e-9, and a weight of that size brings in a neighbour.
        assert torch.allclose(rotated(images, 90.0 * turns), wanted, atol=1e-6)
    assert torch.equal(rotated(images, 0.0), images)


@pytest.mark.parametrize("kind", ["rotation", "contrast", "brightness", "blur"])
def test_drift_swings_between_its_ends_and_comes_back(kind: str) -> None:
    sequence = opened("input-drift", kind=kind, period=8, tasks=17)
    found: Any = sequence.stream
    levels = [found.strength(sequence, index) for index in range(17)]
    assert all(0 <= level <= 1 for level in levels)
    assert max(abs(a - b) for a, b in itertools.pairwise(levels)) == pytest.approx(2 / 8)
    assert torch.equal(sequence.task(3).inputs, sequence.task(11).inputs)
    assert not torch.equal(sequence.task(1).inputs, sequence.task(5).inputs)
    assert torch.equal(sequence.task(3).targets, DATA.targets)


def test_contrast_brightness_and_blur_are_what_they_say() -> None:
    for kind in ("contrast", "brightness", "blur"):
        sequence = opened("input-drift", kind=kind, period=5)
        found: Any = sequence.stream
        level = found.strength(sequence, 1)
        task = sequence.task(1)
        if kind == "contrast":
            assert torch.allclose(task.inputs, DATA.inputs * (1 - 0.9 * level))
        elif kind == "brightness":
            assert torch.allclose(task.inputs, DATA.inputs + 3 * level)
        else:
            assert task.inputs.var() < DATA.inputs.var()
            assert task.inputs.amax() <= DATA.inputs.amax()
    flat = Dataset(
        torch.full((4, 1, 6, 6), 2.0), torch.arange(4), test=Dataset(torch.zeros(2, 1, 6, 6), torch.arange(2))
    )
    blurred = stream("input-drift", flat, kind="blur").task(0)
    assert torch.equal(blurred.inputs, flat.inputs)


# --- gradual and recurring change


def test_stages_go_from_one_task_to_the_next() -> None:
    whole, slow = opened("random-labels"), opened("random-labels", gradual=4)
    for change in range(3):
        before, after = whole.task(change).targets, whole.task(change + 1).targets
        changed = [slow.task(4 * change + stage).targets == after for stage in range(4)]
        assert torch.equal(slow.task(4 * change).targets, before)
        for stage in range(4):
            targets = slow.task(4 * change + stage).targets
            assert bool(((targets == before) | (targets == after)).all())
            if stage:
                assert not bool((changed[stage - 1] & ~changed[stage]).any())  # what has changed stays so


def test_a_mixture_has_half_of_each_at_the_middle() -> None:
    data = made_up_data(4000)
    whole = stream("pixel-permutation", data)
    middle = stream("pixel-permutation", data, gradual=2).task(1)
    first, second = (whole.task(index).inputs for index in range(2))
    old, new = ((middle.inputs == one).flatten(1).all(1) for one in (first, second))
    assert bool((old ^ new).all())
    # 3000 examples, each from the next task with probability 1/2; five standard errors.
    assert abs(new.double().mean().item() - 0.5) < 5 * math.sqrt(0.25 / 3000)
    assert torch.equal(middle.targets, data.targets)


@pytest.mark.parametrize("name", ["pixel-permutation", "input-drift"])
def test_an_interpolation_of_inputs_is_linear(name: str) -> None:
    whole, slow = opened(name), opened(name, gradual=4, blend="interpolation")
    before, after = pairs(whole.task(1)), pairs(whole.task(2))
    for stage in range(4):
        share = stage / 4
        for found, first, second in zip(pairs(slow.task(4 + stage)), before, after, strict=True):
            assert torch.allclose(found[0], (1 - share) * first[0] + share * second[0], atol=1e-6)
            assert torch.equal(found[1], first[1])


def features(name: str, sequence: TaskSequence, index: int, inputs: torch.Tensor) -> torch.Tensor:
    """(n, k): every function that task `index` could be, at these inputs, is a weighted sum of columns."""
    x, kind = inputs.double(), sequence.stream
    if name == "sine":
        return torch.cat([x.sin(), x.cos()], 1)
    assert isinstance(kind, Teachers)
    teacher = index if name == "teachers" else 0
    weights = signs(sequence.bits(teacher, kind.hidden * (kind.inputs + 1), 3))[kind.hidden :]
    hidden = x @ torch.from_numpy(weights.reshape(kind.hidden, kind.inputs)).double().T
    return torch.cat([hidden.relu(), torch.ones(len(x), 1)], 1)


@pytest.mark.parametrize("name", ["sine", "teachers", "target-shift"])
def test_halfway_between_two_functions_is_their_average_at_the_same_inputs(name: str) -> None:
    settings: dict[str, Any] = {"examples": 600, "seed": 2}
    whole, slow = stream(name, **settings), stream(name, gradual=4, blend="interpolation", **settings)
    fitted = []
    for index in (1, 2):
        task = whole.task(index)
        columns = features(name, whole, index, task.inputs)
        fitted.append(torch.linalg.lstsq(columns, task.targets.double(), driver="gelsd").solution)
    for stage in range(4):
        share = stage / 4
        for (inputs, targets), first in zip(pairs(slow.task(4 + stage)), pairs(whole.task(1)), strict=True):
            assert torch.equal(inputs, first[0])
            one, other = (
                features(name, whole, index, inputs) @ weights
                for index, weights in zip((1, 2), fitted, strict=True)
            )
            assert torch.allclose(targets.double(), (1 - share) * one + share * other, atol=1e-4)


def test_tasks_of_unlike_size_are_mixed_too() -> None:
    settings = {"classes_per_task": 2, "cumulative": True}
    whole = opened("class-incremental", **settings)
    middle = opened("class-incremental", gradual=2, **settings).task(1)
    sizes = [len(whole.task(index).targets) for index in range(2)]
    assert sizes[0] < len(middle.targets) < sizes[1]
    assert middle.objective is not None
    for inputs, targets in pairs(middle):
        assert len(inputs) == len(targets)
        assert not middle.objective.check(targets)


@pytest.mark.parametrize("name", ["pixel-permutation", "label-shuffling", "class-pairs", "sine"])
@pytest.mark.parametrize(("gradual", "blend"), [(None, None), (2, "mixture"), (2, "interpolation")])
def test_recurring_tasks_come_back_to_the_bit(name: str, gradual: int | None, blend: str | None) -> None:
    if blend == "interpolation" and name not in ("pixel-permutation", "sine"):
        return
    data = None if name == "sine" else DATA
    sequence = stream(name, data, recurring=3, tasks=13, gradual=gradual, blend=blend)
    period = 3 * (gradual or 1)
    for index in range(13):
        task, earlier = sequence.task(index), sequence.task(index % period)
        assert task.index == index
        for part, before in zip(pairs(task), pairs(earlier), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(part, before, strict=True))
    tasks = [sequence.task(index) for index in range(period)]
    assert not any(
        torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)
        for one, other in itertools.combinations(tasks, 2)
    )


def test_which_examples_have_changed_is_recorded() -> None:
    """Recorded once. If this fails, every result of gradual change has become irreproducible."""
    before, after = (opened("random-labels").task(index).targets[:40] for index in (1, 2))
    targets = opened("random-labels", gradual=2).task(3).targets[:40]
    changed = (targets == after) & (before != after)
    assert changed.nonzero()[:, 0].tolist() == RECORDED


# --- regression


def test_one_bit_flips_with_every_task_and_the_others_stand() -> None:
    sequence = stream("bit-flipping", tasks=30, examples=40, seed=1)
    before = None
    for index in range(30):
        inputs = sequence.task(index).inputs
        assert set(inputs.unique().tolist()) == {0.0, 1.0}
        assert bool((inputs[:, 20] == 1).all())
        standing = inputs[0, :15]
        assert bool((inputs[:, :15] == standing).all())
        if before is not None:
            assert int((standing != before).sum()) == 1
        before = standing
        free = inputs[:, 15:20]
        assert bool((free.std(0) > 0).all())


def test_the_target_is_a_function_of_the_bits_the_same_in_all_tasks() -> None:
    sequence = stream("bit-flipping", tasks=40, examples=60, bits=6, flipping=3, hidden=9, seed=2)
    known: dict[bytes, float] = {}
    for index in range(40):
        task = sequence.task(index)
        for inputs, targets in pairs(task):
            for row, target in zip(inputs, targets, strict=True):
                assert known.setdefault(row.numpy().tobytes(), target.item()) == target.item()
                whole = target.item() * 3  # sqrt(9): a sum of nine times -1, 0 or 1
                assert abs(whole - round(whole)) < 1e-5
                assert abs(whole) <= 9
    assert len(set(known.values())) > 2


def test_waves_are_waves() -> None:
    task = stream("sine", examples=4000, seed=3).task(2)
    x, y = task.inputs[:, 0].double(), task.targets[:, 0].double()
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() < 5
    basis = torch.stack([x.sin(), x.cos()], 1)
    weights = torch.linalg.lstsq(basis, y[:, None]).solution
    assert torch.allclose(basis @ weights, y[:, None], atol=1e-5)
    assert 0.1 <= weights.norm() < 5


def test_our_sine_is_the_sine() -> None:
    angles = np.linspace(-30, 30, 100_001)
    assert np.abs(sine(angles) - np.sin(angles)).max() < 1e-9


def test_teachers_answer_on_the_scale_of_their_inputs() -> None:
    sequence = stream("teachers", examples=4000, tasks=8)
    variances = []
    for index in range(8):
        task = sequence.task(index)
        assert abs(task.inputs.mean().item()) < 0.02
        # The variance of 64 000 values with kurtosis near 3: .0056; four of these.
        assert abs(task.inputs.var().item() - 1) < 0.03
        variances.append(sequence.objective.chance(task.targets))
    assert 0.2 < np.mean(variances) < 2
    assert len({round(one, 6) for one in variances}) == 8


def test_shifted_targets_are_those_of_one_teacher() -> None:
    shifted = stream("target-shift", examples=500, tasks=6, octaves=2, offset=3.0)
    scales = set()
    for index in range(6):
        task = shifted.task(index)
        plain: Any = shifted.stream
        inputs, answers = plain._taught(shifted, 0, index, 500, 1)
        assert torch.equal(task.inputs, torch.from_numpy(inputs.astype(np.float32)))
        slope, intercept = np.polyfit(answers, task.targets[:, 0].double().numpy(), 1)
        assert slope == pytest.approx(2.0 ** round(math.log2(slope)), rel=1e-5)
        assert 0.25 - 1e-6 <= slope <= 4 + 1e-5
        assert -3 <= intercept < 3
        scales.add(round(math.log2(slope)))
    assert len(scales) > 1


# --- language


def test_parts_of_a_text_follow_each_other_and_come_again() -> None:
    text = made_up_text()
    assert text.test is not None
    sequence = stream("language", text, examples=4, tasks=7)
    for index in range(7):
        task = sequence.task(index)
        part = index % 3
        for inputs, targets, source in (
            (task.inputs, task.targets, text),
            (task.test_inputs, task.test_targets, text.test),
        ):
            assert inputs is not None
            rows = row_numbers(inputs, source.inputs)
            size = len(source.inputs) // 3
            assert {row // size for row in rows} == {part}
            assert len(set(rows)) == 4
            assert torch.equal(targets, source.targets[rows])  # type: ignore[arg-type]
    assert sequence.primary == "test_bits_per_byte"
    assert sequence.objective.chance(torch.zeros(0)) == 8
    assert not torch.equal(sequence.task(0).inputs, sequence.task(3).inputs)


def test_bytes_get_other_numbers_the_same_everywhere_in_a_task() -> None:
    text = made_up_text()
    plain = stream("language", text, examples=4).task(1)
    task = stream("language", text, examples=4, permute_bytes=True).task(1)
    numbers: dict[int, int] = {}
    for inputs, changed in ((plain.inputs, task.inputs), (plain.targets, task.targets)):
        for old, new in zip(inputs.flatten().tolist(), changed.flatten().tolist(), strict=True):
            assert numbers.setdefault(old, new) == new
    assert len(set(numbers.values())) == len(numbers)
    assert torch.equal(task.inputs[:, 1:], task.targets[:, :-1])


# --- bad input

NUMBERS = Dataset(torch.zeros(4, 3), torch.zeros(4, 1), name="numbers").split(0.5)
FLAT = Dataset(torch.zeros(20, 3), torch.arange(20) % 2, name="flat").split(0.5)
TEXT = made_up_text()
WITHOUT = Dataset(torch.zeros(20, 1, 2, 2), torch.arange(20) % 2, name="without")


@pytest.mark.parametrize(
    ("name", "data", "settings", "message"),
    [
        ("label-shuffling", NUMBERS, {}, "needs a class for each sample, and data 'numbers' have none"),
        ("label-noise", NUMBERS, {}, "needs a class for each sample"),
        ("label-noise", DATA, {"noise": 1.5}, r"noise of stream label-noise is 1.5: it must be in \[0, 1\]"),
        ("class-incremental", NUMBERS, {}, "needs a class for each sample"),
        ("class-incremental", DATA, {"classes_per_task": 3}, "it must divide 10"),
        ("class-incremental", DATA, {"classes_per_task": 20}, "the data have 10"),
        ("class-incremental", DATA, {"head": "masked", "cumulative": True}, "cannot be cumulative"),
        ("class-incremental", DATA, {"head": "grow"}, "head of stream class-incremental is 'grow'"),
        (
            "class-pairs",
            Dataset(DATA.inputs, DATA.targets, 12, test=TEST),
            {},
            "class 10 of data .* has no samples",
        ),
        ("pixel-permutation", FLAT, {"spatial": True}, r"inputs of data 'flat' are \(3,\): give images"),
        ("pixel-permutation", DATA, {"examples": 400}, "has 300: ask for no more"),
        ("pixel-permutation", WITHOUT, {}, r"data 'without' have none: load them with test=True"),
        ("input-drift", FLAT, {}, r"inputs of data 'flat' are \(3,\)"),
        ("input-drift", DATA, {"kind": "contrast", "amount": 2.0}, "at most 1 for contrast"),
        ("warm-start", DATA, {"share": 0.0}, r"share of stream warm-start is 0.0: it must be in \(0, 1\]"),
        ("language", DATA, {}, "reads text, and data 'made-up' are none"),
        ("random-labels", DATA, {"blend": "mixture"}, "but it is not gradual"),
        ("random-labels", DATA, {"gradual": 1}, "gradual of stream random-labels is 1"),
        ("random-labels", DATA, {"recurring": 0}, "recurring of stream random-labels is 0"),
        (
            "label-shuffling",
            DATA,
            {"gradual": 4, "blend": "interpolation"},
            "two of its tasks have no average, take 'mixture'",
        ),
        ("bit-flipping", None, {"gradual": 4, "blend": "interpolation"}, "take 'mixture'"),
        (
            "pixel-permutation",
            TEXT,
            {"gradual": 4, "blend": "interpolation"},
            "inputs of data 'made-up-text' are whole numbers, take 'mixture'",
        ),
        (
            "online-permutation",
            DATA,
            {"gradual": 4, "blend": "interpolation"},
            "every task must have all examples, set examples: null",
        ),
        ("random-labels", WITHOUT, {"score": "held-out"}, "there is nothing to generalise to, set score"),
        ("random-labels", TEXT, {}, "needs a class for each sample, and data 'made-up-text' have none"),
        ("language", TEXT.take(2), {}, "part 'c' of data 'made-up-text' has no sequences: load more"),
        ("bit-flipping", None, {"flipping": 30}, "of 20 bits"),
    ],
)
def test_refused_in_one_line(name: str, data: Dataset | None, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        stream(name, data, **settings)
    assert "\n" not in str(caught.value)


def test_all_examples_are_what_the_advice_says() -> None:
    settings: dict[str, Any] = {"gradual": 4, "blend": "interpolation", "examples": None}
    assert len(opened("online-permutation", **settings).task(1).targets) == len(DATA.targets)


KINDS = {
    "images": DATA,
    "flat": Dataset(torch.randn(60, 5), torch.arange(60) % 10, name="flat").split(0.5),
    "eleven": Dataset(torch.randn(66, 1, 3, 3), torch.arange(66) % 11, name="eleven").split(0.5),
    "numbers": Dataset(torch.randn(60, 5), torch.randn(60, 2), name="numbers").split(0.5),
    "images with numbers": Dataset(torch.randn(60, 1, 3, 3), torch.randn(60), name="ages").split(0.5),
    "tokens with classes": Dataset(torch.arange(300).reshape(60, 5), torch.arange(60) % 10).split(0.5),
    "text": TEXT,
    "without": WITHOUT,
    "none": None,
}
KINDS_OF_CHANGE: tuple[dict[str, Any], ...] = (
    {},
    {"gradual": 2},
    {"gradual": 2, "blend": "interpolation"},
    {"score": "held-out"},
    {"score": "training"},
    {"score": "online"},
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in STREAMS.names() if issubclass(STREAMS.find(name), Stream)])
def test_data_are_refused_before_the_first_task_or_suit_all_tasks(name: str, kind: str) -> None:
    for settings in KINDS_OF_CHANGE:
        examples = {"examples": 20} if "examples" in STREAMS.find(name).__dataclass_fields__ else {}
        if settings.get("blend") and name in ("pixel-permutation", "online-permutation"):
            examples = {"examples": None}
        try:
            found = problem(name, tasks=5, **{**examples, **settings})
            sequence = found.open(KINDS[kind], 0)
        except IsoplastError:
            continue
        for index in range(5):
            task = sequence.task(index)
            assert task.inputs.dtype == sequence.task(0).inputs.dtype
            assert ("test_" in sequence.primary) <= (task.test_inputs is not None)
