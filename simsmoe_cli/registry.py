"""The names that recipes and command lines may use, each with the object behind it.

Tables are lazy: a row holds "module:Attribute" and a line of help, so that listing names imports
nothing heavy. :func:`load` imports the object of one row when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simsmoe_cli.errors import UserError, nearest


@dataclass(frozen=True)
class Entry:
    """One row of a table.

    Attributes:
        target: where the object is, "module:Attribute".
        help: one line about it.
        source: its paper or code.
    """

    target: str
    help: str
    source: str = ""


@dataclass(frozen=True)
class RouterEntry(Entry):
    """A router, with the properties that do not depend on its settings.

    Attributes:
        top_k: the only K it works with; 0 if any K will do.
        balance_loss: whether it has the common balance loss.
        z_loss: whether the router z-loss has an effect; False if logits are fixed or random.
        looks_ahead: whether later tokens of a text influence the routing of a token.
    """

    top_k: int = 0
    balance_loss: bool = True
    z_loss: bool = True
    looks_ahead: bool = False


@dataclass(frozen=True)
class ModelEntry:
    """A kind of model.

    Attributes:
        language_model, classifier: its classes, "module:Class".
    """

    language_model: str
    classifier: str


@dataclass(frozen=True)
class MeasureEntry(Entry):
    """A similarity measure.

    Attributes:
        options: fields of the recipe's section `similarity` that it takes.
        all_pairs: its form for all pairs of experts at once, "module:Attribute"; empty if it has
            none that costs less than computing the pairs one by one.
        adds_up: whether the ranks of a training can measure over the tokens of all of them, by
            adding up a few numbers for each pair; if so it takes the argument `total`.
    """

    options: tuple[str, ...] = ()
    all_pairs: str = ""
    adds_up: bool = False


ROUTERS: dict[str, RouterEntry] = {
    "smoe": RouterEntry(
        "simsmoe_cli.moe.routers.smoe:SMoERouter",
        "linear logits, softmax over the selected top-K",
        "Shazeer et al. 1701.06538",
    ),
    "switch": RouterEntry(
        "simsmoe_cli.moe.routers.switch:SwitchRouter",
        "one expert per token, weighted by its probability",
        "Fedus et al. 2101.03961",
        top_k=1,
    ),
    "gshard": RouterEntry(
        "simsmoe_cli.moe.routers.gshard:GShardRouter",
        "two experts per token; the second is dropped at random in training",
        "Lepikhin et al. 2006.16668",
        top_k=2,
    ),
    "xmoe": RouterEntry(
        "simsmoe_cli.moe.routers.xmoe:router",
        "cosine scores in a space of few dimensions, learned temperature",
        "Chi et al. 2204.09179",
    ),
    "stablemoe": RouterEntry(
        "simsmoe_cli.moe.routers.stablemoe:router",
        "learns to route, distils that into a router by token id, freezes it",
        "Dai et al. 2204.08396",
    ),
    "smoe-dropout": RouterEntry(
        "simsmoe_cli.moe.routers.smoe_dropout:SMoEDropoutRouter",
        "a random, frozen router; K grows in training, any K in evaluation",
        "Chen et al. 2303.01610",
        balance_loss=False,
    ),
    "hyperrouter": RouterEntry(
        "simsmoe_cli.moe.routers.hyperrouter:HyperRouter",
        "a frozen network makes the router's weights from a learned vector",
        "Do et al. 2312.07035",
    ),
    "competesmoe": RouterEntry(
        "simsmoe_cli.moe.routers.competesmoe:CompeteSMoERouter",
        "in some steps all experts compete; the router learns who wins",
        "Pham et al. 2402.02526; 2505.13380",
    ),
    "hash": RouterEntry(
        "simsmoe_cli.moe.routers.hash_:HashRouter",
        "a fixed, balanced table from token id to experts",
        "Roller et al. 2106.04426",
        balance_loss=False,
        z_loss=False,
    ),
    "random": RouterEntry(
        "simsmoe_cli.moe.routers.random_:RandomRouter",
        "K experts drawn at random in every training step: a control",
        balance_loss=False,
        z_loss=False,
    ),
    "loss-free": RouterEntry(
        "simsmoe_cli.moe.routers.loss_free:LossFreeRouter",
        "sigmoid scores; a bias on selection evens the load without a loss",
        "DeepSeek-V3 2412.19437",
        balance_loss=False,
    ),
    "remoe": RouterEntry(
        "simsmoe_cli.moe.routers.remoe:ReMoERouter",
        "ReLU weights: every expert with a positive one, K on average",
        "Wang et al. 2412.14711",
        balance_loss=False,
    ),
    "expert-choice": RouterEntry(
        "simsmoe_cli.moe.routers.expert_choice:ExpertChoiceRouter",
        "each expert picks its best tokens; looks ahead: not for causal models",
        "Zhou et al. 2202.09368",
        balance_loss=False,
        looks_ahead=True,
    ),
}

EXPERTS: dict[str, Entry] = {
    "grouped": Entry(
        "simsmoe_cli.moe.experts.grouped:GroupedExperts",
        "one grouped matrix product for all experts (the default)",
        "torch.nn.functional.grouped_mm",
    ),
    "loop": Entry(
        "simsmoe_cli.moe.experts.loop:LoopExperts",
        "one expert after the other: slow and simple, the reference in tests",
    ),
    "fastmoe": Entry(
        "simsmoe_cli.moe.experts.fastmoe:FastMoEExperts",
        "fastmoe's CUDA kernels, built by yourself; see `simsmoe doctor`",
        "He et al. 2103.13262",
    ),
}

MEASURES: dict[str, MeasureEntry] = {
    "cka-linear": MeasureEntry(
        "simsmoe_cli.similarity.cka:linear_cka",
        "linear CKA, biased estimator",
        "Kornblith et al. 1905.00414",
        all_pairs="simsmoe_cli.similarity.cka:pairwise_linear_cka",
        adds_up=True,
    ),
    "cka-linear-debiased": MeasureEntry(
        "simsmoe_cli.similarity.cka:debiased_linear_cka",
        "linear CKA, debiased estimator: near 0 for unrelated experts",
        "Nguyen et al. 2010.15327",
        all_pairs="simsmoe_cli.similarity.cka:pairwise_debiased_cka",
        adds_up=True,
    ),
    "cka-rbf": MeasureEntry(
        "simsmoe_cli.similarity.cka:rbf_cka",
        "CKA with Gaussian kernels, biased estimator (the paper's measure)",
        "Do et al. 2406.15883",
        options=("sigma",),
        all_pairs="simsmoe_cli.similarity.cka:pairwise_rbf_cka",
        adds_up=True,
    ),
    "cosine": MeasureEntry(
        "simsmoe_cli.similarity.agreement:cosine",
        "mean cosine of the outputs on the same token",
        "Chen and He 2011.10566",
        all_pairs="simsmoe_cli.similarity.agreement:pairwise_cosine",
    ),
    "cosine-absolute": MeasureEntry(
        "simsmoe_cli.similarity.agreement:absolute_cosine",
        "mean absolute cosine",
        "Do et al. 2406.15883, code",
        all_pairs="simsmoe_cli.similarity.agreement:pairwise_absolute_cosine",
    ),
    "infonce": MeasureEntry(
        "simsmoe_cli.similarity.contrastive:infonce",
        "does an output identify its token among the other expert's outputs?",
        "van den Oord et al. 1807.03748",
        options=("temperature",),
    ),
    "rince-v1": MeasureEntry(
        "simsmoe_cli.similarity.contrastive:rince_v1",
        "robust InfoNCE, symmetric (q = 1)",
        "Chuang et al. 2201.04309",
        options=("temperature", "rince_lambda"),
    ),
    "rince-v2": MeasureEntry(
        "simsmoe_cli.similarity.contrastive:rince_v2",
        "robust InfoNCE, between InfoNCE (q near 0) and symmetric (q = 1)",
        "Chuang et al. 2201.04309",
        options=("temperature", "rince_lambda", "rince_q"),
    ),
    "simclr-v1": MeasureEntry(
        "simsmoe_cli.similarity.contrastive:simclr_v1",
        "NT-Xent among the outputs of both, with inner products",
        "Chen et al. 2002.05709",
        options=("temperature",),
    ),
    "simclr-v2": MeasureEntry(
        "simsmoe_cli.similarity.contrastive:simclr_v2",
        "NT-Xent among the outputs of both, with cosines",
        "Chen et al. 2006.10029",
        options=("temperature",),
    ),
    "dcl": MeasureEntry(
        "simsmoe_cli.similarity.contrastive:dcl",
        "cosine on the same token minus the soft maximum over other tokens",
        "Yeh et al. 2110.06848",
        options=("temperature",),
    ),
    "directclr": MeasureEntry(
        "simsmoe_cli.similarity.contrastive:directclr",
        "InfoNCE of the first features only",
        "Jing et al. 2110.09348",
        options=("temperature", "directclr_width"),
    ),
    "hypersphere": MeasureEntry(
        "simsmoe_cli.similarity.agreement:hypersphere",
        "alignment and uniformity: closer on the same token than on others",
        "Wang and Isola 2005.10242",
        options=("spread_weight",),
        all_pairs="simsmoe_cli.similarity.agreement:pairwise_hypersphere",
    ),
    "tico": MeasureEntry(
        "simsmoe_cli.similarity.agreement:tico",
        "cosine on the same token minus the squared cosine between tokens",
        "Zhu et al. 2206.10698",
        options=("spread_weight",),
        all_pairs="simsmoe_cli.similarity.agreement:pairwise_tico",
    ),
    "barlow-twins": MeasureEntry(
        "simsmoe_cli.similarity.agreement:barlow_twins",
        "each feature correlates only with itself in the other expert",
        "Zbontar et al. 2103.03230",
        options=("spread_weight",),
    ),
    "byol": MeasureEntry(
        "simsmoe_cli.similarity.agreement:byol",
        "cosine, one expert at a time as a fixed target: half the gradient",
        "Grill et al. 2006.07733",
        all_pairs="simsmoe_cli.similarity.agreement:pairwise_byol",
    ),
}

CORPORA: dict[str, Entry] = {
    "pystdlib": Entry(
        "simsmoe_cli.data.corpora.facts:PYSTDLIB",
        "Python's standard library: on every machine, needs no network",
    ),
    "enwik8": Entry(
        "simsmoe_cli.data.corpora.facts:ENWIK8",
        "first 100 MB of English Wikipedia as XML, by bytes",
        "Mahoney, Large Text Compression Benchmark",
    ),
    "text8": Entry(
        "simsmoe_cli.data.corpora.facts:TEXT8",
        "100 MB of English Wikipedia as letters and spaces",
        "Mahoney, Large Text Compression Benchmark",
    ),
    "wikitext-2": Entry(
        "simsmoe_cli.data.corpora.facts:WIKITEXT2",
        "2 million words of Wikipedia articles",
        "Merity et al. 1609.07843",
    ),
    "wikitext-103": Entry(
        "simsmoe_cli.data.corpora.facts:WIKITEXT103",
        "103 million words of Wikipedia articles",
        "Merity et al. 1609.07843",
    ),
}

TASKS: dict[str, Entry] = {
    "sst2": Entry(
        "simsmoe_cli.data.tasks.facts:SST2",
        "phrases and sentences of film reviews, 2 classes; GLUE's",
        "Socher et al. 2013; Wang et al. 1804.07461",
    ),
    "sst2-trees": Entry(
        "simsmoe_cli.data.tasks.facts:SST2_TREES",
        "sentences of film reviews, 2 classes, without neutral",
        "Socher et al. 2013",
    ),
    "sst5": Entry(
        "simsmoe_cli.data.tasks.facts:SST5",
        "sentences of film reviews, 5 classes",
        "Socher et al. 2013",
    ),
    "imdb": Entry(
        "simsmoe_cli.data.tasks.facts:IMDB",
        "whole film reviews, 2 classes",
        "Maas et al. 2011",
    ),
    "banking77": Entry(
        "simsmoe_cli.data.tasks.facts:BANKING77",
        "intents of a bank's customers, 77 classes",
        "Casanueva et al. 2003.04807",
    ),
    "pystdlib-packages": Entry(
        "simsmoe_cli.data.tasks.facts:PYSTDLIB_PACKAGES",
        "which package of Python a snippet is from; no network",
    ),
}

# The kinds of models, as `Recipe.model_kind` names them; no list for users.
MODELS: dict[str, ModelEntry] = {
    "simsmoe": ModelEntry(
        "simsmoe_cli.model.language_model:LanguageModel",
        "simsmoe_cli.model.classifier:Classifier",
    ),
    "huggingface": ModelEntry(
        "simsmoe_cli.huggingface.language_model:HuggingFaceLanguageModel",
        "simsmoe_cli.huggingface.classifier:HuggingFaceClassifier",
    ),
}

LOGGERS: dict[str, Entry] = {
    "tensorboard": Entry(
        "simsmoe_cli.loggers.tensorboard:TensorBoard", "TensorBoard; files in the run folder"
    ),
    "wandb": Entry(
        "simsmoe_cli.loggers.wandb:Wandb", "Weights & Biases; offline unless you are logged in"
    ),
    "trackio": Entry("simsmoe_cli.loggers.trackio:Trackio", "trackio; its local store"),
    "mlflow": Entry("simsmoe_cli.loggers.mlflow:MLflow", "MLflow; MLFLOW_TRACKING_URI says where"),
}

TABLES: dict[str, Mapping[str, Entry]] = {
    "routers": ROUTERS,
    "experts": EXPERTS,
    "similarity": MEASURES,
    "corpora": CORPORA,
    "tasks": TASKS,
    "loggers": LOGGERS,
}


def load(table: str, name: str) -> Any:
    """The object behind `name` in the table; a UserError names the nearest valid name."""
    entries = TABLES[table]
    if name not in entries:
        raise UserError(f"unknown {table.rstrip('s')} '{name}'", hint=nearest(name, entries))
    return resolve(entries[name].target)


def resolve(target: str) -> Any:
    """The object at "module:Attribute"."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
