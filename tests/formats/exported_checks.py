"""What the classes in an exported CodeGeeX directory must do, in whatever version of transformers is installed.

`test_exported_classes.py` runs the checks here, with the tests' transformers, and this file as a program in other
environments, which have neither this package nor pytest: `exported_checks.py DIRECTORY`. The directory holds the
model; `expected.npz` in it has what an independent PyTorch model computes (`ids`, `logits`), and `expected.json` the
ids of a text (`prompt`, `prompt_ids`) and how the engine continues it (`text`).
"""

import copy
import inspect
import json
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, StaticCache

PROMPTS = ("def first(x):\n        return x", "import os", "x = 1 +")


class Exported:
    """An exported directory and what it is expected to give."""

    def __init__(self, directory):
        self.directory = Path(directory)
        expected = np.load(self.directory / "expected.npz")
        self.ids, self.logits = torch.tensor(expected["ids"]), torch.tensor(expected["logits"])
        self.text = json.loads((self.directory / "expected.json").read_text(encoding="utf-8"))
        self.models = {}

    def load(self, attention="sdpa", auto=AutoModelForCausalLM, directory=None):
        """A new model, for evaluation."""
        place = directory or self.directory
        return auto.from_pretrained(place, trust_remote_code=True, attn_implementation=attention).eval()

    def model(self, attention="sdpa"):
        """The same model for every check that leaves it as it is."""
        if attention not in self.models:
            self.models[attention] = self.load(attention)
        return self.models[attention]

    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.directory, trust_remote_code=True, padding_side="left")


def greedy(model, ids=None, count=12, **options):
    """All ids, [batch, n + count]; with `inputs_embeds` the new ones only."""
    with torch.no_grad():
        return model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None, **options).tolist()


def forward(model, *arguments, **options):
    with torch.no_grad():
        return model(*arguments, **options)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def cache_of(output):
    return output.get("cache", output.get("past_key_values"))


def logits_of_the_twin(exported):
    for attention in ("eager", "sdpa"):
        model = exported.model(attention)
        assert model.config._attn_implementation == attention
        close(forward(model, exported.ids).logits, exported.logits)
    model = exported.load("sdpa")
    close(forward(model, exported.ids, logits_to_keep=2).logits, exported.logits[:, -2:])
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
        assert forward(model, exported.ids, output_attentions=True).attentions[0] is not None


