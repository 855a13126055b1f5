"""Which dead ReLUs come back under AdamO, when, and why: the ruined network of the demo, layer by layer.

    python examples/dead_relu_revival.py [--quick]

Adam learns one set of random labels after the other until most units of the network are dead: zero on
every input, hence without a gradient. Then copies of that very network go on with Adam, with AdamO, and
with AdamO and bias decay. A dead unit's row w_i moves by the isometry step alone, which is, per step,

    dw_i = -4c [ (|w_i|^2 - 1) w_i  +  sum_j <w_i, w_j> w_j ],    c = lr * isometry:

a change of length, and a turn away from the rows it overlaps with, living or dead. Its pre-activation
w.h + b also moves when the layers below change its input h. A ledger keeps these apart for every dead
unit. Needs the extra "bench" (pip install isoplast[bench]); takes about half a minute on one core.
"""

import copy
import math
import sys
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam, Optimizer

from isoplast import AdamO, param_groups
from isoplast.nn import build
from isoplast.streams import load_data, stream

QUICK = "--quick" in sys.argv
RUIN, TASKS, EPOCHS, BATCH = (9, 11, 25, 64) if QUICK else (12, 18, 25, 64)
LR, ISOMETRY, BIAS_DECAY = 3e-3, 1e-2, 1.0
C = LR * ISOMETRY
PLANTED = 8

torch.set_num_threads(1)
torch.manual_seed(0)
data = load_data("digits", samples=1280)
tasks = stream("random-labels", data, tasks=TASKS, seed=0)
images = data.inputs.flatten(1)
EPOCH_STEPS = len(images) // BATCH


class Layer:
    """A hidden layer as it is now: weight, bias, its input h and pre-activation z on all images."""

    def __init__(self, linear: nn.Linear, h: Tensor) -> None:
        self.w, self.b, self.h = linear.weight.detach().clone(), linear.bias.detach().clone(), h
        self.z = h @ self.w.T + self.b
        self.dead = self.z.amax(0) <= 0
        # A row of length one gives at most the longest input: no rotation wakes a bias below minus that.
        self.barrier = -float(h.norm(dim=1).max())
        self.u = h.mean(0) / h.mean(0).norm()


def look(model: nn.Module) -> list[Layer]:
    found, h = [], images
    for linear in model.layers:
        found.append(Layer(linear, h))
        h = found[-1].z.relu()
    return found


def dead(model: nn.Module) -> list[int]:
    return [int(layer.dead.sum()) for layer in look(model)]


class Ledger:
    """What moved the pre-activation of every unit that is dead at the start, until it fires again."""

    ENTRIES = ("length", "active rows", "dead rows", "rest", "input", "bias")

    def __init__(self, model: nn.Module) -> None:
        self.start = self.before = look(model)
        self.asleep = [layer.dead.clone() for layer in self.start]
        self.moved = [{entry: torch.zeros_like(layer.z) for entry in self.ENTRIES} for layer in self.start]
        self.shrunk: list[float] = []  # per layer, the factor of the dead rows' mean w.u in the first epoch
        self.steps = 0
        self.woken: list[dict[str, float]] = []  # one entry per unit that came back

    def write(self, model: nn.Module) -> None:
        """Called after every epoch: takes apart what has changed since."""
        if not any(bool(asleep.any()) for asleep in self.asleep):
            return
        now = look(model)
        self.steps += EPOCH_STEPS
        for k, (old, new) in enumerate(zip(self.before, now, strict=True)):
            gram = old.w @ old.w.T
            length = (gram.diagonal() - 1)[:, None] * old.w
            gram.fill_diagonal_(0)
            active = gram[:, ~old.dead] @ old.w[~old.dead]
            lifeless = gram[:, old.dead] @ old.w[old.dead]
            h, w = (old.h + new.h) / 2, (old.w + new.w) / 2  # with midpoints the parts add up exactly
            parts = [-4 * C * EPOCH_STEPS * h @ part.T for part in (length, active, lifeless)]
            parts += [h @ (new.w - old.w).T - sum(parts), (new.h - old.h) @ w.T, new.b - old.b]
            for entry, part in zip(self.ENTRIES, parts, strict=True):
                self.moved[k][entry] += part
            first = self.start[k]
            if self.steps == EPOCH_STEPS:
                self.shrunk.append(float((new.w @ old.u)[old.dead].sum() / (old.w @ old.u)[old.dead].sum()))
            for unit in (self.asleep[k] & ~new.dead).nonzero().flatten().tolist():
                image = int(new.z[:, unit].argmax())
                self.woken.append(
                    {"layer": k, "step": self.steps, "before": float(first.z[image, unit])}
                    | {"row alone": float((first.h @ new.w[unit] + new.b[unit]).max() > 0)}
                    | {"input alone": float((new.h @ first.w[unit] + first.b[unit]).max() > 0)}
                    | {entry: float(self.moved[k][entry][image, unit]) for entry in self.ENTRIES}
                )
            self.asleep[k] &= new.dead
        self.before = now


