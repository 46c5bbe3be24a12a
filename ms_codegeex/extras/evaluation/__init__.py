"""Evaluate code models: draw samples from a model, judge them in a sandbox, report pass@k and perplexity.

Imports go one way: each part may import those in the lines below its own.

    commands                   the verbs
    doctor_rows                what `doctor` says of sandbox and tool chains
    after_training             what the end of a run shows of its model
    checking                   whether a directory of problems is fit for use
    session                    one evaluation, from its settings to its report
    infilling                  middles that were taken out of texts
    perplexity                 perplexity of corpora and of prompts
    reports                    scores, tables and pages, also of a paper's evaluations
    sampling                   recipes, model samplers, samples from files
    benchmarks                 a file each; `registry` finds them
    toolchains                 the compilers and interpreters of HumanEval-X
    judging                    verdicts, Python programs and their harness, reference solutions
    rows                       the rows of samples.jsonl and results.jsonl
    task                       the contract of a benchmark: problems, samples, judgements
    replies                    the code in a chat model's reply
    recipe                     every setting that influences what a model writes
    output_directory, jsonl    an evaluation's settings and its JSONL files
    local_model                a model for our own engine, and its identity
    stop_rules                 where answers of benchmarks end
    progress                   work in parallel, and how far it has come
    sandbox                    runs programs that nobody has reviewed
"""
