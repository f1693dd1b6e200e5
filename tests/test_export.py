"""Exported models: what is in the file, that it equals the run, and what is never left behind."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from facerec import checkpoint, export, mfr
from facerec.cli import main
from facerec.config import ConfigError, load, published
from facerec.data.images import decode
from facerec.data.shards import DataError, Shards
from facerec.evaluation.protocols import EvaluationSet
from facerec.model import open_model
from facerec.onnx_backbone import RAW, OnnxBackbone
from facerec.train import train
from tests.backbones.nets import params, tamed
from tests.conftest import toy_image
from tests.test_train import silent, toy_config


@pytest.fixture(scope="module")
def run(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cosface"
    train(toy_config(toy_shards, epochs=2), run=folder, report=silent)
    return folder


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / "toy.onnx"
    export.export(run, file)
    return file


@pytest.fixture(scope="module")
def submitted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("submitted") / "model.onnx"
    export.export(run, file, target="mfr")
    return file


def pixels(count: int, side: int) -> torch.Tensor:
    drawn = np.random.default_rng(count).uniform(-1, 1, (count, 3, side, side))
    return torch.from_numpy(drawn.astype(np.float32))


def test_one_file_with_everything_inside(run: Path, model: Path, toy_shards: Path) -> None:
    assert [path.name for path in model.parent.iterdir()] == ["toy.onnx"]
    graph = onnx.load(str(model), load_external_data=False)
    onnx.checker.check_model(graph)
    assert (graph.opset_import[0].version, graph.ir_version) == (11, 6)
    assert all(w.data_location != TensorProto.EXTERNAL for w in graph.graph.initializer)
    ends = [
        (end.name, [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim])
        for end in (*graph.graph.input, *graph.graph.output)
    ]
    assert ends == [("data", ["batch", 3, 64, 64]), ("embedding", ["batch", 32])]
    said = {item.key: item.value for item in graph.metadata_props}
    assert said["colour_order"] == "RGB"
    assert said["normalisation"] == "(x - 127.5) / 127.5"
    assert (said["image_size"], said["embedding_size"]) == ("64", "32")
    assert (said["alignment"], said["alignment_template"]) == ("none", "unknown")
    assert (said["backbone"], said["loss"], said["step"]) == ("tiny", "cosface", "12")
    config = json.loads(said["config"])
    assert config == published(load(run / "config.json"))
    assert "/" not in config["data.train"]
    assert len(said["weights_sha256"]) == len(said["training_set_sha256"]) == 64
    backbone = checkpoint.load_backbone(run)[1].eval()
    val = EvaluationSet("val", Shards(toy_shards), "val").measure(backbone)
    expected = next(m for m in val.measures if m.metric == "tar@far=1e-2")
    assert float(said["threshold"]) == expected.threshold
    assert float(said["threshold_tar"]) == expected.value
    assert (said["threshold_far"], said["threshold_set"]) == ("1e-2", "val")


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_the_file_gives_what_the_run_gives(run: Path, model: Path, batch: int) -> None:
    backbone = checkpoint.load_backbone(run)[1].eval()
    served = OnnxBackbone(model)
    assert (served.input_size, served.embedding_size) == (64, 32)
    images = pixels(batch, 64)
    with torch.no_grad():
        wanted, found = backbone(images), served(images)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert torch.equal(served(images, views=2), torch.stack([found, found]))
    with pytest.raises(ValueError, match=r"63 x 63 .* too small"):
        served(pixels(1, 63))


@pytest.mark.parametrize("name", params(["small vit"], ["small iresnet", "mobilefacenet"]))
def test_other_families_at_128_pixels(name: str, tmp_path: Path) -> None:
    backbone, file = tamed(name), tmp_path / "model.onnx"
    file.write_bytes(export.to_onnx(backbone, 128, {}))
    assert onnx.load(str(file)).opset_import[0].version == 11
    assert export.compare(backbone, OnnxBackbone(file), 128) < 1e-4


def test_the_submission_keeps_the_server_s_rules(submitted: Path) -> None:
    assert sorted(path.name for path in submitted.parent.iterdir()) == ["model.onnx", "model.zip"]
    with zipfile.ZipFile(submitted.with_suffix(".zip")) as archive:
        assert archive.namelist() == ["model.onnx"]
        assert archive.read("model.onnx") == submitted.read_bytes()
    served = OnnxBackbone(submitted)
    assert served.input_size == 112
    assert served.metadata["image_size"] == "112"
    assert mfr.check(submitted, lambda x: served(torch.from_numpy(x)).numpy()) == ()


def rename(graph: Any, name: str) -> None:
    graph.node[2].name = name


def add_weight(graph: Any, kind: type) -> None:
    graph.initializer.append(numpy_helper.from_array(np.zeros(3, kind), "extra"))


def outside(graph: Any) -> None:
    graph.initializer[0].data_location = TensorProto.EXTERNAL


def turn(graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "back"))
    graph.node.append(helper.make_node("Slice", ["data", "a", "b", "c", "back"], ["t"], "Turn"))


def lengthen(graph: Any) -> None:
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2048


def fix_batch(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def resize(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m.opset_import[0], "version", 14), "ai.onnx 14; ai.onnx 13 is the"),
        (lambda m: setattr(m, "ir_version", 8), "IR version 8; 7 is the newest"),
        (lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)), "microsoft 1"),
        (lambda m: m.graph.output.append(m.graph.output[0]), "1 inputs and 2 outputs"),
        (lambda m: rename(m.graph, "Sub_3"), "called Sub_3 is among the first 8"),
        (lambda m: rename(m.graph, "Div"), "called Div is among the first 8"),
        (lambda m: add_weight(m.graph, np.float16), "extra is of type FLOAT16; 4 bytes"),
        (lambda m: add_weight(m.graph, np.bool_), "extra is of type BOOL"),
        (lambda m: outside(m.graph), "lies in another file"),
        (lambda m: turn(m.graph), r"Turn \(Slice\) turns an axis round"),
        (lambda m: lengthen(m.graph), "embeddings of 2048 numbers; 1 to 1024"),
        (lambda m: fix_batch(m.graph), r"data is \[1, 3, 112, 112\] .*symbolic batch"),
        (lambda m: resize(m.graph), r"\(batch, 3, 112, 112\) of FLOAT"),
        (lambda m: m.graph.ClearField("node"), "0 nodes"),
    ],
)
def test_what_the_server_refuses_is_refused_here(
    submitted: Path, tmp_path: Path, change: Callable[[Any], None], words: str
) -> None:
    model = onnx.load(str(submitted))
    change(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=words):
        mfr.check(tmp_path / "model.onnx", lambda x: x[:, 0, 0, :32])


def test_a_flip_or_numbers_that_are_not_finite_are_seen_in_what_comes_out(submitted: Path) -> None:
    def both(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray((x + x[..., ::-1])[:, 0, 0, :32])

    def broken(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.where(np.arange(len(x))[:, None] == 31, np.nan, x[:, 0, 0, :32]))

    with pytest.raises(ConfigError, match="mirror image give the same embedding"):
        mfr.check(submitted, both)
    with pytest.raises(ConfigError, match=r"a batch of 32 gives .* finite: False"):
        mfr.check(submitted, broken)


def test_a_difference_above_the_limit_leaves_nothing(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "model.onnx"
    monkeypatch.setattr(export, "LIMIT", 1e-12)
    assert main(["export", str(run), str(file), "--target", "mfr"]) == 2
    error = capsys.readouterr().err
    assert "differs from PyTorch by" in error
    assert "the limit is 1e-12" in error
    assert list(tmp_path.iterdir()) == []
    file.write_text("the one before")
    assert main(["export", str(run), str(file)]) == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the one before"]


def test_weights_that_are_not_finite_are_not_exported(model: Path) -> None:
    backbone = tamed("tiny")
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ConfigError, match="embeddings are not finite"):
        export.compare(backbone, OnnxBackbone(model), 64)


def test_where_the_threshold_comes_from(
    run: Path, toy_shards: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    written = export.export(run, file, threshold_set=toy_shards, far="1e-2")
    assert written.threshold == open_model(file).threshold
    assert written.threshold is not None
    assert written.threshold.measured_on == "toy.val"
    assert written.notes == ()
    with pytest.raises(DataError, match=r"FAR 1e-4, which takes 1000000 impostor pairs \(val: 160"):
        export.export(run, file, far="1e-4")
    with pytest.raises(DataError, match="holds 80 pairs and names no identities"):
        export.export(run, file, threshold_set=toy_pairs)
    assert open_model(file).threshold == written.threshold


def test_evaluate_gives_the_same_numbers_through_onnxruntime(
    run: Path, model: Path, toy_shards: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    found = []
    for source in (run, model):
        out = tmp_path / source.name
        words = ["evaluate", str(source), str(toy_shards), str(toy_pairs), "--out", str(out)]
        assert main(words) == 0
        found.append(pq.read_table(out / "evaluation.parquet").to_pylist())
    one, two = found
    assert [(row["set"], row["metric"]) for row in one] == [(r["set"], r["metric"]) for r in two]
    assert {row["set"] for row in two} == {"val", "pairs"}
    for mine, other in zip(one, two, strict=True):
        assert mine["value"] == pytest.approx(other["value"], abs=1e-4)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    for identity in (500, 501):
        (folder / str(identity)).mkdir(parents=True)
        for number in range(2):
            image = toy_image(identity, number)
            (folder / str(identity) / f"{number}.jpg").write_bytes(image)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_is_embedded(run: Path, model: Path, faces: Path, tmp_path: Path) -> None:
    tables = {}
    for name, source, more in (("run", run, []), ("onnx", model, []), ("flip", model, ["--flip"])):
        out = tmp_path / f"{name}.parquet"
        assert main(["embed", str(source), str(faces), str(out), *more]) == 0
        tables[name] = pq.read_table(out)
    table = tables["onnx"]
    assert table.column_names == ["key", "embedding", "norm"]
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<")
    assert table["key"].to_pylist() == ["500/0.jpg", "500/1.jpg", "501/0.jpg", "501/1.jpg"]
    backbone = checkpoint.load_backbone(run)[1].eval()
    read = np.stack([decode((faces / key).read_bytes()) for key in table["key"].to_pylist()])
    x = torch.from_numpy(read).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        plain, mirrored = backbone(x).numpy(), backbone(x.flip(3)).numpy()
    for name, wanted in (("run", plain), ("onnx", plain), ("flip", plain + mirrored)):
        found = np.array(tables[name]["embedding"].to_pylist())
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(plain).max())
        norms = tables[name]["norm"].to_numpy()
        np.testing.assert_allclose(norms, np.linalg.norm(plain, axis=1), rtol=1e-4)


def test_prepared_shards_are_embedded(model: Path, toy_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "val.parquet"
    assert main(["embed", str(model), str(toy_shards), str(out), "--split", "val"]) == 0
    table = pq.read_table(out)
    keys = [k for g in range(7) for k in Shards(toy_shards).split("val").read(g).keys]
    assert table["key"].to_pylist() == keys


def test_verify_decides_at_the_stored_threshold(
    run: Path, model: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = str(faces / "500/0.jpg"), str(faces / "501/0.jpg")
    threshold = open_model(model).threshold
    assert threshold is not None
    for first, second in ((one, one), (one, two)):
        assert main(["verify", str(model), first, second]) == 0
        text = capsys.readouterr().out
        cosine = float(text.split()[1])
        decision = "the same person" if cosine > threshold.cosine else "two people"
        assert f"decision   {decision}\n" in text
        assert "at FAR 1e-2 on val" in text
        assert cosine == pytest.approx(1, abs=1e-4) or first != second
    assert main(["verify", str(run), one, two]) == 0
    assert "decision   none: the model holds no threshold" in capsys.readouterr().out


def test_images_that_are_not_aligned_are_refused(
    model: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = faces / "500" / "photograph.jpg"
    photograph.write_bytes(toy_image(500, 9, side=250))
    good, out = str(faces / "500/0.jpg"), tmp_path / "out.parquet"
    for words in (
        ["embed", str(model), str(faces), str(out)],
        ["verify", str(model), good, str(photograph)],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "photograph.jpg: 250 x 250 pixels, but the model takes aligned faces of 64" in error
        assert "alignment is needed first" in error
        assert error.count("\n") == 1
    photograph.write_bytes(b"no image")
    assert main(["verify", str(model), good, str(photograph)]) == 2
    photograph.write_bytes(toy_image(500, 9)[:-400])
    assert main(["embed", str(model), str(faces), str(out)]) == 2
    assert "500/photograph.jpg: the JPEG is damaged" in capsys.readouterr().err
    assert not list(tmp_path.glob("out.parquet*"))


def foreign(path: Path, first: str, second: str, batch: int | str = "b", side: int = 64) -> Path:
    """The mean red, green and blue of an image, by a graph that says nothing of itself."""
    ends = (("x", [batch, 3, side, side]), ("y", [batch, 3]))
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], first, axes=[2, 3], keepdims=0),
            helper.make_node("Identity", ["m"], ["y"], second),
        ],
        "means",
        *([helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)] for n, shape in ends),
    )
    opset = helper.make_opsetid("", 11)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=6), str(path))
    return path


def test_files_of_others(tmp_path: Path) -> None:
    image = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    file = foreign(tmp_path / "plain.onnx", "mean", "end")
    assert OnnxBackbone(file)(image).tolist() == [[1, 0, -1]]
    assert open_model(file).threshold is None
    raw = OnnxBackbone(foreign(tmp_path / "raw.onnx", "Sub_0", "_mul1"))
    assert raw.normalisation == RAW
    assert raw(image).tolist() == [[255, 127.5, 0]]
    half = OnnxBackbone(foreign(tmp_path / "half.onnx", "Sub_0", "/Mul"))
    assert half.normalisation != RAW
    model = onnx.load(str(file))
    helper.set_model_props(model, {"colour_order": "BGR"})
    onnx.save(model, str(tmp_path / "bgr.onnx"))
    assert OnnxBackbone(tmp_path / "bgr.onnx")(image).tolist() == [[-1, 0, 1]]
    helper.set_model_props(model, {"colour_order": "GREY"})
    onnx.save(model, str(tmp_path / "grey.onnx"))
    (tmp_path / "text.onnx").write_text("no model")
    for name, words in (
        ("grey", "colour_order is 'GREY'; known are RGB, BGR"),
        ("text", "not an ONNX model that onnxruntime runs"),
        ("missing", "no such model file"),
    ):
        with pytest.raises(ConfigError, match=words):
            OnnxBackbone(tmp_path / f"{name}.onnx")
    with pytest.raises(ConfigError, match=r"takes \[1, 3, 64, 64\]; .*symbolic batch"):
        OnnxBackbone(foreign(tmp_path / "one.onnx", "mean", "end", batch=1))
