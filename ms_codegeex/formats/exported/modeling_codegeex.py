"""CodeGeeX (KDD 2023) for transformers 4.48 to 5.x, in inference and fine-tuning; loaded with `trust_remote_code=True`.

x = word[ids] + position[p]
x = x + Attention(LN(x));  x = x + FFN(LN(x))                      for each block
y = LN_final(x)
y = y + Attention(query = top_query[p], key and value = LN(y));  y = y + FFN(LN(y))
logits = y wordᵀ

Names of modules are those of the published PyTorch checkpoint. There is no dropout, and no reset of mask and positions
after an end-of-text token inside a sequence. Shapes: n new tokens, keys (cached and new), H features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

# 4.48 is the first with the table of attention functions. Tested with 4.48.0, 4.57.1 and 5.24.0.
if not (4, 48) <= tuple(map(int, transformers.__version__.split(".")[:2])) < (6, 0):
    raise ImportError(
        f"CodeGeeX's classes work with transformers 4.48 to 5.x, this is {transformers.__version__}; "
        'pip install "transformers>=4.48,<6"'
    )

from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

HIDDEN = -10000.0  # added to the score of a key that a query must not see, as in training
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"  # its name in outputs


class CodeGeeXConfig(PretrainedConfig):
    """Sizes. `num_hidden_layers` counts the blocks and the top query layer, which has keys and values as they do."""

    model_type = "codegeex"
    keys_to_ignore_at_inference = ("past_key_values", "cache")

    def __init__(
        self,
        vocab_size: int = 52224,
        hidden_size: int = 5120,
        num_hidden_layers: int = 40,
        num_attention_heads: int = 40,
        intermediate_size: int = 20480,
        max_position_embeddings: int = 2048,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.01,
        eos_token_id: int = 50256,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        tie_word_embeddings: bool = True,
        use_cache: bool = True,
        **others: Any,
    ) -> None:
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
            **{"top_query_layers": 1, **others},
        )

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> Any:
        """An older file, without `top_query_layers`, does not count the top query layer."""
        if "top_query_layers" not in config_dict and "num_hidden_layers" in config_dict:
            config_dict = {**config_dict, "num_hidden_layers": config_dict["num_hidden_layers"] + 1}
        return super().from_dict(config_dict, **options)


def _room(cache: Any) -> int:
    if cache is None or not getattr(cache, "is_compileable", True):
        return 0
    room = cache.get_max_cache_shape() if hasattr(cache, "get_max_cache_shape") else cache.get_max_length()
    return max(room or 0, 0)  # None or -1: it grows


def eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **others: Any
) -> tuple[Tensor, Tensor]:
    """query [batch, heads, n, depth]; key, value [batch, heads, keys, depth]; mask, added to the scores ->
    [batch, n, heads, depth] and the weights [batch, heads, n, keys]. The softmax is computed in FP32."""
    scores = (query @ key.transpose(-1, -2)).float() * scaling
    weights = torch.softmax(scores if mask is None else scores + mask, -1).to(value.dtype)
    return (weights @ value).transpose(1, 2), weights


class MultiHead(nn.Module):
    """Multi-head attention with four projections, all with bias, computed by what `attn_implementation` names."""

    is_causal = True  # what SDPA and flash attention do when they get no mask

    def __init__(self, config: CodeGeeXConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.heads = config, layer, config.num_attention_heads
        size = config.hidden_size
        self.query, self.key, self.value, self.dense = (nn.Linear(size, size) for _ in range(4))

    def forward(
        self, query: Tensor, memory: Tensor, mask: Tensor | None, cache: Any, cache_position: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """query, memory [batch, n, H] -> [batch, n, H]; the weights too, if the implementation gives them"""
        batch, n, size = memory.shape
        depth = size // self.heads

        def split(x: Tensor) -> Tensor:
            return x.view(batch, n, self.heads, depth).transpose(1, 2)

        # each factor is divided by depth^(1/4), so that FP16 products stay small
        q, k = (split(x) * depth**-0.25 for x in (self.query(query), self.key(memory)))
        v = split(self.value(memory))
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx, {"cache_position": cache_position})
        implementation = self.config._attn_implementation
        attend = eager_attention if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
        # older versions work this out in a way that torch.compile cannot follow
        known = {"is_causal": n > 1 and mask is None} if implementation == "sdpa" else {}
        mixed, weights = attend(self, q, k, v, mask, dropout=0.0, scaling=1.0, **known)
        return self.dense(mixed.reshape(batch, n, size)), weights


class FeedForward(nn.Module):
    """Two projections, between them x sigmoid(1.702 x)."""

    def __init__(self, config: CodeGeeXConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense_h_to_4h(x)
        return self.dense_4h_to_h(x * torch.sigmoid(1.702 * x))


class CodeGeeXBlock(nn.Module):
    """A pre-LayerNorm block. The top query layer is one whose queries come from a table, not normalised."""

    def __init__(self, config: CodeGeeXConfig, layer: int) -> None:
        super().__init__()
        size, epsilon = config.hidden_size, config.layer_norm_eps
        self.input_layernorm, self.post_attention_layernorm = nn.LayerNorm(size, epsilon), nn.LayerNorm(size, epsilon)
        self.attention, self.mlp = MultiHead(config, layer), FeedForward(config)

    def forward(self, x: Tensor, query: Tensor | None, *attention: Any) -> tuple[Tensor, Tensor | None]:
        memory = self.input_layernorm(x)
        mixed, weights = self.attention(memory if query is None else query, memory, *attention)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), weights


class CodeGeeXPreTrainedModel(PreTrainedModel):
    config_class = CodeGeeXConfig
    base_model_prefix = "language_model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("CodeGeeXBlock",)
    _skip_keys_device_placement = ("past_key_values", "cache")
    _supports_sdpa = _supports_flash_attn = _supports_flash_attn_2 = _supports_attention_backend = True
    _supports_cache_class = _supports_static_cache = _can_compile_fullgraph = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, 0.0, self.config.initializer_range)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            nn.init.zeros_(module.bias)


class CodeGeeXModel(CodeGeeXPreTrainedModel):
    """The network below the output layer."""

    def __init__(self, config: CodeGeeXConfig) -> None:
        super().__init__(config)
        size, positions = config.hidden_size, config.max_position_embeddings
        words, position, query = (nn.Embedding(rows, size) for rows in (config.vocab_size, positions, positions))
        self.embedding = nn.ModuleDict({"word_embeddings": words, "position_embeddings": position})
        self.topQueryEmbedding = nn.ModuleDict({"top_query_embeddings": query})
        *blocks, top = (CodeGeeXBlock(config, i) for i in range(config.num_hidden_layers))
        final = nn.LayerNorm(size, config.layer_norm_eps)
        self.transformer = nn.ModuleDict(
            {"layers": nn.ModuleList(blocks), "final_layernorm": final, "topQueryLayer": top}
        )
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding.word_embeddings

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.embedding["word_embeddings"] = table

    def _positions(self, mask: Tensor | None, cache_position: Tensor, batch: int) -> Tensor:
        """[batch, n]. Padding on the left takes no position."""
        if mask is None or mask.ndim != 2:
            return cache_position.expand(batch, -1)
        return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -cache_position.shape[0] :]

    def _check(self, mask: Tensor | None, positions: Tensor, past: int, batch: int) -> None:
        """Raises ValueError for a mask of another length and for a position that the model does not have."""
        keys, limit = past + positions.shape[1], self.config.max_position_embeddings
        if mask is not None and mask.ndim == 2 and mask.shape != (batch, keys):
            raise ValueError(
                f"attention_mask: shape {tuple(mask.shape)}, expected {(batch, keys)}: one value for each cached and "
                "each new token"
            )
        # only a sequence that may be too long is looked at, because that waits for the device
        if keys > limit and not torch.compiler.is_compiling() and (last := int(positions.max())) >= limit:
            raise ValueError(f"position {last}: the model has {limit} positions; shorten the prompt or max_new_tokens")

    def _mask(self, mask: Tensor | None, cache_position: Tensor, past: Any, keys: int, x: Tensor) -> Tensor | None:
        """What the attention function takes: [batch, 1, n, keys], for flash attention [batch, keys]. None: causal."""
        implementation, n = self.config._attn_implementation, x.shape[1]
        if mask is not None and mask.ndim == 4:
            visible = mask
        elif implementation not in ("eager", "sdpa"):
            return mask
        else:
            if mask is None:
                real = torch.ones(1, keys, dtype=torch.bool, device=x.device)
            else:
                real = F.pad(mask.bool(), (0, keys - mask.shape[1]))
            # PyTorch's kernels are faster without a mask; a look at it costs nothing on a CPU
            if implementation == "sdpa" and isinstance(past, int) and past + n == keys and (n == 1 or past == 0):
                looked_at = real.device.type == "cpu" and not torch.compiler.is_compiling()
                if mask is None or (looked_at and bool(real.all())):
                    return None
            key, query = torch.arange(keys, device=x.device), cache_position[:, None]
            # a padded token sees itself, so that no softmax is empty
            visible = ((key <= query) & real[:, None, None, :]) | (key == query)
        if implementation == "eager" and visible.dtype == torch.bool:
            return torch.zeros((), device=x.device).masked_fill(~visible, HIDDEN)
        return visible

    def _layer(self, layer: nn.Module, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(layer.__call__, *arguments)
        return layer(*arguments)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache_position: Tensor | None = None,
        cache: Any = None,
    ) -> BaseModelOutputWithPast:
        """`input_ids` [batch, n], or `inputs_embeds` [batch, n, H], the words' vectors, which follow the tokens in
        `past_key_values`, later called `cache`. `attention_mask` [batch, keys]: 0 for padding, which stands on the
        left; or four axes, [batch, 1, n, keys].

        `last_hidden_state` [batch, n, H]. `hidden_states`: what goes into each layer, then the last state, so
        `hidden_states[-2]` is LN_final(x). `attentions`, of each layer: with `attn_implementation="eager"`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError('output_attentions: expected attn_implementation="eager", which alone gives the weights')
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        words = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        batch, n = words.shape[:2]
        cache = past_key_values if cache is None else cache
        if self.gradient_checkpointing and self.training:
            cache = None
        elif cache is None and (self.config.use_cache and not self.training if use_cache is None else use_cache):
            cache = DynamicCache()
        past = 0 if cache is None else cache.get_seq_length()  # a tensor for most static caches
        room, limit = _room(cache), self.config.max_position_embeddings
        if room > limit:
            raise ValueError(f"static cache for {room} tokens: the model has {limit} positions; shorten it")
        if cache_position is None:
            cache_position = torch.arange(n, device=words.device) + past
        if position_ids is None:
            position_ids = self._positions(attention_mask, cache_position, batch)
        if isinstance(past, int):
            self._check(attention_mask, position_ids, past, batch)
        keys = room or past + n
        mask = self._mask(attention_mask, cache_position, past, keys, words)
        x = words + self.embedding.position_embeddings(position_ids)
        top_query = self.topQueryEmbedding.top_query_embeddings(position_ids).expand(batch, -1, -1)
        states, weights = (), ()
        for layer in (*self.transformer.layers, self.transformer.topQueryLayer):
            top = layer is self.transformer.topQueryLayer
            x = self.transformer.final_layernorm(x) if top else x
            states += (x,)
            x, weight = self._layer(layer, x, top_query if top else None, mask, cache, cache_position)
            weights += (weight,)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            hidden_states=(*states, x) if output_hidden_states else None,
            attentions=weights if output_attentions else None,
            **{CACHE: cache},
        )


class CodeGeeXForCausalLM(CodeGeeXPreTrainedModel, GenerationMixin):
    """The language model. The output layer multiplies with the word table."""

    def __init__(self, config: CodeGeeXConfig) -> None:
        super().__init__(config)
        self.language_model = CodeGeeXModel(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits [batch, n, vocab_size], or of the last `logits_to_keep` tokens; with `labels` [batch, n], the mean
        loss of the next tokens (-100 is left out). The rest is as in `CodeGeeXModel`."""
        inputs = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        wanted = (use_cache, output_attentions, output_hidden_states)
        below = self.language_model(*inputs, *wanted, others.pop("cache_position", None), cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = F.linear(below.last_hidden_state[:, kept], self.get_input_embeddings().weight)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **others)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=below.hidden_states,
            attentions=below.attentions,
            **{CACHE: below.get(CACHE)},
        )
        return output.to_tuple() if return_dict is False else output
