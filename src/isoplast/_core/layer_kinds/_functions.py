"""What the functions of torch do with features, by their names."""

from __future__ import annotations

# fmt: off
POOL_FUNCTIONS = {
    f"{kind}{dims}d"
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
    for dims in (1, 2, 3)
}
DROPOUT_FUNCTIONS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
PASSING_FUNCTIONS = {
    *POOL_FUNCTIONS, *DROPOUT_FUNCTIONS, "contiguous", "clone", "to", "float", "double", "half", "bfloat16",
    "type_as", "neg", "interpolate",
}
"""Behind these every unit is still itself, in the dimension it was in."""

SUMS = {"add", "add_", "iadd", "sub", "sub_", "isub"}
PRODUCTS = {"mul", "mul_", "imul", "truediv", "div", "div_", "itruediv"}
SIZES = {"size", "dim", "getattr", "numel", "ndimension"}

LINEAR_SUMS = SUMS | {"__radd__", "__rsub__", "rsub", "subtract", "lerp", "lerp_"}
JOINTS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"}
SELECTIONS = {
    "where", "masked_fill", "masked_fill_", "masked_scatter", "masked_scatter_", "index_put", "index_put_",
    "__setitem__", "index_copy", "index_copy_", "index_add", "index_add_", "scatter", "scatter_",
}
"""Choices between values: linear unless the features decide."""

SCALINGS = PRODUCTS | {"__rmul__", "multiply", "divide", "true_divide", "addcmul", "addcdiv"}
MAP_FUNCTIONS = {
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addbmm",
    "addmv", "baddbmm", "einsum", "tensordot", "inner", "scaled_dot_product_attention",
    "multi_head_attention_forward",
}
"""Products with matrices: a layer reads its features."""

CONVOLUTION_FUNCTIONS = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
}
UNRELATED_FUNCTIONS = {
    "softmax", "log_softmax", "softmin", "gumbel_softmax", "zeros_like", "ones_like", "empty_like",
    "full_like", "rand_like", "randn_like", "randint_like", "new_zeros", "new_ones", "new_empty", "new_full",
}
"""Their values are no features: weights of a mean, or the same whatever the features are."""

LINEAR_FUNCTIONS = PASSING_FUNCTIONS | {
    "__get__", "__getitem__", "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "permute",
    "transpose", "transpose_", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "squeeze", "squeeze_",
    "unsqueeze", "unsqueeze_", "expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile",
    "chunk", "split", "tensor_split", "unbind", "narrow", "select", "index_select", "gather",
    "take_along_dim", "roll", "flip", "rot90", "unfold", "fold", "pad", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "native_channel_shuffle", "upsample", "grid_sample", "detach", "detach_", "type",
    "cpu", "cuda", "requires_grad_", "nan_to_num", "negative", "positive", "cumsum", "mean", "sum", "amax",
    "amin", "norm", "vector_norm", "var", "std", "median", "layer_norm", "batch_norm", "group_norm",
    "instance_norm", "rms_norm", "normalize", "local_response_norm", "feature_dropout",
    "feature_alpha_dropout", "dropout_", "lp_pool1d", "lp_pool2d", "fractional_max_pool2d", "as_subclass",
    "real", "view_as_real", "view_as_complex", "index_fill", "tril", "triu",
}
"""Linear in the features, or a normalisation, or only another view of them."""
# fmt: on
