/* A stand-in for NVIDIA's libnvidia-ml.so.1: the calls that the broker makes, answered from a file
 * that a test writes (stub.py), mapped into memory and looked at anew by each call.
 *
 * The structures and signatures of the calls are those of nvml.h. With OLD_DRIVER the newer calls
 * are missing, as they are in drivers of before 2022. */

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
};

/* One for each call; stub.py numbers them alike. */
enum call {
    CALL_NONE, CALL_INIT, CALL_SHUTDOWN, CALL_COUNT, CALL_HANDLE, CALL_UUID, CALL_NAME,
    CALL_MEMORY, CALL_MEMORY_V2, CALL_UTILIZATION, CALL_TEMPERATURE, CALL_POWER, CALL_POWER_LIMIT,
    CALL_REASONS, CALL_OLD_REASONS, CALL_PROCESSES, CALL_OLD_PROCESSES, CALL_MIG_MODE,
    CALL_MIG_COUNT, CALL_MIG_HANDLE, CALLS
};

#define CARDS 4
#define INSTANCES 7
#define PROCESSES 8

struct process { uint32_t pid, unused; uint64_t memory; };

/* A card, or a MIG instance: those of card c are the INSTANCES devices after the card. */
struct device {
    uint32_t exists, is_mig_enabled;
    char uuid[96], name[96];
    uint64_t total, reserved, used, reasons;
    uint32_t utilization, temperature, power, power_limit;
    uint32_t process_count, unused;
    struct process processes[PROCESSES];
    uint32_t errors[CALLS];
};

struct control {
    uint32_t blocked, inside; /* this call does not come back until it is 0; how many are in it */
    uint32_t card_count, is_open;
    uint32_t errors[CALLS], calls[CALLS];
    struct device devices[CARDS * (1 + INSTANCES)];
};

static volatile struct control *control;
static char mapped[4096];

/* Each test has a file of its own. Old ones stay mapped: a call may still be blocked in one. */
static int map_control(void)
{
    const char *path = getenv("NVML_STUB_CONTROL");
    if (path == NULL || strlen(path) >= sizeof mapped)
        return 0;
    if (strcmp(path, mapped) == 0)
        return 1;
    int file = open(path, O_RDWR);
    if (file < 0)
        return 0;
    void *memory = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED)
        return 0;
    control = memory;
    strcpy(mapped, path);
    return 1;
}

/* What every call does first: counts itself, blocks while it is told to, fails if it is told to. */
static int enter(enum call call, volatile struct device *device)
{
    volatile struct control *of = control;
    struct timespec moment = {0, 1000000};
    if (of == NULL)
        return UNINITIALIZED;
    __atomic_add_fetch(&of->calls[call], 1, __ATOMIC_SEQ_CST);
    if (of->blocked == (uint32_t)call) {
        __atomic_add_fetch(&of->inside, 1, __ATOMIC_SEQ_CST);
        while (of->blocked == (uint32_t)call)
            nanosleep(&moment, NULL);
        __atomic_sub_fetch(&of->inside, 1, __ATOMIC_SEQ_CST);
    }
    if (call != CALL_INIT && !of->is_open)
        return UNINITIALIZED;
    if (of->errors[call])
        return (int)of->errors[call];
    if (device != NULL && !device->exists)
        return INVALID_ARGUMENT;
    return device != NULL ? (int)device->errors[call] : SUCCESS;
}

#define ENTER(call, device) \
    do { int problem = enter(call, device); if (problem) return problem; } while (0)

typedef volatile struct device *handle;

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    if (!map_control())
        return DRIVER_NOT_LOADED;
    ENTER(CALL_INIT, NULL);
    control->is_open = 1;
    return SUCCESS;
}

int nvmlShutdown(void)
{
    ENTER(CALL_SHUTDOWN, NULL);
    control->is_open = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int error) { (void)error; return "an error of the stub"; }

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    ENTER(CALL_COUNT, NULL);
    *count = control->card_count;
    return SUCCESS;
}

