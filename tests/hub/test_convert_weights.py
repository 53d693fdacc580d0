"""Checkpoints with official names become model folders, and what is not one is explained."""

import subprocess
import sys
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dualtoken.backbone import VARIANTS, create_model
from dualtoken.backbone.official import OFFICIAL, Official
from dualtoken.cli import app
from dualtoken.errors import ModelError, OutputError
from dualtoken.hub import model_card
from dualtoken.hub.conversion import convert_weights
from dualtoken.model_folder import load_model

# What the official repositories' own networks have: a name and shape of every kind of part.
FACTS = {
    "cas_vit_xs": {
        "patch_embed.0.weight": (24, 3, 3, 3), "patch_embed.4.running_var": (48,),
        "network.0.0.local_perception.network.2.weight": (48, 1, 3, 3), "network.1.proj.weight": (56, 48, 3, 3),
        "network.1.norm.bias": (56,), "network.4.3.attn.oper_q.0.block.3.weight": (1, 112, 1, 1),
        "network.6.1.attn.oper_k.1.block.1.weight": (220, 220, 1, 1), "network.2.1.attn.dwc.bias": (56,),
        "network.0.1.mlp.fc2.weight": (48, 192, 1, 1), "norm.weight": (220,), "dist_head.weight": (1000, 220),
    },
    "ffnet_1": {
        "patch_embed.2.c.weight": (80, 64, 3, 3), "stages.0.1.token_mixer.0.main.conv1.weight": (80, 1, 3, 3),
        "stages.1.0.proj.0.conv1.bn.weight": (160,), "stages.1.0.proj.1.conv.c.weight": (160, 160, 1, 1),
        "stages.1.1.channel_mixer.main.conv.c.weight": (160, 1, 3, 3),
        "stages.3.2.channel_mixer.main.fc1.bias": (1920,),
        "stages.2.8.token_mixer.0.main.conv2.conv.c.weight": (320, 1, 7, 7), "head.weight": (1000, 640),
    },
    "ffnet_3": {
        "stages.0.0.channel_mixer.main.conv.conv1.c.weight": (96, 1, 3, 3),
        "stages.0.0.token_mixer.0.layer_scale": (96, 1, 1), "stages.3.5.channel_mixer.layer_scale": (768, 1, 1),
    },
    "conv2former_n": {
        "downsample_layers.0.3.weight": (32, 32, 3, 3), "downsample_layers.0.5.running_var": (32,),
        "downsample_layers.0.6.weight": (64, 32, 2, 2), "downsample_layers.2.0.weight": (128,),
        "stages.0.1.attn.att.2.weight": (64, 1, 7, 7), "stages.2.7.attn.v.weight": (256, 256, 1, 1),
        "stages.3.0.attn.norm.bias": (512,), "stages.1.0.layer_scale_2": (128,),
        "stages.3.1.mlp.pos.weight": (2048, 1, 3, 3), "head.2.weight": (1280,), "pred.weight": (1000, 1280),
    },
    "lsnet_t": {
        "patch_embed.4.bn.bias": (64,), "blocks2.0.c.weight": (64, 1, 3, 3), "blocks4.1.c.weight": (384, 256, 1, 1),
        "blocks4.2.mixer.conv1.bn.weight": (384,), "blocks2.2.se.fc1.weight": (32, 128, 1, 1),
        "blocks2.3.mixer.lkp.cv4.weight": (144, 64, 1, 1), "blocks2.3.mixer.lkp.norm.weight": (144,),
        "blocks3.9.mixer.bn.weight": (256,), "blocks4.3.mixer.m.attention_biases": (4, 16),
        "blocks4.11.mixer.m.proj.1.c.weight": (384, 384, 1, 1), "blocks4.11.mixer.m.dw.c.weight": (64, 1, 3, 3),
        "blocks4.11.ffn.m.pw2.c.weight": (384, 768, 1, 1), "head.bn.running_mean": (384,), "head.l.bias": (1000,),
    },
    "rmt_b": {
        "patch_embed.proj.10.bias": (80,), "layers.0.blocks.3.retention.lepe.conv.weight": (80, 1, 5, 5),
        "layers.3.blocks.7.gamma_1": (1, 1, 1, 512), "layers.2.blocks.0.ffn.dwconv.conv.weight": (960, 1, 3, 3),
        "layers.2.downsample.reduction.weight": (512, 320, 3, 3), "layers.1.blocks.0.retention.k_proj.bias": (160,),
        "layers.1.blocks.0.final_layer_norm.weight": (160,), "proj.weight": (1024, 512), "norm.running_var": (1024,),
    },
    "smt_t": {
        "patch_embed1.conv.3.bias": (64,), "patch_embed1.norm.weight": (64,),
        "patch_embed4.proj.weight": (512, 256, 3, 3),
        "block1.0.attn.local_conv_4.weight": (16, 1, 9, 9), "block3.6.attn.proj0.weight": (512, 4, 1, 1),
        "block3.6.attn.bn.weight": (512,), "block3.7.attn.kv.weight": (512, 256), "norm2.bias": (128,),
        "block4.0.attn.local_conv.weight": (512, 1, 3, 3), "block4.0.mlp.dwconv.dwconv.bias": (1024,),
    },
    "cswin_t": {
        "stage1_conv_embed.0.weight": (64, 3, 7, 7), "stage1_conv_embed.2.bias": (64,),
        "merge3.conv.weight": (512, 256, 3, 3), "merge1.norm.weight": (128,), "stage3.20.qkv.weight": (768, 256),
        "stage2.1.attns.1.get_v.weight": (64, 1, 3, 3),
        "stage4.0.attns.0.get_v.bias": (512,), "stage1.0.norm2.weight": (64,), "stage1.0.mlp.fc1.weight": (256, 64),
    },
    "biformer_t": {
        "downsample_layers.0.3.weight": (64, 32, 3, 3), "downsample_layers.3.1.running_mean": (512,),
        "stages.0.1.pos_embed.weight": (64, 1, 3, 3), "stages.2.7.attn.qkv.qkv.weight": (768, 256),
        "stages.2.7.attn.wo.bias": (256,), "stages.3.1.attn.qkv.weight": (1536, 512),
        "stages.3.1.attn.lepe.weight": (512, 1, 5, 5), "stages.1.0.mlp.3.weight": (128, 384),
    },
    "randformer_s12": {
        "downsample_layers.0.post_norm.weight": (64,), "downsample_layers.3.pre_norm.weight": (320,),
        "stages.2.5.token_mixer.random_matrix": (196, 196), "stages.3.0.res_scale2.scale": (512,),
        "stages.0.0.mlp.act.scale": (1,), "norm.bias": (512,), "head.bias": (1000,),
    },
    "t2t_vit_7": {
        "cls_token": (1, 1, 256), "pos_embed": (1, 197, 256), "tokens_to_token.attention1.w": (32, 64),
        "tokens_to_token.attention1.kqv.weight": (192, 147), "tokens_to_token.attention2.norm1.bias": (576,),
        "tokens_to_token.attention2.mlp.2.weight": (64, 64), "tokens_to_token.project.weight": (256, 576),
        "blocks.6.attn.qkv.weight": (768, 256), "blocks.0.mlp.fc1.bias": (512,), "norm.weight": (256,),
        "head.bias": (1000,),
    },
}  # fmt: skip


