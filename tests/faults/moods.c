// Preloaded into a redis-server: a clock that jumps and a disk that takes its time, as a shared file says at any moment.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct moods {
    double clock_seconds; // added to the time of day
    double flush_seconds; // before every flush to the disk
};

static volatile struct moods *moods(void) {
    static volatile struct moods *shared;
    if (!shared) {
        int file = open(getenv("CORRIGENDA_MOODS"), O_RDONLY);
        shared = mmap(NULL, sizeof(struct moods), PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return shared;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)moods()->clock_seconds;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (where)
        *where = precise.tv_sec;
    return precise.tv_sec;
}

static void dawdle(void) { usleep((useconds_t)(1e6 * moods()->flush_seconds)); }

int fsync(int file) {
    dawdle();
    return syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    dawdle();
    return syscall(SYS_fdatasync, file);
}
