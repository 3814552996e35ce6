"""The paper, a file an equation. Imports system, reference and kernels.

======================  =====================================================================================
:mod:`.trunk`           features: conv5_2 of VGG-16, P = 196 local features of 512 channels; :mod:`.weights` reads its weights;
                        :mod:`.trunks` has other networks
:mod:`.descriptors`     Gaussian normalisation and PCA to n dimensions
:mod:`.codebook`        K-means: m visual words C_1 … C_m
:mod:`.vlad`            (1) F_v = [Σ(f_i − C_1), …, Σ(f_i − C_m)]
:mod:`.labels`          (2) I = Σ a_j·w_j: which words an image carries
:mod:`.words`           (4), (5) v_j = mean of the images that carry word j; (3) is the head ``demixed``
:mod:`.ranking`         (6) the k nearest words in L2
======================  =====================================================================================
"""
