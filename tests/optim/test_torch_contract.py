"""What torch asks of every optimizer, asked of AdamO through torch's own OptimizerInfo machinery.

The cases are torch.optim's contract: every implementation (for-loop, foreach, fused, capturable,
differentiable) with every kind of setting. What is AdamO's alone is in the files beside this one.
"""

# ruff: noqa: PT009, PT027  (torch's TestCase compares tensors with the tolerances of their dtype)

from __future__ import annotations

import copy
import io
import math
import pickle
import unittest
from typing import Any

import pytest
import torch
import torch.testing._internal.common_optimizers as co
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, LinearLR, ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.testing._internal.common_device_type import (
    instantiate_device_type_tests,
    tol,
    toleranceOverride,
)
from torch.testing._internal.common_methods_invocations import DecorateInfo
from torch.testing._internal.common_utils import TestCase

from isoplast import AdamO
from isoplast.optim._turns import OWED, WAIT

# torch's inputs for AdamW have weight decays of 0.1 and 0.9 beside the default isometry.
pytestmark = pytest.mark.filterwarnings("ignore:weight decay moves the target")

# common_utils freezes torch.backends' flags for the whole process; other tests set them.
torch.backends.__allow_nonbracketed_mutation_flag = True


def optim_inputs(device: Any, dtype: torch.dtype | None = None) -> list[co.OptimizerInput]:
    """torch's inputs for AdamW (at AdamO's default isometry), and settings of AdamO's own."""
    own: list[tuple[str, dict[str, Any]]] = [
        ("no isometry", {"isometry": 0.0}),
        ("exact", {"lr": 0.01, "isometry": 0.1, "isometry_every": 1}),
        ("amortised", {"lr": 0.01, "isometry": 0.1, "isometry_every": 3}),
        ("time constant", {"isometry_time": 200, "isometry_every": "auto"}),
        (
            "all",
            {"isometry": 0.1, "isometry_every": 2, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
        ),
    ]
    if torch.device(device).type != "cpu":
        own.append(("capturable, exact", {"isometry": 0.1, "isometry_every": 1, "capturable": True}))
    if dtype == torch.float16:
        own = [(desc, {**kwargs, "eps": 0.1}) for desc, kwargs in own]  # 1e-8 is zero there: 0 / 0 follows
    inputs = co.optim_inputs_func_adamw(device, dtype)
    return inputs + [co.OptimizerInput(params=None, kwargs=kwargs, desc=desc) for desc, kwargs in own]


def error_inputs(device: Any, dtype: torch.dtype) -> list[co.ErrorOptimizerInput]:
    """torch's error inputs for AdamW. Its 1x1 parameters hold no matrix: no isometry for them."""
    inputs = co.optim_error_inputs_func_adamw(device, dtype)
    for item in inputs:
        if item.optimizer_error_input.params is not None:
            item.optimizer_error_input.kwargs = {"isometry": 0.0, **item.optimizer_error_input.kwargs}
    wrong = [
        ({"isometry": -1.0}, "Invalid isometry value: -1.0"),
        ({"isometry": math.nan}, "Invalid isometry value: nan"),
        ({"isometry": 0.1, "isometry_time": 10.0}, "exclude each other"),
        ({"isometry_every": 0}, "Invalid isometry_every value: 0"),
    ]
    return inputs + [
        co.ErrorOptimizerInput(
            co.OptimizerInput(params=None, kwargs=kwargs, desc=regex),
            error_type=ValueError,
            error_regex=regex,
        )
        for kwargs, regex in wrong
    ]


info = co.OptimizerInfo(
    AdamO,
    optim_inputs_func=optim_inputs,
    optim_error_inputs_func=error_inputs,
    supported_impls=("foreach", "differentiable", "fused"),
    not_og_supported_flags=("foreach", "differentiable", "fused", "maximize", "capturable"),
    supports_fused_on=("cpu", "cuda"),
    has_capturable_arg=True,
    supports_complex=True,  # complex parameters are no matrices to AdamO: it is Adam for them
    decorators=(
        # torch's own tolerance for AdamW here: the for-loop rounds to half precision after each operation.
        DecorateInfo(
            toleranceOverride({torch.bfloat16: tol(5e-3, 5e-3), torch.float16: tol(5e-3, 5e-3)}),
            "TestAdamOContract",
            "test_fused_matches_forloop",
        ),
    ),
    skips=(
        DecorateInfo(
            unittest.skip("zero gradients move W towards isometry, as weight decay would shrink it; "
                 "test_adamo.py::test_zero_gradients has the rule that holds instead"),
            "TestAdamOContract",
            "test_step_is_noop_for_zero_grads",
        ),
    ),
)  # fmt: skip

SHAPES = ((12, 7), (7, 12), (9, 9), (6, 3, 3, 3), (11,), (1, 5), ())


def parameters(device: Any, dtype: torch.dtype, shapes: Any = SHAPES, seed: int = 0) -> list[Parameter]:
    source = torch.Generator().manual_seed(seed)
    return [
        Parameter((torch.randn(s, generator=source, dtype=torch.float64) / 2).to(device, dtype))
        for s in shapes
    ]


def give_gradients(params: list[Parameter], step: int) -> None:
    source = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.device, p.dtype)


