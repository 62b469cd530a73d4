"""Answers as they should be, in two languages and in code."""

from __future__ import annotations

ENGLISH = (
    "The lighthouse keeper found a postcard under the door. It was addressed to the sea, in a hand he did "
    "not know, and the stamp showed a ship that had gone down before he was born. He read it twice "
    "and went up."
)
CHINESE = (
    "燈塔管理員在門縫下發現一張明信片，收信人寫的是「大海」，字跡他從沒見過，郵票上的那艘船在他出生以前就沉沒了。"
    "他讀了兩遍，然後慢慢走上樓梯，把信放在燈下，等著看會不會有人來取。"
)
CODE = """\
def merge(ranges):
    merged = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
"""
