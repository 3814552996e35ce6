// CUDA C++ on the CPU: the header that HostRawKernel puts in front of a kernel's source.
//
// One fiber runs one CUDA thread and one OS thread runs one block at a time, so __syncthreads, shuffles and shared memory behave as
// on the device. What the device leaves undefined is made to fail: uninitialised shared memory is poisoned, the order in which
// threads run is drawn from a seed, and a barrier that not all threads reach aborts with a message.
#pragma once
#define CUDA_ON_CPU 1

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

using std::max;
using std::min;

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static thread_local
#define __align__(bytes) alignas(bytes)
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define warpSize 32

#include "vector_types.h"
#include "fibers.h"
#include "launch.h"
#include "warp.h"
#include "atomics.h"
#include "scalars.h"
#include "mma.h"
#include "wgmma.h"
