"""Reads the contract of a server from its published wheel, by hand when it has a new release: `read.py WHEEL`, the JSON goes to standard output.

Nothing of the wheel is imported: the source is parsed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

CONTRACTS: dict[str, dict[str, list[str]]] = {
    "vllm": {
        "vllm/model_executor/layers/fused_moe/modular_kernel.py": [
            "FusedMoEActivationFormat",
            "ExpertTokensMetadata",
            "FusedMoEPrepareAndFinalize",
            "FusedMoEPrepareAndFinalizeModular",
        ],
        "vllm/model_executor/layers/fused_moe/topk_weight_and_reduce.py": ["TopKWeightAndReduceDelegate"],
    },
    "sglang": {
        "sglang/srt/layers/moe/token_dispatcher/base.py": [
            "DispatchOutputFormat",
            "DispatchOutput",
            "CombineInputFormat",
            "CombineInput",
            "BaseDispatcher",
        ],
        "sglang/srt/layers/moe/token_dispatcher/deepep.py": [
            "DeepEPNormalDispatchOutput",
            "DeepEPLLDispatchOutput",
            "DeepEPNormalCombineInput",
            "DeepEPLLCombineInput",
        ],
    },
}


def of_class(node: ast.ClassDef) -> dict[str, Any]:
    fields, members, methods = [], {}, {}
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            fields.append(ast.unparse(part.target))
        elif isinstance(part, ast.Assign):
            members[ast.unparse(part.targets[0])] = ast.unparse(part.value)
        elif isinstance(part, ast.FunctionDef):
            marks = {ast.unparse(mark) for mark in part.decorator_list}
            given = part.args
            methods[part.name] = {
                "abstract": "abstractmethod" in marks,
                "property": "property" in marks,
                "arguments": [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)],
            }
    return {"bases": [ast.unparse(base) for base in node.bases], "fields": fields, "members": members, "methods": methods}


def main() -> None:
    path = Path(sys.argv[1])
    package, version = path.name.split("-")[:2]
    found: dict[str, Any] = {}
    with zipfile.ZipFile(path) as wheel:
        for file, names in CONTRACTS[package].items():
            tree = ast.parse(wheel.read(file))
            classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
            found[file] = {name: of_class(classes[name]) for name in names}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    contract = {"package": package, "version": version, "wheel": path.name, "sha256": digest, "files": found}
    text = json.dumps(contract, indent=1)
    # Lists of words on one line.
    print(re.sub(r'\[\s+("[^\]\[{}]*?)\s+\]', lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text))


main()
