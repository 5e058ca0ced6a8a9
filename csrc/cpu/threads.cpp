// The threads that threads.h shares work among.

#include "threads.h"

#include <atomic>
#include <chrono>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastgan {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Threads that take part in one loop at a time. It is never destroyed: threads end with the process. After a fork the child
// has no helpers, and its loops run on the caller alone.
class Helpers {
 public:
  static Helpers& all() {
    static Helpers* const helpers = new Helpers;
    return *helpers;
  }

  // call(work, unit) for every unit, each once, on the caller and up to `wanted` helpers.
  void run(int64_t units, int wanted, Unit call, const void* work) {
    if (busy_.exchange(true, std::memory_order_acquire)) {  // a loop of another thread has the helpers
      for (int64_t unit = 0; unit < units; ++unit) call(work, unit);
      return;
    }
    for (; started_ < wanted; ++started_) std::thread([this] { help(); }).detach();
    call_ = call, work_ = work, units_ = units, wanted_ = wanted;
    next_.store(0, std::memory_order_relaxed);
    number_ = (number_ + kLoop) & kLoops;
    state_.store(kOpen | number_, std::memory_order_release);
    wake();
    take();
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spins = 0; state_.load(std::memory_order_acquire) & kInside; ++spins)
      spins < kPatience ? relax() : std::this_thread::yield();
    busy_.store(false, std::memory_order_release);
  }

 private:
  // The state: whether a loop is open, its number, and how many helpers are inside. Helpers enter open loops only.
  static constexpr uint32_t kOpen = 1u << 31, kLoop = 1u << 16, kLoops = kOpen - kLoop, kInside = kLoop - 1;
  static constexpr int kPatience = 20000;  // pauses, some tenths of a millisecond: longer than from one loop to the next

  void take() {
    for (int64_t unit = next_++; unit < units_; unit = next_++) call_(work_, unit);
  }

  // Helpers sleep once they have waited for long. C++17 cannot wait for a change: as compiled by it they nap, each time twice
  // as long, up to some milliseconds.
#ifdef __cpp_lib_atomic_wait
  void wake() { state_.notify_all(); }
  void sleep(uint32_t seen, int) { state_.wait(seen, std::memory_order_acquire); }
#else
  void wake() {}
  void sleep(uint32_t, int naps) { std::this_thread::sleep_for(std::chrono::microseconds(100 << std::min(naps, 6))); }
#endif

  void help() {
    uint32_t last = kLoops + 1;
    for (;;) {
      uint32_t state = state_.load(std::memory_order_acquire);
      for (int spins = 0; !(state & kOpen) || (state & kLoops) == last; ++spins) {
        spins < kPatience ? relax() : sleep(state, spins - kPatience);
        state = state_.load(std::memory_order_acquire);
      }
      if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
      last = state & kLoops;
      if (static_cast<int>(state & kInside) < wanted_) take();
      state_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::atomic<uint32_t> state_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> busy_{false};
  Unit call_ = nullptr;
  const void* work_ = nullptr;
  int64_t units_ = 0;
  int wanted_ = 0, started_ = 0;
  uint32_t number_ = 0;
};

int64_t number_of_openmp() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return std::max<int64_t>(1, std::thread::hardware_concurrency());
#endif
}

int64_t (*counter)() = &number_of_openmp;

}  // namespace

int64_t thread_count() {
  return counter();
}

void count_threads_by(int64_t (*count)()) {
  counter = count;
}

bool in_parallel() {
#ifdef _OPENMP
  return omp_in_parallel();
#else
  return false;
#endif
}

void run_units(int64_t units, int64_t helpers, Unit call, const void* work) {
  Helpers::all().run(units, static_cast<int>(helpers), call, work);
}

void run_ranges(int64_t count, int64_t grain, Range call, const void* work) {
  const int64_t most = (count + grain - 1) / grain;
  const auto part = [=](int64_t thread, int64_t threads) {
    const int64_t size = (count + threads - 1) / threads, begin = thread * size;
    if (begin < count) call(work, begin, std::min(begin + size, count));
  };
#ifdef _OPENMP
#pragma omp parallel
  part(omp_get_thread_num(), std::min<int64_t>(omp_get_num_threads(), most));
#else
  const int64_t threads = std::min(thread_count(), most);
  share(threads, 1, [&](int64_t thread) { part(thread, threads); });
#endif
}

}  // namespace fastgan
