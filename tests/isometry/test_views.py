"""How a parameter of any shape is seen as matrices, and changed through that view."""

import pytest
import torch
from given_matrices import normal

from isoplast.isometry import (
    edit_matrices_,
    flow_step_,
    is_matrix,
    isometry_step,
    isometry_step_,
    join_matrices,
    matrix_view,
    matrix_views,
)


@pytest.mark.parametrize(
    ("shape", "batch_dims", "expected"),
    [
        ((4, 3), 0, (4, 3)),
        ((8, 2, 3), 0, (8, 6)),
        ((8, 2, 3, 3), 0, (8, 18)),
        ((8, 2, 3, 3, 3), 0, (8, 54)),
        ((5, 4, 3), 1, (5, 4, 3)),
        ((5, 8, 2, 3, 3), 1, (5, 8, 18)),
        ((2, 5, 4, 3), 2, (2, 5, 4, 3)),
        ((0, 3, 3), 0, (0, 9)),
        ((4, 0, 3), 0, (4, 0)),
    ],
)
def test_shape_of_the_view(shape, batch_dims, expected):
    tensor = torch.zeros(shape)
    view = matrix_view(tensor, batch_dims=batch_dims)
    assert view.shape == expected
    assert view.data_ptr() == tensor.data_ptr()


def test_a_kernel_is_its_rows_flattened():
    kernel = normal(6, 2, 3, 3)
    assert torch.equal(matrix_view(kernel)[4], kernel[4].flatten())


@pytest.mark.parametrize(("shape", "batch_dims"), [((5,), 0), ((), 0), ((5, 4), 1), ((5, 4, 3), 2)])
def test_too_few_dimensions(shape, batch_dims):
    with pytest.raises(ValueError, match="at least two dimensions"):
        matrix_view(torch.zeros(shape), batch_dims=batch_dims)


@pytest.mark.parametrize(
    ("tensor", "batch_dims", "expected"),
    [
        (torch.zeros(2, 2), 0, True),
        (torch.zeros(8, 3, 3, 3), 0, True),
        (torch.zeros(2, 1, 3, 3), 0, True),
        (torch.zeros(4, 2, 2), 1, True),
        (torch.zeros(2, 2, dtype=torch.bfloat16), 0, True),
        (torch.zeros(5), 0, False),
        (torch.zeros(()), 0, False),
        (torch.zeros(1, 9), 0, False),
        (torch.zeros(9, 1), 0, False),
        (torch.zeros(9, 1, 1, 1), 0, False),
        (torch.zeros(4, 2, 1), 1, False),
        (torch.zeros(4, 2), 1, False),
        (torch.zeros(0, 4), 0, False),
        (torch.zeros(4, 0), 0, False),
        (torch.zeros(3, 3, dtype=torch.int64), 0, False),
        (torch.zeros(3, 3, dtype=torch.complex64), 0, False),
        (torch.zeros(3, 3, dtype=torch.bool), 0, False),
    ],
)
def test_is_matrix(tensor, batch_dims, expected):
    assert is_matrix(tensor, batch_dims=batch_dims) is expected


@pytest.mark.parametrize(
    ("shape", "split", "batch_dims", "expected"),
    [
        ((12, 4), 1, 0, [(12, 4)]),
        ((12, 4), 3, 0, [(3, 4, 4)]),
        ((12, 4), (8, 2, 2), 0, [(8, 4), (2, 4), (2, 4)]),
        ((12, 4), (12,), 0, [(12, 4)]),
        ((8, 2, 3, 3), 2, 0, [(2, 4, 18)]),
        ((5, 12, 4), 3, 1, [(5, 3, 4, 4)]),
        ((5, 12, 4), (8, 4), 1, [(5, 8, 4), (5, 4, 4)]),
        ((4, 12), -1, 0, [(12, 4)]),
        ((4, 12), -3, 0, [(3, 4, 4)]),
        ((4, 12), (-8, -2, -2), 0, [(8, 4), (2, 4), (2, 4)]),
        ((5, 4, 12), -3, 1, [(5, 3, 4, 4)]),
        ((5, 4, 12), (-8, -4), 1, [(5, 8, 4), (5, 4, 4)]),
    ],
)
def test_split(shape, split, batch_dims, expected):
    tensor = torch.arange(float(torch.zeros(shape).numel())).reshape(shape)
    views = matrix_views(tensor, split=split, batch_dims=batch_dims)
    assert [tuple(v.shape) for v in views] == expected
    assert views[0].data_ptr() == tensor.data_ptr()
    assert torch.equal(join_matrices(views, tensor, split=split), tensor)


