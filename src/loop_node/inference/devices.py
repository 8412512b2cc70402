"""Which device a model runs on: our own rule, without OpenVINO's AUTO plugin. Pure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from attrs import frozen

from loop_node.errors import ModelError

__all__ = ["DeviceOptions", "compile_on"]

_T = TypeVar("_T")


@frozen(kw_only=True)
class DeviceOptions:
    """What the operator says about running models.

    Attributes:
        device: AUTO, or a device as OpenVINO names it: CPU, GPU, GPU.1, NPU.
        performance_hint: LATENCY or THROUGHPUT.
        inference_precision: f32, bf16 or f16; None leaves it to the device.
        cache: Folder for compiled models, which spares a GPU its compilation at the next start; None for none.
        conf_threshold: Wins over the model's, 0..1.
        iou_threshold: Wins over the model's, 0..1.
        threads: CPU threads for inference; None leaves it to OpenVINO.
    """

    device: str = "AUTO"
    performance_hint: str = "LATENCY"
    inference_precision: str | None = None
    cache: Path | None = None
    conf_threshold: float | None = None
    iou_threshold: float | None = None
    threads: int | None = None


def compile_on(wanted: str, available: Sequence[str], build: Callable[[str], _T]) -> tuple[_T, str, str]:
    """Build a model where the operator wants it.

    Args:
        wanted: AUTO takes the first GPU if there is one and it builds the model, else the CPU; all else is taken as said.
        available: OpenVINO's devices.
        build: Builds for the device it is given, or raises ModelError.

    Returns:
        What was built, the device, and why that device.

    Raises:
        ModelError: No such device, or the last one tried does not build the model.
    """
    wanted = wanted.upper()
    if wanted != "AUTO":
        if wanted not in {name for device in available for name in (device, device.partition(".")[0])}:
            raise ModelError(
                f"there is no device {wanted!r} here; DEVICE must be AUTO or one of {', '.join(available)}"
            )
        return build(wanted), wanted, "as set by DEVICE"
    gpu = next((device for device in available if device.startswith("GPU")), None)
    if gpu is None:
        return build("CPU"), "CPU", "no GPU was found"
    try:
        return build(gpu), gpu, "a GPU was found"
    except ModelError as error:
        return build("CPU"), "CPU", f"{gpu} did not take the model: {error}"
