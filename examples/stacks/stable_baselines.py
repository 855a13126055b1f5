"""AdamO in Stable-Baselines3, with resets of dormant units and a Monitor.

python examples/stacks/stable_baselines.py        # pip install isoplast[sb3]
"""

import torch
from stable_baselines3 import PPO

from isoplast import AdamO, param_groups
from isoplast.integrations.stable_baselines3 import PlasticityCallback

algorithm = PPO(
    "MlpPolicy",
    "CartPole-v1",
    n_steps=512,
    batch_size=64,
    n_epochs=4,
    seed=0,
    device="cpu",
    policy_kwargs={
        "activation_fn": torch.nn.ReLU,
        "optimizer_class": AdamO,
        "optimizer_kwargs": {"isometry": 0.1},
    },
)
print(algorithm.policy.optimizer.report())

# The one line above sees shapes. To leave the output layers of actor and critic free, give it groups:
groups = param_groups(algorithm.policy, head=0.0)
algorithm.policy.optimizer = AdamO(groups, lr=algorithm.learning_rate, isometry=0.1)

callback = PlasticityCallback(
    "redo",
    monitor={"measures": ["weights"], "every": 10, "budget": 0.5},
    task=lambda algorithm: algorithm.num_timesteps // 2048,  # where the environment changes, say
    every=20,
)
algorithm.learn(4096, callback=callback)
print(f"{callback.follow.steps} optimizer steps, {callback.follow.task} changes of task")
print(f"the monitor measured {len(callback.monitor.records)} times")
