/* Links the header's translation units of every language standard into one program. */
int header_c99(void);
int header_cxx17(void);
int header_cxx20(void);

int main(void) { return header_c99() && header_cxx17() && header_cxx20() ? 0 : 1; }
