import torch

from dualtoken.backbone import create_model


def test_it_is_a_stem_of_stride_8_for_any_size():
    torch.manual_seed(0)
    sizes = {"channels": (16, 32, 64, 128), "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 8), "num_classes": 5}
    model = create_model("lsnet_t", stem="t2t", **sizes)
    model(torch.randn(2, 3, 128, 128)).square().mean().backward()
    for name, parameter in model.stem.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert "stem.mixes.0.directions" not in dict(model.named_parameters())
    batch = torch.randn(2, 3, 100, 65)
    with torch.inference_mode():
        together = model.eval().stem(batch)
        assert together.shape == (2, 13, 9, 16)
        torch.testing.assert_close(together[1:], model.stem(batch[1:]), rtol=1e-4, atol=1e-5)