def clones(params: list[Parameter]) -> list[Parameter]:
    return [Parameter(p.detach().clone(memory_format=torch.preserve_format)) for p in params]


def cliquey(device: Any, dtype: torch.dtype, skip: tuple[str, ...] = ()) -> list[co.OptimizerInput]:
    """Every input crossed with for-loop, foreach, fused and differentiable, as far as the device has them."""
    return co._get_optim_inputs_including_global_cliquey_kwargs(device, dtype, info, skip=skip)


def to_device(settings: dict[str, Any], device: Any) -> dict[str, Any]:
    """Capturable tensors belong on the parameters' device."""
    return {
        key: value.to(device) if isinstance(value, Tensor) and settings.get("capturable") else value
        for key, value in settings.items()
    }


class Regression(nn.Module):
    """A linear layer and what it is to learn."""

    def __init__(self, device: Any, dtype: torch.dtype) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(5)
        draw = lambda *shape: torch.randn(shape, generator=source, dtype=torch.float64).to(device, dtype)  # noqa: E731
        self.weight, self.bias = Parameter(draw(6, 4) / 2), Parameter(draw(6))
        self.inputs, self.targets = draw(16, 4), draw(16, 6)

    def loss(self) -> Tensor:
        return (self.inputs @ self.weight.mT + self.bias - self.targets).square().mean()


