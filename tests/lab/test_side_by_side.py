"""The benchmark from end to end, with engines that start quickly and networks of a few operations."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dualtoken import cli
from dualtoken.errors import ConfigError, DataError, ModelError, OutputError
from dualtoken.lab import benchmark as run
from dualtoken.lab.benchmark import benchmark
from dualtoken.lab.benchmark_tables import markdown, print_rows
from dualtoken.lab.process import Worker, WorkerError
from dualtoken.lab.rows import read_rows

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

QUICK = {"engines": ("onnx",), "batches": (1,), "sizes": (32,), "threads": (1,), "rounds": 2, "progress": False}


def write_network(path: Path, name: str = "images") -> str:
    """An ONNX file that averages square images of 32 pixels, any number of them."""
    from onnx import TensorProto, helper

    helper_input = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 32, 32])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 1, 1])
    node = helper.make_node("GlobalAveragePool", [name], ["logits"])
    graph = helper.make_graph([node], "network", [helper_input], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return str(path)


@pytest.fixture
def network(tmp_path):
    return write_network(tmp_path / "average.onnx")


def test_every_cell_has_a_row_for_each_model_with_what_made_it(network, tmp_path):
    Path(network).with_suffix(".bin").write_bytes(b"of another export")  # OpenVINO's, no part of an ONNX file
    rows = benchmark([network, network], **QUICK | {"batches": (2, 1), "output": tmp_path / "rows.jsonl"})
    assert [(row["model"], row["batch_size"]) for row in rows] == [(network, 1)] * 2 + [(network, 2)] * 2
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    for row in rows:
        low, high = row["latency_quartiles_ms"]
        assert 0 < low <= row["latency_ms"] <= high
        assert row["latency_best_ms"] > 0
        assert row["rounds"] == 2
        assert row["iterations"] >= 4
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch_size"] / row["latency_ms"])
        assert row["peak_mib"] > 0
        assert row["file_mib"] == pytest.approx(Path(network).stat().st_size / 2**20)
        assert (row["engine"], row["image_size"], row["threads"]) == ("onnx", 32, 1)
        assert {"machine", "governor", "load_before", "command", "commit", "date"} <= row.keys()
        assert {"onnxruntime", "torch", "dualtoken"} <= row["versions"].keys()
    assert [row["ratio"] for row in rows[::2]] == [1, 1]


def test_rows_are_appended(network, tmp_path):
    file = tmp_path / "rows.jsonl"
    for _ in range(2):
        benchmark([network], **QUICK, output=file)
        file.write_text(file.read_text().rstrip("\n"))  # as some editors do
    assert len(read_rows(file)) == 2


def test_rows_are_appended_to_rows_alone(network, tmp_path):
    (notes := tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(DataError, match=r"notes\.txt"):
        benchmark([network], **QUICK, output=notes)
    assert notes.read_text() == "mine\n"


def test_the_same_file_runs_in_openvino(network):
    pytest.importorskip("openvino")
    (row,) = benchmark([network], **QUICK | {"engines": ("openvino",)})
    assert row["latency_ms"] > 0
    assert "openvino" in row["versions"]


def test_a_model_folder_runs_in_torch(tmp_path):
    from dualtoken.backbone import create_model
    from dualtoken.model_folder import ModelConfig, save_model
    from dualtoken.preprocess import Preprocessing

    tiny = {"channels": (16, 16, 16), "depths": (1, 1, 1), "heads": (2, 2, 2), "neck": 16}
    config = ModelConfig("dualtoken_vit_t_mix", ("ant", "bee"), Preprocessing((32, 32)), model_args=tiny)
    save_model(create_model("dualtoken_vit_t_mix", num_classes=2, **tiny), config, tmp_path / "model")
    (row,) = benchmark([str(tmp_path / "model")], **QUICK | {"engines": ("eager",)})
    assert row["latency_ms"] > 0
    assert row["detail"] in ("channels first", "channels last")
    assert row["mparams"] > 0
    assert row["gmacs"] > 0
    assert row["top1"] is None


def test_what_an_engine_refuses_is_a_row_with_the_reason_and_the_others_go_on(network, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    rows = benchmark([str(broken), network], **QUICK, table=tmp_path / "table.md")
    assert "error" in rows[0]
    assert "latency_ms" not in rows[0]
    assert rows[1]["latency_ms"] > 0
    assert rows[1]["ratio"] is None
    assert rows[0]["error"] in (tmp_path / "table.md").read_text()
    print_rows(rows)


def test_a_file_is_not_for_every_engine(network):
    (row,) = benchmark([network], **QUICK | {"engines": ("eager",)})
    assert row["error"] == "eager does not read .onnx files"


def test_the_command_line_ends_with_1_where_something_was_refused(network, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dualtoken", "benchmark", str(network), "--engine", "eager", "--rounds", "1"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "eager does not read .onnx files" in capsys.readouterr().out


def test_an_image_of_another_size_than_the_files_is_refused_in_the_row(network):
    (row,) = benchmark([network], **QUICK | {"sizes": (64,)})
    assert "Got invalid dimensions" in row["error"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"engines": ("onx",)}, "Did you mean 'onnx'"),
        ({"batches": (1, 0)}, "--batch is 0"),
        ({"sizes": (8,)}, "--size is 8"),
        ({"threads": (10_000,)}, "--threads is 10000"),
        ({"rounds": 0}, "--rounds is 0"),
        ({"engines": ()}, "nothing to measure"),
    ],
)
def test_nonsense_is_refused(network, wrong, message):
    with pytest.raises(ConfigError, match=message):
        benchmark([network], **QUICK | wrong)


def test_unknown_models_are_refused(tmp_path):
    for model, message in {
        "dualtoken_vit_t_mxi": "Did you mean 'dualtoken_vit_t_mix'",
        str(tmp_path): "no model folder",
        str(tmp_path / "lost.onnx"): "no file",
    }.items():
        with pytest.raises(ModelError, match=message):
            benchmark([model], **QUICK)


def test_pictures_are_not_written_over_nor_promised_without_anything_to_draw(network, tmp_path):
    (tmp_path / "there.png").touch()
    with pytest.raises(OutputError, match="--plot"):
        benchmark([network], **QUICK, plot=tmp_path / "there.png")
    with pytest.raises(DataError, match="nothing to draw"):
        benchmark([network], **QUICK, plot=tmp_path / "new.png")
    assert not (tmp_path / "new.png").exists()


def test_ctrl_c_leaves_the_finished_rows_and_no_process(network, tmp_path, monkeypatch):
    started, rounds = [], run._rounds

    class Watched(Worker):
        def __init__(self, threads):
            super().__init__(threads)
            started.append(self)

    def interrupted(workers, prepared, number, title, step):
        if "batch 2" in title:
            raise KeyboardInterrupt
        return rounds(workers, prepared, number, title, step)

    monkeypatch.setattr(run, "Worker", Watched)
    monkeypatch.setattr(run, "_rounds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark([network], **QUICK | {"batches": (1, 2), "output": tmp_path / "rows.jsonl"})
    assert [json.loads(line)["batch_size"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [1]
    assert [worker._process.poll() is not None for worker in started] == [True]


def test_turns_are_interleaved_and_ratios_taken_within_a_round():
    turns = []

    class Invented:
        def __init__(self, name, times):
            self.name, self.times = name, iter(times)

        def ask(self, what, seconds):
            turns.append(self.name)
            return {"ms": next(self.times)}

    # The second round is twice as slow for all: the ratio does not care.
    workers = [Invented("A", [[10, 10], [20, 20], [10, 10]]), Invented("B", [[15, 15], [30, 30], [15, 15]])]
    prepared = [{"peak_mib": 1}, {"peak_mib": 1}]
    made = run._summarise(prepared, run._rounds(workers, prepared, 3, "", lambda text: None), 8)
    assert turns == ["A", "B"] * 3
    assert made[1]["ratio"] == 1.5
    assert made[1]["ratio_quartiles"] == [1.5, 1.5]
    assert made[1]["latency_ms"] == 15
    assert made[1]["p90_over_median"] == 2
    assert "1.5 x the median" not in markdown([])


def test_a_worker_that_dies_is_a_reason():
    with Worker(1) as worker:
        worker._process.kill()
        with pytest.raises(WorkerError, match="ended with code -9"):
            worker.ask("turn", seconds=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_idle_worker_uses_no_processor_time(network, engine):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    with Worker(2) as worker:
        worker.ask("open", engine=engine, source={"path": network}, image_size=32, threads=2)
        worker.ask("prepare", batch_size=1, image_size=32)
        worker.ask("turn", seconds=0.05)
        looks = asleep = 0
        while asleep < 5 and looks < 500:  # on a busy machine threads may come late to the end of their search for work
            looks, asleep = looks + 1, asleep + 1 if states(worker.pid) == {"S"} else 0
            worker_said.wait(0.02)
        assert asleep == 5


worker_said = threading.Event()  # it never does: waiting for it lets others work


def states(pid: int) -> set[str]:
    """Of all threads of a process: S sleeps, R runs."""
    return {path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")}


def test_a_worker_holds_its_engine_and_no_torch():
    code = "import sys, dualtoken.lab.worker; print({'torch', 'timm', 'matplotlib'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"