def other_implementations(exported):
    """One with the signature of flash attention: it gets the mask of the keys, with two axes, and knows the rest."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen = []

    def flash(module, query, key, value, attention_mask, dropout=0.0, scaling=None, sliding_window=None, softcap=None):
        """In place of what needs a GPU; the real one has not been run."""
        seen.append(attention_mask)
        n, keys = query.shape[2], key.shape[2]
        visible = torch.ones(n, keys, dtype=torch.bool).tril(keys - n) if module.is_causal else None
        if attention_mask is not None:
            visible = visible & attention_mask[:, None, None, :].bool() | torch.eye(n, keys, dtype=torch.bool)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, visible, dropout, scale=scaling)
        return mixed.transpose(1, 2), None

    model = exported.load()
    batch = exported.tokenizer()(list(PROMPTS), padding=True, return_tensors="pt")
    expected, ids = forward(model, **batch).logits, greedy(model, exported.ids[:, :5])
    ALL_ATTENTION_FUNCTIONS["stand-in"] = flash
    model.config._attn_implementation = "stand-in"
    close(forward(model, **batch).logits[:, -1], expected[:, -1])
    assert seen[-1] is batch.attention_mask
    close(forward(model, exported.ids).logits, exported.logits)
    assert seen[-1] is None
    assert greedy(model, exported.ids[:, :5]) == ids


def text_of_the_engine(exported):
    tokenizer = exported.tokenizer()
    ids = tokenizer(exported.text["prompt"], return_tensors="pt").input_ids
    assert ids[0].tolist() == exported.text["prompt_ids"]
    new = greedy(exported.model(), ids, exported.text["count"])[0][ids.shape[1] :]
    assert tokenizer.decode(new) == exported.text["text"]
    assert tokenizer.decode(ids[0]) == exported.text["prompt"]


def caches_change_nothing(exported):
    ids = exported.ids[:, :9]
    for attention in ("eager", "sdpa"):
        model = exported.model(attention)
        expected = greedy(model, ids, 20, use_cache=False)
        assert len(set(expected[0][9:])) > 3
        assert greedy(model, ids, 20) == expected
        assert greedy(model, ids, 20, cache_implementation="static") == expected
        first = forward(model, ids[:, :4])
        close(forward(model, ids[:, 4:], past_key_values=cache_of(first)).logits, forward(model, ids).logits[:, 4:])
        assert cache_of(forward(model, ids, use_cache=False)) is None


def left_padding(exported):
    """Prompts of several lengths, padded on the left, continue as each does alone."""
    tokenizer = exported.tokenizer()
    batch = tokenizer(list(PROMPTS), padding=True, return_tensors="pt")
    assert not batch.attention_mask.all() and batch.attention_mask[:, -1].all()
    for attention in ("eager", "sdpa"):
        model = exported.model(attention)
        logits = forward(model, **batch).logits
        close(logits, forward(exported.model(), **batch).logits)  # of the padding, too
        ids, mask = batch.input_ids, batch.attention_mask
        first = cache_of(forward(model, ids[:, :-2], attention_mask=mask[:, :-2]))
        rest = forward(model, ids[:, -2:], attention_mask=mask, past_key_values=first).logits
        close(rest[:, -1], logits[:, -1])
        kinds = (None, "static")
        together = [greedy(model, ids, attention_mask=mask, cache_implementation=kind) for kind in kinds]
        for row, prompt in enumerate(PROMPTS):
            alone = tokenizer(prompt, return_tensors="pt").input_ids
            close(logits[row, -1], forward(model, alone).logits[0, -1])
            for rows in together:
                assert rows[row][-12:] == greedy(model, alone)[0][-12:]


def beams(exported):
    ids, model = exported.ids[:1, :7], exported.model()
    assert greedy(model, ids, 8, num_beams=3) == greedy(model, ids, 8, num_beams=3, use_cache=False)


def embeddings_as_input(exported):
    ids, model = exported.ids[:, :7], exported.model()
    words = model.get_input_embeddings()(ids).detach()
    close(forward(model, inputs_embeds=words).logits, forward(model, ids).logits)
    assert greedy(model, inputs_embeds=words) == [row[7:] for row in greedy(model, ids)]
    raised(lambda: model(ids, inputs_embeds=words), "either input_ids or inputs_embeds")


def states_and_attentions(exported):
    """hidden_states: what goes into each layer, then what comes out of the last. attentions: only eager has them."""
    model, ids = exported.model("eager"), exported.ids[:, :7]
    output = forward(model, ids, output_hidden_states=True, output_attentions=True)
    layers = model.config.num_hidden_layers
    assert len(output.hidden_states) == layers + 1 and len(output.attentions) == layers
    words = model.get_input_embeddings().weight
    close(output.hidden_states[-1] @ words.T, output.logits)
    below = model.language_model
    top = below.transformer.topQueryLayer
    query = below.topQueryEmbedding.top_query_embeddings.weight[:7].expand(2, -1, -1)
    mask = torch.full((7, 7), -torch.inf).triu(1)
    close(top(output.hidden_states[-2], query, mask, None, None)[0], output.hidden_states[-1])
    positions = below.embedding.position_embeddings.weight[:7]
    close(output.hidden_states[0], words[ids] + positions)
    for weights in output.attentions:
        close(weights.sum(-1), torch.ones(2, model.config.num_attention_heads, 7))
        assert not weights.triu(1).any()
    assert forward(model, ids).hidden_states is None and forward(model, ids).attentions is None
    raised(lambda: exported.model()(ids, output_attentions=True), 'expected attn_implementation="eager"')
    generated = model.generate(ids, max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True)
    assert len(generated.hidden_states) == 2 and len(generated.hidden_states[1]) == layers + 1


def the_network_below(exported):
    states = forward(exported.load(auto=AutoModel), exported.ids).last_hidden_state
    close(states @ exported.model().get_input_embeddings().weight.T, exported.logits)


def loss_and_tuples(exported):
    model, ids = exported.model(), exported.ids
    labels = ids.clone()
    labels[:, :3] = -100
    expected = torch.nn.functional.cross_entropy(exported.logits[:, 2:-1].flatten(0, 1), ids[:, 3:].flatten())
    close(forward(model, ids, labels=labels).loss, expected)
    assert isinstance(forward(model, ids, return_dict=False), tuple)


def gradient_checkpointing(exported):
    """Every layer is computed twice, the gradients are those without it, and nothing is kept for generation."""
    gradients, calls = [], []
    for reentrant in (None, True, False):
        model = exported.load().train()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        below, calls[:] = model.language_model.transformer, []
        for block in (*below.layers, below.topQueryLayer):
            block.attention.register_forward_pre_hook(lambda module, inputs: calls.append(module))
        output = model(exported.ids, labels=exported.ids, use_cache=reentrant is not None)
        assert cache_of(output) is None
        output.loss.backward()
        assert len(calls) == (len(below.layers) + 1) * (1 if reentrant is None else 2)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for others in gradients[1:]:
        for name, gradient in gradients[0].items():
            assert gradient is not None and gradient.abs().max() > 0, name
            close(others[name], gradient)


def saved_and_loaded(exported):
    with tempfile.TemporaryDirectory() as folder:
        exported.model().save_pretrained(folder)
        exported.tokenizer().save_pretrained(folder)
        again = exported.load(directory=folder)
        close(forward(again, exported.ids).logits, exported.logits)
        assert AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(PROMPTS[0])["input_ids"]
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert config.num_hidden_layers == exported.model().config.num_hidden_layers


def older_directories(exported):
    """Their config.json has the number of blocks, and no `top_query_layers`."""
    with tempfile.TemporaryDirectory() as folder:
        for path in exported.directory.iterdir():
            (Path(folder) / path.name).write_bytes(path.read_bytes())
        config = json.loads((Path(folder) / "config.json").read_text())
        config["num_hidden_layers"] -= config.pop("top_query_layers")
        (Path(folder) / "config.json").write_text(json.dumps(config))
        close(forward(exported.load(directory=folder), exported.ids).logits, exported.logits)


def low_rank_adapters(exported):
    """PEFT trains one, which is saved and loaded again."""
    import peft

    def loss(model):
        return model(exported.ids, labels=exported.ids).loss

    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(exported.load(), settings)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], 1e-2)
    before = float(loss(model).detach())
    for _ in range(5):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert float(loss(model).detach()) < before - 0.1
    assert len(greedy(model, input_ids=exported.ids[:, :5], count=3)[0]) == 8
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = peft.PeftModel.from_pretrained(exported.load(), folder)
        close(forward(again, exported.ids).logits, forward(model, exported.ids).logits)


def compiled_whole(exported, backend="eager", attentions=("sdpa",)):
    """One graph each: a prompt, a prompt with a mask, and a token after a static cache."""
    torch._dynamo.reset()
    ids = exported.ids
    for attention in attentions:
        model = exported.load(attention)
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        close(forward(compiled, ids, use_cache=False).logits, exported.logits)
        mask = torch.ones_like(ids)
        close(forward(compiled, ids, attention_mask=mask, use_cache=False).logits, exported.logits)
        cache = StaticCache(config=model.config, **static_sizes(model, 2))
        forward(model, ids[:, :5], past_key_values=cache)
        for i in range(5, 9):
            step = {"past_key_values": cache, "cache_position": torch.tensor([i])}
            close(forward(compiled, ids[:, i : i + 1], **step).logits, exported.logits[:, i : i + 1])
    torch._dynamo.reset()


def static_sizes(model, batch):
    """Arguments of a `StaticCache` for 24 tokens, in old and new versions."""
    old = transformers.__version__ < "4.56"
    options = {"max_batch_size": batch, "device": "cpu", "dtype": model.dtype} if old else {}
    return {"max_cache_len": 24, **options}


def exported_program(exported):
    """`torch.export` with sequences of any length."""
    length = torch.export.Dim("length", min=2, max=exported.model().config.max_position_embeddings)
    given = (exported.ids,), {"use_cache": False}
    shapes = {"input_ids": {1: length}, "use_cache": None}
    program = torch.export.export(exported.load(), *given, dynamic_shapes=shapes)
    found = program.module()(exported.ids[:, :6], use_cache=False).logits
    close(found, exported.logits[:, :6])


def no_waiting_for_the_device(exported):
    """Tensors on `meta` have no values, so that whatever looks at one raises."""
    for attention in ("eager", "sdpa"):
        model = copy.deepcopy(exported.model(attention)).to("meta")
        ids = torch.zeros(2, 6, dtype=torch.long, device="meta")
        cache = cache_of(model(ids, attention_mask=torch.ones_like(ids)))
        for keys in (7, 8):
            mask = torch.ones(2, keys, dtype=torch.long, device="meta")
            output = model(ids[:, :1], attention_mask=mask, past_key_values=cache)
            assert output.logits.shape == (2, 1, model.config.vocab_size)


def half_precision(exported):
    for dtype, most in ((torch.float16, 0.02), (torch.bfloat16, 0.16)):  # logits are up to 3
        for attention in ("eager", "sdpa"):
            half = exported.load(attention).to(dtype)
            found = forward(half, exported.ids).logits
            assert found.dtype == dtype and (found - exported.logits).abs().max() < most
            assert len(greedy(half, exported.ids[:, :4], 5)[0]) == 9


def mistakes_are_said(exported):
    model = exported.model()
    most = model.config.max_position_embeddings
    ids = torch.arange(most + 1)[None]
    raised(lambda: model(ids), f"position {most}: the model has {most} positions; shorten the prompt")
    raised(lambda: model(ids, position_ids=ids), f"position {most}: the model has {most} positions")
    raised(lambda: model(ids[:, :2], attention_mask=torch.ones(1, 3)), "attention_mask: shape (1, 3), expected (1, 2)")
    raised(lambda: greedy(model, ids[:, :9], most, cache_implementation="static"), f"the model has {most} positions")


def raised(function, words):
    try:
        function()
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"nothing was raised, expected {words!r}")


CHECKS = [  # all functions here of an `Exported`
    each
    for each in [*vars().values()]
    if inspect.isfunction(each) and next(iter(inspect.signature(each).parameters), "") == "exported"
]


def main(directory):
    """Prints a line for each check; the status is 1 if one fails."""
    exported, failed = Exported(directory), 0
    thoroughly = {"backend": "inductor", "attentions": ("eager", "sdpa")}
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for check in CHECKS:
        try:
            check(exported, **(thoroughly if check is compiled_whole else {}))
        except Exception:  # the others are of interest, too
            failed += 1
            print(f"{check.__name__}: failed\n{traceback.format_exc()}")
        else:
            print(f"{check.__name__}: ok", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
