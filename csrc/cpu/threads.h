// Sharing the work of a step among threads, in a way that another busy process cannot stall.
//
// A parallel loop of OpenMP ends when all its threads have arrived, so while another program holds a core every loop waits for
// that program's time slice, and a step is forty loops. `share` has the caller take units of work itself, and a helper joins
// when it gets to run: the caller waits for helpers in the middle of a unit, never for one that has not begun. `parallel` is
// OpenMP's loop, for work between operators of torch: its threads are torch's own, and others would be in their way.
//
// Work does not throw.
#pragma once

#include "base.h"

#include <algorithm>

namespace fastgan {

// How many threads the calling thread may use. OpenMP's number unless `count_threads_by` was told better.
int64_t thread_count();
void count_threads_by(int64_t (*count)());

// Whether the caller is inside an OpenMP loop: then neither form starts threads.
bool in_parallel();

// What the forms below do with their work erased.
using Unit = void (*)(const void* work, int64_t unit);
using Range = void (*)(const void* work, int64_t begin, int64_t end);
void run_units(int64_t units, int64_t helpers, Unit call, const void* work);
void run_ranges(int64_t count, int64_t grain, Range call, const void* work);

// Runs work(unit) for every unit, each once, on at most thread_count() threads and on as many as have `grain` units each.
template <class Work>
FASTGAN_INLINE void share(int64_t units, int64_t grain, const Work& work) {
  const int64_t threads = std::min<int64_t>(thread_count(), units / std::max<int64_t>(grain, 1));
  if (threads <= 1 || in_parallel()) {
    for (int64_t unit = 0; unit < units; ++unit) work(unit);
  } else {
    const auto call = [](const void* work, int64_t unit) { (*static_cast<const Work*>(work))(unit); };
    run_units(units, threads - 1, call, &work);
  }
}

// Runs work(begin, end) on ranges that together are 0 to count, as equal as they can be: one on the caller alone where there
// are no more than `grain` (1 or more), otherwise one for each thread, of `grain` or more.
template <class Work>
FASTGAN_INLINE void parallel(int64_t count, int64_t grain, const Work& work) {
  if (count <= 0) return;
  if (count <= grain || in_parallel() || thread_count() <= 1) return work(int64_t(0), count);
  const auto call = [](const void* work, int64_t begin, int64_t end) { (*static_cast<const Work*>(work))(begin, end); };
  run_ranges(count, grain, call, &work);
}

}  // namespace fastgan
