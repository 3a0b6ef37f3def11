// pretokenize.c: where a BPE piece ends.
//
// Every pattern of the known tokenizers is matched by hand, first alternative that matches wins, as a backtracking
// matcher would decide. The families:
//     GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//     modern   (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//              Llama 3, Qwen 2; GPT-4o and Tekken cut words also where capitals begin
//     runs     \p{N}, [\r\n], \s?\p{L}+ ...: matches of one class, and whatever stands between them
// A pre-tokenizer is one or several of them in a row (pretokenizers.c); each splits the pieces of the one before, which
// it sees alone: the end of a piece is the end of the text for what looks ahead.
//
// No backtracking and no second look at a run: what a backtracking matcher would give back (the last space of a run, the
// capitals of a word) is remembered on the way. A piece costs its length and that of the one behind it, so all
// splitting is linear, a megabyte of spaces included. Bytes that are no UTF-8 are "others".
#include "tokenizer/internal.h"

#include <string.h>

#define ANY_LETTER_CASE_S 0x17Fu // the long s, an "s" to patterns that ignore case

// The character at text: its length, and the set with its class alone.
static size_t look(const char *text, size_t n, unsigned *is) {
    static const unsigned char ascii[128] = { // enum char_kind
        0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 11, 11, 11, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 11, 8, 8, 8, 10, 8, 8, 8, 8, 8, 8, 10, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8,
        8, 10, 10, 10, 8, 8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 8, 8, 8, 10, 8, 10, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
        2, 2, 2, 2, 8, 10, 8, 10, 0,
    };
    unsigned char c = (unsigned char)text[0];
    if (c < 0x80) {
        *is = 1u << ascii[c];
        return 1;
    }
    uint32_t code;
    size_t length = utf8_decode(text, n, &code);
    *is = 1u << char_kind(code);
    return length;
}

// End of the run of characters in the set that begins at `at`.
static size_t run_end(const char *text, size_t n, size_t at, unsigned set) {
    unsigned is;
    while (at < n) {
        size_t length = look(text + at, n - at, &is);
        if (!(is & set)) break;
        at += length;
    }
    return at;
}

static bool is_newline(char c) { return c == '\r' || c == '\n'; }

// ---- GPT-2

