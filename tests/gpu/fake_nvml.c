/*
 * A FAKE libnvidia-ml.so.1 for tests. It drives nothing: every answer comes from the file
 * `<path of this library>.script`, read anew at every call, so that a test can lose a GPU in mid-air.
 * What opens and closes things is noted in `<path of this library>.log`.
 *
 * Signatures and numbers are those of NVIDIA's public NVML API. A line of the script is
 *
 *   driver 580.95.05          version of the driver          cuda 13000
 *   init 9                    the code that nvmlInit gives   count 2    how many GPUs
 *   0 KEY VALUE…              a value of GPU 0; a key without a line is "not supported"
 *   0 error KEY CODE          the call for KEY fails with CODE
 *   0 error all CODE          every call about GPU 0 fails, that for its handle too
 *   event 0 xid 79            one event after the other, each given once
 *   event 0 ecc 0
 *   event 0 error 15          the wait fails with this code
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, INVALID = 2 };
enum { GPUS = 80, LINE = 512 };

typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { int index; } device;

static device devices[GPUS];
static int events_given;

static void path_of(const char *ending, char *path, size_t size) {
    Dl_info info;
    path[0] = 0;
    if (dladdr((void *)&path_of, &info)) snprintf(path, size, "%s%s", info.dli_fname, ending);
}

static void note(const char *what) {
    char path[4096];
    path_of(".log", path, sizeof path);
    FILE *log = fopen(path, "a");
    if (!log) return;
    fprintf(log, "%s\n", what);
    fclose(log);
}

/* The rest of the nth line that begins with `prefix` and a space; 0 if there is none. */
static int find(const char *prefix, int nth, char *rest) {
    char path[4096], line[LINE];
    size_t length = strlen(prefix);
    int found = 0;
    path_of(".script", path, sizeof path);
    FILE *script = fopen(path, "r");
    if (!script) return 0;
    while (!found && fgets(line, sizeof line, script)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, prefix, length) || line[length] != ' ' || nth--) continue;
        strcpy(rest, line + length + 1);
        found = 1;
    }
    fclose(script);
    return found;
}

static int number(const char *prefix, int otherwise) {
    char rest[LINE];
    return find(prefix, 0, rest) ? atoi(rest) : otherwise;
}

/* The code that a call about KEY gives, and the rest of its nth line. */
static int value(const device *gpu, const char *key, int nth, char *rest) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%d error all", gpu->index);
    int code = number(prefix, OK);
    snprintf(prefix, sizeof prefix, "%d error %s", gpu->index, key);
    if (!code) code = number(prefix, OK);
    if (code) return code;
    snprintf(prefix, sizeof prefix, "%d %s", gpu->index, key);
    return find(prefix, nth, rest) ? OK : NOT_SUPPORTED;
}

static int one(const device *gpu, const char *key, u32 *out) {
    char rest[LINE];
    int code = value(gpu, key, 0, rest);
    if (!code) *out = (u32)strtoul(rest, NULL, 10);
    return code;
}

static int text(const device *gpu, const char *key, char *out, u32 size) {
    char rest[LINE];
    int code = value(gpu, key, 0, rest);
    if (code) return code;
    if (strlen(rest) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, rest);
    return OK;
}

int nvmlInit_v2(void) {
    int code = number("init", OK);
    if (!code) note("init");
    return code;
}

#ifndef WITHOUT_SHUTDOWN
int nvmlShutdown(void) {
    note("shutdown");
    return OK;
}
#endif

int nvmlSystemGetDriverVersion(char *out, u32 size) {
    char rest[LINE];
    if (!find("driver", 0, rest)) return NOT_SUPPORTED;
    snprintf(out, size, "%s", rest);
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = number("cuda", 0);
    return OK;
}