def learn(model: nn.Module, optimizer: Optimizer, index: int, ledger: Ledger | None = None) -> float:
    """One task; returns the share of the images that it has memorised."""
    labels, order = tasks.task(index).targets, torch.Generator().manual_seed(index)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        if ledger is not None:
            ledger.write(model)
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def adamo(model: nn.Module, bias_decay: float, every: Literal["auto"] | int) -> AdamO:
    groups = param_groups(model)
    return AdamO(groups, LR, isometry=ISOMETRY, isometry_every=every, bias_decay=bias_decay, fused=True)


print(f"1. Adam (lr {LR:g}) ruins a network: digits, 64-128-128-128-10, new random labels in every task\n")
print("   task  memorised   dead of 128 in layers 1, 2, 3")
model = build("mlp", input_shape=(64,), classes=10, width=128, depth=3)
adam = Adam(model.parameters(), lr=LR, fused=True)
for task in range(RUIN):
    accuracy = learn(model, adam, task)
    if task % 3 == 0 or task == RUIN - 1:
        print(f"   {task:4d}  {accuracy:9.1%}   " + " ".join(f"{n:8d}" for n in dead(model)))

print(f"\n2. Three copies of it go on: Adam as it is, two fresh AdamO (lr {LR:g}, isometry {ISOMETRY:g})\n")
arms: list[tuple[str, nn.Module, Optimizer]] = []
for name, decay in (("Adam", None), ("AdamO", 0.0), (f"AdamO, bias_decay {BIAS_DECAY:g}", BIAS_DECAY)):
    net = copy.deepcopy(model)
    if decay is None:
        optimizer: Optimizer = Adam(net.parameters(), lr=LR, fused=True)
        optimizer.load_state_dict(adam.state_dict())
    else:  # the ledger wants the formula in every step, not the sum of many steps now and then
        optimizer = adamo(net, decay, every=1)
    arms.append((name, net, optimizer))
ledger = Ledger(model)
print("        " + "".join(f"{name:>30s}" for name, _, _ in arms))
print("   task " + "memorised   dead in 1, 2, 3".rjust(30) * 3)
for task in range(RUIN, TASKS):
    row = f"   {task:4d} "
    for name, net, optimizer in arms:
        accuracy = learn(net, optimizer, task, ledger if name == "AdamO" else None)
        row += (f"{accuracy:9.1%}   " + " ".join(f"{n:4d}" for n in dead(net))).rjust(30)
    print(row)

print("""
3. Why the units were dead. u is the direction of the mean input; s = |W u|^2 says how often the rows repeat
   it (1 in an isometry). Dead rows point against u. While u is near a singular direction of W the step
   shrinks every w.u alike, by exp(-4c (s - 1)) per step. Measured: the dead rows, over the first epoch.

   layer  dead  dead at b = 0  bias/barrier  w.u of dead, active      s   w.u per epoch, theory""")
for k, layer in enumerate(ledger.start):
    a, free = layer.w @ layer.u, (layer.z - layer.b).amax(0) > 0
    s = float(a.square().sum())
    print(
        f"   {k + 1:5d} {int(layer.dead.sum()):5d} {int((layer.dead & ~free).sum()):14d} "
        f"{float((layer.b / layer.barrier)[layer.dead].max()):13.3f} "
        f"{float(a[layer.dead].mean()):13.2f}, {float(a[~layer.dead].mean()):6.2f} {s:6.1f} "
        f"{ledger.shrunk[k] - 1:14.1%}, {math.expm1(-4 * C * (s - 1) * EPOCH_STEPS):6.1%}"
    )

