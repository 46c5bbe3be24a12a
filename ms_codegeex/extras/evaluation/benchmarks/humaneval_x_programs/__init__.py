"""HumanEval-X: 164 problems in Python, C++, Java, JavaScript, Go and Rust (CodeGeeX, KDD 2023, section 4)."""
