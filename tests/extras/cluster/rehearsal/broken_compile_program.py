"""The compile program with a fault that test_compile.py has to see: `broken_compile_program.py FAULT ARGUMENTS…`."""

import sys

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.cluster.rehearsal import compile_program, mindir
from ms_codegeex.models import lora
from ms_codegeex.parallel import context
from ms_codegeex.training import build


def changed_settings(change):
    """The engine's settings after `change(settings)`."""
    settings = context.engine_settings

    def changed(config, rank):
        values = settings(config, rank)
        change(values)
        return values

    context.engine_settings = changed


def unsharded():
    """All replicas share a weight, as by default; where they do not divide its rows, the engine keeps it whole."""
    changed_settings(lambda values: values["parallel_optimizer_config"].pop("optimizer_weight_shard_size"))


def stumbling():
    """A program that cannot go on."""

    def stumble(values):
        raise UserError("model.hidden_size: a message for the user")

    changed_settings(stumble)


def gpipe():
    """All forward passes, then all backward passes."""
    changed_settings(lambda values: values["pipeline_config"].update(pipeline_scheduler="gpipe"))


def scaled_bf16():
    """BF16 gets FP16's loss scale."""
    settings = build.step_settings
    build.step_settings = lambda config, *rest: settings(
        config if config.training.precision != "bf16" else _in_fp16(config), *rest
    )


def _in_fp16(config):
    from dataclasses import replace

    return replace(config, training=replace(config.training, precision="fp16"))


def thawed():
    """Everything stays trained beside adapters."""
    add = lora.add_adapters

    def added(network, *arguments):
        add(network, *arguments)
        for parameter in network.get_parameters():
            parameter.requires_grad = True

    build.add_adapters = added


def swapped_tags():
    """A stage receives two micro-batches each in the other's place."""
    parse = mindir.parse

    def parsed(data):
        model = parse(data)
        received = [p for p in model.primitives if p.op_type == "Receive"]
        tags = [next(a for a in p.attribute if a.name == "sr_tag") for p in received]
        tags[0].i, tags[1].i = tags[1].i, tags[0].i
        return model

    mindir.parse = parsed


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.exit(compile_program.main(sys.argv[2:]))
