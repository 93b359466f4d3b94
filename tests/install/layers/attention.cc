#include "swell/attention.h"

int main() {
  float max = 0, sum = 0, out[16] = {};
  swell::attention::ResetState(1, 16, {&max, &sum, out});
  return max < 0 && sum == 0 ? 0 : 1;
}
