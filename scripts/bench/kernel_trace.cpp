// Every kernel, copy and clearing of memory that a program runs on a GPU, one a line: start, end (ns), name. Loaded by the
// driver into the program itself (CUDA_INJECTION64_PATH); written to TRACE_OUT. See kernel_trace.py.

#include <cupti.h>

#include <cstdio>
#include <cstdlib>

static FILE* out;

static void line(unsigned long long start, unsigned long long end, const char* name) {
    fprintf(out, "%llu %llu %s\n", start, end, name);
}

static void CUPTIAPI give(uint8_t** buffer, size_t* size, size_t* records) {
    *size = 8 << 20;
    *buffer = static_cast<uint8_t*>(aligned_alloc(64, *size));
    *records = 0;
}

static void CUPTIAPI take(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t filled) {
    CUpti_Activity* record = nullptr;
    while (cuptiActivityGetNextRecord(buffer, filled, &record) == CUPTI_SUCCESS) {
        switch (record->kind) {
            case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
                auto* kernel = reinterpret_cast<CUpti_ActivityKernel9*>(record);
                line(kernel->start, kernel->end, kernel->name);
                break;
            }
            case CUPTI_ACTIVITY_KIND_MEMCPY: {
                auto* copy = reinterpret_cast<CUpti_ActivityMemcpy5*>(record);
                line(copy->start, copy->end, copy->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD ? "copy to GPU" : "copy");
                break;
            }
            case CUPTI_ACTIVITY_KIND_MEMSET: {
                auto* set = reinterpret_cast<CUpti_ActivityMemset4*>(record);
                line(set->start, set->end, "memset");
                break;
            }
            default:
                break;
        }
    }
    free(buffer);
}

static void finish() {
    cuptiActivityFlushAll(1);
    fclose(out);
}

extern "C" int InitializeInjection() {
    const char* path = getenv("TRACE_OUT");
    out = path ? fopen(path, "w") : nullptr;
    if (!out) return 0;
    cuptiActivityRegisterCallbacks(give, take);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
    atexit(finish);
    return 1;
}