int nvmlDeviceGetCount_v2(u32 *out) {
    char rest[LINE];
    if (!find("count", 0, rest)) return NOT_SUPPORTED;
    *out = (u32)strtoul(rest, NULL, 10);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(u32 index, device **out) {
    char prefix[64];
    if (index >= GPUS) return INVALID;
    snprintf(prefix, sizeof prefix, "%u error all", index);
    int code = number(prefix, OK);
    devices[index].index = (int)index;
    *out = &devices[index];
    return code;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device **out) {
    char prefix[64], rest[LINE];
    for (u32 index = 0; index < GPUS; index++) {
        snprintf(prefix, sizeof prefix, "%u uuid", index);
        if (find(prefix, 0, rest) && !strcmp(rest, uuid)) return nvmlDeviceGetHandleByIndex_v2(index, out);
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(device *gpu, char *out, u32 size) { return text(gpu, "uuid", out, size); }
int nvmlDeviceGetName(device *gpu, char *out, u32 size) { return text(gpu, "name", out, size); }
int nvmlDeviceGetMinorNumber(device *gpu, u32 *out) { return one(gpu, "minor", out); }
int nvmlDeviceGetComputeMode(device *gpu, u32 *out) { return one(gpu, "compute_mode", out); }
int nvmlDeviceGetPowerUsage(device *gpu, u32 *out) { return one(gpu, "power", out); }
int nvmlDeviceGetRetiredPagesPendingStatus(device *gpu, u32 *out) { return one(gpu, "retirement_pending", out); }

int nvmlDeviceGetTemperature(device *gpu, u32 sensor, u32 *out) {
    return sensor ? INVALID : one(gpu, "temperature", out);
}

typedef struct {
    char legacy[16];
    u32 domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
} pci_info;

int nvmlDeviceGetPciInfo_v3(device *gpu, pci_info *out) {
    memset(out, 0, sizeof *out);
    return text(gpu, "pci", out->bus_id, sizeof out->bus_id);
}

typedef struct {
    u32 version;
    u64 total, reserved, free, used;
} memory_v2;

int nvmlDeviceGetMemoryInfo_v2(device *gpu, memory_v2 *out) {
    char rest[LINE];
    int code = value(gpu, "memory", 0, rest);
    if (out->version != (sizeof *out | 2u << 24)) return 25; /* argument version mismatch */
    if (!code) sscanf(rest, "%llu %llu %llu %llu", &out->total, &out->reserved, &out->free, &out->used);
    return code;
}

int nvmlDeviceGetMigMode(device *gpu, u32 *current, u32 *pending) {
    char rest[LINE];
    int code = value(gpu, "mig", 0, rest);
    if (!code) sscanf(rest, "%u %u", current, pending);
    return code;
}

int nvmlDeviceGetUtilizationRates(device *gpu, u32 out[2]) {
    char rest[LINE];
    int code = value(gpu, "utilization", 0, rest);
    if (!code) sscanf(rest, "%u %u", &out[0], &out[1]);
    return code;
}

int nvmlDeviceGetTotalEccErrors(device *gpu, u32 type, u32 counter, u64 *out) {
    u32 errors = 0;
    int code = one(gpu, "ecc_uncorrected", &errors);
    *out = type == 1 && counter == 0 ? errors : 0; /* uncorrected, since the driver was loaded */
    return code;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device *gpu, u64 *out) {
    u32 reasons = 0;
    int code = one(gpu, "throttle", &reasons);
    *out = reasons;
    return code;
}

typedef struct {
    u32 pid;
    u64 bytes;
    u32 gpu_instance, compute_instance;
} process_info;

/* As the driver does it: the size is told when the room does not suffice. No line is no process. */
static int processes(device *gpu, const char *key, u32 *count, process_info *out) {
    char rest[LINE];
    u32 room = *count, found = 0;
    int code;
    while (!(code = value(gpu, key, (int)found, rest))) {
        if (found < room && out) {
            long long bytes = -1; /* "not available" */
            memset(&out[found], 0xff, sizeof *out);
            sscanf(rest, "%u %lld", &out[found].pid, &bytes);
            out[found].bytes = (u64)bytes;
        }
        found++;
    }
    if (code != NOT_SUPPORTED) return code;
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *gpu, u32 *count, process_info *out) {
    return processes(gpu, "compute", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device *gpu, u32 *count, process_info *out) {
    return processes(gpu, "graphics", count, out);
}

typedef struct {
    u32 pid;
    u64 at;
    u32 sm, memory, encoder, decoder;
} sample;

int nvmlDeviceGetProcessUtilization(device *gpu, sample *out, u32 *count, u64 since) {
    char rest[LINE];
    u32 room = *count, found = 0;
    int code;
    (void)since;
    while (!(code = value(gpu, "sample", (int)found, rest))) {
        if (found < room && out) {
            memset(&out[found], 0, sizeof *out);
            sscanf(rest, "%u %llu %u", &out[found].pid, &out[found].at, &out[found].sm);
        }
        found++;
    }
    if (code != NOT_SUPPORTED) return code;
    *count = found;
    if (!found) return NOT_FOUND;
    return found > room || !out ? INSUFFICIENT_SIZE : OK;
}

typedef struct {
    device *gpu;
    u64 type, data;
    u32 gpu_instance, compute_instance;
} event_data;

int nvmlDeviceGetSupportedEventTypes(device *gpu, u64 *out) {
    u32 types = 0;
    int code = one(gpu, "event_types", &types);
    *out = types;
    return code;
}

int nvmlEventSetCreate(void **out) {
    static int set;
    note("set_create");
    *out = &set;
    return OK;
}

#ifndef WITHOUT_SET_FREE
int nvmlEventSetFree(void *set) {
    (void)set;
    note("set_free");
    return OK;
}
#endif

int nvmlDeviceRegisterEvents(device *gpu, u64 types, void *set) {
    char rest[LINE];
    (void)set;
    (void)types;
    int code = value(gpu, "register", 0, rest);
    if (code == NOT_SUPPORTED) note("registered");
    return code == NOT_SUPPORTED ? OK : code;
}

int nvmlEventSetWait_v2(void *set, event_data *out, u32 milliseconds) {
    char rest[LINE], kind[16];
    int index;
    u64 data;
    (void)set;
    if (!find("event", events_given, rest) || sscanf(rest, "%d %15s %llu", &index, kind, &data) != 3) {
        struct timespec tick = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        nanosleep(&tick, NULL);
        return TIMEOUT;
    }
    events_given++;
    if (!strcmp(kind, "error")) return (int)data;
    memset(out, 0, sizeof *out);
    out->gpu = &devices[index];
    out->type = strcmp(kind, "xid") ? 2 : 8; /* double bit ECC error, critical Xid error */
    out->data = data;
    return OK;
}
