import subprocess
from pathlib import Path

import pytest
import timm
import torch

from dualtoken.backbone import count_parameters
from dualtoken.lab import graphs
from dualtoken.lab.networks import Subject, build, describe, find_subject, merge
from dualtoken.lab.published import PEERS, published


def test_a_network_has_the_same_weights_at_every_call():
    one, two = (build(Subject("dualtoken_vit_t_mix", "network"), 64).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_only_training_needs_is_merged_and_ours_fused():
    repvit = build(Subject("repvit_m0_9", "network"), 224)
    assert count_parameters(repvit) < count_parameters(timm.create_model("repvit_m0_9"))
    ours = build(Subject("dualtoken_vit_t_mix", "network"), 64)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = ours(image)
        norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in ours.modules())
        merged = merge(ours)
        assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in merged.modules()) < norms
        assert torch.allclose(merged(image), before, atol=1e-5)


def test_networks_that_hold_tables_for_a_size_are_told_it():
    with torch.inference_mode():
        assert build(Subject("deit_tiny_patch16_224", "network"), 64)(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_figures_of_a_network_are_those_of_its_paper():
    row = describe(Subject("dualtoken_vit_s_mix", "network"), 224)
    assert row["gmacs"] == pytest.approx(1.004, abs=5e-4)
    assert (row["top1"], row["top1_image_size"], row["top1_source"]) == (79.4, 224, "arXiv 2309.12424")


def test_a_size_that_a_network_refuses_is_no_crash():
    row = describe(Subject("efficientformerv2_s0", "network"), 33)
    assert row["gmacs"] is None
    assert row["top1"] is None


def test_published_figures_name_networks_and_papers():
    for name, figures in PEERS.items():
        assert timm.is_model(name)
        assert 60 < figures.top1 < 90
        assert figures.source.startswith("arXiv ")
    assert published("pvt_v2_b0.in1k") == PEERS["pvt_v2_b0"]
    assert published("resnet18") is None


def test_a_graph_is_made_once_and_anew_for_other_weights(tmp_path, monkeypatch):
    made = []

    def invented(command, **_):
        made.append(command)
        Path(command[-1]).write_bytes(b"graph")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(graphs.subprocess, "run", invented)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    subject = Subject(str(folder), "folder")
    first = graphs.graph(subject, 64, tmp_path / "cache")
    assert graphs.graph(subject, 64, tmp_path / "cache") == first
    assert len(made) == 1
    (folder / "model.safetensors").write_bytes(b"other weights")
    others = {graphs.graph(subject, size, tmp_path / "cache") for size in (64, 96)}
    assert len(others | {first}) == 3


def test_a_failing_export_is_a_reason(tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "", "Traceback\n  a line\nValueError: no such operator\n")
    monkeypatch.setattr(graphs.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(graphs.GraphError, match="ValueError: no such operator"):
        graphs.graph(Subject("dualtoken_vit_t_mix", "network"), 64, tmp_path)


def test_names_with_tags_of_weights_are_networks():
    assert find_subject("pvt_v2_b0.in1k") == Subject("pvt_v2_b0.in1k", "network")
