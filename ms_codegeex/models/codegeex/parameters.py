"""CodeGeeX's parameters. The output layer multiplies with the word table; in a pipeline the last stage has a copy."""

from ms_codegeex.models.parameters import COLUMN, LAYER_NORM, ROW, TABLE, VOCABULARY, Layer, ParameterTable

_BLOCK = (
    Layer("attention_norm", LAYER_NORM, "hidden_size", bias=True),
    Layer("feed_forward_norm", LAYER_NORM, "hidden_size", bias=True),
    Layer("attention.query", COLUMN, "hidden_size", "hidden_size", bias=True),
    Layer("attention.key", COLUMN, "hidden_size", "hidden_size", bias=True),
    Layer("attention.value", COLUMN, "hidden_size", "hidden_size", bias=True),
    Layer("feed_forward.up", COLUMN, "intermediate_size", "hidden_size", bias=True),
    Layer("attention.output", ROW, "hidden_size", "hidden_size", bias=True),
    Layer("feed_forward.down", ROW, "hidden_size", "intermediate_size", bias=True),
)
PARAMETERS = ParameterTable(
    first=(
        Layer("embedding.word", VOCABULARY, "vocab_size", "hidden_size"),
        Layer("embedding.position", TABLE, "max_position_embeddings", "hidden_size"),
    ),
    block=_BLOCK,
    last=(
        Layer("final_norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("top_query_embedding", TABLE, "max_position_embeddings", "hidden_size"),
        *(layer.inside("top_query_layer") for layer in _BLOCK),
        Layer("head", VOCABULARY, "vocab_size", "hidden_size", copy_of="embedding.word"),
    ),
    last_blocks=1,
)
