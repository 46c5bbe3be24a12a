"""What the extras add to verbs: for each place, the names that a user gives or sees, and where their code lies.

`base/extras.py` reads this table without importing an extra. What an entry names, a module below `ms_codegeex.extras`
or `module:name`, is imported when it is asked for. The comments say what the verb calls."""

from __future__ import annotations

from collections.abc import Mapping

ENTRIES: Mapping[str, Mapping[str, str]] = {
    # a class with the methods of `formats.convert.TensorFiles`
    "convert --to": {"gguf": "exchange.gguf_files.writing:GGUFOutput"},
    # open(path, sizes) -> Source
    "convert --model": {"gguf": "exchange.gguf_files.reading:open_gguf"},
    # (kind, describe(path), lines(described), whether these take `every_tensor`)
    "inspect": {
        "gguf": "exchange.gguf_files.reading:SHOWN",
        "weights": "exchange.auditing.pickle_report:SHOWN",
    },
    # differences(left, right, progress), as_json(difference), line(difference)
    "checkpoint diff": {"tensors": "exchange.auditing.difference"},
    # prepared(config, paths, tokenizer, quiet) -> dataset directory
    "train --corpus": {"text": "corpus.of_a_run:prepared"},
    # FinetuneSettings, example_sizes, recognised_task, prepare_finetune
    "finetune --data": {"records": "corpus.finetuning.prepare"},
    # job_file(kind, config, words, rank_table), servers_of(config, rank_table)
    "train --job": {"slurm": "jobs.job_files", "volcano": "jobs.job_files", "acjob": "jobs.job_files"},
    # first_run(config, name, words of the servers, nodes, node_rank, as_json) -> exit status
    "train --first-run": {"ladder": "cluster.first_run.ladder:first_run"},
    # seen_rows, bits_per_byte, python_samples
    "train": {"the model beside simpler ones": "evaluation.after_training"},
    # rows() -> (name, found, problem, fix); the names are headings of the report
    "doctor": {
        "engine": "cluster.doctor_rows:rows",
        "sandbox": "evaluation.doctor_rows:layers",
        "tool chains": "evaluation.doctor_rows:tool_chains",
    },
    # rows(device, config, overrides) -> the same
    "doctor --device": {"kernels": "cluster.first_run.operators:rows"},
    # export(dataset, output, split, seq_length, …) -> result
    "prepare --to": {
        "mindrecord": "exchange.interchange.mindrecord:export_mindrecord",
        "triplet": "exchange.interchange.foreign:export_triplet",
    },
    # (address) -> the interface `workers.Cluster`
    "prepare --engine": {"ray": "ray_engines.corpus:RayCluster"},
    # open(address, build, mode, workers, content, report) -> context manager of a `NodesEngine`
    "evaluate --judge-engine": {"ray": "ray_engines.judging:open_ray_nodes"},
    # read(paths or prefix, output, tokenizer, …) -> result
    "prepare --from": {
        "mindrecord": "exchange.interchange.mindrecord:import_mindrecord",
        "triplet": "exchange.interchange.foreign:import_triplet",
    },
}
