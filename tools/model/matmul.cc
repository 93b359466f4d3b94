#include "tools/model/matmul.h"

#include <cblas.h>
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>

#include "tools/model/kernels.h"

namespace swell::model {
namespace {

constexpr int64_t kMaxDotCount = 6;    // rows up to which the own kernel is the faster one
constexpr int64_t kDotTask = 64;       // outputs of a task: 64 x 576 floats are 147 KB
constexpr int64_t kProductTask = 192;  // outputs of a task: enough for OpenBLAS to reach its speed

}  // namespace

struct MatMul::Arena {
  // More than the machine has would not run, and oneTBB would print a warning.
  explicit Arena(int32_t threads)
      : tasks(threads > 0 ? std::min(threads, tbb::info::default_concurrency()) : tbb::task_arena::automatic) {}
  tbb::task_arena tasks;
};

MatMul::MatMul(int32_t threads) : arena_(std::make_unique<Arena>(threads)) { openblas_set_num_threads(1); }

MatMul::~MatMul() = default;

void MatMul::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) const {
  arena_->tasks.execute([&] { tbb::parallel_for(int64_t{0}, count, body); });
}

void MatMul::Multiply(const float* rows, int64_t count, int64_t inputs, std::span<const float> weights,
                      float* result) const {
  const int64_t outputs = static_cast<int64_t>(weights.size()) / inputs;
  const bool few = count <= kMaxDotCount;
  const int64_t task = few ? kDotTask : kProductTask;
  ParallelFor((outputs + task - 1) / task, [&](int64_t index) {
    const int64_t begin = index * task;
    const int64_t size = std::min(task, outputs - begin);
    const float* part = weights.data() + begin * inputs;
    if (few) {
      for (int64_t row = 0; row < count; ++row) {  // the part stays in the L2 cache
        DotRows(part, size, inputs, rows + row * inputs, result + row * outputs + begin);
      }
      return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(count), static_cast<blasint>(size),
                static_cast<blasint>(inputs), 1.0F, rows, static_cast<blasint>(inputs), part,
                static_cast<blasint>(inputs), 0.0F, result + begin, static_cast<blasint>(outputs));
  });
}

}  // namespace swell::model
