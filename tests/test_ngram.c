// test_ngram.c: n-grams against a search through the whole text, on random texts over small alphabets, where ends of every
// length repeat; then rewinding, repetition without end, and what a million tokens cost.
#include "gen/spec.h"

#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

enum { GUESSES = 12 };

// The slow way: the longest end that stood before, at its latest place; where that ended.
static size_t search(const int32_t *text, size_t n, size_t *place) {
    size_t best = 0;
    for (size_t end = n - (n > 0); end > 0; end--) {
        size_t k = 0;
        while (k < end && text[end - 1 - k] == text[n - 1 - k]) k++;
        if (k > best) best = k, *place = end;
    }
    return best;
}

// What followed a place, the guess itself behind the end of the text.
static void follow(const int32_t *text, size_t n, size_t place, int32_t out[GUESSES]) {
    for (size_t i = 0; i < GUESSES; i++) out[i] = place + i < n ? text[place + i] : out[place + i - n];
}

static void expect_latest(const struct ngram *g, const int32_t *text, size_t n, uint64_t seed) {
    size_t place = 0, wanted = search(text, n, &place), match = 99;
    int32_t guess[GUESSES], right[GUESSES];
    size_t count = ngram_guess(g, GUESSES, guess, &match);
    cr_assert_eq(match, wanted, "seed %llu, %zu tokens: an end of %zu, searched %zu", (unsigned long long)seed, n, match, wanted);
    cr_assert_eq(count, wanted ? GUESSES : 0);
    if (!wanted) return;
    follow(text, n, place, right);
    cr_assert(!memcmp(guess, right, sizeof right), "seed %llu, %zu tokens: not what followed place %zu", (unsigned long long)seed, n, place);
}

Test(ngram, finds_the_longest_end_at_its_latest_place) {
    static const uint64_t letters[] = {1, 2, 3, 4, 10, 100};
    for (uint64_t seed = 1; seed <= 60; seed++) {
        int32_t text[300];
        uint64_t most = letters[seed % COUNT_OF(letters)];
        if (most == 1) most = 2 + seed % 5; // and some of another size
        struct ngram *g = ngram_new();
        for (size_t n = 0; n < COUNT_OF(text); n++) {
            text[n] = (int32_t)rng_below(seed, 2, n, most) * 1000003;
            ngram_read(g, text, n + 1);
            expect_latest(g, text, n + 1, seed);
        }
        ngram_free(g);
    }
}

// Copies of earlier stretches: long ends repeat, states split late.
Test(ngram, finds_it_in_texts_that_copy_themselves) {
    for (uint64_t seed = 1; seed <= 40; seed++) {
        int32_t text[500];
        uint64_t k = 0;
        for (size_t n = 0; n < COUNT_OF(text);) {
            size_t from = n ? rng_below(seed, 3, k++, n) : 0, length = 1 + rng_below(seed, 3, k++, 40);
            bool copies = n && rng_below(seed, 3, k++, 3);
            for (size_t i = 0; i < length && n < COUNT_OF(text); i++, n++)
                text[n] = copies ? text[from + i] : (int32_t)rng_below(seed, 3, k++, 6);
        }
        struct ngram *g = ngram_new();
        for (size_t n = 1; n <= COUNT_OF(text); n++) {
            size_t place = 0, match = 0;
            int32_t guess[GUESSES], right[GUESSES];
            ngram_read(g, text, n);
            size_t wanted = search(text, n, &place);
            cr_assert_eq(ngram_guess(g, GUESSES, guess, &match), wanted ? GUESSES : 0);
            cr_assert_eq(match, wanted, "seed %llu, %zu tokens", (unsigned long long)seed, n);
            bool stood = !wanted; // one of the places, whatever the depth
            for (size_t end = n - 1; end >= wanted && wanted && !stood; end--) {
                if (memcmp(text + end - wanted, text + n - wanted, wanted * sizeof *text)) continue;
                follow(text, n, end, right);
                stood = !memcmp(guess, right, sizeof right);
            }
            cr_assert(stood, "seed %llu, %zu tokens: a guess that followed nowhere", (unsigned long long)seed, n);
        }
        ngram_free(g);
    }
}