static size_t contraction_length(const char *text, size_t n) { // text[0] is the apostrophe
    if (n < 2) return 0;
    char a = text[1], b = n > 2 ? text[2] : '\0';
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

// A run of spaces from the start: all of it at the end of the text or when it is one character,
// else without the last.
static size_t spaces_length(const char *text, size_t n) {
    size_t at = 0, last = 0;
    while (at < n) {
        unsigned is;
        size_t length = look(text + at, n - at, &is);
        if (!(is & IS_SPACE)) break;
        last = at;
        at += length;
    }
    return at == n || last == 0 ? at : last;
}

size_t pretoken_length(const char *text, size_t n) {
    assert(n > 0);
    if (text[0] == '\'') {
        size_t length = contraction_length(text, n);
        if (length) return length;
    }
    unsigned is;
    size_t length = look(text, n, &is), at = 0;
    if (is & IS_SPACE) {
        if (text[0] != ' ' || n == 1) return spaces_length(text, n);
        length = look(text + 1, n - 1, &is);
        if (is & IS_SPACE) return spaces_length(text, n);
        at = 1;
    }
    unsigned set = is & IS_LETTER ? IS_LETTER : is & IS_NUMBER ? IS_NUMBER : ~(IS_LETTER | IS_NUMBER | IS_SPACE);
    return run_end(text, n, at + length, set);
}

static size_t gpt2_length(const struct splitter *s, const char *text, size_t n) {
    (void)s;
    return pretoken_length(text, n);
}

// ---- the modern family

static size_t any_case_contraction(const char *text, size_t n) {
    if (n < 2 || text[0] != '\'') return 0;
    uint32_t code;
    size_t length = utf8_decode(text + 1, n - 1, &code);
    if (code == ANY_LETTER_CASE_S) return 1 + length;
    char lower[3] = {'\'', (char)(text[1] | 0x20), n > 2 ? (char)(text[2] | 0x20) : '\0'};
    bool letters = (unsigned char)text[1] >= 'A';
    length = contraction_length(lower, n < 3 ? n : 3);
    return letters && (length < 3 || (unsigned char)text[2] >= 'A') ? length : 0;
}

// \s*[\r\n]+|\s+(?!\S)|\s+: up to the last line end of the run if it has one.
static size_t modern_spaces(const char *text, size_t n) {
    size_t at = 0, last = 0, line = 0;
    while (at < n) {
        unsigned is;
        size_t length = look(text + at, n - at, &is);
        if (!(is & IS_SPACE)) break;
        if (is_newline(text[at])) line = at + 1;
        last = at;
        at += length;
    }
    return line ? line : at == n || last == 0 ? at : last;
}

// [^\r\n\p{L}\p{N}]?W+ with W letters, or letters and marks.
static size_t modern_word(const struct splitter *s, const char *text, size_t n) {
    unsigned word = s->marks ? IS_LETTER | IS_MARK : IS_LETTER, is, next;
    size_t length = look(text, n, &is);
    if (!(is & (IS_LETTER | IS_NUMBER)) && !is_newline(text[0]) && length < n) {
        size_t after = look(text + length, n - length, &next);
        if (next & word) return run_end(text, n, length + after, word);
    }
    return is & word ? run_end(text, n, length, word) : 0;
}

// The character at text as part of a word: to Kimi, Han characters are none.
static size_t look_word(const struct splitter *s, const char *text, size_t n, unsigned *is) {
    size_t length = look(text, n, is);
    uint32_t code;
    if (s->han && length > 2 && utf8_decode(text, n, &code) && is_han(code)) *is = 0;
    return length;
}

static size_t han_run(const char *text, size_t n) {
    size_t at = 0;
    uint32_t code;
    for (size_t length; at < n; at += length) {
        length = utf8_decode(text + at, n - at, &code);
        if (!is_han(code)) break;
    }
    return at;
}

#define CASE_HEAD ((IS_LETTER & ~(1u << KIND_LOWER)) | IS_MARK)
#define CASE_TAIL (1u << KIND_LOWER | 1u << KIND_MODIFIER | 1u << KIND_LETTER | IS_MARK)

// Where H*T+ from `at` ends (0: no match) and where H+ does, H being heads and T tails, which share some classes: a
// word has its capitals in front.
static size_t cased_end(const struct splitter *s, const char *text, size_t n, size_t at, size_t *heads_end) {
    size_t shared = 0, length; // behind the last head that is a tail too
    unsigned is = 0;
    for (; at < n; at += length) {
        length = look_word(s, text + at, n - at, &is);
        if (!(is & CASE_HEAD)) break;
        if (is & CASE_TAIL) shared = at + length;
    }
    *heads_end = at;
    if (at == n || !(is & CASE_TAIL)) return shared;
    for (; at < n; at += length) {
        length = look_word(s, text + at, n - at, &is);
        if (!(is & CASE_TAIL)) break;
    }
    return at;
}

// P?H*T+ | P?H+T* with P = [^\r\n\p{L}\p{N}]; where the first fails nothing follows the heads of the second.
static size_t cased_word(const struct splitter *s, const char *text, size_t n) {
    unsigned is;
    size_t length = look(text, n, &is), heads = 0, plain_heads = 0, end = 0;
    bool prefix = !(is & (IS_LETTER | IS_NUMBER)) && !is_newline(text[0]) && length < n;
    if (prefix) end = cased_end(s, text, n, length, &heads);
    if (!end && (is & (IS_LETTER | IS_MARK))) end = cased_end(s, text, n, 0, &plain_heads);
    if (!end && prefix && heads > length) end = heads;
    if (!end) end = plain_heads;
    return end && s->suffixes ? end + any_case_contraction(text + end, n - end) : end;
}

static size_t modern_length(const struct splitter *s, const char *text, size_t n) {
    size_t length;
    if (s->contractions && (length = any_case_contraction(text, n)) > 0) return length;
    if (s->han && (length = han_run(text, n)) > 0) return length;
    length = s->cased ? cased_word(s, text, n) : modern_word(s, text, n);
    if (length) return length;
    unsigned is;
    size_t at = look(text, n, &is);
    if (is & IS_NUMBER) {
        for (unsigned count = 1; count < s->digits && at < n; count++) {
            length = look(text + at, n - at, &is);
            if (!(is & IS_NUMBER)) break;
            at += length;
        }
        return at;
    }
    unsigned others = ~(IS_LETTER | IS_NUMBER | IS_SPACE | (s->marks ? IS_MARK : 0));
    if (is & IS_SPACE) {
        if (text[0] != ' ' || n == 1) return modern_spaces(text, n);
        length = look(text + 1, n - 1, &is);
        if (!(is & others)) return modern_spaces(text, n);
        at = 1 + length;
    }
    if (s->tail == 0) // seed-coder: others up to a line end, which is a space and so none of them
        return run_end(text, n, at, others);
    at = run_end(text, n, at, others);
    while (at < n && (is_newline(text[at]) || (s->tail == '/' && text[at] == '/'))) at++;
    return at;
}

// ---- DeepSeek 3

static bool ascii_letter(char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }

// Its third pattern at text, 0 for no match: an ASCII mark with ASCII letters, a word of letters and marks with any
// one character in front but a line end, letter, punctuation or symbol, punctuation and symbols, spaces.
static size_t deepseek3_match(const char *text, size_t n) {
    unsigned char c = (unsigned char)text[0];
    unsigned word = IS_LETTER | IS_MARK, signs = IS_PUNCT | IS_SYMBOL, is, next = 0;
    size_t length = look(text, n, &is), at = 1;
    if (c < 0x80 && (is & signs) && n > 1 && ascii_letter(text[1])) {
        while (at < n && ascii_letter(text[at])) at++;
        return at;
    }
    size_t after = length < n ? look(text + length, n - length, &next) : 0;
    if (!(is & (IS_LETTER | signs)) && !is_newline(text[0]) && (next & word)) return run_end(text, n, length + after, word);
    if (is & word) return run_end(text, n, length, word);
    bool spaced = c == ' ' && (next & signs);
    if (spaced || (is & signs)) {
        at = run_end(text, n, length, signs);
        while (at < n && is_newline(text[at])) at++;
        return at;
    }
    return is & IS_SPACE ? modern_spaces(text, n) : 0;
}

static size_t deepseek3_length(const struct splitter *s, const char *text, size_t n) {
    (void)s;
    size_t at = deepseek3_match(text, n);
    if (at) return at;
    unsigned is;
    while (at < n) {
        at += look(text + at, n - at, &is);
        if (at < n && deepseek3_match(text + at, n - at)) break;
    }
    return at;
}

// ---- runs of one class

enum lead { LEAD_NONE, LEAD_BLANK, LEAD_SPACE }; // what may stand in front: nothing, " ", \s

static bool in_run(const struct splitter *s, const char *text, size_t n, size_t *length) {
    unsigned is;
    *length = look(text, n, &is);
    if (!s->member) return (is & s->in) != 0;
    uint32_t code;
    utf8_decode(text, n, &code);
    return s->member(code, is);
}

// The match of the run at text with at most `limit` members (0: any number), 0 for none; *length is that of the first
// character.
static size_t run_match(const struct splitter *s, const char *text, size_t n, unsigned limit, size_t *length) {
    size_t at, next;
    if (in_run(s, text, n, length)) {
        at = *length;
    } else {
        unsigned is;
        if (s->lead == LEAD_NONE || *length == n || (s->lead == LEAD_BLANK && text[0] != ' ')) return 0;
        look(text, n, &is);
        if (!(is & IS_SPACE) || !in_run(s, text + *length, n - *length, &next)) return 0;
        at = *length + next;
    }
    for (unsigned count = 1; at < n && count != limit && in_run(s, text + at, n - at, &next); count++) at += next;
    return at;
}

// A member with a space in front of more members: \s? takes the space as the front when the class has it too, which
// changes nothing: the run is the same.
static size_t run_length(const struct splitter *s, const char *text, size_t n) {
    size_t length, at = run_match(s, text, n, s->digits, &length);
    if (at) return at;
    for (at = length; at < n; at += length)
        if (run_match(s, text + at, n - at, 1, &length)) break;
    return at;
}

static size_t ascii3_length(const struct splitter *s, const char *text, size_t n) {
    (void)s;
    size_t digits = 0;
    for (size_t at = 0; at < n; at++) {
        digits = text[at] >= '0' && text[at] <= '9' ? digits + 1 : 0;
        if (digits == 3) return at == 2 ? 3 : at - 2;
    }
    return n;
}

static size_t newline_length(const struct splitter *s, const char *text, size_t n) {
    (void)s;
    size_t at = 0;
    while (at < n && !is_newline(text[at])) at++;
    return at ? at : 1;
}

static size_t lines_length(const struct splitter *s, const char *text, size_t n) { // [^\n]+|[\n]+
    (void)s;
    size_t at = 1;
    while (at < n && (text[at] == '\n') == (text[0] == '\n')) at++;
    return at;
}

static size_t last_spaces_length(const struct splitter *s, const char *text, size_t n) {
    (void)s;
    size_t spaces = 0; // where the last run of spaces begins
    bool in_spaces = false;
    for (size_t at = 0, length; at < n; at += length) {
        unsigned is;
        length = look(text + at, n - at, &is);
        bool space = is & IS_SPACE;
        if (space && !in_spaces) spaces = at;
        in_spaces = space;
    }
    return in_spaces && spaces ? spaces : n;
}

// ---- classes that are lists of code points

static bool in_ranges(const uint32_t (*range)[2], size_t n, uint32_t code) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (range[mid][1] < code)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && range[low][0] <= code;
}

