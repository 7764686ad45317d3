"""Writes what the engine loads: a Hugging Face folder with an `anchors` block in its config, or a
PEFT adapter with `anchors.json` beside it."""

import json
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from .build import Built
from .recipe import Recipe
from .settings import SPELLINGS
from .vocabulary import copy_tokenizer


def block_of(recipe: Recipe, built: Built) -> dict[str, object] | None:
    """The `anchors` block: the recipe's words, and those spelt out that it leaves open."""
    if recipe.anchors is None:
        return None
    policy = built.policy
    block = {
        **recipe.anchors,
        # A list of every newline's id would be long; the word says the same.
        "tokens": recipe.anchors.get("tokens", list(policy.anchor_ids)),
        "insert": built.insert,
        "window": policy.window,
        # AnLLM keeps none, which a block can't say and its policy does not ask.
        "sinks": max(1, policy.sinks),
        "multi_head_positions": policy.multi_head_positions,
    }
    if policy.source_layer < 0:
        block["source_layer"] = None
    else:
        block["consumers_above"] = policy.consumers_above
    if not any(policy.dense):
        block.pop("dense_layers", None)
        block["per"] = "none"
    return block


def _plain_model(built: Built) -> PreTrainedModel:
    model = built.model
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def export_model(recipe: Recipe, built: Built, out: Path, dtype: torch.dtype) -> None:
    """Writes the whole model, an adapter merged into it. The model can't be trained on then."""
    model = _plain_model(built).to(dtype)
    if recipe.mode == "scratch":
        vocabulary = built.vocabulary
        # A new model's configs have the defaults of its class.
        for config in (model.config, model.generation_config):
            config.bos_token_id, config.eos_token_id = vocabulary.bos_id, vocabulary.eos_id
    model.config.use_cache = True
    # Readers that don't know anchors read it with their usual attention.
    model.set_attn_implementation("sdpa")
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    path = out / "config.json"
    config = json.loads(path.read_text())
    # Those of the base, in either spelling: the recipe's are all there are.
    for key in (*SPELLINGS, "anchors"):
        config.pop(key, None)
    block = block_of(recipe, built)
    if block is not None:
        config["anchors"] = block
    path.write_text(json.dumps(config, indent=2) + "\n")
    copy_tokenizer(recipe.tokenizer, out)
    own = (recipe.base or recipe.tokenizer) / "generation_config.json"
    if own.exists():
        shutil.copyfile(own, out / "generation_config.json")


def export_adapter(recipe: Recipe, built: Built, out: Path) -> None:
    """Writes the adapter and `anchors.json`. Raises ValueError for a model without an adapter,
    and where an adapter would need a row of embeddings that its base does not have."""
    if not isinstance(built.model, PeftModel):
        raise ValueError(f'a model of mode "{recipe.mode}" has no adapter')
    if built.new_row is not None:
        raise ValueError("the base has no row for the inserted anchor: export the whole model")
    out.mkdir(parents=True, exist_ok=True)
    built.model.save_pretrained(out, save_embedding_layers=False)
    text = json.dumps(block_of(recipe, built), indent=2)
    (out / "anchors.json").write_text(text + "\n")
    copy_tokenizer(recipe.tokenizer, out)
