"""Trains what a recipe says, or goes on where the run was left.

    python train/train.py train/recipes/anchor-code-23m.yaml --out runs/anchor-code-23m
    python train/train.py RECIPE --out RUN --set budget.minutes=9 data.batch=4
    accelerate launch --config_file fsdp.yaml train/train.py RECIPE --out RUN

RUN gets recipe.yaml, log.csv, valid.csv, loss.svg and checkpoints.
"""

import argparse
import json
from pathlib import Path

from anchorcoder_train.recipe import read_recipe
from anchorcoder_train.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes")
    options = parser.parse_args()
    trainer = Trainer(read_recipe(options.recipe, options.set), options.out)
    state = trainer.run()
    if trainer.accelerator.is_main_process:
        print(json.dumps(vars(state)))


if __name__ == "__main__":
    main()