def rules(name):
    return OFFICIAL.get(name) or OFFICIAL[VARIANTS[name].family]


@cache
def official(name, classes=1000):
    """Random numbers under the official names."""
    own = create_model(name, num_classes=classes).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        rules(name).name_of(key): torch.randint(9, tensor.shape)
        if key.endswith("tracked")
        else torch.rand(tensor.shape, generator=generator)
        for key, tensor in own.items()
    }


@pytest.fixture
def checkpoint(tmp_path):
    """Writes one, and gives where."""

    def write(state, name="official.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", FACTS)
def test_our_tensors_have_the_official_names(name):
    with torch.device("meta"):
        own = create_model(name).state_dict()
    named = {rules(name).name_of(key): [side for side in tensor.shape if side > 1] for key, tensor in own.items()}
    assert len(named) == len(own)
    assert {key: [side for side in shape if side > 1] for key, shape in FACTS[name].items()}.items() <= named.items()


def test_a_checkpoint_becomes_a_model_folder(tmp_path, checkpoint):
    state = official("rmt_t", 7)
    state = state | {"layers.0.Relpos.decay": torch.ones(4), "proj.weight": state["proj.weight"][:, :, 0, 0]}
    wrapped = {f"module.{key}": tensor for key, tensor in state.items() if not key.endswith("tracked")}
    path = checkpoint(wrapped)
    before = path.read_bytes()
    done = convert_weights(path, "rmt_t", tmp_path / "rmt")
    model, config = load_model(tmp_path / "rmt")
    assert (done.classes, len(config.classes), model.num_classes) == (7, 7, 7)
    assert config.preprocessing.image_size == (224, 224)
    assert config.preprocessing.crop_pct == 0.875
    assert config.provenance["converted_from"]["file"] == "official.safetensors"
    for key, tensor in model.state_dict().items():
        if not key.endswith("tracked"):
            assert torch.equal(tensor, state[rules("rmt_t").name_of(key)].reshape(tensor.shape)), key
    assert path.read_bytes() == before
    assert "their licence binds" in model_card(config, tmp_path / "rmt" / "model.safetensors", name="rmt")


