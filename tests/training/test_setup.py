"""What does not fit is refused before long work."""

from types import SimpleNamespace

import pytest
from accelerate import DistributedType

from rnn_hf.training.setup import check_distribution


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_weights_are_refused_with_the_reason(kind):
    with pytest.raises(ValueError, match=f"{kind.value} is not supported.*use plain data parallelism"):
        check_distribution(SimpleNamespace(distributed_type=kind))
    check_distribution(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU))
