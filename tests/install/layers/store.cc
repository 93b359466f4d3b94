#include "swell/store.h"

int main() {
  swell::ByteBudget budget(100);
  return budget.TryCharge(60) && !budget.TryCharge(60) ? 0 : 1;
}
