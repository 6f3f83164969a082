"""A short run of GRPO on from the reasoning organism: `python -m diffamp.stages.grpo_train`."""

from __future__ import annotations

import shutil

from diffamp import params, paths
from diffamp.engine.adapters import load_adapter
from diffamp.engine.checkpoints import load_tokenizer
from diffamp.organisms.finetune import LOG
from diffamp.organisms.reinforce import reinforce
from diffamp.runtime import setup
from diffamp.tasks.draw import TRAINED, draw_tasks


def main() -> None:
    p = params.load()
    setup(p.seed, p.threads)
    base = paths.model(p.base.model)
    student = load_adapter(base, paths.organism(p.reinforce.student), p.base.precision, trainable=True)
    # of another seed than those that the student saw worked, which may be among them
    tasks = draw_tasks(TRAINED, p.reinforce.tasks, p.seed + 1, "train", p.reasoning.difficulties)
    limit = p.reasoning.max_new_tokens
    reinforce(student, load_tokenizer(base), tasks, paths.reinforced(), p.reinforce, limit, p.seed)
    shutil.copyfile(paths.reinforced() / LOG, paths.reinforced_log())  # in git, as the adapter is not


if __name__ == "__main__":
    main()
