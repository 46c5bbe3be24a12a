/* A driver's library for tests: FAKE_GPUS devices (default 0) of compute capability FAKE_CAPABILITY (default 90) with
   80 GB each, of which FAKE_FREE bytes are free. No kernel runs on them. */
#include <stdlib.h>
#include <string.h>

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

int cuInit(unsigned flags) { return setting("FAKE_GPUS", 0) ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = 12020; return 0; }
int cuDeviceGetCount(int *count) { *count = setting("FAKE_GPUS", 0); return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Fake GPU", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 80000000000; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = setting("FAKE_FREE", 79000000000);
    *total = 80000000000;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    long capability = setting("FAKE_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
    return 0;
}
int cuGetErrorName(int error, const char **name) { *name = "fake"; return 0; }
int cuLaunchKernel(void) { return 0; }
int cuModuleGetFunction(void) { return 0; }
int cuModuleLoadDataEx(void) { return 0; }
int cuModuleUnload(void) { return 0; }
int cuStreamSynchronize(void) { return 0; }
