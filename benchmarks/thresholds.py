"""Words by thresholds of their own, in place of five an image: ``python -m benchmarks.thresholds FOLDER --cache CACHE``.

A word is given to every image whose prediction reaches the word's threshold: the one at which the word's F1 over the training images
is highest, each of which is predicted by all the others, in closed form. The test images are scored once, with thresholds settled.
``--holdouts N`` scores cover hold-outs of 500 training images instead, which is where the rule was chosen.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.common import parser_of, write_if_asked
from gpuannot.config import AnnotatorConfig
from gpuannot.datasets.label_files import load_benchmark
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.experiments.reproduce import annotate_descriptors
from gpuannot.heads.left_out import left_out_predictions
from gpuannot.metrics import evaluate, harmonic_mean
from gpuannot.model.encoder import Encoder, Learnt, to_host
from gpuannot.model.fit import InProcess, fit_from_descriptors, learn_transform
from gpuannot.model.store import FeatureStore, StoreSubset
from gpuannot.model.word_model import WordModel
