"""The monitor: cheap, without a trace, and heard when something is wrong."""

from __future__ import annotations

import copy
import io
import itertools
import math
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from isoplast import AdamO, Monitor
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import Finding, PlasticityWarning
from isoplast.diagnostics.monitor import _monitor, _sinks
from isoplast.nn import build


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_monitor, "perf_counter", clock)
    return clock


def network(seed=0):
    torch.manual_seed(seed)
    return build("mlp", input_shape=(8,), classes=3, width=16, depth=2)


def costing(clock, seconds):
    """A measure that takes so long."""

    def measure(model, inputs):
        clock.now += seconds
        return {"number": seconds}

    return measure


def train(monitor, clock, steps, seconds=1.0):
    """Steps of a training that take so long, in one line of which the monitor is called."""
    for _ in range(steps):
        clock.now += seconds
        monitor.step()


class TestBudget:
    @pytest.mark.parametrize("budget", [0.02, 0.1])
    @pytest.mark.parametrize("costs", [(5.0,), (0.1, 30.0), (0.5, 2.0, 100.0)])
    def test_is_kept_at_every_time(self, clock, budget, costs):
        measures = {str(cost): costing(clock, cost) for cost in costs}
        monitor = Monitor(network(), measures=measures, budget=budget)
        # Before it has run, each is taken to cost 20 steps: what exceeds that nobody could know.
        unknown = sum(max(cost - 20, 0) for cost in costs)
        for _ in range(20_000):
            train(monitor, clock, 1)
            spent = monitor.overhead * monitor.training_seconds
            assert spent <= budget * monitor.training_seconds + unknown + 1e-6
        assert monitor.overhead <= budget
        assert monitor.training_seconds == pytest.approx(19_999)  # not its own time, nor before the first

    def test_is_used_up_and_costs_decide_how_often(self, clock):
        measures = {"cheap": costing(clock, 0.5), "dear": costing(clock, 5.0)}
        monitor = Monitor(network(), measures=measures, budget=0.02)
        train(monitor, clock, 10_000)
        # Both have half of 200 s: the dear one uses it up, the cheap one waits for a hundredth of the steps.
        runs = {name: account.runs for name, account in monitor._accounts.items()}
        assert 17 <= runs["dear"] <= 20
        assert 80 < runs["cheap"] <= 200
        assert monitor.overhead == pytest.approx((0.5 * runs["cheap"] + 5 * runs["dear"]) / 9999)

    def test_a_pause_is_not_spent_at_once(self, clock):
        monitor = Monitor(network(), measures={"one": costing(clock, 1.0)}, budget=0.1)
        train(monitor, clock, 1000)
        before = monitor._accounts["one"].runs
        clock.now += 100_000  # an evaluation, a night in a queue
        train(monitor, clock, 100)
        assert monitor._accounts["one"].runs - before <= 100 / 5 + 1

    def test_a_pause_that_it_is_told_of_does_not_count(self, clock):
        monitor = Monitor(network(), measures={"one": costing(clock, 1.0)}, budget=0.1)
        train(monitor, clock, 100)
        clock.now += 0.5
        monitor.pause()
        clock.now += 1000
        train(monitor, clock, 101)
        assert monitor.training_seconds == 99 + 0.5 + 100

    def test_history_grows_with_the_logarithm_of_a_long_run(self, clock):
        monitor = Monitor(network(), measures={"free": costing(clock, 0.0)}, budget=0.5)
        train(monitor, clock, 30_000)
        # One a step up to 200 (40 have to pay for the first), then one in a hundredth of the steps, brought
        # forward to a round number.
        assert len(monitor.records) == pytest.approx(160 + 100 * math.log(150), rel=0.25)

    def test_every_is_the_least_distance(self, clock):
        monitor = Monitor(network(), measures={"free": costing(clock, 0.0)}, budget=0.5, every=50)
        train(monitor, clock, 1000)
        assert {int(record["step"]) % 50 for record in monitor.records} == {0}
        assert len(monitor.records) == 20

    def test_sinks_and_drawn_inputs_are_paid_for(self, clock):
        def slow(*_):
            clock.now += 1.0

        def inputs():
            clock.now += 2.0
            return torch.zeros(4, 8)

        measures = {"one": costing(clock, 1.0)}
        monitor = Monitor(network(), measures=measures, inputs=inputs, sinks=[slow], budget=0.1)
        train(monitor, clock, 5000)
        assert monitor._accounts["one"].spent == 4.0 * monitor._accounts["one"].runs
        assert monitor.overhead <= 0.1

    def test_it_says_how_often(self, clock):
        measures = {"often": costing(clock, 0.5), "never": costing(clock, 0.5)}
        monitor = Monitor(network(), measures=measures, budget=0.02)
        monitor._accounts["never"].guess = 1e9
        assert "first at step 2,000" in str(monitor)  # 20 steps out of half of 2 %
        train(monitor, clock, 4000)
        text = str(monitor)
        assert "4000 steps in 4e+03 s, measuring" in text
        assert "(budget 2.00%)" in text
        lines = {line.split()[0]: line for line in text.splitlines()}
        runs = monitor._accounts["often"].runs
        assert f"every {4000 / runs:,.0f} steps" in lines["often"]
        assert "500 ms" in lines["often"]
        assert "first at step" in lines["never"]

    def test_measuring_now_counts_as_spent(self, clock):
        monitor = Monitor(network(), measures={"one": costing(clock, 10.0)}, budget=0.1)
        train(monitor, clock, 50)
        assert monitor.measure()["one/number"] == 10.0
        train(monitor, clock, 100)  # 15 s may be spent, 10 are
        assert monitor._accounts["one"].runs == 1
        assert monitor.training_seconds == pytest.approx(149)


