"""Draws a few tasks of each stream: `python docs/draw_streams.py` writes docs/figures/streams.svg.

Handwritten digits of scikit-learn, so that anybody can draw it again; needs Pillow.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from isoplast.data import load_data
from isoplast.streams import Task, TaskSequence, stream

OUT = Path(__file__).parent / "figures" / "streams.svg"
TASKS, SHOWN, SIDE = 5, 4, 30  # tasks of a row, images of a task, pixels of an image
LEFT, GAP, ROW = 8, 22, 74
STYLE = """
text{font:12px system-ui,sans-serif;fill:#222}.small{font-size:10px;fill:#666}
image{image-rendering:pixelated}path{fill:none;stroke:#2a6fdb;stroke-width:1.5}
rect{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#eee}.small{fill:#aaa}rect{fill:#1c1c1e}
path{stroke:#7db0ff}}
"""
IMAGES: list[tuple[str, dict[str, Any]]] = [
    ("random-labels", {}),
    ("pixel-permutation", {}),
    ("label-shuffling", {}),
    ("label-noise", {"noise": 1.0, "decay_tasks": 4}),
    ("class-incremental", {"classes_per_task": 2}),
    ("class-pairs", {}),
    ("warm-start", {"share": 0.25}),
    ("input-drift", {"period": 8}),
    ("input-drift", {"kind": "blur", "period": 8}),
    ("pixel-permutation", {"gradual": 4, "blend": "interpolation"}),
    ("random-labels", {"recurring": 2}),
]
CURVES: list[tuple[str, dict[str, Any]]] = [
    ("sine", {"examples": 300}),
    ("bit-flipping", {"examples": 60}),
    ("teachers", {"examples": 60}),
    ("target-shift", {"examples": 60}),
]


def main() -> None:
    """Write the figure."""
    digits = load_data("digits", samples=1000, test_samples=300, test=True)
    parts, y = [], 24
    for name, settings in IMAGES:
        sequence = stream(name, digits, seed=1, tasks=TASKS, **settings)
        parts.append(row(y, titled(name, settings), sequence, pictures))
        y += ROW
    for name, settings in CURVES:
        title = {"sine": "sine: target against input"}.get(name, f"{name}: targets of successive examples")
        parts.append(row(y, title, stream(name, seed=1, **settings), curve))
        y += ROW
    width = LEFT + TASKS * (SHOWN * SIDE + GAP)
    body = "\n".join(parts)
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
        f'role="img" aria-label="A few tasks of each stream"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB")


def titled(name: str, settings: dict[str, Any]) -> str:
    """The name with the settings that differ from the defaults."""
    return name + "".join(f", {key}: {value}" for key, value in settings.items())


def row(y: int, title: str, sequence: TaskSequence, draw: Any) -> str:
    """A title, and some tasks beside each other."""
    found = [f'<text x="{LEFT}" y="{y - 6}" font-weight="600">{html.escape(title)}</text>']
    for index in range(TASKS):
        found.append(draw(LEFT + index * (SHOWN * SIDE + GAP), y, sequence.task(index)))
    return "\n".join(found)


def pictures(x: int, y: int, task: Task) -> str:
    """The first images of a task with their labels."""
    shown = task.inputs[:SHOWN, 0].numpy()
    low, high = task.inputs.min().item(), task.inputs.max().item()
    sheet = np.concatenate(list((255 * (shown - low) / (high - low)).round().astype(np.uint8)), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(255 - sheet).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    wide = len(shown) * SIDE
    labels = "".join(
        f'<text class="small" text-anchor="middle" x="{x + SIDE * (k + 0.5):g}" y="{y + SIDE + 12}">'
        f"{label}</text>"
        for k, label in enumerate(task.targets[:SHOWN].tolist())
    )
    caption = f'<text class="small" x="{x}" y="{y + SIDE + 24}">{len(task.targets)} examples</text>'
    image = f'<image x="{x}" y="{y}" width="{wide}" height="{SIDE}" href="data:image/png;base64,{data}"/>'
    return image + labels + caption


def curve(x: int, y: int, task: Task) -> str:
    """Targets against the input where that is one number, else one after the other."""
    values = task.targets[:, 0].double()
    across = task.inputs[:, 0].double() if task.inputs.shape[1] == 1 else torch.arange(len(values)).double()
    order = across.argsort()
    across, values = across[order], values[order]
    scale = max(1e-9, float(values.max() - values.min()))
    left, span = float(across.min()), float(across.max() - across.min())
    points = " ".join(
        f"{x + SHOWN * SIDE * (a - left) / span:.1f},{y + SIDE * (1 - (v - float(values.min())) / scale):.1f}"
        for a, v in zip(across.tolist(), values.tolist(), strict=True)
    )
    low, high = float(values.min()), float(values.max())
    caption = f'<text class="small" x="{x}" y="{y + SIDE + 12}">{low:.2g} to {high:.2g}</text>'
    return f'<path d="M{points.replace(" ", "L")}"/>{caption}'


if __name__ == "__main__":
    main()
