static void fill_attend(struct backend *b) { (void)b; }
