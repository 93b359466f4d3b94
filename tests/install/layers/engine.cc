#include "swell/engine.h"

int main() { return swell::SequencePreset("swell").ok() ? 0 : 1; }
