import pytest

from loop_node.errors import ModelError
from loop_node.inference.devices import compile_on


def _refuses(*devices: str):
    def build(device: str) -> str:
        if device in devices:
            raise ModelError(f"{device} is out of memory")
        return f"built for {device}"

    return build


@pytest.mark.parametrize(
    ("wanted", "available", "refusing", "device", "reason"),
    [
        ("AUTO", ["CPU"], [], "CPU", "no GPU was found"),
        ("AUTO", ["CPU", "NPU"], [], "CPU", "no GPU was found"),
        ("auto", ["CPU", "GPU"], [], "GPU", "a GPU was found"),
        ("AUTO", ["CPU", "GPU.0", "GPU.1"], [], "GPU.0", "a GPU was found"),
        ("AUTO", ["CPU", "GPU"], ["GPU"], "CPU", "GPU did not take the model: GPU is out of memory"),
        ("cpu", ["CPU", "GPU"], [], "CPU", "as set by DEVICE"),
        ("GPU", ["CPU", "GPU.0", "GPU.1"], [], "GPU", "as set by DEVICE"),
        ("GPU.1", ["CPU", "GPU.0", "GPU.1"], [], "GPU.1", "as set by DEVICE"),
    ],
)
def test_a_gpu_if_it_takes_the_model_else_the_cpu(wanted, available, refusing, device, reason):
    """AUTO's rule, and what is said about it; an explicit device is taken as said."""
    assert compile_on(wanted, available, _refuses(*refusing)) == (f"built for {device}", device, reason)


@pytest.mark.parametrize("wanted", ["GPU", "AUTO:GPU", "HETERO", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(wanted):
    """No silent fallback for an explicit device."""
    with pytest.raises(ModelError, match=r"DEVICE must be AUTO or one of CPU, NPU"):
        compile_on(wanted, ["CPU", "NPU"], _refuses())


def test_an_explicit_device_does_not_fall_back():
    """What it says about the model is what the operator hears."""
    with pytest.raises(ModelError, match="GPU is out of memory"):
        compile_on("GPU", ["CPU", "GPU"], _refuses("GPU"))
