"""CodeGeeX: 39 pre-LayerNorm blocks and a top query layer (KDD 2023)."""
