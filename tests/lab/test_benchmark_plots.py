import itertools
import json
from pathlib import Path

import pytest
from matplotlib.text import Text

from dualtoken.errors import DataError
from dualtoken.lab.benchmark_plots import growth_plot, save, scatter
from dualtoken.lab.benchmark_tables import markdown

MODELS = (
    "dualtoken_vit_t_mix", "dualtoken_vit_s_mix", "lightvit_t", "pvt_v2_b0", "pvt_v2_b1", "mobilevitv2_100",
    "edgenext_small", "efficientformerv2_s1", "tiny_vit_5m_224", "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224", "repvit_m1_0", "mobilenetv4_conv_medium", "fastvit_t12",
)  # fmt: skip
TIMES = (13, 24, 24, 13, 39, 24, 24.5, 14, 25, 19, 70, 14, 12, 17)
TOP1 = (75.4, 79.4, 78.7, 70.5, 78.7, 78.1, 79.4, 79.0, 79.1, 72.2, 81.3, 80.0, 79.9, 79.1)


def rows(**more):
    return [
        {
            "model": model, "engine": "onnx", "batch_size": 1, "image_size": 224, "threads": 2, "latency_ms": time,
            "latency_quartiles_ms": [0.98 * time, 1.03 * time], "top1": top1, "top1_image_size": 224, "gmacs": 1.0,
            "mparams": 5.0, "p90_over_median": 1.1, "images_per_second": 1e3 / time, "ratio": 1.0, "peak_mib": 50.0,
            "file_mib": None,
        } | more
        for model, time, top1 in zip(MODELS, TIMES, TOP1, strict=True)
    ]  # fmt: skip


def test_every_name_is_drawn_and_none_covers_another():
    figure = scatter(rows())
    (axes,) = figure.axes
    texts = [text for text in axes.texts if isinstance(text, Text)]
    assert {text.get_text() for text in texts} >= {"dualtoken_vit_s_mix", "swin_tiny", "deit_tiny", "tiny_vit_5m"}
    assert len(texts) == len(MODELS)
    frame = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in texts]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 <= frame.y1 for box in boxes)


def test_without_an_accuracy_of_each_model_the_cost_is_drawn():
    made = rows()[:3]
    assert scatter(made).axes[0].get_ylabel() == "top-1, %"
    made[1]["top1"] = None
    assert scatter(made).axes[0].get_ylabel() == "multiply-accumulates, G"


def test_each_engine_and_batch_has_its_panel(tmp_path):
    cells = ({}, {"batch_size": 8}, {"engine": "eager"}, {"engine": "eager", "batch_size": 8})
    figure = scatter([row for cell in cells for row in rows(**cell)[:3]])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "onnx, batch 1, 224 px, 2 threads"
    assert len(titles) == 4
    save(figure, tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").read_bytes().startswith(b"\x89PNG")


def test_what_failed_is_left_out_and_nothing_at_all_is_said_so():
    part = rows()[:3]
    part[0] = {key: part[0][key] for key in ("model", "engine", "batch_size", "image_size", "threads", "top1", "gmacs")}
    part[0]["error"] = "refused"
    assert len(scatter(part).axes[0].texts) == 2
    with pytest.raises(DataError, match="nothing to draw"):
        scatter(part[:1])


def test_the_growth_plot_has_the_linear_line_in_each_panel():
    path = Path(__file__).parents[2] / "results" / "growth.jsonl"
    figure = growth_plot([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    assert [axes.get_title() for axes in figure.axes] == ["multiply-accumulates", "time", "memory"]
    for axes in figure.axes:
        labels = [line.get_label() for line in axes.lines]
        assert labels == ["as the pixels", "dualtoken_vit_t_mix", "dualtoken_vit_s_mix", "lightvit_t"]
        across, up = axes.lines[0].get_data()
        assert list(across) == list(up)


def test_the_table_marks_what_was_disturbed():
    made = rows()
    made[1]["p90_over_median"] = 1.7
    lines = markdown(made).splitlines()
    assert len(lines) == 4 + len(MODELS)
    assert [line for line in lines if "1.70 !" in line] == [lines[5]]
    assert "| 24.0 | 23.5-24.7 |" in lines[5]
