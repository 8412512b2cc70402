"""Models run by OpenVINO: read, given their preprocessing, compiled, and asked. The only importer of openvino.

Everything here blocks and belongs in a worker thread. Importing openvino takes 0.2 s and happens with the first model.
Its Python package reports each import to its makers; that is switched off here by hiding the package that does it.
"""

import queue
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from loop_node.errors import ImageError, ModelError
from loop_node.inference.decoders import classify, decode
from loop_node.inference.description import ChannelOrder, Declarations, ModelDescription, declared_resolution, describe
from loop_node.inference.devices import DeviceOptions, compile_on
from loop_node.inference.engine import Detected
from loop_node.inference.layouts import Layout, OutputShape
from loop_node.inference.preprocessing import Geometry, Pixels, fit, prepare
from loop_node.inference.resampling import resample
from loop_node.inference.results import classification_metadata, found_metadata
from loop_node.inference.sources import LocatedModel
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.models import ModelInformation

if TYPE_CHECKING:
    import openvino

__all__ = ["OpenVinoModel", "import_openvino", "load_model"]

_ELEMENT_TYPES = ("f32", "f16", "u8")
_NOISE = (
    "Exception from ",
    "Check '",
    "Converting input model",
)  # how lines of OpenVINO's errors begin that say nothing


def load_model(located: LocatedModel, options: DeviceOptions) -> "OpenVinoModel":
    """Read and compile a model; `warm_up` it before it serves.

    Raises:
        ModelError: OpenVINO cannot read or compile it, it is of no kind we know, or it does not fit its description.
    """
    ov = import_openvino()
    core = ov.Core()
    try:
        graph = core.read_model(located.file)
        declarations = _declarations(graph, located.information, options)
        input_layout = _single_image_input(graph, declared_resolution(declarations))
        description = describe(
            declarations,
            input_size=_input_size(graph, input_layout),
            output_shapes=[_shape(output) for output in graph.outputs],
            input_is_uint8=graph.input().get_element_type() == ov.Type.u8,
        )
        graph = _with_preprocessing(graph, input_layout, description)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read {located.file}: {_first_useful_line(error)}") from error

    def build(device: str) -> "openvino.CompiledModel":
        try:
            return core.compile_model(graph, device, _configuration(options))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot compile {located.file}: {_first_useful_line(error)}") from error

    compiled, device, reason = compile_on(options.device, core.available_devices, build)
    return OpenVinoModel(
        compiled,
        description,
        information=_completed(located.information, description),
        device=f"{_full_name(core, device)}, {_precision(compiled)} ({reason})",
    )


