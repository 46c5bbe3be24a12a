"""CodeGen's parameters."""

from ms_codegeex.models.parameters import COLUMN, LAYER_NORM, ROW, VOCABULARY, Layer, ParameterTable

PARAMETERS = ParameterTable(
    first=(Layer("embedding.word", VOCABULARY, "vocab_size", "hidden_size", std="table_std"),),
    block=(
        Layer("norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("attention.query", COLUMN, "hidden_size", "hidden_size"),
        Layer("attention.key", COLUMN, "hidden_size", "hidden_size"),
        Layer("attention.value", COLUMN, "hidden_size", "hidden_size"),
        Layer("attention.output", ROW, "hidden_size", "hidden_size", std="residual_std"),
        Layer("feed_forward.up", COLUMN, "intermediate_size", "hidden_size", bias=True),
        Layer("feed_forward.down", ROW, "hidden_size", "intermediate_size", bias=True, std="residual_std"),
    ),
    last=(
        Layer("final_norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("head", VOCABULARY, "vocab_size", "hidden_size", bias=True, output=True),
    ),
)
