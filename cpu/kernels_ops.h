static void fill_ops(struct backend *b) { (void)b; }
