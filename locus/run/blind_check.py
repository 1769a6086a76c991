"""The pre-flight's last part, which needs the policy: does it earn more than chance where it sees nothing?"""

from __future__ import annotations

import logging
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from locus import ranks
from locus.tasks.datamodule import SampleMaker
from locus.tasks.preflight import blackened, check_blind
from locus.tasks.rollouts import roll_out
from locus.training.module import groups_of_all

log = logging.getLogger("locus")


class BlindCheck(Callback):
    """Before the first validation the policy answers held-out prompts whose pictures are black, as validation asks.

    Of a mixture each task is checked by itself. The answers are written nowhere, and their random numbers are the
    prompts' own, so the run is the same without it. A resumed run has no validation before its first step.

    Args:
        prompts: of each task, the first of its validation examples; fewer where there are no more.
    """

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        """Raises LocusError, on every rank, where a task is answered better than by chance."""
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        make = trainer.datamodule.make  # type: ignore[attr-defined]  # set by Lightning without a declaration
        with module.rollout_phase(), trainer.precision_plugin.val_step_context():
            policy = module.rollout_policy()  # of a sharded one all ranks make a copy together
            for task in make.task.apart():
                examples = task.examples("validation")
                places = ranks.dealt(range(min(self.prompts, len(examples))))
                making = SampleMaker(task, make.builder, make.frame)
                samples = [blackened(making(examples[place])) for place in places]
                how = module.validation_sampling, 1, module.seed, -1, module.engine
                answered = roll_out(policy, task, samples, module.decode, *how) if samples else []
                groups = groups_of_all(ranks.laid_out([group for group, _ in answered]))
                said = check_blind(task, groups) if groups else "no example is held out"
                if trainer.is_global_zero:
                    log.info("pre-flight, %d samples of %s with black pictures: %s", len(groups), task.name, said)