print(f"""
4. AdamO: when they came back, and what brought them: the mean change of z = w.h + b, from the start to the
   moment of waking, on the image that woke the unit, by cause. Active rows push a dead one away from where
   they point; dead rows, which crowd at -u, push each other apart; "rest" is what both overestimate, since
   the ledger takes the overlaps at the start of each epoch. "alone": how many units the new row with the old
   input, or the old row with the new input, would have woken.

   layer  dead    back in task {RUIN}, {RUIN + 1}, later, never    alone: row, input""")
for k, layer in enumerate(ledger.start):
    back = [unit for unit in ledger.woken if unit["layer"] == k]
    when = [int(unit["step"] - 1) // (EPOCHS * EPOCH_STEPS) for unit in back]
    row = [when.count(0), when.count(1), sum(t > 1 for t in when), int(ledger.asleep[k].sum())]
    alone = [int(sum(unit[e] for unit in back)) for e in ("row alone", "input alone")]
    print(
        f"   {k + 1:5d} {int(layer.dead.sum()):5d}    {'':8s}"
        + "".join(f"{n:6d}" for n in row)
        + f"{alone[0]:15d}, {alone[1]:5d}"
    )
print("\n   layer  z before" + "".join(f"{entry:>13s}" for entry in Ledger.ENTRIES) + "   z at waking")
for k in range(3):
    back = [unit for unit in ledger.woken if unit["layer"] == k]
    mean = {e: sum(unit[e] for unit in back) / max(len(back), 1) for e in ("before", *Ledger.ENTRIES)}
    print(
        f"   {k + 1:5d} {mean['before']:9.2f}"
        + "".join(f"{mean[e]:+13.2f}" for e in Ledger.ENTRIES)
        + f"{sum(mean.values()):14.2f}"
    )

print("""
5. Who is dead at the end, mostly units that died anew, and is it the bias? "fire at b = 0": would without it.

   layer   AdamO: dead, fire at b = 0, bias/barrier   with bias decay: the same""")
for k in range(3):
    row = ""
    for _, net, _ in arms[1:]:
        layer = look(net)[k]
        fire = layer.dead & ((layer.z - layer.b).amax(0) > 0)
        worst = float((layer.b / layer.barrier)[layer.dead].max()) if layer.dead.any() else 0.0
        row += f"{int(layer.dead.sum()):16d}, {int(fire.sum()):4d}, {worst:12.3f}    "
    print(f"   {k + 1:5d}{row.rstrip()}")

print(f"""
6. The bias barrier. No unit came near it, so {PLANTED} dead ones of layer 2 are put behind it, which
   changes no output: b = -1.2 max|h|. The isometry step does not see biases; bias decay makes them
   (1 - lr gamma)^t b.

                     AdamO                              AdamO, bias_decay {BIAS_DECAY:g}
   task   -max|h|   bias  fired of {PLANTED}     -max|h|   bias (theory)  fired of {PLANTED}""")
planted = look(model)[1].dead.nonzero().flatten()[:PLANTED]
below = 1.2 * look(model)[1].barrier
with torch.no_grad():
    model.layers[1].bias[planted] = below
pair: list[tuple[nn.Module, float, Optimizer, set[int]]] = []
for decay in (0.0, BIAS_DECAY):
    net = copy.deepcopy(model)
    pair.append((net, decay, adamo(net, decay, "auto"), set()))
for task in range(RUIN, TASKS):
    row = f"   {task:4d}"
    for net, decay, optimizer, fired in pair:
        learn(net, optimizer, task)
        layer = look(net)[1]
        fired.update(planted[~layer.dead[planted]].tolist())
        row += f"{layer.barrier:10.1f} {float(layer.b[planted].min()):6.1f}"
        if decay:
            steps = (task - RUIN + 1) * EPOCHS * EPOCH_STEPS
            row += f" ({below * (1 - LR * decay) ** steps:5.1f})"
        row += f"{len(fired):11d}    "
    print(row.rstrip())