class TestAdamOContract(TestCase):
    def params_after(
        self, params: list[Parameter], kwargs: dict[str, Any], steps: int = 7
    ) -> tuple[list[Parameter], AdamO]:
        mine = clones(params)
        optimizer = AdamO(mine, **kwargs)
        for step in range(steps):
            give_gradients(mine, step)
            optimizer.step()
        return mine, optimizer

    @co.optims([info], dtypes=[torch.float32])
    def test_inputs_hold_no_implementation_flags(self, device, dtype, optim_info):
        for item in optim_info.optim_inputs_func(device):
            for flag in ("foreach", "fused", "differentiable"):
                self.assertNotIn(flag, item.kwargs)

    @co.optims([info], dtypes=[torch.float32])
    def test_error_inputs(self, device, dtype, optim_info):
        for item in optim_info.optim_error_inputs_func(device=device, dtype=dtype):
            given = item.optimizer_error_input
            params = given.params if given.params is not None else parameters(device, dtype)
            with self.subTest(given.desc):
                if issubclass(item.error_type, Warning):
                    with self.assertWarnsRegex(item.error_type, item.error_regex):
                        optim_info.optim_cls(params, **given.kwargs)
                else:
                    with self.assertRaisesRegex(item.error_type, item.error_regex):
                        optim_info.optim_cls(params, **given.kwargs)

    # -- the implementations -----------------------------------------------------------------------

    @co.optims([info], dtypes=[torch.float32])
    def test_goes_the_right_direction(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            model = Regression(device, dtype)
            optimizer = optim_info.optim_cls(model.parameters(), **to_device(item.kwargs, device))
            before = model.loss().item()
            for _ in range(40):
                optimizer.zero_grad()
                model.loss().backward()
                optimizer.step()
            after = model.loss().item()
            if item.kwargs.get("maximize"):
                self.assertGreater(after, before, msg=item.desc)
            else:
                self.assertLess(after, before, msg=item.desc)

    @co.optims([info], dtypes=[torch.float32])
    def test_goes_the_right_direction_with_schedulers(self, device, dtype, optim_info):
        groups_of_schedulers = [
            *optim_info.scheduler_inputs,
            [lambda opt: LinearLR(opt, 0.4, total_iters=4), lambda opt: ExponentialLR(opt, 0.99)],
            [lambda opt: ConstantLR(opt, 0.4, 4), lambda opt: StepLR(opt, 3, 0.9), ReduceLROnPlateau],
        ]
        for makers in groups_of_schedulers:
            for item in cliquey(device, dtype, skip=("differentiable",)):
                if item.kwargs.get("maximize"):
                    continue  # the model's loss has no upper bound to be scheduled by
                model = Regression(device, dtype)
                optimizer = optim_info.optim_cls(model.parameters(), **to_device(item.kwargs, device))
                schedulers = [make(optimizer) for make in makers]
                before = model.loss().item()
                for _ in range(25):
                    optimizer.zero_grad()
                    loss = model.loss()
                    loss.backward()
                    optimizer.step()
                    for scheduler in schedulers:
                        scheduler.step(loss.detach()) if isinstance(
                            scheduler, ReduceLROnPlateau
                        ) else scheduler.step()
                self.assertLess(model.loss().item(), before, msg=item.desc)

    def compare_implementations(self, device, dtype, optim_info, flag: str) -> None:
        for item in optim_info.optim_inputs_func(device=device, dtype=dtype):
            settings = to_device(item.kwargs, device)
            if (
                isinstance(settings.get("lr"), Tensor)
                and flag == "foreach"
                and not settings.get("capturable")
            ):
                continue  # torch refuses the combination; test_error_inputs has it
            params = parameters(device, dtype)
            loop, loop_optimizer = self.params_after(params, {**settings, "foreach": False, "fused": False})
            fast, fast_optimizer = self.params_after(params, {**settings, flag: True})
            self.assertEqual(loop, fast, msg=lambda text, item=item: f"{item.desc}: {text}")
            for p, q in zip(loop, fast, strict=True):
                for key, value in loop_optimizer.state[p].items():
                    self.assertEqual(value, fast_optimizer.state[q][key], exact_device=False)

    @co.optims([info], dtypes=[torch.float64, torch.float32])
    def test_foreach_matches_forloop(self, device, dtype, optim_info):
        self.compare_implementations(device, dtype, optim_info, "foreach")

    @co.optims([info], dtypes=[torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_fused_matches_forloop(self, device, dtype, optim_info):
        if torch.device(device).type not in optim_info.supports_fused_on:
            self.skipTest(f"torch has no fused Adam on {device}")
        self.compare_implementations(device, dtype, optim_info, "fused")

    @co.optims([info], dtypes=[torch.float32])
    def test_capturable_matches_forloop(self, device, dtype, optim_info):
        if torch.device(device).type == "cpu":
            self.skipTest("torch's Adam has no capturable form on the CPU outside torch.compile")
        for item in optim_info.optim_inputs_func(device=device, dtype=dtype):
            if item.kwargs.get("capturable") or item.kwargs.get("isometry_every", 1) != 1:
                continue  # capturable means isometry_every=1
            params = parameters(device, dtype)
            settings = {"isometry_every": 1, **item.kwargs}
            loop, _ = self.params_after(params, {**settings, "foreach": False})
            captured, _ = self.params_after(params, {**settings, "foreach": False, "capturable": True})
            self.assertEqual(loop, captured)

    @co.optims([info], dtypes=[torch.float64])
    def test_differentiable_matches_forloop(self, device, dtype, optim_info):
        for item in optim_info.optim_inputs_func(device=device, dtype=dtype):
            params = parameters(device, dtype)
            loop, _ = self.params_after(params, {**item.kwargs, "foreach": False})
            # The values, on tensors that need no graph; gradients through the step: test_adamo.py.
            other = [p.detach().clone() for p in params]
            optimizer = AdamO(other, **{**item.kwargs, "differentiable": True})
            for step in range(7):
                give_gradients(other, step)
                optimizer.step()
            # torch's differentiable Adam corrects its bias by a power of the float32 step tensor.
            self.assertEqual([p.detach() for p in loop], other, atol=2e-6, rtol=2e-5)

    @co.optims([info], dtypes=[torch.float32])
    def test_foreach_of_many_small_and_of_empty_lists(self, device, dtype, optim_info):
        params = parameters(device, dtype, [(3, 2)] * 150)
        for item in optim_info.optim_inputs_func(device=device, dtype=dtype):
            settings = to_device(item.kwargs, device)
            loop, _ = self.params_after(params, {**settings, "foreach": False}, steps=3)
            fast, _ = self.params_after(params, {**settings, "foreach": True}, steps=3)
            self.assertEqual(loop, fast)

    # -- settings ----------------------------------------------------------------------------------

    @co.optims([info], dtypes=[torch.float64])
    def test_tensor_lr(self, device, dtype, optim_info):
        for shape in ((), (1,)):
            for item in cliquey(device, dtype, skip=("foreach", "differentiable")):
                lr = item.kwargs.get("lr", 1e-3)
                if isinstance(lr, Tensor):
                    continue
                params = parameters(device, dtype)
                plain, _ = self.params_after(params, item.kwargs)
                by_tensor, _ = self.params_after(
                    params, {**item.kwargs, "lr": torch.full(shape, lr, dtype=dtype)}
                )
                self.assertEqual(plain, by_tensor)

    @co.optims([info], dtypes=[torch.float64])
    def test_tensor_lr_can_be_scheduled(self, device, dtype, optim_info):
        params = parameters(device, dtype)
        ends = []
        for lr in (0.01, torch.tensor(0.01, dtype=dtype)):
            mine = clones(params)
            optimizer = optim_info.optim_cls(mine, lr=lr, isometry=0.1, isometry_every=3, foreach=False)
            scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
            for step in range(8):
                give_gradients(mine, step)
                optimizer.step()
                scheduler.step()
            ends.append(mine)
        self.assertEqual(*ends)

    @co.optims([info], dtypes=[torch.float32])
    def test_param_groups_lr_and_weight_decay(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            settings = to_device(item.kwargs, device)
            for setting in ({"lr": 0.05}, {"weight_decay": 0.3}):
                if isinstance(settings.get("lr"), Tensor) and "lr" in setting:
                    setting = {"lr": torch.full_like(settings["lr"], 0.05)}
                params = parameters(device, dtype)
                mine = clones(params)
                optimizer = optim_info.optim_cls(
                    [{"params": mine[:3], **setting}, {"params": mine[3:]}], **settings
                )
                for step in range(4):
                    give_gradients(mine, step)
                    optimizer.step()
                # Two optimizers, one per group, are the oracle. A time constant holds at its group's lr.
                first, second = clones(params[:3]), clones(params[3:])
                apart = [
                    optim_info.optim_cls(first, **{**settings, **setting}),
                    optim_info.optim_cls(second, **settings),
                ]
                for step in range(4):
                    give_gradients(first + second, step)
                    for one in apart:
                        one.step()
                self.assertEqual(mine, first + second)
                for key, value in setting.items():
                    self.assertEqual(optimizer.param_groups[0][key], value)

    @co.optims([info], dtypes=[torch.float32])
    def test_add_param_group(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            settings = to_device(item.kwargs, device)
            params = parameters(device, dtype)
            at_once, _ = self.params_after(params, settings, steps=3)
            mine = clones(params)
            optimizer = optim_info.optim_cls(mine[:1], **settings)
            optimizer.add_param_group({"params": mine[1:]})
            self.assertEqual(len(optimizer.param_groups), 2)
            for key in (
                "lr",
                "isometry",
                "isometry_every",
                "isometry_split",
                "isometry_batch_dims",
                "isometry_time",
            ):
                self.assertIn(key, optimizer.param_groups[1])
            if settings.get("isometry_every", "auto") != 1:
                continue  # amortised matrices take turns within their group: not the same bits
            for step in range(3):
                give_gradients(mine, step)
                optimizer.step()
            self.assertEqual(mine, at_once)

    @co.optims([info], dtypes=[torch.float32])
    def test_named_parameters(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            settings = to_device(item.kwargs, device)
            model = Regression(device, dtype)
            optimizer = optim_info.optim_cls(model.named_parameters(), **settings)
            self.assertEqual(optimizer.param_groups[0]["param_names"], ["weight", "bias"])
            self.assertEqual(optimizer.state_dict()["param_groups"][0]["param_names"], ["weight", "bias"])
            unnamed = optim_info.optim_cls(Regression(device, dtype).parameters(), **settings)
            unnamed.load_state_dict(optimizer.state_dict())

    # -- states ------------------------------------------------------------------------------------

    def continue_both(
        self, params: list[Parameter], one: AdamO, copies: list[Parameter], other: AdamO
    ) -> None:
        for step in range(10, 16):
            for who, optimizer in ((params, one), (copies, other)):
                give_gradients(who, step)
                optimizer.step()
            self.assertEqual(params, copies, atol=0, rtol=0)

    def trained(self, device, dtype, settings: dict[str, Any]) -> tuple[list[Parameter], AdamO]:
        return self.params_after(parameters(device, dtype), to_device(settings, device), steps=4)

    @co.optims([info], dtypes=[torch.float32])
    def test_state_dict_round_trip(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            params, optimizer = self.trained(device, dtype, item.kwargs)
            copies = clones(params)
            other = optim_info.optim_cls(copies, **to_device(item.kwargs, device))
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            self.assertEqual(other.state_dict(), optimizer.state_dict())
            self.continue_both(params, optimizer, copies, other)

    @co.optims([info], dtypes=[torch.float32])
    def test_loading_is_not_sharing(self, device, dtype, optim_info):
        params, optimizer = self.trained(device, dtype, {})
        saved = optimizer.state_dict()
        frozen = copy.deepcopy(saved)
        other = optim_info.optim_cls(clones(params))
        other.load_state_dict(saved)
        other.param_groups[0]["lr"] = 7.0
        other.param_groups[0]["isometry"] = 7.0
        self.assertEqual(saved["param_groups"], frozen["param_groups"])

    @co.optims([info], dtypes=[torch.float32])
    def test_can_load_from_a_torch_file(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            params, optimizer = self.trained(device, dtype, item.kwargs)
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            for weights_only in (True, False):
                file.seek(0)
                copies = clones(params)
                other = optim_info.optim_cls(copies, **to_device(item.kwargs, device))
                other.load_state_dict(torch.load(file, weights_only=weights_only))
                self.assertEqual(other.state_dict(), optimizer.state_dict())

    @co.optims([info], dtypes=[torch.float32])
    def test_can_load_older_state_dicts(self, device, dtype, optim_info):
        newer = (*optim_info.not_og_supported_flags, "decoupled_weight_decay")
        for item in cliquey(device, dtype, skip=("differentiable",)):
            unlike = item.kwargs.get("foreach") is False and torch.device(device).type == "cuda"
            if item.kwargs.get("capturable") or item.kwargs.get("fused") or unlike:
                continue  # settings that an older file does not know cannot come back from it
            params, optimizer = self.trained(device, dtype, item.kwargs)
            old = copy.deepcopy(optimizer.state_dict())
            for group in old["param_groups"]:
                for flag in newer:
                    if flag != "maximize" or not item.kwargs.get("maximize"):
                        group.pop(flag, None)
            copies = clones(params)
            other = optim_info.optim_cls(copies, **item.kwargs)
            other.load_state_dict(old)
            for flag in newer:
                self.assertIn(flag, other.param_groups[0])
            self.continue_both(params, optimizer, copies, other)

    @co.optims([info], dtypes=[torch.float32])
    def test_steps_that_were_numbers(self, device, dtype, optim_info):
        params, optimizer = self.trained(device, dtype, {})
        old = copy.deepcopy(optimizer.state_dict())
        for state in old["state"].values():
            state["step"] = state["step"].item()
        copies = clones(params)
        other = optim_info.optim_cls(copies)
        other.load_state_dict(old)
        self.continue_both(params, optimizer, copies, other)

    @co.optims([info], dtypes=[torch.float32])
    def test_state_dicts_with_extra_keys(self, device, dtype, optim_info):
        params, optimizer = self.trained(device, dtype, {})
        saved = copy.deepcopy(optimizer.state_dict())
        saved["note"] = "kept by torch"
        saved["param_groups"][0]["colour"] = "blue"
        saved["state"][0]["extra"] = torch.ones(2)
        copies = clones(params)
        other = optim_info.optim_cls(copies)
        other.load_state_dict(saved)
        self.assertEqual(other.param_groups[0]["colour"], "blue")
        self.assertEqual(other.state[copies[0]]["extra"], torch.ones(2))
        self.continue_both(params, optimizer, copies, other)

    @co.optims([info], dtypes=[torch.float32])
    def test_state_dicts_that_do_not_fit(self, device, dtype, optim_info):
        _, optimizer = self.trained(device, dtype, {})
        good = optimizer.state_dict()
        two_groups = {**good, "param_groups": good["param_groups"] * 2}
        with self.assertRaisesRegex(
            ValueError, r"groups of \[\d+, \d+\] parameters, this optimizer of \[\d+\]"
        ):
            optimizer.load_state_dict(two_groups)
        short = {**good, "param_groups": [{**good["param_groups"][0], "params": [0]}]}
        with self.assertRaisesRegex(ValueError, r"groups of \[1\] parameters, this optimizer of \[\d+\]"):
            optimizer.load_state_dict(short)
        self.assertEqual(optimizer.state_dict(), good)

    @co.optims([info], dtypes=[torch.float32])
    def test_deepcopy(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            params, optimizer = self.trained(device, dtype, item.kwargs)
            copies, other = copy.deepcopy((params, optimizer))
            self.assertEqual(other.state_dict(), optimizer.state_dict())
            self.assertEqual(other.defaults, optimizer.defaults)
            self.continue_both(params, optimizer, copies, other)

    @co.optims([info], dtypes=[torch.float32])
    def test_pickle(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            params, optimizer = self.trained(device, dtype, item.kwargs)
            copies, other = pickle.loads(pickle.dumps((params, optimizer)))
            self.assertEqual(repr(other), repr(optimizer))
            for p, q in zip(params, copies, strict=True):
                give_gradients([p], 0), give_gradients([q], 0)
            self.continue_both(params, optimizer, copies, other)
            copies[0].grad = None
            other.add_param_group({"params": [Parameter(torch.randn(3, 3, device=device))]})

    @co.optims([info], dtypes=[torch.float32])
    def test_printing(self, device, dtype, optim_info):
        for item in cliquey(device, dtype):
            text = repr(optim_info.optim_cls(parameters(device, dtype), **to_device(item.kwargs, device)))
            self.assertTrue(text.startswith("AdamO ("))
            self.assertIn("isometry: ", text)
            self.assertTrue("time constant" in text or "nothing is kept isometric" in text)

    @co.optims([info], dtypes=[torch.float32])
    def test_state_dict_hooks(self, device, dtype, optim_info):
        _, optimizer = self.trained(device, dtype, {})
        seen: list[str] = []
        optimizer.register_state_dict_pre_hook(lambda opt: seen.append("before saving"))
        optimizer.register_state_dict_post_hook(lambda opt, saved: seen.append("after saving"))
        optimizer.register_load_state_dict_pre_hook(lambda opt, saved: seen.append("before loading"))
        optimizer.register_load_state_dict_post_hook(lambda opt: seen.append("after loading"))
        optimizer.load_state_dict(optimizer.state_dict())
        self.assertEqual(seen, ["before saving", "after saving", "before loading", "after loading"])

    # -- the step ----------------------------------------------------------------------------------

    @co.optims([info], dtypes=[torch.float32])
    def test_hooks_fire_once(self, device, dtype, optim_info):
        # Once a plain Adam exists, Adam.step is wrapped too: an optimizer that called it would fire twice.
        torch.optim.Adam(parameters(device, dtype))
        torch.optim.AdamW(parameters(device, dtype))
        params = parameters(device, dtype)
        optimizer = optim_info.optim_cls(params)
        seen: list[str] = []
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: seen.append("before"))
        optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append("after"))
        give_gradients(params, 0)
        optimizer.step()
        self.assertEqual(seen, ["before", "after"])
        everywhere = register_optimizer_step_post_hook(lambda opt, args, kwargs: seen.append("global"))
        try:
            optimizer.step()
        finally:
            everywhere.remove()
        self.assertEqual(seen, ["before", "after", "before", "after", "global"])

    @co.optims([info], dtypes=[torch.float32])
    def test_closure(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            settings = to_device(item.kwargs, device)
            plain, closed = Regression(device, dtype), Regression(device, dtype)
            one = optim_info.optim_cls(plain.parameters(), **settings)
            other = optim_info.optim_cls(closed.parameters(), **settings)

            def closure(closed=closed, other=other) -> Tensor:
                self.assertTrue(torch.is_grad_enabled())
                other.zero_grad()
                loss = closed.loss()
                loss.backward()
                return loss

            for _ in range(5):
                one.zero_grad()
                loss = plain.loss()
                loss.backward()
                self.assertIsNone(one.step())
                self.assertEqual(other.step(closure), loss)
            self.assertEqual(list(plain.parameters()), list(closed.parameters()))

    @co.optims([info], dtypes=[torch.float32])
    def test_step_is_noop_when_params_have_no_grad(self, device, dtype, optim_info):
        for item in cliquey(device, dtype):
            params = parameters(device, dtype)
            before = clones(params)
            optimizer = optim_info.optim_cls(params, **to_device(item.kwargs, device))
            for _ in range(3):
                optimizer.step()
            self.assertEqual(params, before, atol=0, rtol=0)
            self.assertEqual(len(optimizer.state), 0)

    @co.optims([info], dtypes=[torch.float32])
    def test_parameters_without_grad_stay(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            params = parameters(device, dtype)
            before = clones(params)
            optimizer = optim_info.optim_cls(params, **to_device(item.kwargs, device))
            for step in range(4):
                give_gradients(params, step)
                params[0].grad = params[3].grad = None
                optimizer.step()
            for i in (0, 3):
                self.assertEqual(params[i], before[i], atol=0, rtol=0)
                self.assertNotIn(params[i], optimizer.state)
            self.assertNotEqual(params[1], before[1])

    @co.optims([info], dtypes=[torch.float32])
    def test_step_is_noop_for_zero_grads(self, device, dtype, optim_info):
        for item in cliquey(device, dtype):
            params = parameters(device, dtype)
            before = clones(params)
            optimizer = optim_info.optim_cls(params, **to_device(item.kwargs, device))
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
            self.assertEqual(params, before)

    @co.optims([info], dtypes=[torch.float32])
    def test_parameters_of_no_elements(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            shapes = ((0,), (0, 4), (4, 0), (3, 0, 2), (5, 4))
            params = parameters(device, dtype, shapes)
            optimizer = optim_info.optim_cls(params, **to_device(item.kwargs, device))
            for step in range(3):
                give_gradients(params, step)
                optimizer.step()
            self.assertEqual([tuple(p.shape) for p in params], list(shapes))
            self.assertTrue(params[-1].isfinite().all())

    @co.optims([info], dtypes=[torch.float64])
    def test_non_contiguous_parameters(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            settings = to_device(item.kwargs, device)
            plain = parameters(device, dtype, [(8, 6), (6, 4, 3, 3), (6, 8), (8, 6)])
            laid = [
                Parameter(plain[0].detach().mT.contiguous().mT),
                Parameter(plain[1].detach().to(memory_format=torch.channels_last)),
                Parameter(plain[2].detach().repeat_interleave(2, 1)[:, ::2]),
                Parameter(plain[3].detach().repeat_interleave(2, 0)[::2]),
            ]
            if settings.get("fused"):
                plain, laid = plain[:2], laid[:2]  # torch's fused kernels assume memory without gaps
            self.assertFalse(any(p.is_contiguous() for p in laid))
            strides = [p.stride() for p in laid]
            one, other = optim_info.optim_cls(plain, **settings), optim_info.optim_cls(laid, **settings)
            for step in range(5):
                give_gradients(plain, step)
                for p, q in zip(plain, laid, strict=True):
                    q.grad = torch.empty_like(q).copy_(p.grad)  # in the parameter's layout, as autograd's are
                one.step()
                other.step()
            self.assertEqual(plain, laid)
            self.assertEqual([p.stride() for p in laid], strides)

    @co.optims([info], dtypes=[torch.float32])
    def test_mixed_dtypes(self, device, dtype, optim_info):
        kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        for item in cliquey(device, dtype, skip=("differentiable",)):
            # eps must not vanish in half precision, or 0 / 0 follows.
            settings = to_device({**item.kwargs, "eps": 1e-3}, device)
            together = [parameters(device, kind, [(6, 4)], seed=i)[0] for i, kind in enumerate(kinds)]
            apart = clones(together)
            optimizer = optim_info.optim_cls(together, **settings)
            others = [optim_info.optim_cls([p], **settings) for p in apart]
            exact = settings.get("isometry_every") == 1 or settings.get("isometry") == 0.0
            for step in range(4):
                give_gradients(together, step)
                for p, q in zip(together, apart, strict=True):
                    q.grad = p.grad.clone()
                optimizer.step()
                for other in others:
                    other.step()
            for p, q, kind in zip(together, apart, kinds, strict=True):
                self.assertEqual(p.dtype, kind)
                self.assertTrue(p.isfinite().all())
                if exact:  # amortised matrices take turns, those of four optimizers all go first
                    self.assertEqual(p, q)

    @co.optims([info], dtypes=[torch.complex64])
    def test_complex_parameters_are_adamws(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable", "fused")):
            settings = to_device(item.kwargs, device)
            if "isometry" in settings or "isometry_time" in settings:
                continue
            params = parameters(device, dtype, [(4, 3), (5,)])
            ours, _ = self.params_after(params, {**settings, "isometry": 0.0}, steps=3)
            theirs = clones(params)
            optimizer = torch.optim.AdamW(theirs, **{"weight_decay": 0.0, **settings})
            for step in range(3):
                give_gradients(theirs, step)
                optimizer.step()
            self.assertEqual(ours, theirs, atol=0, rtol=0)

    @co.optims([info], dtypes=[torch.float32])
    def test_sparse_gradients_are_refused_before_anything_moves(self, device, dtype, optim_info):
        params = parameters(device, dtype, [(5, 4), (4, 4)])
        before = clones(params)
        optimizer = optim_info.optim_cls(params, lr=0.1, isometry=0.1, isometry_every=1)
        give_gradients(params, 0)
        params[1].grad = params[1].grad.to_sparse()
        with self.assertRaisesRegex(RuntimeError, "does not support sparse gradients"):
            optimizer.step()
        self.assertEqual(params, before, atol=0, rtol=0)

    # -- mixed precision ---------------------------------------------------------------------------

    @co.optims([info], dtypes=[torch.float32])
    def test_autocast_around_the_step(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            settings = to_device(item.kwargs, device)
            params = parameters(device, dtype)
            outside, _ = self.params_after(params, settings)
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                inside, _ = self.params_after(params, settings)
            self.assertEqual(outside, inside, atol=0, rtol=0)

    def known(self, device, state_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """The states, but for what a GPU's host would have to wait for: a skipped step is owed there."""
        waits = () if torch.device(device).type == "cpu" else (OWED, WAIT)
        return [
            {key: value for key, value in state.items() if key not in waits}
            for state in state_dict["state"].values()
        ]

    def scaled_steps(
        self, device, dtype, settings: dict[str, Any], infinite_at: int | None
    ) -> list[Parameter]:
        """Six steps of a regression under a GradScaler; one may meet an infinite gradient and is skipped."""
        model = Regression(device, dtype)
        optimizer = AdamO(model.parameters(), **settings)
        scaler = torch.amp.GradScaler(torch.device(device).type, init_scale=4.0, growth_interval=1000)
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale(model.loss()).backward()
            if step == infinite_at:
                before, state = clones(list(model.parameters())), copy.deepcopy(optimizer.state_dict())
                model.weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            if step == infinite_at:
                self.assertEqual(list(model.parameters()), before, atol=0, rtol=0)
                if step > 0:  # a fused optimizer sets its state up, at zero, in the step that it skips
                    self.assertEqual(self.known(device, optimizer.state_dict()), self.known(device, state))
        return list(model.parameters())

    @co.optims([info], dtypes=[torch.float32])
    def test_grad_scaler(self, device, dtype, optim_info):
        for item in cliquey(device, dtype, skip=("differentiable",)):
            settings = to_device(item.kwargs, device)
            model = Regression(device, dtype)
            optimizer = optim_info.optim_cls(model.parameters(), **settings)
            for _ in range(6):
                optimizer.zero_grad()
                model.loss().backward()
                optimizer.step()
            # The scale is a power of two: scaling and unscaling round nothing.
            self.assertEqual(self.scaled_steps(device, dtype, settings, None), list(model.parameters()))
            for infinite_at in (0, 3):
                self.scaled_steps(device, dtype, settings, infinite_at)

    @co.optims([info], dtypes=[torch.float32])
    def test_only_fused_takes_scaled_gradients(self, device, dtype, optim_info):
        flag = "_step_supports_amp_scaling"
        self.assertTrue(getattr(optim_info.optim_cls(parameters(device, dtype), fused=True), flag))
        self.assertFalse(getattr(optim_info.optim_cls(parameters(device, dtype)), flag, False))

    @co.optims([info], dtypes=[torch.float32])
    def test_cuda_graph(self, device, dtype, optim_info):
        if torch.device(device).type != "cuda":
            self.skipTest("CUDA graphs need a CUDA device")
        params = parameters(device, dtype)
        plain, captured = clones(params), clones(params)
        settings = {"lr": torch.tensor(0.01, device=device), "isometry": 0.1, "capturable": True}
        one, other = optim_info.optim_cls(plain, **settings), optim_info.optim_cls(captured, **settings)
        give_gradients(plain, 0), give_gradients(captured, 0)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                other.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            other.step()
        for _ in range(5):
            graph.replay()
        for _ in range(8):
            one.step()
        self.assertEqual(plain, captured)


instantiate_device_type_tests(TestAdamOContract, globals(), only_for=("cpu", "cuda"))