def loop(model, optimizer, monitored, forward=None, autocast=False):
    """Train, and return all that training leaves: weights, buffers, optimizer state and random numbers."""
    torch.manual_seed(1)
    inputs, labels = torch.randn(96, 8), torch.randint(3, (96,))
    forward = model if forward is None else forward
    monitor = None
    if monitored:
        measures = ["weights", "activity", "jacobian", "ntk", "plasticity"]
        draws = lambda: inputs[torch.randperm(96)[:48]]  # noqa: E731
        monitor = Monitor(forward, optimizer, measures=measures, inputs=draws, warn=False)
    for step in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = cross_entropy(forward(inputs[torch.randperm(96)[:32]]), labels[:32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if monitor is not None:
                monitor.step()
                if step % 2 == 1:
                    assert monitor.measure()
    assert monitor is None or not monitor.left_out
    modes = [module.training for module in model.modules()]
    grads = [p.grad.clone() for p in model.parameters()]
    return copy.deepcopy(model.state_dict()), optimizer.state_dict(), modes, grads, torch.get_rng_state()


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


class Noisy(nn.Module):
    """BatchNorm, dropout and a module that stays in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.frozen = nn.BatchNorm1d(16).eval()
        self.head = nn.Linear(16, 3)

    def forward(self, inputs):
        return self.head(self.frozen(self.body(inputs)))


class TestTraining:
    """With and without a monitor a training ends in the same bits."""

    @pytest.mark.parametrize("make", [Noisy, network], ids=["batchnorm and dropout", "mlp"])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_eager(self, make, autocast):
        found = []
        for monitored in (False, True):
            torch.manual_seed(0)
            model = make()
            optimizer = AdamO(model.parameters(), lr=1e-2)
            found.append(loop(model, optimizer, monitored, autocast=autocast))
        assert same(*found)

    @pytest.mark.slow  # compiling takes seconds
    def test_compiled(self):
        found, compiled = [], []
        for monitored in (False, True):
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            torch.manual_seed(0)
            model = Noisy()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            # The compiler itself is not what is tested: its front end decides on compiling again.
            found.append(loop(model, optimizer, monitored, torch.compile(model, backend="aot_eager")))
            compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert same(*found)
        assert compiled[0] == compiled[1] > 0, "measuring made torch compile the model again"


def die(model):
    with torch.no_grad():
        model.layers[1].bias.fill_(-100.0)


def revive(model):
    with torch.no_grad():
        model.layers[1].bias.zero_()


class TestWarnings:
    def monitor(self, model, **options):
        return Monitor(model, inputs=torch.randn(300, 8), measures=["activity"], **options)

    def test_name_the_layer_the_number_the_rate_and_the_way_out_at_the_users_line(self):
        model = network()
        die(model)
        monitor = self.monitor(model)
        with pytest.warns(PlasticityWarning) as caught:
            monitor.measure()
        (warning,) = caught
        assert warning.filename == __file__
        text = str(warning.message)
        assert "activations.1: 100% of 16 units are dormant" in text
        assert "looks at networks that went on learning" in text
        assert "AdamO or attach(...)" in text

    def test_come_once_until_the_finding_goes_away(self):
        model = network()
        monitor = self.monitor(model)
        seen = []
        for change in (None, die, None, None, revive, None, die):
            if change:
                change(model)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                monitor.measure()
                monitor.step()
            seen.append(len(caught))
        assert seen == [0, 1, 0, 0, 0, 0, 1]
        severe = [finding.severity for _, finding in monitor.findings if finding.severity != "note"]
        assert severe == ["critical", "critical"]

    def test_come_again_if_it_becomes_worse_but_not_if_it_wavers(self):
        monitor = self.monitor(network())
        for severity, count in [
            ("warning", 21),
            ("warning", 22),
            ("critical", 41),
            ("warning", 39),
            ("critical", 42),
        ]:
            monitor._alarms.note(
                "activity",
                [Finding(severity, "1", f"{count}% of 16 units are dead", "")],
                monitor.total_steps,
            )
        assert [finding.what[:2] for _, finding in monitor.findings] == ["21", "41"]

    def test_of_one_measure_do_not_forget_those_of_another(self):
        monitor = self.monitor(network())
        monitor._alarms.note(
            "weights", [Finding("warning", "1", "the largest singular value is 7.1", "")], monitor.total_steps
        )
        monitor._alarms.note("activity", [], monitor.total_steps)
        monitor._alarms.note(
            "weights", [Finding("warning", "1", "the largest singular value is inf", "")], monitor.total_steps
        )
        assert len(monitor.findings) == 1

    def test_can_be_switched_off_and_are_kept_all_the_same(self):
        model = network()
        die(model)
        monitor = self.monitor(model, warn=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.measure()
        assert monitor.findings[0][1].where == "activations.1"

    def test_of_the_optimizer_come_with_the_first_step(self):
        model = network()
        optimizer = torch.optim.Adam(model.layers.parameters())
        monitor = Monitor(model, optimizer)
        with pytest.warns(PlasticityWarning, match=r"head.weight, head.bias\) are in no group") as caught:
            monitor.step()
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.step()

    def test_of_an_isometry_too_weak_for_the_run(self):
        model = network()
        monitor = Monitor(model, AdamO(model.parameters(), lr=1e-3, isometry=1e-3), steps=1000)
        with pytest.warns(PlasticityWarning, match="time constant of 125 000 steps"):
            monitor.step()

    def test_non_finite_weights_are_reported_as_such(self):
        model = network()
        model.layers[0].weight.data[0, 0] = math.nan
        monitor = Monitor(model, inputs=torch.randn(32, 8))
        with pytest.warns(PlasticityWarning) as caught:
            record = monitor.measure()
        assert any("layers.0: the weight holds non-finite values" in str(one.message) for one in caught)
        assert math.isnan(record["weights/largest"])
        assert math.isnan(record["norms/layers.0"])
        assert record["weights/finite"] == 0


class TestAlarms:
    """What the numbers with error rates make of a monitor."""

    def stretched(self, factor):
        model = network()
        monitor = Monitor(model, inputs=torch.randn(300, 8), warn=False, budget=0.5)
        monitor.measure("norms", "activity")
        with torch.no_grad():
            for layer in model.layers:
                layer.weight.mul_(factor)
        monitor.measure("norms", "activity")
        return [one for _, one in monitor.findings if one.severity != "note"]

    def test_growth_since_the_first_look_is_judged(self):
        assert self.stretched(1.2) == []
        (found,) = self.stretched(20.0)
        assert "the largest singular values before the head are 20.0 times the initial ones" in found.what
        assert "looks at networks that went on learning" in found.rate

    def test_the_network_runs_only_where_a_verdict_depends_on_its_answers(self):
        model = network()
        monitor = Monitor(model, inputs=torch.randn(300, 8), warn=False, budget=0.5)
        monitor.measure("norms", "activity")
        runs = []
        model.head.register_forward_hook(lambda module, args, output: runs.append(len(output)))
        monitor.measure("norms")
        assert runs == []
        with torch.no_grad():
            for layer in model.layers:
                layer.weight.mul_(4.0)
        monitor.measure("norms")
        assert runs == [256]

    @pytest.mark.parametrize("random", [True, False])
    def test_what_memorises_is_judged_by_limits_of_its_own(self, random):
        """Growth of 5 is a sign where neighbours have to get different answers, and none where not."""
        torch.manual_seed(0)
        groups = torch.arange(128) % 3
        inputs = torch.randn(3, 8)[groups] + 0.3 * torch.randn(128, 8)
        labels = torch.randint(3, (128,)) if random else groups
        model = build("mlp", input_shape=(8,), classes=3, width=128, depth=2, bias=False)
        monitor = Monitor(model, inputs=inputs, warn=False, budget=0.5)
        start = monitor.measure("norms", "activity")
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(300):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        with torch.no_grad():
            for name, layer in (("layers.0", model.layers[0]), ("layers.1", model.layers[1])):
                largest = torch.linalg.matrix_norm(layer.weight, 2)
                layer.weight.mul_(5 * start[f"norms/{name}"] / largest)  # without biases no answer changes
        for _ in range(2):  # the answers are looked at twice
            monitor.measure("norms")
        found = [one.what for _, one in monitor.findings if one.severity != "note"]
        assert [one.startswith("the largest singular values before the head") for one in found] == (
            [True] if random else []
        )

    def test_units_that_fall_silent_for_one_look_are_no_alarm(self):
        """After a change of task units are silent that come back: two looks in a row have to see it."""
        model = network()
        monitor = Monitor(model, inputs=torch.randn(300, 8), measures=["activity"], warn=False, budget=0.9)
        monitor.step()
        seen = []
        for change in (None, die, revive, None, die, None):
            if change:
                change(model)
            monitor._run(["activity"])
            seen.append(sum(one.severity == "critical" for _, one in monitor.findings))
        assert seen == [0, 0, 0, 0, 0, 1]

    def test_the_first_step_is_what_later_ones_are_compared_with(self):
        model = network()
        monitor = Monitor(model, inputs=torch.randn(300, 8), warn=False)
        monitor.step()
        assert [sorted({name.partition("/")[0] for name in record}) for record in monitor.records] == [
            ["activity", "norms", "seconds", "step"]
        ]
        state = monitor.state_dict()
        assert state["initial"] == pytest.approx(
            monitor.records[0] and dict(monitor._alarms.evidence.initial)
        )
        other = Monitor(model, inputs=torch.randn(300, 8), warn=False)
        other.load_state_dict(state)
        assert other._alarms.evidence.initial == state["initial"]

    def test_looks_come_though_the_clock_stood_still_at_first(self, clock):
        monitor = Monitor(network(), measures={"one": costing(clock, 1.0)}, budget=0.1, warn=False)
        monitor.measure()
        train(monitor, clock, 100, seconds=0.0)
        train(monitor, clock, 1000)
        assert monitor.overhead == pytest.approx(0.1, abs=0.02)

    def test_looks_come_sooner_once_steps_take_longer(self, clock):
        monitor = Monitor(network(), measures={"one": costing(clock, 1.0)}, budget=0.1, warn=False)
        train(monitor, clock, 1000, seconds=0.1)
        before = len(monitor.records)
        train(monitor, clock, 1000, seconds=10.0)
        # A look for every step would be paid for; they come within a tenth of the steps, then each hundredth.
        assert len(monitor.records) - before >= 50
        assert monitor.overhead <= 0.1

    def test_looks_are_spread_over_a_known_length(self, clock):
        monitor = Monitor(network(), measures={"one": costing(clock, 10.0)}, steps=10_000, warn=False)
        train(monitor, clock, 10_000)
        steps = [record["step"] for record in monitor.records]
        assert len(steps) == pytest.approx(20, abs=1)  # 2 % of 10 000 s pay for 20 looks of 10 s
        assert steps[0] <= 500  # half an interval by the guess of 20 s
        assert max(b - a for a, b in itertools.pairwise(steps)) <= 700
        assert monitor.overhead <= 0.0201

    def test_the_end_says_what_was_seen(self, capsys):
        model = network()
        with Monitor(model, inputs=torch.randn(300, 8), budget=0.9) as monitor:
            monitor.step()
            die(model)
            with pytest.warns(PlasticityWarning):
                monitor.measure()
        said = capsys.readouterr().err
        assert (
            "isoplast: Monitor watched 1 steps with 1 look: critical from step 1 on: activations.1: " in said
        )
        assert monitor.close() in said
        monitor.close()
        assert capsys.readouterr().err == ""  # once

    def test_the_end_says_that_nothing_was_seen_and_why(self, capsys, clock):
        short = Monitor(network(), measures={"one": costing(clock, 1.0)})
        train(short, clock, 50)
        assert short.close() == (
            "Monitor watched 50 steps with 0 looks: it saw nothing; the first look comes at step 1,000: "
            "give steps=, or raise budget="
        )
        known = Monitor(network(), measures={"one": costing(clock, 1.0)}, steps=3000)
        train(known, clock, 3000)  # says it by itself
        assert (
            "Monitor watched 3000 steps with 60 looks: nothing critical, no warning"
            in capsys.readouterr().err
        )
        partly = Monitor(network(), inputs=torch.randn(300, 8), warn=False)
        partly.step()
        assert "no warning; too short for weights, features" in partly.close()
        assert capsys.readouterr().err == ""  # not where warnings are switched off

    def test_a_monitor_that_is_dropped_speaks_too(self, capsys, clock):
        monitor = Monitor(network(), measures={"one": costing(clock, 1.0)})
        train(monitor, clock, 50)
        del monitor
        assert "watched 50 steps" in capsys.readouterr().err


class TestHistory:
    def test_is_a_frame_with_a_row_per_step(self, clock):
        model = network()
        measures = {"a": costing(clock, 1.0), "b": costing(clock, 4.0)}
        monitor = Monitor(model, measures=measures, budget=0.1)
        assert monitor.history.columns == ["step"]
        train(monitor, clock, 1000)
        monitor.measure("b")
        frame = monitor.history
        assert frame.columns == ["step", "seconds", "a/number", "b/number"]
        assert frame["step"].is_sorted()
        assert frame["step"].n_unique() == len(frame)
        assert frame["a/number"].drop_nulls().unique().to_list() == [1.0]
        assert 0 < frame["b/number"].null_count() < len(frame)
        assert frame["step"][-1] == 1000
        assert frame["b/number"][-1] == 4.0

    def test_two_looks_at_one_step_share_a_row(self, clock):
        got = []
        measures = {"a": costing(clock, 1.0), "b": costing(clock, 4.0)}
        monitor = Monitor(network(), measures=measures, sinks=[lambda *record: got.append(record)])
        monitor.measure("a")
        monitor.measure("b")
        assert monitor.records == [{"step": 0.0, "seconds": 0.0, "a/number": 1.0, "b/number": 4.0}]
        assert [set(record) - {"step", "seconds"} for _, record in got] == [{"a/number"}, {"b/number"}]

    def test_holds_the_numbers_of_the_instruments(self):
        model, inputs = network(), torch.randn(64, 8)
        record = Monitor(model, inputs=inputs).measure()
        assert record["weights/largest"] == pytest.approx(1.0, abs=1e-5)  # orthogonal at the start
        names = ("activity/dormant", "features/feature_rank", "norms/layers.0")
        assert all(math.isfinite(record[name]) for name in names)
        assert record["weights/layers.0/condition_number"] == pytest.approx(1.0, abs=1e-5)

    def test_twins_are_trained_once_where_the_inputs_stay(self):
        model, inputs = network(), torch.randn(64, 8)
        kept = Monitor(model, inputs=inputs, measures=["plasticity"], lr=1e-2)
        first = kept.measure()
        die(model)
        second = kept.measure()
        assert kept.findings == []  # what a probe says has no error rate that allows a verdict
        anew = Monitor(model, inputs=lambda: inputs, measures=["plasticity"], lr=1e-2, warn=False)
        anew.measure()
        assert second == anew.measure()  # to the bit, gap and interval included
        assert first["plasticity/fresh_learned"] == second["plasticity/fresh_learned"]
        assert kept._setting.twins.keys() == {1e-2}
        assert anew._setting.twins is None

    def test_goes_on_after_a_checkpoint(self, clock):
        model, dead = network(), [Finding("critical", "1", "100% of 16 units are dead", "repair")]

        def monitor():
            return Monitor(model, measures={"a": costing(clock, 1.0)}, budget=0.1, warn=False)

        first, second = monitor(), monitor()
        train(first, clock, 501)
        first._alarms.note("activity", dead, first.total_steps)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        clock.now += 9999  # a crash
        train(second, clock, 501)
        second._alarms.note("activity", dead, second.total_steps)
        assert second.total_steps == 1002
        assert second.training_seconds == 1000  # of each part but its first step
        assert second.findings == first.findings
        assert len(second.findings) == 1
        assert second.records[: len(first.records)] == first.records
        assert [account.runs for account in second._accounts.values()] == [len(second.records)]
        # 1000 s with one run of a second in ten.
        assert len(second.records) in (99, 100)
        assert 0.09 < second.overhead <= 0.1

    def test_is_kept_where_a_sink_fails(self, clock, tmp_path):
        class Writer:
            def add_scalar(self, name, value, step):
                raise ConnectionError("no route to host")

        got = []
        sinks = [tmp_path / "gone" / "a.csv", Writer(), lambda step, record: got.append(step)]
        monitor = Monitor(network(), measures={"a": costing(clock, 1.0)}, budget=0.5, sinks=sinks)
        (tmp_path / "gone" / "a.csv").unlink()
        (tmp_path / "gone").rmdir()
        with pytest.warns(UserWarning, match="leaves sink .* out") as caught:
            train(monitor, clock, 200)
        assert len(caught) == 2  # each once
        assert set(monitor.left_out) == {f"sink {tmp_path / 'gone' / 'a.csv'}", "sink Writer"}
        assert monitor.left_out["sink Writer"] == "ConnectionError: no route to host"
        assert got == [record["step"] for record in monitor.records]
        (tmp_path / "gone").mkdir()
        train(monitor, clock, 200)
        assert (tmp_path / "gone" / "a.csv").read_text().count("a/number") > 5  # written again

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_is_kept_where_the_disk_is_full(self, clock, tmp_path):
        (tmp_path / "full.csv").symlink_to("/dev/full")
        monitor = Monitor(network(), measures={"a": costing(clock, 1.0)}, budget=0.5)
        with pytest.raises(IsoplastError, match=r"full\.csv' cannot be written: No space left"):
            Monitor(network(), sinks=[tmp_path / "full.csv"])
        monitor._sinks = [("sink full.csv", partial(_sinks._append, tmp_path / "full.csv"))]
        with pytest.warns(UserWarning, match=r"leaves sink full\.csv out: OSError: .*No space left"):
            train(monitor, clock, 200)
        assert monitor.records

    def test_of_all_sinks(self, clock, tmp_path):
        import polars as pl

        got = []
        sinks = [tmp_path / "numbers.csv", lambda step, record: got.append((step, record))]
        monitor = Monitor(network(), measures={"a": costing(clock, 1.0)}, budget=0.1, sinks=sinks)
        train(monitor, clock, 1000)
        assert [record for _, record in got] == monitor.records
        rows = pl.read_csv(tmp_path / "numbers.csv").filter(pl.col("name") == "a/number")
        assert rows["step"].to_list() == [step for step, _ in got]


class Pair(nn.Module):
    """Two inputs, by position or name."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, first, second):
        return self.head(torch.relu(self.one(first) + self.other(second)))


class TestModels:
    @pytest.mark.parametrize("kind", [tuple, dict])
    def test_of_several_inputs(self, kind):
        parts = {"first": torch.randn(64, 8), "second": torch.randn(64, 4)}
        monitor = Monitor(Pair(), inputs=parts if kind is dict else tuple(parts.values()))
        record = monitor.measure()
        assert not monitor.left_out
        assert all(math.isfinite(record[name]) for name in ("norms/head", "features/feature_rank"))

    def test_of_language(self):
        model = build("gpt", input_shape=(6,), classes=12, width=16, depth=1, heads=2)
        measures = ["weights", "activity", "jacobian", "ntk", "plasticity"]
        monitor = Monitor(model, inputs=torch.randint(12, (64, 6)), measures=measures)
        with pytest.warns(UserWarning, match="leaves jacobian out: .* not torch.int64") as caught:
            record = monitor.measure()
        assert caught[0].filename == __file__
        assert list(monitor.left_out) == ["jacobian"]
        assert {name.partition("/")[0] for name in record} == {
            "step",
            "seconds",
            *set(measures) - {"jacobian"},
        }
        assert "jacobian is left out: the Jacobian is by inputs" in str(monitor)
        assert not [finding for _, finding in monitor.findings if "NTK" in finding.what]

    def test_kernels_of_too_many_outputs_are_left_out(self):
        model = build("gpt", input_shape=(6,), classes=40, width=16, depth=1, heads=2)
        monitor = Monitor(model, inputs=torch.randint(40, (64, 6)), measures=["ntk"], warn=False)
        monitor.measure()
        assert "240 outputs per sample" in monitor.left_out["ntk"]
        assert "lanczos" in monitor.left_out["ntk"]

    def test_of_one_number(self):
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        monitor = Monitor(model, inputs=torch.randn(64, 8), measures=["ntk", "plasticity"])
        with pytest.warns(UserWarning, match="plasticity out: .* no classes"):
            record = monitor.measure()
        assert record["ntk/condition_number"] > 1
        assert list(monitor.left_out) == ["plasticity"]

    def test_without_hidden_layers(self):
        measures = ["activity", "ntk", "plasticity"]
        monitor = Monitor(nn.Linear(8, 3), inputs=torch.randn(64, 8), measures=measures)
        with pytest.warns(UserWarning, match="activity out: no hidden layer"):
            record = monitor.measure()
        assert math.isfinite(record["plasticity/learned"])
        assert monitor.findings == []  # a kernel of 27 parameters has to be singular

    def test_what_is_left_out_gives_its_share_to_the_others(self, clock):
        def refuses(model, inputs):
            raise IsoplastError("not this network")

        measures = {"a": costing(clock, 1.0), "b": refuses}
        monitor = Monitor(network(), measures=measures, warn=False)
        assert monitor._accounts["a"].share == pytest.approx(0.01)
        monitor.measure()
        assert monitor._accounts["a"].share == pytest.approx(0.02)

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
            (lambda: {}["logits"], "KeyError: 'logits'"),
            (lambda: (_ for _ in ()).throw(RuntimeError("first line\nsecond")), "RuntimeError: first line"),
            (lambda: (_ for _ in ()).throw(MemoryError()), "MemoryError"),
            (lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")), "OutOfMemoryError"),
            (lambda: {"number": "not one"}, "ValueError: could not convert"),
            (lambda: None, "AttributeError"),
            (lambda: {"number": torch.ones(3)}, "RuntimeError|ValueError"),
        ],
    )
    def test_a_measure_that_raises_anything_never_ends_the_training(self, clock, fault, reason):
        measures = {"bad": lambda model, inputs: fault(), "good": costing(clock, 1.0)}
        monitor = Monitor(network(), measures=measures, budget=0.5)
        with pytest.warns(UserWarning, match=f"the monitor leaves bad out: {reason}") as caught:
            train(monitor, clock, 500)
        assert len(caught) == 1  # said once
        assert caught[0].filename == __file__
        assert list(monitor.left_out) == ["bad"]
        assert "\n" not in monitor.left_out["bad"]
        assert f"bad is left out: {monitor.left_out['bad']}" in str(monitor)
        assert len(monitor.records) > 10
        assert monitor.measure("bad").keys() == {"step", "seconds"}

    def test_to_be_interrupted_is_no_fault(self):
        def measure(model, inputs):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Monitor(network(), measures={"a": measure}).measure()

    def test_a_network_that_cannot_be_measured_any_more_goes_on_training(self, clock):
        model = network()
        inputs = torch.randn(32, 8)
        measures = ["weights", "activity", "jacobian", "ntk", "plasticity"]
        monitor = Monitor(model, inputs=inputs, measures=measures, budget=0.5, warn=False)
        monitor.step()
        model.forward = lambda x: 1 / 0
        monitor.measure()
        runs = {"activity", "jacobian", "ntk", "plasticity", "roughness of the outputs"}
        assert set(monitor.left_out) == runs
        assert all("ZeroDivisionError" in reason for reason in monitor.left_out.values())
        assert math.isfinite(monitor.records[-1]["weights/largest"])

    def test_inputs_that_fail_once_are_drawn_again(self, clock):
        calls = []

        def inputs():
            calls.append(None)
            if 3 <= len(calls) < 6:
                raise OSError("the file server is away")
            return torch.zeros(4, 8)

        monitor = Monitor(network(), measures={"a": costing(clock, 0.1)}, inputs=inputs, budget=0.5)
        with pytest.warns(UserWarning, match="leaves inputs out: OSError: the file server is away") as caught:
            train(monitor, clock, 300)
        assert len(caught) == 1
        assert len(calls) > 8
        assert "a/number" in monitor.records[-1]
        assert monitor.left_out == {"inputs": "OSError: the file server is away"}

    def test_an_optimizer_without_what_is_asked_for_is_left_out(self, clock):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = Monitor(model, optimizer, measures={"a": costing(clock, 1.0)}, budget=0.5, warn=False)
        optimizer.param_groups[0]["params"] = None  # a wrapper that keeps no parameters there
        train(monitor, clock, 100)
        assert "optimizer" in monitor.left_out
        assert monitor.records

    def test_repeated_inputs_do_not_make_a_kernel_singular(self):
        inputs = torch.randn(30, 8).repeat_interleave(3, 0)
        record = Monitor(network(), inputs=inputs, measures=["ntk"]).measure()
        assert record["ntk/size"] == 24 * 2
        assert math.isfinite(record["ntk/condition_number"])

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda p: torch.optim.SGD(p, lr=0.5), 1e-3),
            (lambda p: torch.optim.AdamW(p, lr=5e-3), 5e-3),
            (lambda p: AdamO(p, lr=5e-3), 5e-3),
        ],
        ids=["SGD", "AdamW", "AdamO"],
    )
    def test_the_probe_takes_a_learning_rate_that_means_something_to_adam(self, monkeypatch, make, expected):
        from isoplast.diagnostics.monitor import _measures as _monitor_measures

        got = []
        real = _monitor_measures.plasticity
        monkeypatch.setattr(
            _monitor_measures, "plasticity", lambda *a, **k: got.append(k["lr"]) or real(*a, **k)
        )
        model = network()
        optimizer = make(model.parameters())
        optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = 0.0  # the end of a schedule
        for lr in (None, 0.25):
            Monitor(model, optimizer, inputs=torch.randn(32, 8), measures=["plasticity"], lr=lr).measure()
        assert got == [expected, 0.25]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every is 0"),
        ({"budget": 0.0}, "budget is 0.0"),
        ({"budget": 1.0}, "budget is 1.0"),
        ({"lr": 0.0}, "lr of the plasticity probe is 0.0"),
        ({"measures": ["weight"]}, "did you mean 'weights'"),
        ({"measures": "weights"}, r"give a list, \['weights'\]"),
        ({"measures": ["ntk"]}, "'ntk' needs inputs"),
        ({"inputs": [1.0, 2.0]}, "must be tensors"),
        ({"inputs": torch.zeros(0, 8)}, "at least one"),
        ({"sinks": ["numbers.txt"]}, "numbers.txt"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_values_are_refused_in_one_line(options, words):
    with pytest.raises(IsoplastError, match=words) as raised:
        Monitor(network(), **options)
    assert "\n" not in str(raised.value)


def test_inputs_that_do_not_fit_are_refused_at_the_first_step():
    monitor = Monitor(network(), inputs=torch.randn(16, 9))
    with pytest.raises(IsoplastError, match=r"inputs of shape \(1, 9\) do not fit the model") as raised:
        monitor.step()
    assert "\n" not in str(raised.value)


def test_unknown_measures_are_refused():
    with pytest.raises(IsoplastError, match="did you mean 'weights'"):
        Monitor(network()).measure("weigths")


def test_the_order_of_findings_is_that_of_the_network():
    torch.manual_seed(0)
    model = build("mlp", input_shape=(8,), classes=3, width=16, depth=6)
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.mul_(9.0)
    monitor = Monitor(model, warn=False)
    monitor.measure()
    names = [finding.where for _, finding in monitor.findings]
    assert names == [f"layers.{index}" for index in range(6)]
