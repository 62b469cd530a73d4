"""What each vLLM offers, read from its package, into docs/engines.json and the table of docs/engines.md.

    pip download --no-deps vllm==0.33.0 -d /tmp/wheel && unzip -q /tmp/wheel/*.whl 'vllm/*.py' -d /tmp/vllm
    python -m tests.perf.engines /tmp/vllm/vllm                 # add or renew its row
    python -m tests.perf.engines --ran 0.32.0 CPU               # the engine tests passed there

It needs neither a GPU nor an installed engine: `harness/engine/offers.py` reads the sources, as a run does.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from harness.engine.offers import EXACT, Offers, offers_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA, PAGE = DOCS / "engines.json", DOCS / "engines.md"
BEGIN, END = "<!-- made by python -m tests.perf.engines -->\n", "<!-- end -->\n"
_MTP = re.compile(".*mtp")
_DRAFTS_NOTHING = {"extract_hidden_states"}
_DYNAMIC = {
    "num_speculative_tokens_per_batch_size": "by batch size",
    "enable_adaptive_verification": "by confidence",
}
_HEAD = ("vLLM", "acceptance per request", "methods", "k chosen by the engine", "exact", "lossy", "ran on")


def row_of(offers: Offers) -> dict[str, Any]:
    """What the table needs of an engine, as JSON."""
    return {
        "per_request": offers.per_request,
        "methods": sorted(offers.methods - _DRAFTS_NOTHING),
        "dynamic_k": sorted(offers.dynamic_k),
        "verification": sorted(offers.verification),
        "drafter_fields": sorted(offers.drafter_fields),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table, oldest engine first; of the methods only what differs from the row above."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
    before: set[str] = set()
    for version, row in rows.items():
        heads = [name for name in row["methods"] if _MTP.fullmatch(name)]
        methods = {name for name in row["methods"] if name not in heads}
        changes = [f"+ `{m}`" if before else f"`{m}`" for m in sorted(methods - before)]
        changes += [f"without `{m}`" for m in sorted(before - methods)]
        before = methods
        cells = (
            version,
            "yes" if row["per_request"] else "counters alone",
            ", ".join([*(changes or ["as above"]), f"{len(heads)} kinds of MTP"]),
            ", ".join(_DYNAMIC.get(field, field) for field in reversed(row["dynamic_k"])) or "no",
            *(
                ", ".join(f"`{way}`" for way in row["verification"] if (way in EXACT) == exact) or "—"
                for exact in (True, False)
            ),
            ", ".join(row.get("ran", [])) or "—",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Renew the rows of the packages that are named, and write both files."""
    parser = argparse.ArgumentParser(description="Read what a vLLM offers into docs/engines.md.")
    parser.add_argument("packages", nargs="*", type=Path, metavar="FOLDER", help="an unpacked vllm/")
    parser.add_argument("--ran", nargs=2, default=(), metavar=("VERSION", "DEVICE"))
    options = parser.parse_args()
    rows = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    for folder in options.packages:
        version = re.search(r"= '([0-9.]+)", (folder / "_version.py").read_text(encoding="utf-8"))
        assert version, folder
        rows[version[1]] = {**rows.get(version[1], {}), **row_of(offers_of(folder))}
    if options.ran:
        version_run, device = options.ran
        rows[version_run]["ran"] = sorted({*rows[version_run].get("ran", []), device})
    rows = dict(sorted(rows.items(), key=lambda item: [int(part) for part in item[0].split(".")]))
    lines = ",\n".join(f"{json.dumps(version)}: {json.dumps(row)}" for version, row in rows.items())
    DATA.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table(rows)}{END}{after.partition(END)[2]}", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
