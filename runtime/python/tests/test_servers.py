"""The classes for vLLM and SGLang: they satisfy what the published packages ask for, and layers over them are the dense layer.

The contracts were read from the published wheels (`contracts/read.py`). Modules that look as they say stand in for the packages.
"""

from __future__ import annotations

import abc
import enum
import inspect
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import moe_runtime as moe
import moe_runtime.sglang
import moe_runtime.vllm
import pytest
import torch

from conftest import EXPERTS, HIDDEN, MOST_TOKENS, PICKS, RANKS
from test_deep_ep import COUNTS, LOCAL, World, together
from test_low_latency import EACH, arriving


def contract(package: str) -> dict[str, Any]:
    """Classes of a package by name."""
    read = json.loads((Path(__file__).with_name("contracts") / f"{package}.json").read_text())
    return {name: each for file in read["files"].values() for name, each in file.items()}


def nothing(self: Any) -> None:
    raise NotImplementedError


def stand_in(package: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with the classes of a contract: enumerations, tuples of fields, and classes whose abstract methods are abstract."""
    module = types.ModuleType(f"stand_in_for_{package}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, each in contract(package).items():
        made: Any
        if "Enum" in each["bases"]:
            made = enum.Enum(name, list(each["members"]))
        elif each["fields"]:
            made = type(name, (SimpleNamespace,), {})
        else:
            methods: dict[str, Any] = {}
            for method, said in each["methods"].items():
                if said["abstract"]:
                    missing = abc.abstractmethod(nothing)
                    methods[method] = property(missing) if said["property"] else missing
            bases = tuple(getattr(module, base) for base in each["bases"] if hasattr(module, base)) or (abc.ABC,)
            made = type(abc.ABC)(name, bases, methods)
        made.__module__ = module.__name__
        setattr(module, name, made)
    return module


def abstract(package: str, *names: str) -> dict[str, Any]:
    """Abstract methods of some classes."""
    found = contract(package)
    return {name: said for each in names for name, said in found[each]["methods"].items() if said["abstract"]}


def satisfies(ours: type, methods: dict[str, Any]) -> None:
    for name, said in methods.items():
        found = inspect.getattr_static(ours, name)
        assert isinstance(found, property) == said["property"], name
        if not said["property"]:
            assert list(inspect.signature(found).parameters) == said["arguments"], name


def test_vllm_s_abstract_methods_are_there_with_their_arguments() -> None:
    methods = abstract("vllm", "FusedMoEPrepareAndFinalize", "FusedMoEPrepareAndFinalizeModular")
    assert sorted(methods) == sorted(
        ["activation_format", "topk_indices_dtype", "max_num_tokens_per_rank", "num_dispatchers", "output_is_reduced", "prepare", "finalize"]
    )
    for ours in (moe_runtime.vllm.Batched, moe_runtime.vllm.Standard):
        satisfies(ours, methods)
    known = contract("vllm")
    assert {"BatchedExperts", "Standard"} <= set(known["FusedMoEActivationFormat"]["members"])
    assert {"expert_num_tokens", "expert_num_tokens_cpu"} <= set(known["ExpertTokensMetadata"]["fields"])
    assert "TopKWeightAndReduceDelegate" in known


def test_sglang_s_abstract_methods_and_tuples_are_there() -> None:
    for ours in (moe_runtime.sglang.Normal, moe_runtime.sglang.LowLatency):
        satisfies(ours, abstract("sglang", "BaseDispatcher"))
    known = contract("sglang")
    assert list(moe_runtime.sglang.NormalOutput._fields) == known["DeepEPNormalDispatchOutput"]["fields"]
    assert list(moe_runtime.sglang.LowLatencyOutput._fields) == known["DeepEPLLDispatchOutput"]["fields"]
    for names in ("DispatchOutputFormat", "CombineInputFormat"):
        assert {"DEEPEP_NORMAL", "DEEPEP_LL"} <= set(known[names]["members"])
    for names in ("DeepEPNormalCombineInput", "DeepEPLLCombineInput"):
        assert "hidden_states" in known[names]["fields"]


class TopKWeightAndReduceDelegate:
    """Whoever prepared weighs and adds."""


class Added:
    """The experts have weighed and added."""

    def apply(self, output: Any, fused_expert_output: Any, **others: Any) -> Any:
        return fused_expert_output


UNQUANTIZED = SimpleNamespace(quant_dtype=None, block_shape=None)


def grouped(world: World, rank: int, x: Any) -> Any:
    """Each local expert over its group of rows."""
    matrices = world.matrices[rank * LOCAL : (rank + 1) * LOCAL]
    return torch.bmm(x.double(), matrices).to(x.dtype)


@pytest.mark.parametrize("kind", ["batched", "standard", "standard, reduced by the experts"])
def test_vllm_s_layer_is_the_dense_layer(bundle, monkeypatch, kind: str) -> None:
    theirs = stand_in("vllm", monkeypatch)
    batched = kind == "batched"
    node = moe.World(bundle("batched" if batched else "by rank"), device="virtual")
    make = moe_runtime.vllm.make_batched if batched else moe_runtime.vllm.make_standard
    world = World()

    def work(rank: int) -> Any:
        comm = moe.Communicator(node, ranks=range(rank, rank + 1), deadline=120.0)
        layer = make(theirs.FusedMoEPrepareAndFinalizeModular)(comm)
        assert isinstance(layer, theirs.FusedMoEPrepareAndFinalizeModular)
        assert (layer.num_dispatchers(), layer.output_is_reduced()) == (RANKS, True)
        picks, weights = world.picks[rank].to(layer.topk_indices_dtype()), world.weights[rank]
        x, scales, meta, ids, factors = layer.prepare(world.x[rank], weights, picks, EXPERTS, None, False, UNQUANTIZED, False)
        of_experts = [len(arriving(world, rank, local)) for local in range(LOCAL)]
        assert scales is None and meta.expert_num_tokens.tolist() == of_experts
        out = torch.full((COUNTS[rank], HIDDEN), torch.nan)
        if batched:
            assert layer.activation_format is theirs.FusedMoEActivationFormat.BatchedExperts
            assert (layer.max_num_tokens_per_rank(), x.shape, ids) == (MOST_TOKENS, (LOCAL, EACH, HIDDEN), None)
            y, reduce = grouped(world, rank, x), TopKWeightAndReduceDelegate()
            ids, factors = picks, weights
        else:
            assert layer.activation_format is theirs.FusedMoEActivationFormat.Standard
            assert layer.max_num_tokens_per_rank() is None and meta.expert_num_tokens_cpu.tolist() == of_experts
            # As vLLM's experts do: those of other ranks are left out by a map, and what they would have written is anything.
            here = (ids >= rank * LOCAL) & (ids < (rank + 1) * LOCAL)
            assert here.sum() == sum(of_experts)
            y = torch.einsum("nh,nkhj->nkj", x.double(), world.matrices[ids.long()]).float()
            y[~here] = torch.nan
            reduce = TopKWeightAndReduceDelegate()
            if "reduced" in kind:
                y, reduce = torch.where(here[..., None], factors[..., None] * y, 0.0).sum(1), Added()
        layer.finalize(out, y, factors, ids, False, reduce)
        return out

    for rank, found in enumerate(together(work)):
        torch.testing.assert_close(found.double(), world.dense(rank), rtol=1e-5, atol=1e-5)


class TopK(NamedTuple):
    """SGLang's output of a router."""

    topk_weights: Any
    topk_ids: Any


@pytest.mark.parametrize("kind", ["normal", "low latency"])
def test_sglang_s_layer_is_the_dense_layer(bundle, monkeypatch, kind: str) -> None:
    theirs = stand_in("sglang", monkeypatch)
    normal = kind == "normal"
    node = moe.World(bundle("by rank" if normal else "batched"), device="virtual")
    make = moe_runtime.sglang.make_normal if normal else moe_runtime.sglang.make_low_latency
    world = World()

    def work(rank: int) -> Any:
        comm = moe.Communicator(node, ranks=range(rank, rank + 1), deadline=120.0)
        dispatcher = make(theirs.BaseDispatcher)(comm)
        assert isinstance(dispatcher, theirs.BaseDispatcher)
        sent = dispatcher.dispatch(hidden_states=world.x[rank], topk_output=TopK(world.weights[rank], world.picks[rank]))
        of_experts = [len(arriving(world, rank, local)) for local in range(LOCAL)]
        if normal:
            x, scales, ids, weights, counts = sent
            assert sent.format is theirs.DispatchOutputFormat.DEEPEP_NORMAL and counts == of_experts
            y, name = world.experts(rank, x, ids, weights), "DEEPEP_NORMAL"
        else:
            x, scales, ids, weights, counts, expected = sent
            assert sent.format is theirs.DispatchOutputFormat.DEEPEP_LL and counts.tolist() == of_experts
            assert expected == (COUNTS[rank] * RANKS * PICKS + EXPERTS) // EXPERTS
            y, name = grouped(world, rank, x), "DEEPEP_LL"
        assert scales is None
        given = {"hidden_states": y, "topk_ids": ids, "topk_weights": weights}
        return dispatcher.combine(combine_input=SimpleNamespace(format=theirs.CombineInputFormat[name], **given))

    for rank, found in enumerate(together(work)):
        torch.testing.assert_close(found.double(), world.dense(rank), rtol=1e-5, atol=1e-5)


X, TOPK, WEIGHTS = torch.zeros(2, HIDDEN), torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.ones(2, PICKS)
FP8 = SimpleNamespace(quant_dtype="fp8", block_shape=[128, 128])


def of_vllm(layer: Any, experts: int = EXPERTS, on_input: bool = False, quant: Any = UNQUANTIZED) -> Any:
    return layer.prepare(X, WEIGHTS, TOPK, experts, None, on_input, quant)


VLLM: list[tuple[str, Callable[[Any], Any], str]] = [
    ("experts", lambda v: of_vllm(v, 16), "num_experts: it is 16, and the bundle has 8: compile a bundle for the model"),
    ("weights on input", lambda v: of_vllm(v, on_input=True), "apply_router_weight_on_input: it needs one expert for each token, and there are 3"),
    (
        "scales",
        lambda v: of_vllm(v, quant=FP8),
        "quant_config: rows come as f32: take experts that scale their input, or a bundle whose payload has scales",
    ),
    ("twice", lambda v: (of_vllm(v), of_vllm(v)), "prepare: the rows of the last call were not finalized"),
    ("nothing", lambda v: v.finalize(X, X, WEIGHTS, TOPK, False, TopKWeightAndReduceDelegate()), "finalize: nothing was prepared"),
    (
        "weighed twice",
        lambda v: (of_vllm(v), v.finalize(X, X, WEIGHTS, TOPK, False, Added())),
        "weight_and_reduce_impl: combine weighs and adds; Added would do it again",
    ),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in VLLM], ids=[case[0] for case in VLLM])
