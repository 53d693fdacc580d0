import torch
import torch.nn.functional as F

from dualtoken.backbone.branch import Place, find_branch


def test_the_masked_products_are_a_scan_that_reads_what_was_there_before():
    mixer = find_branch("hydra")(Place(8, 2, 1, options={"state": 3})).double()
    torch.manual_seed(0)
    values, step = torch.randn(1, 2, 6, 4, dtype=torch.float64), torch.rand(1, 2, 6, dtype=torch.float64)
    write, read = torch.randn(2, 1, 6, 3, dtype=torch.float64)
    torch.nn.init.normal_(mixer.log_decay)
    state, expected = torch.zeros(2, 4, 3, dtype=torch.float64), []
    for place in range(6):
        expected.append(state @ read[0, place - 1] if place else torch.zeros(2, 4, dtype=torch.float64))
        state = (-mixer.log_decay.exp() * step[0, :, place]).exp()[:, None, None] * state
        state = state + (values[0, :, place] * step[0, :, place, None])[..., None] * write[0, place]
    got = mixer._gather(values, step, write, read)
    torch.testing.assert_close(got[0], torch.stack(expected, 1))


def test_long_maps_stay_finite():
    mixer = find_branch("hydra")(Place(8, 2, 1)).eval()
    with torch.inference_mode():
        assert mixer(100 * F.normalize(torch.randn(1, 28, 28, 8), dim=-1)).isfinite().all()
