#include <cstdio>

#include "swell/engine.h"

int main() {
  swell::EngineOptions options;
  options.shape.layers = 1;
  options.shape.kv_heads = 1;
  options.shape.head_dim = 64;
  auto engine = swell::Engine::Open(options);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().message().c_str());
    return 1;
  }
  return (*engine)->CreateSequence({}).ok() ? 0 : 1;
}
