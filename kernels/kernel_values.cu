// Kernel values of inner products, as the head `kernel` sums them.
//
//   out[i] = e^(width * (products[i] - 1)) / divisor
//
// Ridge regression by similarity to each training image (gpuannot.heads.kernel_ranking), which the paper does not have.
//
// Shapes     products (count,) float32; out (count,) float64, each a float32 value.
// Numbers    every step rounded to float32: the bits of the same steps in torch.
// Repeats    the same bits at every run: an output depends on one input.
//
// Versions   a thread a value, over a grid that holds all. It takes the place of four passes over float32 and one to float64.
// Time       missing: no version has run on a GPU.
// Bound      memory: 4 bytes read and 8 written a value.

extern "C" __global__ void __launch_bounds__(256) kernel_values(
    const float* __restrict__ products,  // (count,)
    long long count, float width, float divisor,
    double* __restrict__ out) {  // (count,)
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) out[i] = expf((products[i] - 1.0f) * width) / divisor;
}
