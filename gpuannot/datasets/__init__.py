"""Labelled images: label files, class folders, the field's benchmarks, drawn scenes. Imports system, images, method."""

from .label_files import BENCHMARKS, LabelledImages, find_label_file, load_benchmark, load_labelled_images, named_images

__all__ = ["BENCHMARKS", "LabelledImages", "find_label_file", "load_benchmark", "load_labelled_images", "named_images"]
