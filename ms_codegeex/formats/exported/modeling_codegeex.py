"""CodeGeeX (KDD 2023) for transformers, in inference and fine-tuning; loaded with `trust_remote_code=True`.

x = word[ids] + position[p]
x = x + Attention(LN(x));  x = x + FFN(LN(x))                      for each block
y = LN_final(x)
y = y + Attention(query = top_query[p], key and value = LN(y));  y = y + FFN(LN(y))
logits = y wordᵀ

Names of modules are those of the published PyTorch checkpoint. There is no dropout, and no reset of mask and positions
after an end-of-text token inside a sequence.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

HIDDEN = -10000.0  # added to the score of a key that a query must not see, as in training


class CodeGeeXConfig(PretrainedConfig):
    """Sizes. `num_hidden_layers` counts the blocks, without the top query layer."""

    model_type = "codegeex"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size=52224,
        hidden_size=5120,
        num_hidden_layers=39,
        num_attention_heads=40,
        intermediate_size=20480,
        max_position_embeddings=2048,
        layer_norm_eps=1e-5,
        initializer_range=0.01,
        eos_token_id=50256,
        pad_token_id=None,
        bos_token_id=None,
        tie_word_embeddings=True,
        use_cache=True,
        **others,
    ):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.intermediate_size, self.max_position_embeddings = intermediate_size, max_position_embeddings
        self.layer_norm_eps, self.initializer_range = layer_norm_eps, initializer_range
        self.use_cache = use_cache
        super().__init__(
            eos_token_id=eos_token_id,
            pad_token_id=eos_token_id if pad_token_id is None else pad_token_id,
            bos_token_id=eos_token_id if bos_token_id is None else bos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **others,
        )

    @property
    def layer_types(self):
        """The layers that have a cache: the blocks and the top query layer."""
        return ["full_attention"] * (self.num_hidden_layers + 1)


def fast_gelu(x):
    """x sigmoid(1.702 x)"""
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention with four projections, all with bias. The softmax is computed in FP32."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.heads = layer, config.num_attention_heads
        size = config.hidden_size
        self.query, self.key, self.value, self.dense = (nn.Linear(size, size) for _ in range(4))

    def forward(self, query, memory, mask, cache):
        """query, memory [batch, n, H]; mask [batch, 1, n, keys], added to the scores -> [batch, n, H]"""
        batch, n, size = memory.shape
        depth = size // self.heads

        def split(x):
            return x.view(batch, n, self.heads, depth).transpose(1, 2)

        # each factor is divided by depth^(1/4), so that FP16 products stay small
        q, k = (split(x) / math.sqrt(math.sqrt(depth)) for x in (self.query(query), self.key(memory)))
        v = split(self.value(memory))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        scores = (q @ k.transpose(-1, -2)).float() + mask
        mixed = torch.softmax(scores, -1).to(v.dtype) @ v
        return self.dense(mixed.transpose(1, 2).reshape(batch, n, size))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        return self.dense_4h_to_h(fast_gelu(self.dense_h_to_4h(x)))


class CodeGeeXBlock(nn.Module):
    """A pre-LayerNorm block. The top query layer is one whose queries come from a table, not normalised."""

    def __init__(self, config, layer):
        super().__init__()
        size, epsilon = config.hidden_size, config.layer_norm_eps
        self.input_layernorm, self.post_attention_layernorm = nn.LayerNorm(size, epsilon), nn.LayerNorm(size, epsilon)
        self.attention, self.mlp = Attention(config, layer), FeedForward(config)

    def forward(self, x, mask, cache, query=None):
        memory = self.input_layernorm(x)
        x = x + self.attention(memory if query is None else query, memory, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Embedding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids, positions):
        return self.word_embeddings(ids) + self.position_embeddings(positions)


class TopQueryEmbedding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.top_query_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, positions):
        return self.top_query_embeddings(positions)


class Transformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(CodeGeeXBlock(config, i) for i in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.topQueryLayer = CodeGeeXBlock(config, config.num_hidden_layers)

    def forward(self, x, query, mask, cache):
        for block in self.layers:
            x = block(x, mask, cache)
        return self.topQueryLayer(self.final_layernorm(x), mask, cache, query)


class LanguageModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding, self.transformer = Embedding(config), Transformer(config)
        self.topQueryEmbedding = TopQueryEmbedding(config)

    def forward(self, ids, positions, mask, cache):
        return self.transformer(self.embedding(ids, positions), self.topQueryEmbedding(positions), mask, cache)


class CodeGeeXPreTrainedModel(PreTrainedModel):
    config_class = CodeGeeXConfig
    base_model_prefix = "language_model"
    _no_split_modules = ("CodeGeeXBlock",)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, self.config.initializer_range)
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()
        if isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()


class CodeGeeXForCausalLM(CodeGeeXPreTrainedModel, GenerationMixin):
    """The language model. The output layer multiplies with the word table."""

    def __init__(self, config):
        super().__init__(config)
        self.language_model = LanguageModel(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.embedding.word_embeddings

    def set_input_embeddings(self, table):
        self.language_model.embedding.word_embeddings = table

    def _places(self, ids, attention_mask, position_ids, past):
        """Positions [batch, n] and the mask [batch, 1, n, keys] of `ids`, which follow `past` cached tokens."""
        batch, device, keys = len(ids), ids.device, past + ids.shape[1]
        if attention_mask is None:
            attention_mask = torch.ones(batch, keys, dtype=torch.long, device=device)
        if attention_mask.shape != (batch, keys):
            raise ValueError(
                f"attention_mask: shape {tuple(attention_mask.shape)}, expected {(batch, keys)}: one value for each "
                "cached and each new token"
            )
        real = attention_mask.bool()
        if position_ids is None:  # padding on the left takes no position
            position_ids = (real.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        if int(position_ids.max()) >= self.config.max_position_embeddings:
            raise ValueError(
                f"position {int(position_ids.max())}: the model has {self.config.max_position_embeddings} positions; "
                "shorten the prompt or max_new_tokens"
            )
        query = torch.arange(past, keys, device=device)[:, None]
        visible = (torch.arange(keys, device=device) <= query) & real[:, None, None, :]
        return position_ids, torch.zeros((), device=device).masked_fill(~visible, HIDDEN)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        return_dict=None,
        **others,
    ):
        """Logits [batch, n, vocab_size]; with `labels`, the mean loss of the next tokens (-100 is left out)."""
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache(config=self.config)
        if getattr(past_key_values, "is_compileable", False):
            raise ValueError('cache_implementation: only "dynamic" is supported, which is the default')
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        positions, mask = self._places(input_ids, attention_mask, position_ids, past)
        hidden = self.language_model(input_ids, positions, mask, past_key_values)
        kept = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        logits = F.linear(kept, self.get_input_embeddings().weight)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **others)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        return output if return_dict in (None, True) else output.to_tuple()
