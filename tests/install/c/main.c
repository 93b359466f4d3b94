#include <stdio.h>

#include "swell/swell.h"

int main(void) {
  swell_engine_options options = SWELL_ENGINE_OPTIONS_INIT;
  swell_engine* engine = NULL;
  swell_error* error = NULL;
  options.layers = 1;
  options.kv_heads = 1;
  options.head_dim = 64;
  if (swell_engine_open(&options, &engine, &error) != SWELL_OK) {
    fprintf(stderr, "%s\n", swell_error_message(error));
    swell_error_destroy(&error);
    return 1;
  }
  printf("swell %s\n", swell_version());
  swell_engine_close(&engine);
  return 0;
}
