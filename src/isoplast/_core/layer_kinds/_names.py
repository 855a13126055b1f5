"""What names say where no module does: embeddings, normalisations, maps and stacks of experts."""

from __future__ import annotations

import re

_EMBEDDING = re.compile(
    r"(?i:embed|embd|(^|_)embs?(_|\d|$)|token|(^|_)tok(_|$)|(?<![a-z])position|(^|_)pos(_|$)|^w[tp]e$"
    r"|^vocab(ulary)?$|lookup|codebook|^shared$|relative_attention_bias)"
)
_NORMALISATION = re.compile(r"(?i:norm\d*$|(^|_)bn\d*$|^ln_|(^|_)ln\d*$)")
_MAP = re.compile(
    r"(?i:weight|kernel|proj|matrix|linear|dense|lora|expert|(^|_)(mat|fc\d*|gate|up|down|mix(ing|er)?)(_|$))"
    r"|^[wW]\d*$|^[wW]_\w{1,5}$|^W[a-z]{1,3}\d*$|^w[qkvo]$|^[UVM]$"
)
_EXPERTS = re.compile(r"(?i:expert)")
_ONE_OF_MANY = re.compile(r"(?i:experts?\.\d+\.)")


def own_name(name: str) -> str:
    """The name by which the author of a network called a layer: without "weight" and places in lists.

    Example:
        >>> own_name("blocks.0.attn.to_qkv.1.weight"), own_name("attn.in_proj_weight"), own_name("weight")
        ('to_qkv', 'in_proj_weight', '')
    """
    return _path(name)[1]


def owner_name(name: str) -> str:
    """The path of the module in which that layer stands beside others.

    Example:
        >>> owner_name("blocks.0.attn.to_qkv.1.weight"), owner_name("attn.in_proj_weight")
        ('blocks.0.attn', 'attn')
    """
    return _path(name)[0]


def _path(name: str) -> tuple[str, str]:
    owner, _, own = name.rpartition(".")
    if own == "weight":
        owner, _, own = owner.rpartition(".")
    while own.isdigit():
        owner, _, own = owner.rpartition(".")
    return owner, own


def named_embedding(name: str) -> bool:
    """Whether a table, or the module whose weight it is, has one of the usual names of embeddings."""
    owner, _, leaf = name.rpartition(".")
    return bool(_EMBEDDING.search(owner.rpartition(".")[2] if leaf == "weight" else leaf))


def named_normalisation(owner: str) -> bool:
    """Whether a module has one of the usual names of normalisations."""
    return bool(_NORMALISATION.search(owner.rpartition(".")[2]))


def named_bias(leaf: str) -> bool:
    """Whether a parameter is called a bias, whatever its shape."""
    return "bias" in leaf.lower()


def named_parametrised(leaf: str) -> bool:
    """Whether weight_norm or spectral_norm of torch before 2.0 make a weight from a parameter."""
    return leaf in ("weight_g", "weight_v", "weight_orig")


def named_map(leaf: str) -> bool:
    """Whether a parameter of a module that nobody knows is called like a map between layers.

    What is called otherwise is left alone: a pull of its singular values to one destroys log decay rates,
    prototypes or tables of offsets, and a map that is left out only goes without.

    Example:
        >>> [leaf for leaf in ("weight", "W_q", "up_proj", "U", "A_log", "latents") if named_map(leaf)]
        ['weight', 'W_q', 'up_proj', 'U']
    """
    return bool(_MAP.search(leaf))


def named_experts(name: str) -> bool:
    """Whether a tensor of three dimensions is called like the stacked matrices of several experts.

    Example:
        >>> named_experts("mlp.experts.up_proj"), named_experts("mlp.experts.0.up_proj.weight")
        (True, False)
    """
    return bool(_EXPERTS.search(name)) and not _ONE_OF_MANY.search(name)
