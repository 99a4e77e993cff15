"""Write a net's weights in another format.

  python convert.py runs/fashion fashion.safetensors           a run's newest checkpoint
  python convert.py bvlc_alexnet.caffemodel alexnet.onnx
  python convert.py alexnet-owt-7be5be79.pth alexnet.npz

SOURCE is a checkpoint, a run's folder, or a file:
  .safetensors   full (unsharded) tensors under our names or torchvision's
  .pth           a state dict of torchvision.models.alexnet, alone or in a training's checkpoint;
                 also .pt and .pth.tar
  .caffemodel    Caffe's bvlc_alexnet or bvlc_reference_caffenet, or a net of their shapes
  .npz           Caffe's arrays under the keys conv1.weight, conv1.bias, … fc8.bias; conv1 reads BGR
  .onnx          ONNX's bvlcalexnet, a graph of such layers, or one written here; needs onnx

TARGET is such a file (.pth and .caffemodel for those nets only) or a graph from normalised images
(batch, channels, side, side) to logits:
  .onnx          needs the packages onnx and onnxscript
  .pt2           for torch.export.load
"""

import argparse
import logging

from launch.program import ArgumentParser, run_program

from common.files import home_path, replacing
from model.variants import VARIANTS
from recording.source import read_source
from weights.files import check_target, write_file

log = logging.getLogger(__name__)


def main() -> int:
    """Read SOURCE, write TARGET and describe the net; returns the exit status."""
    arguments = parse_arguments()
    check_target(arguments.target)
    weights = read_source(arguments.source).weights
    if arguments.variant:
        weights = weights.of_variant(arguments.variant)
    with replacing(arguments.target) as aside:
        write_file(weights, aside)
    count = sum(tensor.numel() for tensor in weights.tensors.values())
    log.info(
        "%s: %s, %d tower(s), %d classes, %d channel(s), %s parameters",
        *(arguments.target, weights.variant, weights.towers, weights.classes, weights.channels),
        f"{count:,}",
    )
    return 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", type=home_path, metavar="SOURCE", help="where the weights are")
    parser.add_argument("target", type=home_path, metavar="TARGET", help="the file to write")
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        help="the variant, where SOURCE does not name it and several have its shapes",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main, most_ranks=1)
