// Sharing the work of a step among threads, in a way that another busy process cannot stall.
//
// A parallel loop of OpenMP ends when all its threads have arrived, so while another program holds a core every loop waits for
// that program's time slice, and a step is forty loops. Here the caller takes units of work itself and a helper joins when it
// gets to run: the caller waits for helpers in the middle of a unit, never for one that has not begun.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace fastgan {

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

  // work(unit) for every unit, each once, on the caller and up to `wanted` helpers.
  template <class Work>
  void run(int64_t units, int wanted, const Work& work) {
    if (busy_.exchange(true, std::memory_order_acquire)) {  // a loop of another thread has the helpers
      for (int64_t unit = 0; unit < units; ++unit) work(unit);
      return;
    }
    for (; started_ < wanted; ++started_) std::thread([this] { help(); }).detach();
    call_ = [](const void* work, int64_t unit) { (*static_cast<const Work*>(work))(unit); };
    work_ = &work, units_ = units, wanted_ = wanted;
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

  // Helpers sleep once they have waited for long. Torch before 2.13 compiles as C++17, which cannot wait for a change: there they
  // nap, each time twice as long, up to some milliseconds.
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
  void (*call_)(const void*, int64_t) = nullptr;
  const void* work_ = nullptr;
  int64_t units_ = 0;
  int wanted_ = 0, started_ = 0;
  uint32_t number_ = 0;
};

// Runs work(unit) for every unit, each once, on at most torch's number of threads and on as many as have `grain` units each.
template <class Work>
void share(int64_t units, int64_t grain, const Work& work) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), units / std::max<int64_t>(grain, 1));
  if (threads <= 1 || at::in_parallel_region()) {
    for (int64_t unit = 0; unit < units; ++unit) work(unit);
  } else {
    Helpers::all().run(units, static_cast<int>(threads) - 1, work);
  }
}

}  // namespace fastgan
