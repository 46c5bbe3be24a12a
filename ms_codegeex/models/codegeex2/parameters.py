"""CodeGeeX2's parameters."""

from ms_codegeex.models.parameters import COLUMN, KEY_VALUE, RMS_NORM, ROW, VOCABULARY, Layer, ParameterTable

PARAMETERS = ParameterTable(
    first=(Layer("embedding.word", VOCABULARY, "vocab_size", "hidden_size"),),
    block=(
        Layer("attention_norm", RMS_NORM, "hidden_size"),
        Layer("feed_forward_norm", RMS_NORM, "hidden_size"),
        Layer("attention.query", COLUMN, "hidden_size", "hidden_size", bias=True),
        Layer("attention.key", KEY_VALUE, "kv_size", "hidden_size", bias=True),
        Layer("attention.value", KEY_VALUE, "kv_size", "hidden_size", bias=True),
        Layer("attention.output", ROW, "hidden_size", "hidden_size"),
        Layer("feed_forward.gate", COLUMN, "intermediate_size", "hidden_size"),
        Layer("feed_forward.up", COLUMN, "intermediate_size", "hidden_size"),
        Layer("feed_forward.down", ROW, "hidden_size", "intermediate_size"),
    ),
    last=(
        Layer("final_norm", RMS_NORM, "hidden_size"),
        Layer("head", VOCABULARY, "vocab_size", "hidden_size", output=True),
    ),
)
