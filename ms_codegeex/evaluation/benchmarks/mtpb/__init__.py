"""MTPB, the Multi-Turn Programming Benchmark of the CodeGen paper (ICLR 2023)."""
