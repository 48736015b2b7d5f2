"""Maps at recurrent layers whose last states alone are read."""

import pytest
import torch
from torch import nn

import abe


class Reads(nn.Module):
    """Reads the ends of a recurrent layer, from its outputs or from its last states."""

    def __init__(self, kind, *, states: bool, **settings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ways = 2 if settings.get("bidirectional") else 1
        self.rnn = kind(2, 4, batch_first=True, **settings)
        self.head, self.states = nn.Linear(4 * self.ways, 3), states

    def forward(self, x):
        steps, last = self.rnn(x)
        last = last[0] if isinstance(last, tuple) else last
        ends = torch.cat([steps[:, -1, :4], steps[:, 0, 4:]], 1)
        return self.head(torch.cat(list(last[-self.ways :]), 1) if self.states else ends)


@pytest.mark.parametrize("settings", [{}, {"bidirectional": True, "num_layers": 2}])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_last_states_depend_on_the_layer_as_its_outputs_do(kind, settings):
    x = torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(0))
    lit = 0.0
    for method in ("grad_cam", "layer_cam", "ablation_cam"):
        found, wanted = (
            abe.explain(
                abe.series_task(Reads(kind, states=states, **settings), "btc"),
                x,
                method,
                target=0,
                progress=False,
            )
            for states in (True, False)
        )
        assert torch.equal(found.attribution, wanted.attribution)
        assert torch.equal(found.score, wanted.score)
        lit += float(wanted.attribution.abs().sum())
    assert lit > 0
