"""datatrove's MinHash over a `.jsonl` file; run by `deduplication.py` with an interpreter that has it.

    python benchmarks/deduplication_peer.py documents.jsonl DIRECTORY

The last line of its output is a JSON list: the numbers of the lines that it keeps, from 0. The four steps are those of
datatrove's example `minhash_deduplication.py`, on one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    source, directory = Path(sys.argv[1]), Path(sys.argv[2])
    numbered = directory / "input"
    numbered.mkdir(parents=True)
    with open(source, encoding="utf-8") as lines, open(numbered / "0.jsonl", "w", encoding="utf-8") as stream:
        for number, line in enumerate(lines):
            stream.write(json.dumps({"text": json.loads(line)["text"], "id": str(number)}) + "\n")
    config = MinhashConfig(n_grams=5, num_buckets=9, hashes_per_bucket=14)
    folder = {name: str(directory / name) for name in ("signatures", "buckets", "removed", "kept", "logs")}
    steps = (
        ([JsonlReader(str(numbered)), MinhashDedupSignature(folder["signatures"], config=config)], 1),
        ([MinhashDedupBuckets(folder["signatures"], folder["buckets"], config=config)], config.num_buckets),
        ([MinhashDedupCluster(folder["buckets"], folder["removed"], config=config)], 1),
        (
            [
                JsonlReader(str(numbered)),
                MinhashDedupFilter(folder["removed"]),
                JsonlWriter(folder["kept"], compression=None),
            ],
            1,
        ),
    )
    for number, (pipeline, tasks) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{folder['logs']}/{number}").run()
    kept = [
        int(json.loads(line)["id"])
        for path in sorted(Path(folder["kept"]).glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    print(json.dumps(sorted(kept)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
