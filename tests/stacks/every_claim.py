"""What is claimed about training stacks: one entry each, from which tests and the support matrix are made."""

from __future__ import annotations

from stack_claims import Claim

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "DDP",
        "equals one process on the whole batch, exact, amortised and every 3 steps",
        "data_parallel:equal",
        processes=2,
    ),
    Claim("DDP", "the same on 4 processes", "data_parallel:equal", processes=4),
    Claim(
        "DDP", "float32 weights are the same bits on all processes", "data_parallel:same_bits", processes=2
    ),
    Claim(
        "DDP",
        "frozen parameters, and branches that some or all processes have no gradient of",
        "data_parallel:missing_gradients",
        processes=2,
    ),
    Claim(
        "ZeroRedundancyOptimizer",
        "equals one process, also where a process owns no matrix",
        "data_parallel:zero",
        processes=2,
    ),
    Claim("ZeroRedundancyOptimizer", "the same on 4 processes", "data_parallel:zero", processes=4),
    Claim(
        "FSDP2",
        "equals one process; foreach and fused",
        "sharded:equal",
        {"fused": [None, True]},
        processes=2,
    ),
    Claim(
        "FSDP2",
        "the same on 4 processes, with uneven shards",
        "sharded:equal",
        {"fused": [None]},
        processes=4,
    ),
    Claim(
        "FSDP2",
        "a process whose shard is empty takes part in every collective",
        "sharded:empty_shards",
        {"widths": [20, 3, 17, 5], "expected": [1, 1, 1, 0]},
        processes=4,
    ),
    Claim("FSDP2", "frozen parameters, and layers without a gradient", "sharded:frozen", processes=2),
    Claim(
        "FSDP2",
        "an exact step sends one all-gather for each matrix; one without a turn nothing",
        "sharded:collectives",
        processes=2,
    ),
    Claim(
        "tensor parallelism",
        "column and row shards equal one process",
        "sharded:tensor_parallel",
        processes=2,
    ),
    Claim(
        "2-D meshes",
        "replicas of shards (HSDP), and FSDP2 over tensor parallelism, equal one process",
        "sharded:meshes",
        processes=4,
    ),
    Claim(
        "distributed checkpoints",
        "saved by 2 processes, resumed by 4, 2 and 1 to the same bits; AdamO and attach",
        "checkpoints:resumed",
        processes=4,
        limit=240,
    ),
    Claim(
        "distributed checkpoints",
        "asking for a state dict moves no weight",
        "checkpoints:asking_moves_nothing",
        processes=2,
    ),
    Claim("FSDP1", "flat parameters are refused, with the way out", "flattened:fsdp1", processes=2),
    Claim(
        "DeepSpeed", "flat partitions and placeholders are refused, with the way out", "flattened:deepspeed"
    ),
    Claim("gradient accumulation", "is one step of the whole batch", "loops:accumulation"),
    Claim("gradient clipping", "clips the task's gradient alone", "loops:clipping"),
    Claim("GradScaler", "a skipped step moves nothing, fused or not", "loops:scaler"),
    Claim("autocast", "reaches the isometry step no more than Adam's", "loops:autocast"),
    Claim("EMA, SWA", "average what the step left; SWALR scales the step", "loops:averages"),
    Claim(
        "schedulers",
        "OneCycle, warm-up-stable-decay, warm-up-cosine: every step counts with its own rate",
        "loops:scheduled",
    ),
    Claim(
        "schedule-free",
        "attach: the weights that are evaluated become isometric, whatever was switched in between",
        "loops:schedule_free",
        needs=("schedulefree",),
    ),
    Claim(
        "torch.compile",
        "opt.step compiled: no compilation after the 20th of 1000 steps of a schedule",
        "loops:compiled",
    ),
    Claim("optimizer in backward", "one optimizer per parameter equals one for all", "loops:in_backward"),
)
