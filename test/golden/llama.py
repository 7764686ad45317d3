"""Small models of the Llama class: their settings, weights and spellings.

make.py builds them; README.md describes what each of them tries.
"""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SCALE_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SCALE_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}


def plain(theta):
    return {"rope_type": "default", "rope_theta": theta}


# dtype: how weights are stored. spelling: which transformers' config.json this is (default v5).
# omit: keys taken out of it. beside: other spellings written beside it. shard: size of a file.
# stops: from this step of the greedy continuation on, a new id becomes an end of text.
BASE = {"max_position_embeddings": 512, "rms_norm_eps": 1e-5, "num_hidden_layers": 2}
SIZE_16BIT = {"hidden_size": 48, "intermediate_size": 80, "vocab_size": 160, "head_dim": 16}
SIZE_32BIT = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 128, "head_dim": 16}
MODELS = {
    "codellama": dict(
        dtype="bfloat16",
        spelling="v4",
        omit=["head_dim"],
        config={**SIZE_16BIT, "num_attention_heads": 3, "rope_parameters": plain(1000000.0)},
    ),
    "deepseek": dict(
        dtype="float32",
        spelling="v4",
        omit=["num_key_value_heads"],
        beside=["v5"],
        config={
            **SIZE_32BIT,
            "num_attention_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 4.0},
        },
    ),
    "smollm2": dict(
        dtype="bfloat16",
        config={
            **SIZE_16BIT,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
            "rope_parameters": plain(100000.0),
        },
    ),
    "tinyllama": dict(
        dtype="float16",
        spelling="v4",
        config={
            **SIZE_16BIT,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 128,
            "rope_parameters": plain(10000.0),
        },
    ),
    "llama3": dict(
        dtype="bfloat16",
        beside=["v4"],
        stops=5,
        config={
            **SIZE_16BIT,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 128,
            "rope_parameters": SCALE_LLAMA3,
        },
    ),
    "yarn": dict(
        dtype="float32",
        beside=["v4"],
        config={
            **SIZE_32BIT,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
            "rope_parameters": SCALE_YARN,
        },
    ),
    "yarn-attention": dict(
        dtype="float32",
        beside=["v4"],
        config={
            **SIZE_32BIT,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "rope_parameters": {
                **SCALE_YARN,
                "attention_factor": 1.25,
                "beta_fast": 2.0,
                "beta_slow": 0.25,
            },
        },
    ),
    "yarn-mscale": dict(
        dtype="float32",
        beside=["v4"],
        config={
            **SIZE_32BIT,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "rope_parameters": {
                **SCALE_YARN,
                "mscale": 1.5,
                "mscale_all_dim": 0.5,
                "beta_fast": 4.0,
                "truncate": False,
            },
        },
    ),
    "granite": dict(
        dtype="float32",
        config={
            **SIZE_32BIT,
            "num_attention_heads": 2,
            "head_dim": 24,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": plain(10000.0),
        },
    ),
    "mqa": dict(
        dtype="bfloat16",
        config={
            **SIZE_16BIT,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "rope_parameters": plain(10000.0),
        },
    ),
    "sharded": dict(
        dtype="float16",
        shard="32KB",
        same_as="tinyllama",
        config={},
    ),
    "odd": dict(
        dtype="bfloat16",
        config={
            "hidden_size": 60,
            "intermediate_size": 52,
            "vocab_size": 131,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "num_hidden_layers": 3,
            "rope_parameters": plain(10000.0),
        },
    ),
}


def build(spec):
    return LlamaForCausalLM(LlamaConfig(bos_token_id=1, eos_token_id=2, **spec["config"]))


def fill(model, seed):
    """Random weights under which every part of the model shows in the logits.

    The residual stream is small, so that the epsilon of the norms counts; logits are large.
    numpy promises never to change RandomState's numbers.
    """
    random = np.random.RandomState(seed)
    for name, tensor in sorted(model.named_parameters()):
        noise = random.standard_normal(tuple(tensor.shape))
        residual = 0.1 if "o_proj" in name or "down_proj" in name else 1.0
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.2 * residual * noise
        elif "embed_tokens" in name:
            value = 0.03 * noise
        elif "lm_head" in name:
            value = 0.3 * noise
        else:
            sharp = 0.7 if "q_proj" in name or "k_proj" in name else 1.0
            value = residual * sharp * noise / np.sqrt(tensor.shape[1])
        tensor.data.copy_(torch.from_numpy(value))


def v4_spelling(config, spec):
    """config.json as transformers 4 wrote it."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["torch_dtype"] = config.pop("dtype")
    if rope["rope_type"] == "default":
        config["rope_scaling"] = None
    elif rope["rope_type"] == "linear":
        # the oldest spelling of all
        config["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    else:
        config["rope_scaling"] = rope
    config["transformers_version"] = "4.57.1"
    config.pop("pad_token_id", None)
    return config