def test_networks_of_timm_come_by_its_own_filter(tmp_path, checkpoint):
    own = create_model("poolformerv2_s12").state_dict()
    rewrites = (
        (r"^stem\.conv", "downsample_layers.0.conv"), (r"^stem\.norm", "downsample_layers.0.post_norm"),
        (r"^stages\.(\d)\.downsample\.norm", r"downsample_layers.\1.pre_norm"),
        (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"), (r"\.blocks\.", "."), (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    )  # fmt: skip
    theirs = Official(rewrites)
    state = {theirs.name_of(key): tensor for key, tensor in own.items()}
    convert_weights(checkpoint(state), "poolformerv2_s12", tmp_path / "pool")
    model, config = load_model(tmp_path / "pool")
    assert config.classes[0] == "tench"
    assert all(torch.equal(tensor, own[key]) for key, tensor in model.state_dict().items())


def test_what_differs_is_listed_with_the_nearest(tmp_path, checkpoint):
    state = {**official("cas_vit_xs")}
    state["network.0.0.attn.qkw.weight"] = state.pop("network.0.0.attn.qkv.weight")
    state["norm.weight"] = torch.rand(5)
    state["queue"] = torch.rand(3)
    with pytest.raises(ModelError) as caught:
        convert_weights(checkpoint(state), "cas_vit_xs", tmp_path / "out")
    said = caught.value.message
    assert "Missing, 1 tensor: network.0.0.attn.qkv.weight (nearest: network.0.0.attn.qkw.weight)." in said
    assert "Left over, 2 tensors: " in said
    assert "queue" in said
    assert "norm.weight (5 in place of 220)" in said
    assert "Tianfang-Zhang/CAS-ViT" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_another_size_of_the_family_is_recognised(tmp_path, checkpoint):
    with pytest.raises(ModelError) as caught:
        convert_weights(checkpoint(official("cas_vit_xs", 5)), "cas_vit_s", tmp_path / "out")
    assert "tensors" in caught.value.message
    assert " more." in caught.value.message
    assert caught.value.hint == "It fits cas_vit_xs. Type: --model cas_vit_xs"


def test_what_a_filter_of_timm_stumbles_at_is_no_traceback(tmp_path, checkpoint):
    with pytest.raises(ModelError, match="no checkpoint of poolformer_s12: timm's filter fails at 'queue'") as caught:
        convert_weights(checkpoint({"queue": torch.ones(1)}), "poolformer_s12", tmp_path / "out")
    assert "sail-sg/poolformer" in caught.value.hint


def test_a_pickle_is_refused_with_what_to_type_and_that_works(tmp_path):
    state = official("cas_vit_xs", 3)
    torch.save({"model": state, "epoch": 300}, tmp_path / "best.pth")
    with pytest.raises(ModelError, match="is a pickle") as caught:
        convert_weights(tmp_path / "best.pth", "cas_vit_xs", tmp_path / "out")
    typed = "\n".join(line[4:] for line in caught.value.hint.splitlines() if line.startswith("    "))
    assert "weights_only=True" in typed
    subprocess.run([sys.executable, "-c", typed], check=True, timeout=60)
    assert load_file(tmp_path / "best.safetensors").keys() == state.keys()
    assert convert_weights(tmp_path / "best.safetensors", "cas_vit_xs", tmp_path / "out").classes == 3


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("dualtoken_vit_t_mix", "It is of: biformer, cas_vit, "),
        ("rmt_tt", "Did you mean 'rmt_t'"),
    ],
)
def test_a_network_without_rules_is_refused(model, said, tmp_path, checkpoint):
    with pytest.raises(ModelError) as caught:
        convert_weights(checkpoint({"a": torch.ones(1)}), model, tmp_path / "out")
    assert said in str(caught.value)


def test_a_folder_with_something_in_it_stays(tmp_path, checkpoint):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputError, match="--output"):
        convert_weights(checkpoint({"a": torch.ones(1)}), "rmt_t", tmp_path / "out")


def test_the_command_line_says_what_to_type_next(tmp_path, checkpoint):
    path = checkpoint(official("cas_vit_xs", 3))
    out = tmp_path / "out"
    run = CliRunner().invoke(app, ["convert-weights", str(path), "--model", "cas_vit_xs", "--output", str(out)])
    assert run.exit_code == 0, run.output
    assert "3 classes" in run.output
    assert f"dualtoken predict {out} IMAGE" in run.output