/* The cards that exist, one after the other: what comes after a card that is gone moves up. */
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, handle *found)
{
    for (unsigned int card = 0; card < CARDS; card++) {
        handle device = control ? &control->devices[card * (1 + INSTANCES)] : NULL;
        if (device == NULL || (device->exists && index-- == 0)) {
            ENTER(CALL_HANDLE, device);
            *found = device;
            return SUCCESS;
        }
    }
    return INVALID_ARGUMENT;
}

static int copy_text(volatile char *from, char *to, unsigned int length)
{
    if (length < sizeof ((struct device *)0)->name)
        return INSUFFICIENT_SIZE;
    memcpy(to, (char *)from, sizeof ((struct device *)0)->name);
    return SUCCESS;
}

int nvmlDeviceGetUUID(handle device, char *text, unsigned int length)
{
    ENTER(CALL_UUID, device);
    return copy_text(device->uuid, text, length);
}

int nvmlDeviceGetName(handle device, char *text, unsigned int length)
{
    ENTER(CALL_NAME, device);
    return copy_text(device->name, text, length);
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned int version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo(handle device, struct memory *memory)
{
    ENTER(CALL_MEMORY, device);
    memory->total = device->total;
    memory->used = device->used + device->reserved;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

struct utilization { unsigned int gpu, memory; };

int nvmlDeviceGetUtilizationRates(handle device, struct utilization *rates)
{
    ENTER(CALL_UTILIZATION, device);
    rates->gpu = device->utilization;
    rates->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(handle device, int sensor, unsigned int *degrees)
{
    ENTER(CALL_TEMPERATURE, device);
    *degrees = device->temperature;
    return sensor == 0 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetPowerUsage(handle device, unsigned int *milliwatts)
{
    ENTER(CALL_POWER, device);
    *milliwatts = device->power;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(handle device, unsigned int *milliwatts)
{
    ENTER(CALL_POWER_LIMIT, device);
    *milliwatts = device->power_limit;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(handle device, unsigned long long *reasons)
{
    ENTER(CALL_OLD_REASONS, device);
    *reasons = device->reasons;
    return SUCCESS;
}

struct process_info {
    unsigned int pid;
    unsigned long long memory;
    unsigned int gpu_instance, compute_instance;
};

static int list_processes(handle device, unsigned int *count, struct process_info *infos)
{
    unsigned int there = device->process_count;
    if (*count < there) {
        *count = there;
        return INSUFFICIENT_SIZE;
    }
    *count = there;
    for (unsigned int i = 0; i < there && i < PROCESSES; i++)
        infos[i] = (struct process_info){
            device->processes[i].pid, device->processes[i].memory, 0xFFFFFFFF, 0xFFFFFFFF};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(
    handle device, unsigned int *count, struct process_info *infos)
{
    ENTER(CALL_OLD_PROCESSES, device);
    return list_processes(device, count, infos);
}

#ifndef OLD_DRIVER

int nvmlDeviceGetMemoryInfo_v2(handle device, struct memory_v2 *memory)
{
    ENTER(CALL_MEMORY_V2, device);
    if (memory->version != (sizeof *memory | 2u << 24))
        return INVALID_ARGUMENT;
    memory->total = device->total;
    memory->reserved = device->reserved;
    memory->used = device->used;
    memory->free = device->total - device->reserved - device->used;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(handle device, unsigned long long *reasons)
{
    ENTER(CALL_REASONS, device);
    *reasons = device->reasons;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(
    handle device, unsigned int *count, struct process_info *infos)
{
    ENTER(CALL_PROCESSES, device);
    return list_processes(device, count, infos);
}

int nvmlDeviceGetMigMode(handle device, unsigned int *current, unsigned int *pending)
{
    ENTER(CALL_MIG_MODE, device);
    *current = *pending = device->is_mig_enabled;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(handle device, unsigned int *count)
{
    ENTER(CALL_MIG_COUNT, device);
    *count = INSTANCES;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(handle device, unsigned int index, handle *found)
{
    ENTER(CALL_MIG_HANDLE, device);
    if (index >= INSTANCES || !device[1 + index].exists)
        return NOT_FOUND;
    *found = &device[1 + index];
    return SUCCESS;
}

#endif
