"""Attacks composed of values, and how robust a model is against them.

An attack's step is an update, and any update is the path of an attribution: what stands in
``abe.registry.updates`` runs by `attack` and by ``path_attribution(update=…)`` alike.
"""

from abe.engines.path.steps.aim import Goal
from abe.engines.path.steps.estimators import (
    IntegratedGradient,
    LookAhead,
    Neighbourhood,
    Plain,
    ScaleCopies,
    Transformed,
)
from abe.engines.path.steps.parts import (
    Ball,
    Bounds,
    DecayIndicator,
    Momentum,
    Normalised,
    Sign,
    TranslationKernel,
    UniformStart,
)
from abe.robustness import diverse, zoo
from abe.robustness.advgan import AdvGAN, train_advgan
from abe.robustness.attack import AdversarialResult, attack
from abe.robustness.carlini import CarliniWagner
from abe.robustness.chain import Chain, chain
from abe.robustness.evaluation import RobustnessCurve, TransferMatrix, evaluate_robustness, transfer_matrix
from abe.robustness.features import FeatureImportance
from abe.robustness.pictures import as_pictures
from abe.robustness.transforms import InputDiversity, Spectrum, Structure

__all__ = [
    "AdvGAN",
    "AdversarialResult",
    "Ball",
    "Bounds",
    "CarliniWagner",
    "Chain",
    "DecayIndicator",
    "FeatureImportance",
    "Goal",
    "InputDiversity",
    "IntegratedGradient",
    "LookAhead",
    "Momentum",
    "Neighbourhood",
    "Normalised",
    "Plain",
    "RobustnessCurve",
    "ScaleCopies",
    "Sign",
    "Spectrum",
    "Structure",
    "TransferMatrix",
    "Transformed",
    "TranslationKernel",
    "UniformStart",
    "as_pictures",
    "attack",
    "chain",
    "diverse",
    "evaluate_robustness",
    "train_advgan",
    "transfer_matrix",
    "zoo",
]