class OpenVinoModel:
    """A compiled model with its own pool of infer requests.

    Attributes:
        information: Its `model.json`, with the categories in the order of its output.
        max_in_flight: How many images at once the device makes best use of.
        device: What it runs on, at which precision and why, for the log and `/about`.
        description: How it is fed and read.
    """

    def __init__(
        self,
        compiled: "openvino.CompiledModel",
        description: ModelDescription,
        *,
        information: ModelInformation,
        device: str,
    ) -> None:
        self.information = information
        self.description = description
        self.device = device
        self.max_in_flight = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        for _ in range(self.max_in_flight):
            self._idle.put(_slot(compiled, description.input_size))
        self._closed = False

    def detect(self, image: Pixels) -> Detected:
        """Find things in an image; safe to call from `max_in_flight` threads at once, more of them wait.

        Args:
            image: RGB, uint8, shape (H, W, 3).

        Returns:
            The findings with `created` None. Fitting the image to the input counts as inference.

        Raises:
            ImageError: It is not such an image.
            ModelError: The model is closed, or the device failed.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError(f"an image must be uint8 of shape (H, W, 3), not {image.dtype} of shape {image.shape}")
        slot = self._take()
        try:
            started = time.perf_counter()
            height, width = image.shape[:2]
            geometry = fit(self.description.resize_type, (width, height), self.description.input_size)
            prepare(image, geometry, pad_value=self.description.pad_value, resample=resample, out=slot.canvas)
            outputs = slot.infer()
            inferred = time.perf_counter()
            metadata = self._read(outputs, geometry)
            return Detected(metadata=metadata, infer_s=inferred - started, post_s=time.perf_counter() - inferred)
        finally:
            self._idle.put(slot)

    def warm_up(self) -> None:
        """Let every infer request look once at its real resolution: the first image is as quick as the hundredth.

        Raises:
            ModelError: The device failed.
        """
        width, height = self.description.input_size
        scene = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        slots = [self._take() for _ in range(self.max_in_flight)]
        try:
            for slot in slots:
                slot.canvas[:] = scene
                self._read(slot.infer(), fit(self.description.resize_type, (width, height), (width, height)))
        finally:
            for slot in slots:
                self._idle.put(slot)

    def probe(self) -> None:
        """Look at a black, a white and a noisy image; what a sound model answers are finite numbers.

        Raises:
            ModelError: It answers with NaN or infinity, or the device failed.
        """
        slot = self._take()
        noise = np.random.default_rng(1).integers(0, 256, slot.canvas.shape, np.uint8)
        try:
            for name, scene in (("a black", 0), ("a white", 255), ("a noisy", noise)):
                slot.canvas[:] = scene
                if not all(np.isfinite(output).all() for output in slot.infer()):
                    raise ModelError(f"model {self.information.version} answers {name} image with NaN or infinity")
        finally:
            self._idle.put(slot)

    def close(self) -> None:
        """Wait for the images in flight and free the compiled model; closing twice is harmless."""
        if not self._closed:
            self._closed = True
            for _ in range(self.max_in_flight):
                self._idle.get()
            self._idle.put(None)

    def _take(self) -> "_Slot":
        slot = self._idle.get()
        if slot is None:
            self._idle.put(None)
            raise ModelError(f"model {self.information.version} is closed")
        return slot

    def _read(self, outputs: Sequence[NDArray[np.float32]], geometry: Geometry) -> ImageMetadata:
        description, model_name = self.description, self.information.version
        if description.output.layout is Layout.CLASSIFICATION:
            number, confidence = classify(outputs[description.output.outputs[0]])
            return classification_metadata(number, confidence, description, model_name)
        found = decode(
            description.output,
            outputs,
            input_size=description.input_size,
            conf_threshold=description.conf_threshold,
            iou_threshold=description.iou_threshold,
        )
        return found_metadata(found, geometry, description, model_name)


@frozen(eq=False)
class _Slot:
    """An infer request and the pixels it looks at: uint8, shape (height, width, 3)."""

    request: "openvino.InferRequest"
    canvas: Pixels

    def infer(self) -> list[NDArray[np.float32]]:
        """Run the model; the arrays are the request's own memory, valid until it runs again."""
        try:
            self.request.infer(share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise ModelError(f"inference failed: {_first_useful_line(error)}") from error
        return [tensor.data for tensor in self.request.output_tensors]


def _slot(compiled: "openvino.CompiledModel", input_size: tuple[int, int]) -> _Slot:
    width, height = input_size
    canvas = np.zeros((1, height, width, 3), np.uint8)
    request = compiled.create_infer_request()
    request.set_input_tensor(import_openvino().Tensor(canvas, shared_memory=True))
    return _Slot(request, canvas[0])


def import_openvino() -> Any:
    """Import openvino; its reports to its makers go nowhere, because the package that sends them cannot be found."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how Python hides a module
    import openvino

    return openvino


def _declarations(graph: "openvino.Model", information: ModelInformation, options: DeviceOptions) -> Declarations:
    rt_info = _plain(dict(graph.rt_info.items()))
    model_info, metadata = rt_info.get("model_info"), rt_info.get("framework")
    return Declarations(
        information=information,
        model_info=model_info if isinstance(model_info, dict) else {},
        onnx_metadata={key: str(metadata[key]) for key in metadata} if isinstance(metadata, dict) else {},
        conf_threshold=options.conf_threshold,
        iou_threshold=options.iou_threshold,
    )


def _plain(value: Any) -> Any:
    """OpenVINO's boxed values as Python's own."""
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in value}
    return _plain(value.value) if hasattr(value, "value") else value


def _single_image_input(graph: "openvino.Model", resolution: tuple[int, int] | None) -> str:
    """Make the input one image of a fixed size; returns its layout, NCHW or NHWC."""
    if len(graph.inputs) != 1:
        names = ", ".join(port.get_any_name() for port in graph.inputs)
        raise ModelError(f"the model has {len(graph.inputs)} inputs ({names}); it must have one, an image")
    port = graph.input()
    element_type = port.get_element_type().get_type_name()
    if element_type not in _ELEMENT_TYPES:
        raise ModelError(f"the model's input is of type {element_type}; it must be one of {', '.join(_ELEMENT_TYPES)}")
    shape = _shape(port)
    layout = _image_layout(shape)
    size = (shape[layout.index("W")], shape[layout.index("H")])
    if None in size:
        if resolution is None:
            raise ModelError(
                f"the model takes images of any size {_spell(shape)}: say which in model.json, "
                "as resolution (one side of a square) or resolution_x and resolution_y"
            )
        size = (size[0] or resolution[0], size[1] or resolution[1])
    sides = {"N": 1, "C": 3, "H": size[1], "W": size[0]}
    fixed = [sides[axis] for axis in layout]
    if list(shape) != fixed:
        graph.reshape(fixed)
    return layout


def _image_layout(shape: OutputShape) -> str:
    if len(shape) == 4 and shape[1] == 3:
        return "NCHW"
    if len(shape) == 4 and shape[3] == 3:
        return "NHWC"
    raise ModelError(f"the model's input is {_spell(shape)}; it must be an image, [1,3,H,W] or [1,H,W,3]")


def _input_size(graph: "openvino.Model", layout: str) -> tuple[int, int]:
    shape = graph.input().get_shape()
    return shape[layout.index("W")], shape[layout.index("H")]


def _shape(port: Any) -> OutputShape:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(None if side.is_dynamic else side.get_length() for side in shape)


def _spell(shape: OutputShape) -> str:
    return "[" + ",".join("?" if side is None else str(side) for side in shape) + "]"


def _with_preprocessing(graph: "openvino.Model", layout: str, description: ModelDescription) -> "openvino.Model":
    """Let the graph itself take RGB bytes, shape (1, H, W, 3), and answer in float32."""
    ov = import_openvino()
    processor = ov.preprocess.PrePostProcessor(graph)
    image = processor.input()
    image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    image.model().set_layout(ov.Layout(layout))
    steps = image.preprocess()
    if description.channel_order is ChannelOrder.BGR:
        steps.reverse_channels()
    if any(description.mean_values) or set(description.scale_values) - {1.0}:
        steps.convert_element_type(ov.Type.f32)
        if description.mean_values:
            steps.mean(list(description.mean_values))
        if description.scale_values:
            steps.scale(list(description.scale_values))
    for index in range(len(graph.outputs)):
        processor.output(index).tensor().set_element_type(ov.Type.f32)
    return processor.build()


def _configuration(options: DeviceOptions) -> dict[str, Any]:
    configuration: dict[str, Any] = {"PERFORMANCE_HINT": options.performance_hint.upper()}
    if options.inference_precision is not None:
        configuration["INFERENCE_PRECISION_HINT"] = options.inference_precision
    if options.cache is not None:
        configuration["CACHE_DIR"] = str(options.cache)
    if options.threads is not None:
        configuration["INFERENCE_NUM_THREADS"] = options.threads
    return configuration


def _completed(information: ModelInformation, description: ModelDescription) -> ModelInformation:
    """What is known now and was not said in `model.json`: the categories."""
    return information if information.categories else evolve(information, categories=list(description.categories))


def _full_name(core: "openvino.Core", device: str) -> str:
    return f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME').strip()})"


def _precision(compiled: "openvino.CompiledModel") -> str:
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())


def _first_useful_line(error: BaseException) -> str:
    """What OpenVINO says happened, without the source files it happened in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(_NOISE)]
    return (useful or lines or [type(error).__name__])[0]
