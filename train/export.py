"""Writes the newest checkpoint of a run as a model folder, or as an adapter.

python train/export.py RUN --out model --dtype bfloat16
python train/export.py RUN --out adapter --adapter
"""

import argparse
from pathlib import Path

import torch

from anchorcoder_train.export import export_adapter, export_model
from anchorcoder_train.recipe import read_recipe
from anchorcoder_train.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--adapter", action="store_true", help="the adapter alone")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    options = parser.parse_args()
    recipe = read_recipe(options.run / "recipe.yaml")
    trainer = Trainer(recipe, options.run)
    if trainer.state.step == 0:
        raise SystemExit(f"{options.run} has no checkpoint")
    if options.adapter:
        export_adapter(recipe, trainer.built, options.out)
    else:
        export_model(recipe, trainer.built, options.out, getattr(torch, options.dtype))


if __name__ == "__main__":
    main()
