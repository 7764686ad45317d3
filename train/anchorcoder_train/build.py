"""The model that a recipe trains, with anchor attention and, for a retrofit, its adapter."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from .attention import Anchors, attach
from .recipe import Recipe
from .settings import Policy, plain_policy, resolve
from .vocabulary import Vocabulary

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]


@dataclass
class Built:
    """A model to train."""

    model: PreTrainedModel | PeftModel
    anchors: Anchors
    policy: Policy  # what it is trained for, the ramp's end
    vocabulary: Vocabulary
    insert: int | None  # id of the inserted anchor
    new_row: int | None  # the same where the base does not have it
    # Another model as the teacher; None: there is none, or it is the model itself.
    teacher: PreTrainedModel | None


def add_rows(model: PreTrainedModel, id: int, like: int) -> None:
    """Makes room for the id, and starts its input and output rows as those of another id."""
    if id >= model.config.vocab_size:
        model.resize_token_embeddings(id + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[id] = layer.weight[like]


def _adapter(model: PreTrainedModel, recipe: Recipe, row: int | None) -> PeftModel:
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    rows = None
    if row is not None:
        rows = {"embed_tokens": [row]} if tied else {"embed_tokens": [row], "lm_head": [row]}
    lora = recipe.lora
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=ATTENTION + (FEED_FORWARD if lora.targets == "all" else []),
        trainable_token_indices=rows,
    )
    return get_peft_model(model, settings)


def _load(folder: object) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@contextmanager
def _whole() -> Iterator[None]:
    """For a model that stays out of FSDP, which reads weights in one process of a machine and
    spreads them later."""
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _is_new(recipe: Recipe, insert: int) -> bool:
    """Whether the base's tokenizer lacks the inserted anchor. A base without a tokenizer, such as
    a twin, has the recipe's."""
    base = recipe.base
    has_own = base is not None and (base / "tokenizer.json").exists()
    return has_own and insert >= Vocabulary(base).size


def build(recipe: Recipe) -> Built:
    """Everything in float32 and on the CPU. Raises ValueError where recipe and folders disagree."""
    torch.manual_seed(recipe.seed)
    vocabulary = Vocabulary(recipe.tokenizer)
    if recipe.mode == "scratch":
        config = AutoConfig.for_model(**recipe.model)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        model = _load(recipe.base)
    words = recipe.anchors
    # Without anchors the twin of a model still reads what its twin reads.
    insert = vocabulary.inserted_id(words)
    new_row = None
    if words is not None and insert is not None and _is_new(recipe, insert):
        new_row = insert
        add_rows(model, insert, vocabulary.newline_ids[0])
    if vocabulary.size > model.config.vocab_size:
        raise ValueError(f"the model has {model.config.vocab_size} ids, not {vocabulary.size}")
    layers = model.config.num_hidden_layers
    policy = plain_policy(layers)
    if words is not None:
        policy = resolve({"kind": recipe.policy}, words, layers, vocabulary)
    if recipe.gradient_checkpointing:
        # The other kind would cut off what flows to the source layer.
        model.gradient_checkpointing_enable({"use_reentrant": False})
    anchors = attach(model, policy)
    if recipe.mode == "retrofit":
        model = _adapter(model, recipe, new_row)
    teacher = None
    if recipe.loss.kind == "kl" and recipe.loss.teacher != "self":
        with _whole():
            teacher = _load(recipe.loss.teacher).eval().requires_grad_(False)
        attach(teacher, plain_policy(teacher.config.num_hidden_layers))
    return Built(model, anchors, policy, vocabulary, insert, new_row, teacher)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name."""
    return {name: one for name, one in module.named_parameters() if one.requires_grad}
