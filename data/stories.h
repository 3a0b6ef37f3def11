// stories.h: the story grammar, for its own program (stories_main.c) and for ./train without a path.
#ifndef LEHR_STORIES_H
#define LEHR_STORIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Writes about `bytes` of stories of `seed` to path, each ended by a line <|endoftext|>. *nats_per_byte: exact -log
// probability of what was written, per byte of story text and one end mark each. False when the file cannot be written.
bool stories_write_file(const char *path, uint64_t seed, size_t bytes, double *nats_per_byte);

// The whole command line program.
int stories_main(int argc, char **argv);

#endif
