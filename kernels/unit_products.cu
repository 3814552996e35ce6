// Projected image vectors at unit length, and products of their leading coordinates.
//
//   p[j]   = offset[j] + sum over r and c of product[r, image, c, j]
//   u      = p / |p|                                    0 stays 0
//   out    = u, then for i <= j < quadratic in rows of i: same * u_i^2 where i = j, other * u_i * u_j elsewhere
//
// What follows the matrix product of the joint projection (gpuannot.heads.projection), which the paper does not have.
//
// Shapes     product (row_parts, images, column_parts, dims) float32, the products of a vector's parts with a matrix's, or (1, images,
//            1, dims); offset (dims,) float32; out (images, dims + quadratic * (quadratic + 1) / 2) float32; quadratic <= dims.
// Numbers    p in float32, parts in the order of r and c; |p|^2 in float64; u rounded once, products as u_i * u_j * factor in float32.
// Repeats    the same bits at every run, and for an image whatever it is batched with.
//
// Versions   a block an image; u is read again where it was written, through L1. In torch the same takes 12 launches, four of them over
//            all products.
// Time       missing: no version has run on a GPU.
// Bound      memory: at 1024 dimensions, 90 of them multiplied, and two by two parts 16 kB read and 20 kB written an image.

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

extern "C" __global__ void __launch_bounds__(THREADS) unit_products(
    const float* __restrict__ product,  // (row_parts, images, column_parts, dims)
    const float* __restrict__ offset,   // (dims,)
    int row_parts, int column_parts, int dims, int quadratic, float same, float other,
    float* out) {  // (images, dims + quadratic * (quadratic + 1) / 2); no __restrict__: it is read where it was written
    __shared__ double squares_of_warp[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long image = blockIdx.x, images = gridDim.x, products = static_cast<long long>(quadratic) * (quadratic + 1) / 2;
    out += image * (dims + products);

    double squares = 0.0;
    for (int j = threadIdx.x; j < dims; j += THREADS) {
        float p = 0.0f;
#pragma unroll 1  // unrolled, addresses spill around the call of the square root below
        for (int r = 0; r < row_parts; r++)
#pragma unroll 1
            for (int c = 0; c < column_parts; c++) p += product[((r * images + image) * column_parts + c) * dims + j];
        p += offset[j];
        out[j] = p;
        squares += static_cast<double>(p) * p;
    }
    for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, step);
    if (lane == 0) squares_of_warp[warp] = squares;
    __syncthreads();
    squares = 0.0;
    for (int i = 0; i < WARPS; i++) squares += squares_of_warp[i];
    const double scale = squares > 0.0 ? 1.0 / sqrt(squares) : squares;  // NaN stays
    for (int j = threadIdx.x; j < dims; j += THREADS) out[j] = static_cast<float>(out[j] * scale);
    __syncthreads();

    for (int i = warp; i < quadratic; i += WARPS) {
        float* const row = out + dims + static_cast<long long>(i) * quadratic - static_cast<long long>(i) * (i - 1) / 2 - i;
        for (int j = i + lane; j < quadratic; j += 32) row[j] = out[i] * out[j] * (i == j ? same : other);
    }
}
