/* CUDA's runtime for tests: a device of compute capability 8.0 whose memory is the host's. MindSpore selects a kernel for
   every operator of a graph when it compiles it, which needs nothing but these. No kernel can be launched. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct properties { /* the first fields of cudaDeviceProp in CUDA 11 */
    char name[256], uuid[16], luid[8];
    unsigned mask;
    size_t memory, shared_memory;
    int registers, warp;
    size_t pitch;
    int threads, block[3], grid[3], clock;
    size_t constants;
    int major, minor;
    size_t alignment, pitch_alignment;
    int overlap, processors;
};

static int handle(void **made) { *made = calloc(1, 64); return 0; }
static int size(size_t *bytes) { *bytes = 64; return 0; }

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDeviceProperties(struct properties *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "Host");
    found->memory = 16ul << 30;
    found->shared_memory = 48 << 10;
    found->registers = 65536;
    found->warp = 32;
    found->threads = found->block[0] = found->block[1] = 1024;
    found->block[2] = 64;
    found->grid[0] = 2147483647;
    found->grid[1] = found->grid[2] = 65535;
    found->major = 8;
    found->processors = 108;
    return 0;
}
int cudaMemGetInfo(size_t *free, size_t *total) { *free = 8ul << 30; *total = 16ul << 30; return 0; }
int cudaMalloc(void **made, size_t bytes) { *made = calloc(1, bytes); return 0; }
int cudaHostAlloc(void **made, size_t bytes, unsigned flags) { *made = calloc(1, bytes); return 0; }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { memcpy(to, from, bytes); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *s) { memcpy(to, from, bytes); return 0; }
int cudaMemset(void *memory, int value, size_t bytes) { memset(memory, value, bytes); return 0; }
int cudaMemsetAsync(void *memory, int value, size_t bytes, void *s) { memset(memory, value, bytes); return 0; }
int cudaStreamCreate(void **made) { return handle(made); }
int cudaStreamCreateWithFlags(void **made, unsigned flags) { return handle(made); }
int cudaStreamCreateWithPriority(void **made, unsigned flags, int priority) { return handle(made); }
int cudaEventCreate(void **made) { return handle(made); }
int cudaEventCreateWithFlags(void **made, unsigned flags) { return handle(made); }
int cudaEventElapsedTime(float *time, void *from, void *to) { *time = 1; return 0; }
const char *cudaGetErrorString(int error) { return "none"; }
const char *cudaGetErrorName(int error) { return "none"; }
int cuGetErrorName(int error, const char **name) { *name = "none"; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 0; return 0; }
int nvrtcVersion(int *major, int *minor) { *major = 11; *minor = 8; return 0; }
int cublasCreate_v2(void **made) { return handle(made); }
int cublasGetMathMode(void *h, int *mode) { *mode = 0; return 0; }
int cudnnCreate(void **made) { return handle(made); }
int cusolverDnCreate(void **made) { return handle(made); }
int cusparseCreate(void **made) { return handle(made); }
int curandCreateGenerator(void **made, int kind) { return handle(made); }
const char *cudnnGetErrorString(int error) { return "none"; }
int cudnnCreateActivationDescriptor(void **made) { return handle(made); }
int cudnnCreateTensorDescriptor(void **made) { return handle(made); }
int cudnnCreateOpTensorDescriptor(void **made) { return handle(made); }
int cudnnCreateReduceTensorDescriptor(void **made) { return handle(made); }
int cudnnCreateDropoutDescriptor(void **made) { return handle(made); }
int cudnnCreateFilterDescriptor(void **made) { return handle(made); }
int cudnnGetReductionWorkspaceSize(void *h, void *r, void *a, void *b, size_t *bytes) { return size(bytes); }
int cudnnGetReductionIndicesSize(void *h, void *r, void *a, void *b, size_t *bytes) { return size(bytes); }
int cudnnGetTensorSizeInBytes(void *a, size_t *bytes) { return size(bytes); }
