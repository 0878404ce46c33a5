from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from variants.build import pipeline
from variants.build.context import Context
from variants.build.losses import call
from variants.build.modules import Recipe, load_module, make
from variants.build.supernet import Choice, Elastic, score, train_supernet
from variants.build.training import groups
from variants.quality import quality
from variants.repository import load_catalog, load_model

Change = Callable[..., Path]


def elastic(folder: Path, **parameters: object) -> tuple[Context, Elastic]:
    context = Context(folder, load_model(folder), "supernet", parameters)
    return context, Elastic(context, load_module(context, None)[0])


@pytest.mark.parametrize("name", ["cnn", "encoder", "vit"])
def test_a_masked_sub_network_computes_what_the_cut_one_does(model: Change, name: str) -> None:
    import torch

    context, net = elastic(model(name))
    batch = {n: a[:4] for n, a in context.calibration.items()}
    for choice in (net.choices()[0], net.choices()[-2], net.choices()[len(net.choices()) // 2]):
        cut, recipe = net.cut(choice, Recipe())
        with torch.no_grad():
            with net.active(choice) as masked:
                expected = call(context, masked, batch)[0]
            assert torch.allclose(call(context, cut, batch)[0], expected, atol=1e-5), choice
        made = make(context, recipe)
        made.load_state_dict(cut.state_dict())
        sizes = [sum(p.numel() for p in m.parameters()) for m in (made, cut, net.module)]
        assert sizes[0] == sizes[1]
        assert (sizes[1] < sizes[2]) == (choice != net.choices()[0])


def test_elastic_dimensions(model: Change) -> None:
    _, net = elastic(model("encoder"))
    assert net.layers == 4
    assert len(net.choices()) == 4 * 4
    assert net.choices()[0] == Choice(4, 1.0)
    assert net.choices()[-1] == Choice(1, 0.25)
    assert net.choices()[-1].cost(4) == 0.0625
    assert elastic(model("cnn"))[1].layers == 0


def test_training_all_at_once_helps_the_small_ones(model: Change) -> None:
    context, net = elastic(model("encoder"), steps=60, learning_rate=1e-3, batch=16)
    batches = groups(context, context.calibration, 16)
    import torch

    with torch.no_grad():
        reference = {"embedding": np.concatenate([call(context, net.module, b)[0].numpy() for b in batches])}
    measure = lambda outputs: quality("cosine", outputs, reference)  # noqa: E731
    small = [Choice(1, 0.25), Choice(2, 0.5)]
    before = dict(score(context, net, small, batches, measure))
    assert dict(score(context, net, [Choice(4, 1.0)], batches, measure))[Choice(4, 1.0)] == pytest.approx(1.0, abs=1e-5)
    train_supernet(context, net)
    after = dict(score(context, net, small, batches, measure))
    assert after[small[0]] > before[small[0]] + 0.1
    assert after[small[1]] > before[small[1]]


def test_a_sub_network_as_a_variant(model: Change) -> None:
    folder = model("cnn", techniques={"subnet": {"width": 0.5, "steps": 4, "max_distance": 1.0}})
    assert pipeline.build(folder, ["subnet+int8"]).failed == {}
    made = load_catalog(folder.parent).entries["cnn"].variants["subnet"].lineage
    assert made.parameters["parameters"][1] < 0.4 * made.parameters["parameters"][0]
    assert made.samples == 96
    (folder / "model.yaml").write_text((folder / "model.yaml").read_text().replace("width: 0.5", "width: 0.0"))
    assert "(0, 1] is accepted" in pipeline.build(folder, ["subnet"]).failed["subnet"]
