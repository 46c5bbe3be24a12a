/* What a GPU does between trace_start(path) and trace_stop(): a line for each kernel, copy and fill, which has its begin
   and end in nanoseconds and its name. CUPTI's activity records, of the driver's CUDA whichever CUDA the program uses.

   It includes no header, so a machine needs a C compiler and CUPTI's library only, which PyTorch's packages bring. Load
   that library with RTLD_GLOBAL first. The places in the records are those of CUPTI 12 and 13. CUPTI calls back from
   threads that launch kernels, so these functions are C: Python's would wait for the interpreter's lock. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPY = 1, FILL = 2, KERNEL = 3, CONCURRENT_KERNEL = 10 };       /* CUpti_ActivityKind */
enum { BEGIN_AT = 16, END_AT = 24, NAME_AT = 104, BUFFER = 8 << 20 }; /* bytes */

typedef void request(uint8_t **buffer, size_t *size, size_t *most);
typedef void complete(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid);
int cuptiActivityRegisterCallbacks(request *, complete *);
int cuptiActivityEnable(int kind);
int cuptiActivityDisable(int kind);
int cuptiActivityFlushAll(uint32_t flag);
int cuptiActivityGetNextRecord(uint8_t *buffer, size_t valid, uint8_t **record);

static const int KINDS[] = {CONCURRENT_KERNEL, COPY, FILL};
static FILE *out;
static long count;

static void make_room(uint8_t **buffer, size_t *size, size_t *most) {
    *size = BUFFER;
    *buffer = aligned_alloc(8, BUFFER);
    *most = 0;
}

static uint64_t number(const uint8_t *record, int place) {
    uint64_t value;
    memcpy(&value, record + place, sizeof value);
    return value;
}

static void write_out(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    uint8_t *record = NULL;
    while (out && valid && cuptiActivityGetNextRecord(buffer, valid, &record) == 0) {
        int32_t kind;
        memcpy(&kind, record, sizeof kind);
        const char *name = kind == COPY ? "memcpy" : kind == FILL ? "memset" : (const char *)number(record, NAME_AT);
        fprintf(out, "%llu\t%llu\t%s\n", (unsigned long long)number(record, BEGIN_AT),
                (unsigned long long)number(record, END_AT), name);
        count++;
    }
    free(buffer);
}

/* Begin; returns 0, or the number of CUPTI's error. */
int trace_start(const char *path) {
    out = fopen(path, "w");
    count = 0;
    int error = out ? cuptiActivityRegisterCallbacks(make_room, write_out) : -1;
    for (unsigned i = 0; !error && i < sizeof KINDS / sizeof *KINDS; i++)
        error = cuptiActivityEnable(KINDS[i]);
    return error;
}

/* End; returns the number of lines. The GPU has to be idle. */
long trace_stop(void) {
    for (unsigned i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        cuptiActivityDisable(KINDS[i]);
    cuptiActivityFlushAll(1); /* also buffers that are not full */
    FILE *made = out;
    out = NULL;
    fclose(made);
    return count;
}
