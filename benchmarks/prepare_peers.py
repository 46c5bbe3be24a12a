"""The peers of `benchmarks/prepare.py`, run by an interpreter that has these packages:

    PYTHON benchmarks/prepare_peers.py datasets|datatrove TOKENIZER.json INPUT OUTPUT PROCESSES

Encodes the field `text` of the `.jsonl` files in INPUT as each package's documentation does it, with Hugging Face's
tokenizers, and prints the number of tokens, an end token for each document included.
"""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process encodes on its own
END = "<|endoftext|>"


def with_datasets(tokenizer: str, source: Path, output: Path, processes: int) -> int:
    """`load_dataset` and a batched `map`; its result is written as Arrow."""
    import datasets
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = output / "cache"
    encoder = Tokenizer.from_file(tokenizer)

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        found = encoder.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [each.ids for each in found], "count": [len(each.ids) + 1 for each in found]}

    files = sorted(map(str, source.glob("*.jsonl")))
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(output / "cache"))
    found = rows.map(encode, batched=True, num_proc=processes, remove_columns=rows.column_names)
    found.save_to_disk(str(output / "ids"))
    return sum(found["count"])


def with_datatrove(tokenizer: str, source: Path, output: Path, processes: int) -> int:
    """`JsonlReader` and `DocumentTokenizer`, as many tasks as files, without shuffling."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.utils.logging import logger

    logger.remove()
    shuffle = {"shuffle", "shuffle_documents"} & set(inspect.signature(DocumentTokenizer).parameters)  # by version
    place = output / "ids"
    steps = [
        JsonlReader(str(source), text_key="text", glob_pattern="*.jsonl"),
        DocumentTokenizer(
            str(place),
            local_working_dir=str(output / "work"),
            tokenizer_name_or_path=tokenizer,
            eos_token=END,
            save_filename="part",
            **dict.fromkeys(shuffle, False),
        ),
    ]
    tasks = len(list(source.glob("*.jsonl")))
    executor = LocalPipelineExecutor(steps, tasks=tasks, workers=processes, logging_dir=str(output / "logs"))
    executor.run()
    return sum(file.stat().st_size for file in place.rglob("*.ds")) // 2  # ids of 16 bits


def main(name: str, tokenizer: str, source: str, output: str, processes: str) -> None:
    work = {"datasets": with_datasets, "datatrove": with_datatrove}[name]
    Path(output).mkdir(parents=True)
    count = work(tokenizer, Path(source), Path(output), int(processes))
    print(f"\ntokens: {count}")


if __name__ == "__main__":
    main(*sys.argv[1:])
