#include "swell/index.h"

int main() { return swell::MakeIndexBuilder({}).ok() ? 0 : 1; }
