// The stories program by itself; everything is in stories.c, which ./train links as well.
#include "stories.h"

int main(int argc, char **argv) { return stories_main(argc, argv); }
