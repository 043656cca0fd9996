"""Plan a shipped curriculum and look at its exact counts. Nothing is trained or downloaded."""

from ncamix.library import find
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.trainer import load_trainer

plan = make_plan(
    load_curriculum(find("curricula", "code_target")), load_trainer(find("trainers", "cpu"))
)
for stage in plan.stages:
    print(f"{stage.name}: {stage.num_batches} batches of {stage.batch_size} samples")
    print(f"  in all    {stage.counts}")
    for batch in (0, stage.num_batches // 2, stage.num_batches - 1):
        counts = stage.apportionment.counts[batch].tolist()
        print(f"  batch {batch:3} {dict(zip(stage.sources, counts, strict=True))}")
