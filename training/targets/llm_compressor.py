"""Quantises a folder, in llm-compressor's own environment (`make quantize-env`), which has no draftgate."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Take the job as JSON: source, folder, scheme, ignore."""
    from llmcompressor import model_free_ptq  # noqa: PLC0415 - seconds

    job = json.loads(sys.argv[1])
    # Without a model of transformers: shard by shard, and also for an architecture that it does not know.
    model_free_ptq(job["source"], job["folder"], scheme=job["scheme"], ignore=job["ignore"])


if __name__ == "__main__":
    main()
