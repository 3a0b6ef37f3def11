// files: what the fuzz targets share: the files of one input, in memory.
//
// Readers open files by path, a fuzzer has bytes. So the programs are linked with core's file functions wrapped (the linker's
// --wrap): whoever opens "m/NAME" gets the part NAME of the input, in an allocation of exactly its size, so that the
// address sanitizer finds one byte read too far. Everything else does not exist, and naming a file outside the folder
// "m" ends the program: no reader may be led there by what a file says.
//
// An input of several files is
//     ====config.json\n ...bytes... \n====model.safetensors\n ...bytes...
// where "====" counts at the beginning and after a newline, which is its own. What comes before the first is no file.
#ifndef LEHR_TESTS_FUZZ_FILES_H
#define LEHR_TESTS_FUZZ_FILES_H

#include "formats/formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

void files_add(const char *name, const void *bytes, size_t n); // a copy; a name that is there already is left as it is
void files_split(const uint8_t *bytes, size_t n);              // adds the parts of an input
void files_load(const char *name, const char *path);           // adds a file of the disk
void files_drop(void);                                         // forgets all of them
const char *files_name(size_t i);                              // "m/NAME", NULL past the end

// What must hold; says what does not, and ends the program, which is how a target reports a finding.
void must(bool holds, const char *what);
// A failed call says why in a sentence.
void must_tell(bool good, const struct err *err);

#endif