// The pre-tokenizer "Digits" goes by a newer Unicode than the patterns do.
static bool is_digit(uint32_t code, unsigned is) {
    return (is & IS_NUMBER) || (code >= 0x11DE0 && code <= 0x11DE9) || (code >= 0x16FF4 && code <= 0x16FF6);
}

static bool is_punctuation(uint32_t code, unsigned is) { // of the pre-tokenizer "Punctuation"
    if (code < 0x80) return (is & (IS_PUNCT | IS_SYMBOL)) != 0;
    return (is & 1u << KIND_PUNCT) || code == 0x166D || code == 0x111C9;
}

static bool is_punct_default(uint32_t code, unsigned is) {
    return (is & IS_PUNCT) || (code < 0x80 && code != '`' && (is & IS_SYMBOL));
}

static bool is_cased_letter(uint32_t code, unsigned is) {
    static const uint32_t ranges[][2] = {
        {0x41, 0x5A}, {0x61, 0x7A}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA},
        {0x1BC, 0x1BF}, {0x1C4, 0x293}, {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x377},
        {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386}, {0x388, 0x38A}, {0x38C, 0x38C},
        {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556},
        {0x10A0, 0x10C5}, {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF},
        {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77}, {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D},
        {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57}, {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B},
        {0x1F5D, 0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC}, {0x1FBE, 0x1FBE},
        {0x1FC2, 0x1FC4}, {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC},
        {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210A, 0x2113},
        {0x2115, 0x2115}, {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128},
        {0x212A, 0x212D}, {0x212F, 0x2134}, {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149},
        {0x214E, 0x214E}, {0x2183, 0x2184}, {0x2C00, 0x2C7B}, {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE},
        {0x2CF2, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F}, {0xA771, 0xA787},
        {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A},
        {0xFF41, 0xFF5A}, {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
        {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
    };
    (void)is;
    return in_ranges(ranges, COUNT_OF(ranges), code);
}

static bool is_wide_punct(uint32_t code, unsigned is) {
    static const uint32_t ranges[][2] = {{0x21, 0x2F},     {0x3A, 0x7E},     {0x2018, 0x201F},
                                         {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
    (void)is;
    return in_ranges(ranges, COUNT_OF(ranges), code);
}

static bool is_cjk(uint32_t code, unsigned is) {
    (void)is;
    return (code >= 0x800 && code <= 0x9FA5) || (code >= 0xAC00 && code <= 0xD7FF);
}

static bool is_han_kana(uint32_t code, unsigned is) {
    (void)is;
    return (code >= 0x4E00 && code <= 0x9FA5) || (code >= 0x3040 && code <= 0x30FF);
}

static bool is_bloom(uint32_t code, unsigned is) { // no space and none of (|.,!?…。，、।۔،)
    static const uint32_t ends[] = {'(', '|', '.', ',', '!', '?', ')', 0x2026, 0x3002, 0xFF0C, 0x3001, 0x964, 0x6D4, 0x60C};
    if (is & IS_SPACE) return false;
    for (size_t i = 0; i < COUNT_OF(ends); i++)
        if (code == ends[i]) return false;
    return true;
}

// ---- all of them

const struct splitter splitters[] = {
    [SPLIT_GPT2] = {"gpt-2", gpt2_length},
    [SPLIT_LLAMA3] = {"llama-3", modern_length, .contractions = true, .digits = 3, .tail = '\n'},
    [SPLIT_LLAMA3_RUNS] = {"llama-3-runs", modern_length, .contractions = true, .digits = UINT32_MAX, .tail = '\n'},
    [SPLIT_QWEN2] = {"qwen2", modern_length, .contractions = true, .digits = 1, .tail = '\n'},
    [SPLIT_QWEN35] = {"qwen35", modern_length, .contractions = true, .digits = 1, .tail = '\n', .marks = true},
    [SPLIT_SEED_CODER] = {"seed-coder", modern_length, .contractions = true, .digits = 1},
    [SPLIT_TEKKEN] = {"tekken", modern_length, .cased = true, .digits = 1, .tail = '/'},
    [SPLIT_GPT4O] = {"gpt-4o", modern_length, .cased = true, .suffixes = true, .digits = 3, .tail = '/'},
    [SPLIT_KIMI] = {"kimi", modern_length, .cased = true, .suffixes = true, .han = true, .digits = 3, .tail = '\n'},
    [SPLIT_UFAKZEKA] = {"ufakzeka", modern_length, .digits = 1, .tail = '\n'},
    [SPLIT_LINES] = {"lines", lines_length},
    [SPLIT_DEEPSEEK3] = {"deepseek-3", deepseek3_length},
    [SPLIT_DIGITS_EACH] = {"digits-each", run_length, .member = is_digit, .digits = 1},
    [SPLIT_DIGITS_RUN] = {"digits-run", run_length, .member = is_digit},
    [SPLIT_NUMBER_EACH] = {"number-each", run_length, .in = IS_NUMBER, .digits = 1},
    [SPLIT_NUMBER_RUN] = {"number-run", run_length, .in = IS_NUMBER},
    [SPLIT_NUMBER_3] = {"number-3", run_length, .in = IS_NUMBER, .digits = 3},
    [SPLIT_ASCII_3] = {"ascii-3", ascii3_length},
    [SPLIT_PUNCTUATION] = {"punctuation", run_length, .member = is_punctuation},
    [SPLIT_PUNCT_DEFAULT] = {"punct-default", run_length, .member = is_punct_default},
    [SPLIT_NEWLINE] = {"newline", newline_length},
    [SPLIT_LETTERS] = {"letters", run_length, .in = IS_LETTER, .lead = LEAD_SPACE},
    [SPLIT_PUNCTS] = {"puncts", run_length, .in = IS_PUNCT, .lead = LEAD_SPACE},
    [SPLIT_CASED_LETTERS] = {"cased-letters", run_length, .member = is_cased_letter, .lead = LEAD_SPACE},
    [SPLIT_WIDE_PUNCTS] = {"wide-puncts", run_length, .member = is_wide_punct, .lead = LEAD_SPACE},
    [SPLIT_LAST_SPACES] = {"last-spaces", last_spaces_length},
    [SPLIT_CJK] = {"cjk", run_length, .member = is_cjk},
    [SPLIT_HAN_KANA] = {"han-kana", run_length, .member = is_han_kana},
    [SPLIT_BLOOM] = {"bloom", run_length, .member = is_bloom, .lead = LEAD_BLANK},
};
static_assert(COUNT_OF(splitters) == SPLIT_COUNT, "a row for every splitter");

size_t pieces_next(struct pieces *p) {
    if (p->at == p->n) return 0;
    size_t end = p->n - p->at > PIECE_MAX ? p->at + PIECE_MAX : p->n;
    for (size_t i = 0; i < STAGES_MAX && p->stage[i]; i++) {
        if (p->end[i] <= p->at) p->end[i] = p->at + p->stage[i]->length(p->stage[i], p->text + p->at, end - p->at);
        end = p->end[i];
    }
    size_t length = end - p->at;
    p->at = end;
    return length;
}
