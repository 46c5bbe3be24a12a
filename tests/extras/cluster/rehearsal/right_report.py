"""What a graph that is as planned reports."""

from dataclasses import replace

from ms_codegeex.config.chosen_hardware import running_on
from ms_codegeex.extras.cluster.rehearsal import compile as compile_module
from ms_codegeex.extras.cluster.rehearsal.compile_report import RankReport
from ms_codegeex.extras.cluster.rehearsal.plan_checks import planned_buckets, planned_calls
from ms_codegeex.extras.cluster.rehearsal.schedule import planned_passes
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.planning.communicators import communicators_of


def held(config, rank):
    """What a rank holds, with its shapes and element types."""
    found = {"loss_scale.scale": [[], "float32"], "optimizer.step": [[], "int32"]}
    if config.training.precision == "fp16":
        found["loss_scale.good_steps"] = [[], "int32"]
    for layout in layouts_of(config):
        if layout.stage == config.mesh.coordinates(rank)[0]:
            local, whole = (x.local_shape(config.mesh) for x in (layout, replace(layout, optimizer_sharded=False)))
            found[layout.name] = [list(local), "float32"]
            muon = config.training.optimizer.name == "muon" and ("attention." in layout.name or "feed_" in layout.name)
            if layout.trained:
                kept = "m" if muon and len(local) == 2 else "mv"
                found |= {f"optimizer.{x}.{layout.name}": [list(local), "float32"] for x in kept}
            if layout.trained and config.accumulation > 1:
                found[f"accu_grads.{layout.name}"] = [list(whole), "float32"]
    return found


def right_report(config, rank):
    """The compile program's of a rank, but for its messages."""
    stage, training = config.mesh.coordinates(rank)[0], config.training
    pipeline = config.mesh.pipeline > 1
    register = ["NPUClearFloatStatusV2", "NPUGetFloatStatusV2"] if running_on(config).saturates else []
    report = RankReport(
        rank=rank,
        stage=stage,
        inlined=True,
        layers=config.model.sizes.num_layers,
        compile_seconds=1.0,
        build_seconds=1.0,
        peak_memory_bytes=1,
        parameters=held(config, rank),
        collectives=right(config, rank),
        products={},
        narrow=[],
        register_calls=register,
        communicators=[sorted(x.ranks) for x in communicators_of(config, rank) if x.groups],
        loss_scale=training.loss_scale.initial if training.precision == "fp16" else 1.0,
        passes=[str(x) for x in planned_passes(config, stage)] if pipeline else [],
        messages=[],
        nodes=1,
        graph_bytes=1,
    )
    return replace(report, products=compile_module._matmul_flops(config, report))


def right(config, rank):
    """Its collectives."""
    calls, buckets = planned_calls(config, rank), planned_buckets(config, rank)
    listed = []
    for (op, ranks, dtype, size), count in sorted(calls.items()):
        fused = [key for key in buckets if key[:2] == (op, ranks) and buckets[key]]
        while count:
            key = fused[0] if fused and op not in ("Send", "Receive") and size > 4 else (op, ranks, 0)
            taken = min(count, buckets[key]) if key[2] else count
            buckets[key] -= taken
            fused = [key for key in fused if buckets[key]]
            entry = {"op": op, "ranks": list(ranks), "dtype": dtype, "bytes": size, "fusion": key[2], "calls": taken}
            listed.append(entry)
            count -= taken
    return listed
