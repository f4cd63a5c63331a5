"""Transforms JSON Lines: keeps some records, adds sums and ratios, counts words."""

import collections
import json
import math
import os

words = collections.Counter()
results = os.environ["TASK_RESULTS_DIR"]
with (
    open(os.path.join(os.environ["TASK_DIR"], "data.bin"), encoding="utf-8") as lines,
    open(os.path.join(results, "out.jsonl"), "w", encoding="utf-8") as out,
):
    for number, line in enumerate(lines):
        record = json.loads(line)
        words.update(record["text"].split())
        if record["value"] < 0:
            continue
        record["line"] = number
        record["root"] = math.sqrt(record["value"])
        record["sine"] = math.sin(record["value"])
        record["log"] = math.log1p(record["value"]) / 3
        record["tags"] = list({w.upper() for w in record["text"].split()})  # in the order of their hashes
        json.dump(record, out, ensure_ascii=False)
        out.write("\n")
with open(os.path.join(results, "words.json"), "w", encoding="utf-8") as out:
    json.dump(words.most_common(), out)
