import torch

from nnsparse_stream.kernels.rounding import rounded


def test_nan_and_infinity_stay_what_they_are():
    # The second is the NaN that a GPU's arithmetic gives.
    bits = torch.tensor([0x7FC00000, 0x7FFFFFFF, 0x7F800000, -0x800000], dtype=torch.int32)
    values = rounded(bits.view(torch.float32), torch.Generator().manual_seed(1))
    assert values[:2].isnan().all()
    assert values[2:].tolist() == [float("inf"), -float("inf")]