@pytest.mark.parametrize("split", [5, 0, -3, (8, 3), (12, 0), (), (13, -1), (-12, 0), (-2, -1)])
def test_splits_that_do_not_fit(split):
    with pytest.raises(ValueError, match="split"):
        matrix_views(torch.zeros(12, 4), split=split)


LAYOUTS = {
    "linear": (normal(40, 20), {}),
    "tied strides": (normal(20, 40).mT, {}),
    "fused": (normal(60, 20), {"split": 3}),
    "grouped queries": (normal(60, 20), {"split": (40, 10, 10)}),
    "stored as (in, out)": (normal(20, 40), {"split": -1}),
    "fused, stored as (in, out)": (normal(20, 60), {"split": -3}),
    "grouped queries, stored as (in, out)": (normal(20, 60), {"split": (-40, -10, -10)}),
    "experts, stored as (in, out)": (normal(3, 10, 20), {"batch_dims": 1, "split": -2}),
    "channels last, by columns": (
        normal(16, 4, 3, 3).to(memory_format=torch.channels_last),
        {"split": -2},
    ),
    "kernel": (normal(16, 4, 3, 3), {}),
    "channels last": (normal(16, 4, 3, 3).to(memory_format=torch.channels_last), {}),
    "channels last, groups": (normal(16, 4, 3, 3).to(memory_format=torch.channels_last), {"split": 2}),
    "channels last, blocks": (normal(16, 4, 3, 3).to(memory_format=torch.channels_last), {"split": (12, 4)}),
    "channels last 3d": (normal(16, 4, 3, 3, 3).to(memory_format=torch.channels_last_3d), {}),
    "experts": (normal(3, 20, 10), {"batch_dims": 1}),
    "experts, fused": (normal(3, 20, 10), {"batch_dims": 1, "split": 2}),
    "experts, blocks": (normal(3, 20, 10), {"batch_dims": 1, "split": (15, 5)}),
    "experts, strided": (normal(3, 20, 10, 4)[..., 0], {"batch_dims": 1, "split": 2}),
    "strided kernel": (normal(16, 4, 3, 6)[..., ::2], {}),
    "one by one kernel": (normal(16, 4, 1, 1).to(memory_format=torch.channels_last), {}),
}


@pytest.mark.parametrize("step_", [isometry_step_, flow_step_])
@pytest.mark.parametrize(("tensor", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_editing_writes_back_whatever_the_strides(tensor, layout, step_):
    room = tensor.clone(memory_format=torch.preserve_format)
    stride = room.stride()
    # The oracle works on a contiguous copy, block by block.
    expected = tensor.clone(memory_format=torch.contiguous_format)
    for view in matrix_views(expected, **layout):
        step_(view, 1e-2)
    edit_matrices_(room, lambda view: step_(view, 1e-2), **layout)
    torch.testing.assert_close(room, expected, rtol=0, atol=1e-13)
    assert room.stride() == stride
    assert not torch.equal(room, tensor)


def test_blocks_are_moved_as_matrices_of_their_own():
    fused = normal(30, 10)
    q, k, v = (isometry_step(block, 1e-2) for block in fused.split(10))
    edit_matrices_(fused, lambda view: isometry_step_(view, 1e-2), split=3)
    torch.testing.assert_close(fused, torch.cat([q, k, v]), rtol=0, atol=1e-14)


def test_editing_a_parameter_leaves_no_graph():
    p = torch.nn.Parameter(normal(8, 2, 3, 3).to(memory_format=torch.channels_last))
    edit_matrices_(p, lambda view: isometry_step_(view, 1e-2))
    assert p.is_leaf
