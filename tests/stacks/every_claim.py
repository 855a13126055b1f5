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
        "saved by 2 processes, resumed by 4 and by 1 to the same bits; AdamO and attach",
        "checkpoints:resumed",
        processes=4,
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
    Claim(
        "LoRA, PEFT",
        "isometry of adapters is refused; adapter_groups keeps A orthonormal and leaves B alone",
        "adapters:lora",
        needs=("peft",),
    ),
    Claim(
        "Lightning",
        "AdamO in configure_optimizers equals a loop of one's own",
        "lightning_training:equal",
        needs=("lightning",),
    ),
    Claim(
        "Lightning",
        "PlasticityCallback: ReDo and Monitor resume from a checkpoint to the same bits",
        "lightning_training:resumed",
        needs=("lightning",),
    ),
    Claim(
        "Lightning",
        "ScheduleFreeCallback: validation has the averaged weights, and they become isometric",
        "lightning_training:schedule_free",
        needs=("lightning", "schedulefree"),
    ),
    Claim(
        "transformers Trainer",
        "optimizer_cls_and_kwargs with the model's groups equals a loop of one's own",
        "trainer_training:equal",
        needs=("transformers", "accelerate"),
    ),
    Claim(
        "transformers Trainer",
        "PlasticityCallback: ReDo and Monitor resume from a checkpoint to the same bits",
        "trainer_training:resumed",
        needs=("transformers", "accelerate"),
    ),
    Claim(
        "Accelerate",
        "AdamO, and attach before or after prepare(), with accumulation and clipping",
        "accelerate_training:equal",
        needs=("accelerate",),
    ),
    Claim(
        "Accelerate",
        "Follow: ReDo behind a prepared optimizer resumes from save_state to the same bits",
        "accelerate_training:resumed",
        needs=("accelerate",),
    ),
    Claim(
        "Stable-Baselines3",
        "policy_kwargs: PPO, DQN and SAC train with AdamO, which is saved with them",
        "baselines_training:optimizer_class",
        needs=("stable_baselines3",),
    ),
    Claim(
        "Stable-Baselines3",
        "layers stay isometric; the heads of actor and critic can be left free",
        "baselines_training:isometric",
        needs=("stable_baselines3",),
    ),
    Claim(
        "Stable-Baselines3",
        "PlasticityCallback: ReDo on policies that fx cannot trace, Monitor, tasks",
        "baselines_training:resets",
        needs=("stable_baselines3",),
    ),
    Claim(
        "timm",
        "its factory, registry, weight-decay groups and schedules",
        "timm_training:factory",
        needs=("timm",),
    ),
    Claim("timm", "layer decay, with attach(model=)", "timm_training:layer_decay", needs=("timm",)),
    Claim(
        "torchtitan-style configuration",
        "one optimizer for each part, flat distributed state, foreach and fused",
        "titan_config:configured",
        processes=2,
    ),
    Claim(
        "JAX",
        "adamo equals the torch optimizer over 100 steps of a schedule, compiled once, also sharded",
        "jax_training:equal",
        needs=("jax", "optax"),
    ),
    Claim(
        "JAX", "decoupled_isometry behind another optimizer", "jax_training:behind", needs=("jax", "optax")
    ),
)
