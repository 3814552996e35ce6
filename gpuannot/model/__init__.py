"""What is learnt and kept: stores, encoder, word model, model file. Imports system, images, method, heads, kernels."""