def test_vllm_refused(bundle, monkeypatch, call: Callable[[Any], Any], message: str) -> None:
    theirs = stand_in("vllm", monkeypatch)
    layer = moe_runtime.vllm.make_batched(theirs.FusedMoEPrepareAndFinalizeModular)(moe.Communicator(bundle("batched", 1), device="virtual"))
    with pytest.raises(moe.InvalidArgument) as caught:
        call(layer)
    assert str(caught.value) == message


def test_sglang_refused(bundle, monkeypatch) -> None:
    theirs = stand_in("sglang", monkeypatch)
    make = moe_runtime.sglang.make_low_latency(theirs.BaseDispatcher)
    with pytest.raises(moe.InvalidArgument, match="its layout is rank_major and its combine unweighted; compile the bundle with `layout batched` and `reduce f32 weighted`"):
        make(moe.Communicator(bundle("by rank", 1), device="virtual"))
    with pytest.raises(moe.InvalidArgument, match="a worker is one rank"):
        make(moe.Communicator(bundle("batched"), device="virtual"))
    dispatcher = make(moe.Communicator(bundle("batched", 1), device="virtual"))
    given = SimpleNamespace(format=theirs.CombineInputFormat.DEEPEP_LL, hidden_states=X)
    with pytest.raises(moe.InvalidArgument, match="combine: nothing was dispatched"):
        dispatcher.combine(given)
    dispatcher.dispatch(X, TopK(WEIGHTS, TOPK))
    with pytest.raises(moe.InvalidArgument, match="the rows of the last call were not combined"):
        dispatcher.dispatch(X, TopK(WEIGHTS, TOPK))
    given.format = theirs.CombineInputFormat.DEEPEP_NORMAL
    with pytest.raises(moe.InvalidArgument, match="combine_input: its format is"):
        dispatcher.combine(given)