Test(ngram, a_repetition_goes_on_for_ever) {
    int32_t text[64], guess[GUESSES];
    size_t match;
    for (size_t period = 1; period <= 5; period++) {
        struct ngram *g = ngram_new();
        for (size_t n = 0; n < COUNT_OF(text); n++) {
            text[n] = (int32_t)(n % period) + 7;
            ngram_read(g, text, n + 1);
            size_t count = ngram_guess(g, GUESSES, guess, &match);
            cr_assert_eq(match, n + 1 > period ? n + 1 - period : 0);
            cr_assert_eq(count, match ? GUESSES : 0);
            for (size_t i = 0; i < count; i++) cr_assert_eq(guess[i], (int32_t)((n + 1 + i) % period) + 7);
        }
        ngram_free(g);
    }
}

Test(ngram, nothing_before_is_no_guess) {
    struct ngram *g = ngram_new();
    int32_t out[4], text[] = {1, 2, 3, 4};
    size_t match = 5;
    cr_expect(ngram_guess(g, 4, out, &match) == 0 && match == 0);
    ngram_read(g, NULL, 0);
    cr_expect(ngram_guess(g, 4, out, &match) == 0 && match == 0);
    ngram_read(g, text, 4);
    cr_expect(ngram_guess(g, 4, out, &match) == 0 && match == 0);
    ngram_free(g);
    ngram_free(NULL);
}

// Whatever was read before, a text gives what a fresh one gives.
Test(ngram, a_text_that_was_rewound_is_noticed) {
    int32_t text[400] = {0}, guess[GUESSES], right[GUESSES];
    struct ngram *g = ngram_new();
    uint64_t k = 0, seed = 11;
    size_t n = 0;
    for (int round = 0; round < 300; round++) {
        uint64_t what = rng_below(seed, 4, k++, 8);
        if (what == 0 && n) n = rng_below(seed, 4, k++, n);                        // back
        if (what == 1 && n) text[rng_below(seed, 4, k++, n)] ^= 1;                  // one token, the length as it was
        if (what == 2 && n) text[n - 1] += 1;                                       // the last
        for (uint64_t more = what == 3 ? 0 : rng_below(seed, 4, k++, 9); more && n < COUNT_OF(text); more--)
            text[n++] = (int32_t)rng_below(seed, 4, k++, 3);
        ngram_read(g, text, n);
        struct ngram *fresh = ngram_new();
        ngram_read(fresh, text, n);
        size_t a, b;
        size_t count = ngram_guess(g, GUESSES, guess, &a);
        cr_assert_eq(count, ngram_guess(fresh, GUESSES, right, &b));
        cr_assert_eq(a, b, "round %d", round);
        cr_assert(!count || !memcmp(guess, right, sizeof right), "round %d", round);
        expect_latest(g, text, n, seed);
        ngram_free(fresh);
    }
    ngram_free(g);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Texts that would be quadratic if anything were done for every end of theirs; the bound is ten times what they need.
Test(ngram, a_million_tokens_take_seconds_at_most) {
    enum { N = 1000000 };
    int32_t *text = mem_array(N, sizeof *text, "text"), guess[GUESSES];
    static const char *const what[] = {"one letter", "two letters", "few at random", "words", "halves"};
    for (int kind = 0; kind < (int)COUNT_OF(what); kind++) {
        for (size_t i = 0; i < N; i++) {
            double u = rng_uniform(5, 6, i);
            text[i] = kind == 0 ? 1 : kind == 1 ? (int32_t)(i % 2) : kind == 2 ? (int32_t)(u * 4) : (int32_t)(50000 * u * u * u * u);
            if (kind == 4 && i >= N / 2) text[i] = text[i - N / 2];
        }
        struct ngram *g = ngram_new();
        double began = seconds();
        ngram_read(g, text, N);
        double took = seconds() - began;
        size_t match;
        cr_expect(ngram_guess(g, GUESSES, guess, &match) == GUESSES);
        cr_expect_lt(took, 10.0, "%s: %.2f s", what[kind], took);
        if (kind == 4) cr_expect_eq(match, N / 2);
        ngram_free(g);
    }
    mem_free(text);
}
