// The hold model on std::priority_queue: at constant depth, the best (key, counter) is popped and
// pushed back with a later key. Prints ns of processor time per pop and push.
//
//     g++ -O3 -o hold bench/hold.cpp && ./hold DEPTH OPERATIONS SEED
//
// Keys and steps are uniform in [0, 2^40), as those that bench/heap.py draws.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <queue>
#include <random>
#include <vector>

struct Item {
    int64_t key;
    uint64_t counter;
};

struct After {
    bool operator()(const Item& a, const Item& b) const {
        return a.key > b.key || (a.key == b.key && a.counter > b.counter);
    }
};

static double cpu_ns() {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    const size_t depth = strtoull(argv[1], nullptr, 10);
    const size_t operations = strtoull(argv[2], nullptr, 10);
    std::mt19937_64 random(strtoull(argv[3], nullptr, 10));
    const uint64_t mask = (uint64_t{1} << 40) - 1;
    std::priority_queue<Item, std::vector<Item>, After> queue;
    uint64_t counter = 0;
    for (size_t i = 0; i < depth; i++) queue.push({int64_t(random() & mask), counter++});
    std::vector<int64_t> steps(operations);
    for (auto& step : steps) step = int64_t(random() & mask);

    // The least of five, as whatever disturbs makes it more.
    double took_ns = 1e300;
    for (int repeat = 0; repeat < 5; repeat++) {
        const double started_ns = cpu_ns();
        for (const int64_t step : steps) {
            const Item best = queue.top();
            queue.pop();
            queue.push({best.key + step, counter++});
        }
        took_ns = std::min(took_ns, cpu_ns() - started_ns);
    }

    // Printed too, so that no compiler may leave the work out.
    printf("%.3f %lld\n", took_ns / double(operations), (long long)queue.top().key);
    return 0;
}
