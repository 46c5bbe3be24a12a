"""Evaluate code models: draw samples from a model, judge them in a sandbox, report pass@k and perplexity.

Imports go one way; each line may import the lines below it, and nothing else of this package:

    session          one evaluation, from its settings to its report
    perplexity       perplexity of corpora and of prompts
    reports          scores, tables and pages
    benchmarks       HumanEval, HumanEval-X, MTPB, DS-1000
    toolchains       compilers and interpreters for HumanEval-X
    sampling         recipes, model samplers, stop rules, samples from files; does not import `judging`
    judging          verdicts, Python programs and their harness, reference solutions
    output_directory, jsonl, rows, threads        files of an evaluation, and work in parallel
    task             what a benchmark is to the rest: problems, samples, judgements
    sandbox          runs programs that nobody has reviewed
"""
